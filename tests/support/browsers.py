"""Pages that Playwright has opened: the viewer of a server, and what axe, an engine for accessibility tests, finds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.servers import Server

Open = Callable[..., Any]


def serious(page: Any) -> list[tuple[str, list[str]]]:  # noqa: ANN401
    """Return what axe finds serious or critical on a page."""
    import axe_playwright_python  # noqa: PLC0415 (not installed when `make test` collects the tests)

    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert found["passes"]
    bad = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in bad]


def url(server: Server) -> str:
    """Return the address of the page."""
    return f"http://{server.log[0]['viewer']}/"


def opened(new_page: Open, server: Server, width: int = 1280, **options: object) -> Any:  # noqa: ANN401
    """Open the viewer, and wait for the models."""
    page = new_page(width, **options)
    page.goto(url(server))
    page.locator("#mode option").first.wait_for(state="attached")
    return page


def choose(page: Any, name: str, file: bytes) -> None:  # noqa: ANN401
    """Choose a file with the form."""
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": file})


def wait_for_state(page: Any, text: str) -> None:  # noqa: ANN401
    """Wait until the page says that something has happened."""
    page.locator("#state").filter(has_text=text).wait_for(timeout=60_000)
