"""Results that another program reads are not broken into lines."""

import sys

import pytest

from fullconv.common.console import result_console

LINE = "a word and another " * 50


@pytest.mark.parametrize(("columns", "lines"), [(None, 1), ("80", 13)], ids=["any width", "stated width"])
def test_text_for_programs_is_not_broken(
    columns: str | None, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long line stays one line where standard output is no terminal, unless the environment states a width."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert not sys.stdout.isatty()
    result_console().print(LINE)
    assert len(capsys.readouterr().out.splitlines()) == lines
