"""A browser for the tests of pages: Chromium of the system, driven by Playwright, which is in no lock file."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.servers import Server, running

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Yield the browser."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (not installed when `make test` collects the tests)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium: Any) -> Iterator[Open]:  # noqa: ANN401 (of a package that is not always installed)
    """Yield a function that returns an empty page; after the test, the browser must have reported nothing."""
    reports: list[str] = []
    contexts = []

    def new_page(width: int = 1280, height: int = 900, **options: object) -> Any:  # noqa: ANN401
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: reports.append(message.text))
        page.on("pageerror", lambda error: reports.append(str(error)))
        page.on("dialog", lambda dialog: reports.append(dialog.message))
        return page

    yield new_page
    for context in contexts:
        context.close()
    assert reports == []


@pytest.fixture
def open_page(new_page: Open) -> Iterator[Open]:
    """Yield a function that opens a file; after the test, no request may have failed."""
    failed: list[str] = []

    def open_page(path: Path, width: int = 1280, height: int = 900, **options: object) -> Any:  # noqa: ANN401
        page = new_page(width, height, **options)
        page.on("requestfailed", lambda request: failed.append(request.url))
        page.goto(path.as_uri())
        page.locator("#regions-count:not(:empty)").wait_for()
        return page

    yield open_page
    assert failed == []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model with an HTTP port."""
    with running(ROOT / "models", "--viewer", "127.0.0.1:0") as server:
        yield server
