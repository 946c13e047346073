"""Adds pages to the documentation site from files that lie outside of `docs/`, such as the README, and from notebooks.

A link in a page is written for readers of the repository: relative to the file that holds it. Here it is rewritten to
the page that shows its target on the site. A target that is no page, such as a `.proto` file, is copied to the site.
MkDocs then reports each link that leads nowhere.
"""

import json
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "models/digits/README.md": "digits.md",
    "tests/data/README.md": "test-data.md",
}
"""File in the repository → page of the site."""
SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")
"""The path of a relative link in Markdown; a link with a scheme has a colon."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=_markdown_of(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page's Markdown with each relative link rewritten for the site."""
    uri = page.file.src_uri
    folder = ROOT / PurePosixPath(SOURCES.get(uri, f"docs/{uri}")).parent

    def rewrite(match: re.Match[str]) -> str:
        target = (folder / match["path"]).resolve()
        if not target.is_file() or not target.is_relative_to(ROOT):
            return match["path"]
        on_site = _on_site(target.relative_to(ROOT).as_posix(), config, files)
        return posixpath.relpath(on_site, posixpath.dirname(uri) or ".")

    return LINK.sub(rewrite, markdown)


def _markdown_of(notebook: Path) -> str:
    """Return a notebook as Markdown: its text, its code, and the outputs that its file holds."""
    parts = []
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        parts += [_markdown_of_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join([*parts, f"This page is a notebook: [{notebook.name}]({notebook.name}).\n"])


def _markdown_of_output(output: dict[str, Any]) -> str:
    """Return an output of a cell as Markdown: a picture, HTML, or text."""
    data = output.get("data", {})
    if "image/jpeg" in data:
        return f"![output](data:image/jpeg;base64,{data['image/jpeg']})"
    if "text/html" in data:
        return "".join(data["text/html"])
    text = "".join(output.get("text") or data["text/plain"])
    return f"```text\n{text.rstrip()}\n```"


def _on_site(path: str, config: MkDocsConfig, files: Files) -> str:
    """Return the site's path of a file of the repository; the file is added to the site if it is not there."""
    uri = PAGES.get(path) or path.removeprefix("docs/")
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return uri
