"""The rows and grids of a job are those of `fullconv-score`."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from pyarrow import dataset
from support.jobs import OUT, batch, last_line, make_images, rows, written
from support.paths import ROOT
from support.pictures import noise

from fullconv import Scorer
from service.batch.display import failed_text

NAMES = [
    "below/broken.jpg",
    "below/image0000.jpg",
    *(f"image{number:04d}{suffix}" for number, suffix in enumerate([".jpg", ".png", ".tif"] * 2 + [".jpg", ".png"])),
]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(ROOT / "models")


def test_rows_have_the_answers_of_each_image(images: Path, scorer: Scorer) -> None:
    """Each image has a row in the order of paths, with the averages and facts of its answer, or with its error."""
    result = batch(images, "--json")
    assert result.exit_code == 3
    found = rows()
    assert [row["path"] for row in found] == [f"images/{name}" for name in NAMES]
    for row in found[2:]:
        path = Path(row["path"])
        answer = scorer.score(path, model="digits")
        assert_allclose(row["average"], answer.average, rtol=1e-7)
        assert row["top_label"] == [entry.label for entry in answer.top]
        assert (row["bytes"], row["sha256"]) == (path.stat().st_size, sha256(path.read_bytes()).hexdigest())
        assert (row["width"], row["height"]) == (answer.image.width, answer.image.height)
        assert (row["rows"], row["cols"], row["windows"]) == (len(answer.y), len(answer.x), answer.scored)
        assert (row["model"], row["version"], row["mode"], row["exact"]) == ("digits", "1", "dense", True)
        assert (row["provider"], row["precision"]) == ("cpu", "fp32")
        assert (row["stride"], row["window"], row["error"], row["grid"]) == ([8, 8], [70, 70], None, None)
        assert row["weights_sha256"] == scorer.model("digits").weights_sha256
    assert [row["error_kind"] for row in found[:3]] == ["image", "image", None]
    assert "broken.jpg: expected a JPEG, PNG, WebP or TIFF image, got text" in found[0]["error"]
    assert found[0]["average"] is None
    summary = json.loads(result.stdout)
    assert summary["images"] == {"total": 10, "kept": 0, "processed": 10, "failed": 2}
    assert summary["failures"] == {"image": 2}
    assert "images without scores: 2" in last_line(result)


def test_events_are_json_lines_on_standard_error(images: Path) -> None:
    """With --json each line of standard error is an event: the start, failures and parts, and last an error."""
    events = [json.loads(line) for line in batch(images, "--json").stderr.splitlines()]
    assert [event["event"] for event in events].count("failure") == 2
    assert [event["event"] for event in events].count("part") == 3
    assert events[0] | {"time": 0} == {"time": 0, "event": "start", "images": 10, "kept": 0, "parts": 3}
    assert (events[-1]["event"], events[-1]["status"]) == ("error", 3)
    assert events[-1]["error"].startswith("images without scores: 2; the results state the errors")
    refused = json.loads(batch(images, "--json", "--stride", "4").stderr)
    assert refused["error"].startswith("OUT: expected the options and the model of the job there")
    assert (refused["event"], refused["status"]) == ("error", 3)


def test_options_mean_what_they_mean_for_one_image(images: Path, scorer: Scorer) -> None:
    """The options of scoring are those of `fullconv-score`."""
    chosen = "image0004.png"
    batch(images / chosen, "--stride", "4", "--classes", "3,7", "--average", "probabilities", "--top", "1")
    (row,) = rows()
    answer = scorer.score(images / chosen, model="digits", stride=4, classes=["3", "7"], average="probabilities", top=1)
    assert_allclose(row["average"], answer.average, rtol=1e-7)
    assert (row["top_class"], row["stride"]) == ([answer.top[0].index], [4, 4])


def test_wide_results_have_a_column_for_each_class(images: Path) -> None:
    """With --wide the averages are columns that are named after the classes."""
    batch(images, "--classes", "3,background")
    lists = [row["average"] for row in rows()[2:]]
    batch(images, "--classes", "3,background", "--wide", out="wide")
    wide = rows(Path("wide"))
    assert "average" not in wide[0]
    assert [[row["score_3"], row["score_background"]] for row in wide[2:]] == lists
    assert wide[0]["score_3"] is None


@pytest.mark.parametrize(("kind", "suffix"), [("npz", ".npz"), ("geotiff", ".tif"), ("geojson", ".geojson")])
def test_grids_are_the_files_of_the_scorer(kind: str, suffix: str, images: Path, scorer: Scorer) -> None:
    """--grids writes the same bytes as `Answer.save`, at the path of the image, and the rows name the files."""
    batch(images, "--grids", kind)
    for row in rows()[2:]:
        place = f"grids/{row['path'].removeprefix('images/')}{suffix}"
        assert row["grid"] == place
        scorer.score(row["path"], model="digits", grid=True).save(f"expected{suffix}")
        assert (OUT / place).read_bytes() == Path(f"expected{suffix}").read_bytes()
    assert [row["grid"] for row in rows()[:2]] == [None, None]
    assert len(list((OUT / "grids").rglob("*.*"))) == 8


def test_grids_hold_what_their_options_say(images: Path) -> None:
    """--grid-as chooses what grids hold."""
    batch(images / "image0001.png", "--grids", "npz", "--grid-as", "float16")
    with np.load(OUT / "grids" / "image0001.png.npz") as grid:
        assert grid["scores"].dtype == np.float16


@pytest.mark.extras
def test_zarr_grids(images: Path, scorer: Scorer) -> None:
    """A Zarr grid has the scores of the image."""
    import zarr  # noqa: PLC0415 (an extra)

    batch(images, "--grids", "zarr")
    answer = scorer.score(images / "image0002.tif", model="digits", grid=True)
    assert_array_equal(zarr.open(OUT / "grids" / "image0002.tif.zarr", mode="r")["scores"][:], answer.grid)


def test_masks_of_areas(images: Path, scorer: Scorer) -> None:
    """Each image has its own mask, and the averages of its named areas are in its row."""
    corners = [[0, 0], [80, 0], [80, 80], [0, 80], [0, 0]]
    for path in images.glob("image000[35].*"):
        area = {
            "type": "Feature",
            "properties": {"name": "left"},
            "geometry": {"type": "Polygon", "coordinates": [corners]},
        }
        path.with_suffix(".geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    batch(*sorted(images.glob("image000[35].*[gf]")), "--stride", "1", "--mask", "images/{stem}.geojson")
    for row in rows():
        mask = Path(row["path"]).with_suffix(".geojson")
        answer = scorer.score(row["path"], model="digits", stride=1, mask=mask)
        assert row["windows"] == answer.scored
        ((area,),) = (row["areas"],)
        assert (area["name"], area["windows"]) == ("left", answer.areas[0].windows)
        assert_allclose(area["average"], answer.areas[0].average, rtol=1e-6)


def test_the_parts_are_one_data_set(images: Path) -> None:
    """The folder of parts opens as one data set, and failures are found by a filter; times lie beside it."""
    batch(images)
    data = dataset.dataset(OUT / "results")
    assert data.count_rows() == 10
    assert data.count_rows(filter=dataset.field("error").is_valid()) == 2
    times = dataset.dataset(OUT / "timing").to_table()
    assert times.num_rows == 10
    assert {"path", "pixels", "compute_seconds", "total_seconds", "host"} <= set(times.column_names)


def test_the_same_images_give_the_same_bytes(images: Path) -> None:
    """Two runs write the same bytes."""
    batch(images, "--grids", "npz")
    first = written()
    batch(images, "--grids", "npz", out="again")
    assert written(Path("again")) == first


def test_plans_write_nothing(images: Path) -> None:
    """--plan sums the cost of all images and predicts the time; nothing is written."""
    result = batch(images, "--plan", "--json")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)
    assert (plan["images"], plan["failures"]) == (10, {"image": 2})
    batch(images)
    scored = rows()
    assert plan["windows"] == sum(row["windows"] or 0 for row in scored)
    assert plan["bytes"] == sum(row["bytes"] for row in scored)
    assert plan["megapixels"] == pytest.approx(
        sum((row["width"] or 0) * (row["height"] or 0) for row in scored) / 1e6, abs=1e-3
    )
    assert plan["multiply_adds"] > 0
    assert plan["predicted_seconds"] > 0


def test_summaries_count_in_words(images: Path) -> None:
    """The table of a run states the images of this and of earlier runs, and the reasons of failures by their number."""
    printed = [batch(images).stdout.splitlines() for _ in range(2)]
    first, second = ([" ".join(line.split()) for line in lines if not line.startswith(" ")] for lines in printed)
    assert first[0] == "images 10: 10 processed now, 0 in earlier runs"
    assert second[0] == "images 10: 0 processed now, 10 in earlier runs"
    assert first[1] == second[1] == "failed 2 images cannot be scored (image)"
    assert [line.split()[0] for line in first[2:]] == ["speed", "stages", "slowest", "results"]
    assert [line.split()[0] for line in second[2:]] == ["results"]
    assert failed_text({"bug": 1, "read": 2, "new": 1}) == (
        "1 image failed because of a bug in fullconv (please report it) (bug); 2 images could not be read (read); "
        "1 image failed (new)"
    )


def test_plans_leave_no_folder(images: Path) -> None:
    """--plan does not make the folder of results."""
    assert "multiply-adds" in batch(images, "--plan").stdout
    assert not OUT.exists()


def test_large_images_of_a_job_keep_their_own_memory(images: Path) -> None:
    """Images of different sizes are scored together, the larger ones by their plans."""
    make_images(images, 2, side=900)
    result = batch(images, "--json")
    assert json.loads(result.stdout)["images"]["failed"] == 2


def test_regions_of_a_map(images: Path, scorer: Scorer) -> None:
    """--roi-crs takes the region of each scene in the coordinates of its map; other images have an error."""
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 500_000, 5_000_000, 0), True)]
    scene = images / "scene.tif"
    extra = [*tags, (34735, "H", len(keys), keys, True)]
    tifffile.imwrite(scene, noise(300, 420, 1)[..., 0], photometric="minisblack", metadata=None, extratags=extra)
    batch(scene, images / "image0001.png", "--roi", "500010,4999920,60,60", "--roi-crs", "image")
    found, refused = rows()
    assert_allclose(found["average"], scorer.score(scene, model="digits", roi=(20, 40, 120, 120)).average, rtol=1e-7)
    assert refused["error"].startswith("image0001.png: roi: expected an image with a georeference")
