"""The examples of docs/python.md and docs/results.md run, one after another, and print the output on the page."""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.paths import ROOT
from support.servers import Server, running

from fullconv import Answer, Client, Scorer
from fullconv.file_options import FileOptions
from fullconv.objects.rule import ObjectOptions
from fullconv.options import Options

MODELS = ROOT / "models"
BLOCK = re.compile(
    r"(<!-- needs (?P<needs>[a-z]+) -->\n)?```python\n(?P<code>.*?)```\n(\n```text\n(?P<printed>.*?)```\n)?", re.DOTALL
)


class Example(NamedTuple):
    """A block of code."""

    code: str
    printed: str | None
    """The output that the page states."""
    needs: str | None
    """An extra that must be installed."""


def examples() -> list[Example]:
    """Return all blocks of the pages."""
    pages = [(ROOT / "docs" / name).read_text("utf-8") for name in ("python.md", "results.md")]
    return [Example(*match.group("code", "printed", "needs")) for page in pages for match in BLOCK.finditer(page)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


def run(example: Example, server: Server, names: dict[str, Any]) -> None:
    """Run an example with the names of the earlier examples, and compare its output."""
    code = example.code.replace("127.0.0.1:8500", server.address)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "docs/python.md", "exec"), names)  # noqa: S102 (our own page)
    if example.printed is not None:
        assert output.getvalue() == example.printed, example.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a copy of the shipped model and its page."""
    shutil.copytree(MODELS / "digits", tmp_path / "models" / "digits")
    shutil.copy(MODELS / "digits" / "page.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run(server: Server, folder: Path) -> None:
    """The examples that need no extra run in the order of the page, and print the stated output."""
    names: dict[str, Any] = {"__name__": "docs"}
    blocks = [example for example in examples() if example.needs is None]
    assert len(blocks) >= 10
    for example in blocks:
        run(example, server, names)
    assert {"three.png", "page.npz", "page-heatmap.webp"} <= {path.name for path in folder.iterdir()}


def test_the_page_names_the_whole_interface() -> None:
    """docs/python.md names every option, every public part of an answer, and every argument of the constructors."""
    of_answer = {name for name in {*dir(Answer), *Answer.__dataclass_fields__} if not name.startswith("_")}
    arguments = {name for kind in (Scorer, Client) for name in signature(kind).parameters} - {"models", "server"}
    names = {*Options.__annotations__, *FileOptions.__annotations__, *ObjectOptions.__annotations__, *arguments}
    named = set(re.findall(r"`(?:Answer\.|answer\.)?(\w+)[(`]", (ROOT / "docs" / "python.md").read_text("utf-8")))
    examples_name = set(re.findall(r"\.(\w+)\(", (ROOT / "docs" / "python.md").read_text("utf-8")))
    assert (names | of_answer) - named - examples_name == {"describe"}  # what an answer uses to request a description


@pytest.mark.extras
@pytest.mark.usefixtures("folder")
def test_the_examples_that_need_an_extra_run(server: Server) -> None:
    """All examples run in the order of the page, and print the stated output."""
    names: dict[str, Any] = {"__name__": "docs"}
    for example in examples():
        run(example, server, names)
