"""Results that another program reads are not broken into lines."""

import sys

import pytest
from rich.table import Table

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


def test_tables_for_programs_have_no_spaces_at_the_ends_of_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short row of a table with a long one is not filled with spaces."""
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("name", "value", box=None)
    table.add_row("short", "1")
    table.add_row("long", LINE)
    result_console().print(table)
    assert all(line == line.rstrip() for line in capsys.readouterr().out.splitlines())
