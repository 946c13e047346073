"""The table of images that `fullconv-score --table` writes: its rows, and runs that leave none."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pyarrow import parquet
from support.command_line import COMMAND, MODELS
from support.folders import FOUND, files_in, rows_of, score
from support.paths import ROOT
from support.pictures import noise, png

from fullconv import Scorer


def test_the_table_has_a_row_for_each_image(scans: Path) -> None:
    """The rows have the order of the images, the averages of every class, and the error of an image without them."""
    result = score(scans, "--json", "--table", "table.csv", "--top", "2")
    documents, rows = json.loads(result.stdout), rows_of("table.csv")
    assert [row["path"] for row in rows] == FOUND
    facts = ["path", "width", "height", "model", "version", "mode", "windows"]
    labels = [*"0123456789", "background"]
    assert list(rows[0]) == [*facts, *(f"score_{label}" for label in labels), "top_class", "error"]
    assert {name for name, value in rows[0].items() if value} == {"path", "error"}
    assert rows[0]["error"] == documents[0]["error"]
    assert [rows[3][name] for name in facts[1:]] == ["111", "90", "digits", "1", "dense", "18"]
    answer = Scorer(ROOT / "models").score(FOUND[3], model="digits")
    assert_allclose([float(rows[3][f"score_{label}"]) for label in labels], answer.average, rtol=1e-6)
    assert rows[3]["top_class"] == answer.top[0].label
    assert rows[3]["error"] == ""


def test_the_table_of_probabilities_and_of_chosen_classes(scans: Path) -> None:
    """Averages of probabilities are named so; --classes chooses the columns and their order, --mask the windows."""
    score(scans / "page.png", "--table", "table.csv", "--average", "probabilities")
    (row,) = rows_of("table.csv")
    assert_allclose(sum(float(value) for name, value in row.items() if name.startswith("prob_")), 1, rtol=1e-5)
    Path("mask.png").write_bytes(png(np.pad(np.ones((90, 78), np.uint8), ((0, 0), (0, 33)))))
    score(scans / "page.png", "--table", "table.csv", "--classes", "background,3", "--mask", "mask.png")
    (row,) = rows_of("table.csv")
    assert list(row)[7:9] == ["score_background", "score_3"]
    assert row["windows"] == "6"


def test_plans_write_no_table(scans: Path) -> None:
    """--plan writes neither the table nor the folder of outputs."""
    result = score(scans, "--plan", "--output-dir", "out", "--table", "table.csv", "--grid", "{stem}.npz")
    assert result.exit_code == 3
    assert "scans/page.png" in result.stdout
    assert not Path("out").exists()


def test_tables_that_cannot_be_written_stop_the_command(scans: Path) -> None:
    """A table without a folder is refused before an image is scored."""
    result = score(scans, "--table", "none/table.csv")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "No such file" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_table(scans: Path) -> None:
    """Ctrl-C after the first image is exit status 1: the outputs of finished images stay, and there is no table."""
    large = noise(1500, 1500, 1)
    for number in range(40):
        (scans / f"z{number}.png").write_bytes(png(large))
    arguments = [*COMMAND, str(scans), *MODELS, "--output-dir", "out", "--table", "table.csv", "--stride", "4"]
    with subprocess.Popen([*arguments, "--grid", "{stem}.npz"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline()  # of the first answer
        assert [path.suffix for path in Path("out").iterdir() if path.name.startswith(".table.csv")] == [".new"]
        run.send_signal(signal.SIGINT)
        run.stdout.read()
        assert run.wait(60) == 1
    assert files_in(Path("out")) >= {"b/deep/seite 図.npz"}
    assert all(name.endswith(".npz") and not Path(name).name.startswith(".") for name in files_in(Path("out")))


def test_parquet_has_the_same_rows(scans: Path) -> None:
    """A .parquet file has the columns and values of the .csv file, as text, whole and floating-point numbers."""
    score(scans, "--table", "table.csv")
    score(scans, "--table", "table.parquet")
    table = parquet.read_table("table.parquet")
    written = [{name: "" if value is None else str(value) for name, value in row.items()} for row in table.to_pylist()]
    assert written == rows_of("table.csv")
    types = [str(table.schema.field(name).type) for name in ("path", "width", "windows", "score_3", "error")]
    assert types == ["string", "int64", "int64", "double", "string"]
