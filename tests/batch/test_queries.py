"""The examples of the section "Query the results" of docs/batch.md run, and their libraries agree."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.jobs import batch, rows
from support.paths import ROOT

pytestmark = pytest.mark.extras

PAGE = (ROOT / "docs" / "batch.md").read_text("utf-8")
SECTION = PAGE.partition("\n## Query the results\n")[2].partition("\n## ")[0]
DUCKDB, PANDAS, POLARS, GRID = re.findall(r"```python\n(.*?)```\n", SECTION, re.DOTALL)


@pytest.fixture
def found(images: Path) -> list[dict[str, Any]]:
    """Run the job of the section; returns its rows."""
    (line,) = re.findall(r"^    fullconv-batch (.*)$", SECTION, re.MULTILINE)
    with Path("plates.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "site"])
        table.writerows([path, f"site{number % 2}"] for number, path in enumerate(sorted(images.rglob("*.*"))))
    arguments = line.removesuffix(" -o results").replace(" --model digits", "").split()
    assert batch(*arguments, out="results").exit_code == 3
    return rows(Path("results"))


def run(code: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run an example; returns its names."""
    names = {} if names is None else names
    exec(compile(code, "docs/batch.md", "exec"), names)  # noqa: S102 (our own page)
    return names


def expected_counts(found: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Return the number of images by site and top class."""
    counts = Counter((row["site"], row["top_label"][0]) for row in found if row["error"] is None)
    return [(*key, number) for key, number in sorted(counts.items())]


def expected_failures(found: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return the images without scores and the reasons."""
    return sorted((row["path"], row["error_kind"], row["error"]) for row in found if row["error"] is not None)


def expected_best(found: list[dict[str, Any]]) -> list[tuple[str, float, str]]:
    """Return the five images with the highest probability of class 3, and their grids."""
    best = [(row["path"], row["average"][3], row["grid"]) for row in found if row["error"] is None]
    return sorted(best, key=lambda each: (-each[1], each[0]))[:5]


def test_duckdb(found: list[dict[str, Any]]) -> None:
    """The example for DuckDB gives the counts, failures, best images and rates of the rows."""
    names = run(DUCKDB)
    assert names["counts"] == expected_counts(found)
    assert names["failures"] == expected_failures(found)
    assert names["best"] == expected_best(found)
    ((_, rate),) = names["rates"]
    assert rate > 0


def test_pandas(found: list[dict[str, Any]]) -> None:
    """The example for pandas gives the same."""
    names = run(PANDAS)
    assert [(*key, number) for key, number in names["counts"].items()] == expected_counts(found)
    assert [*names["failures"].itertuples(index=False, name=None)] == expected_failures(found)
    assert [*names["best"].itertuples(index=False, name=None)] == expected_best(found)
    assert (names["rates"] > 0).all()


def test_polars(found: list[dict[str, Any]]) -> None:
    """The example for Polars gives the same; the window that is found in the grid has the highest score of class 3."""
    names = run(POLARS)
    assert names["counts"].rows() == expected_counts(found)
    assert names["failures"].rows() == expected_failures(found)
    assert names["best"].rows() == expected_best(found)
    assert (names["rates"]["rate"] > 0).all()
    run(GRID, names)
    path, probability, _ = expected_best(found)[0]
    assert names["path"] == path
    with np.load(Path("results") / names["grid"]) as file:
        (col,), (row,) = (
            np.flatnonzero(file["x"] == names["window"][0]),
            np.flatnonzero(file["y"] == names["window"][1]),
        )
        assert file["scores"][row, col, 3] == file["scores"][:, :, 3].max()
    assert names["probability"] == probability
