"""Adds pages to the documentation site from files that lie outside of `docs/`, such as the README.

A link in a page is written for readers of the repository: relative to the file that holds it. Here it is rewritten to
the page that shows its target on the site. A target that is no page, such as a `.proto` file, is copied to the site.
MkDocs then reports each link that leads nowhere.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath

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


def _on_site(path: str, config: MkDocsConfig, files: Files) -> str:
    """Return the site's path of a file of the repository; the file is added to the site if it is not there."""
    uri = PAGES.get(path) or path.removeprefix("docs/")
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return uri
