"""The tutorials in docs/tutorials run from top to bottom: they print the stated output and draw their pictures.

A page's code runs in one namespace. Its commands run in this process, with the libraries that the code has imported. A
block of text states the output of the code, or a part of the output of the commands, before it. A comment
`<!-- within N % -->` before the block allows numbers that differ by N %, since training amplifies rounding.
"""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from support.servers import running
from typer.testing import CliRunner

from converter.cli import app as convert
from fullconv.command.cli import app as score

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TUTORIALS = ROOT / "docs" / "tutorials"
COMMANDS = {"fullconv-convert": convert, "fullconv-score": score}
ADDRESS = "127.0.0.1:8500"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$"
    r"|^(?P<commands>(?: {4}[^\n]+\n)+)"
    r"|(?:^<!-- within (?P<percent>\d+) % -->\n)?^```text\n(?P<stated>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<name>[^)]+)\)")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
CHANGED_SHARE = 0.04
"""Largest share of a picture's pixels that may differ visibly from those of the picture on the page."""
VISIBLE = 64
"""Difference of a grey value, of 255, that counts as visible."""


class Tutorial:
    """A page that is being run, in the current directory."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._name, self._monkeypatch = name, monkeypatch
        self._names: dict[str, Any] = {"__name__": name}
        self._address = ADDRESS
        self._servers = contextlib.ExitStack()

    def run(self) -> Iterator[tuple[re.Match[str], str]]:
        """Run the blocks; yields each block that states an output, and the output before it."""
        output = ""
        with self._servers:
            for block in BLOCK.finditer((TUTORIALS / self._name).read_text("utf-8")):
                if block["stated"] is not None:
                    yield block, output
                else:
                    output = self._output(block)

    def _output(self, block: re.Match[str]) -> str:
        """Run code or commands; returns what they print."""
        if block["code"]:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                code = block["code"].replace(ADDRESS, self._address)
                exec(compile(code, self._name, "exec"), self._names)  # noqa: S102 (our own page)
            return output.getvalue()
        lines = block["commands"].replace("\\\n", " ").replace(ADDRESS, self._address).splitlines()
        return "".join(self._command(*shlex.split(line)) for line in lines)

    def _command(self, program: str, *arguments: str) -> str:
        """Run a command; returns what it prints. A server runs until the end of the page, on a free port."""
        if program == "fullconv-serve":
            assert arguments == ("--models", "models")
            self._address = self._servers.enter_context(running(Path("models"))).address
            return ""
        if program == "export":
            self._monkeypatch.setenv(*arguments[0].split("="))
            return ""
        result = CliRunner().invoke(COMMANDS[program], arguments)
        assert result.exit_code == 0, result.output
        return result.stdout


def states(block: re.Match[str], output: str) -> bool:
    """Return whether a block states an output, or a part of it, with numbers that are within the block's limit."""
    stated, printed = " ".join(block["stated"].split()), " ".join(output.split())
    pattern = f"({NUMBER.pattern})".join(map(re.escape, NUMBER.split(stated)))
    numbers = pytest.approx([float(number) for number in NUMBER.findall(stated)], rel=int(block["percent"] or 0) / 100)
    return any([float(number) for number in match.groups()] == numbers for match in re.finditer(pattern, printed))


def grey(path: Path) -> np.ndarray:
    """Return the grey values of a picture."""
    return np.asarray(Image.open(path).convert("L"), np.int16)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory; the modules of the tutorials can be imported."""
    monkeypatch.syspath_prepend(TUTORIALS)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.name for path in TUTORIALS.glob("*.md")))
def test_a_tutorial_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block prints the stated output, and the pictures are those of the page."""
    for block, output in Tutorial(name, monkeypatch).run():
        assert states(block, output), f"stated: {block['stated']}\nprinted: {output}"
    pictures = PICTURE.findall((TUTORIALS / name).read_text("utf-8"))
    assert pictures
    for picture in pictures:
        drawn, shown = grey(folder / picture), grey(TUTORIALS / picture)
        assert drawn.shape == shown.shape
        assert (abs(drawn - shown) > VISIBLE).mean() <= CHANGED_SHARE, picture
