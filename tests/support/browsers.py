"""What axe, an engine for accessibility tests, finds on a page that Playwright has opened."""

from pathlib import Path
from typing import Any


def serious(page: Any) -> list[tuple[str, list[str]]]:  # noqa: ANN401
    """Return what axe finds serious or critical on a page."""
    import axe_playwright_python  # noqa: PLC0415 (not installed when `make test` collects the tests)

    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert found["passes"]
    bad = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in bad]
