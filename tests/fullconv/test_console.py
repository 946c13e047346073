"""Results that another program reads are not broken into lines, and results that cannot be written are errors."""

import subprocess
import sys

import pytest
from rich.table import Table
from support.command_line import COMMAND, MODELS
from support.paths import ROOT

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


PAGE = str(ROOT / "models" / "digits" / "page.png")
PRINTING = {
    "version": ["--version"],
    "table": [PAGE, *MODELS],
    "json": [PAGE, "--json", *MODELS],
    "plan": [PAGE, "--plan", *MODELS],
    "description": ["--describe", *MODELS],
}
CANNOT = {
    ">&-": "standard output: expected an open stream, got a closed one",
    ">/dev/full": "standard output: cannot be written: No space left on device",
}


@pytest.mark.parametrize("redirection", CANNOT)
@pytest.mark.parametrize("kind", PRINTING)
def test_results_that_cannot_be_written(kind: str, redirection: str) -> None:
    """If standard output is closed or full, the exit status is 1 and one line says so."""
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *PRINTING[kind]]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, f"fullconv-score: {CANNOT[redirection]}\n")
