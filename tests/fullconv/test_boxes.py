"""Boxes of objects, `fullconv-score --boxes` and `Answer.objects`: on the shipped page, and with a network's boxes."""

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.conversion import SILENT
from support.detectors import STRIDE, detector, windows_of
from support.paths import ROOT
from support.pictures import encode, noise
from support.servers import Server, running
from typer.testing import CliRunner

from converter import convert as conversion
from converter.sources.read import read_source
from fullconv import Answer, OutputError, RequestError, Scorer
from fullconv.command.cli import app
from fullconv.objects.found import DetectedObjects
from fullconv.objects.suppression import suppress

MODELS = ROOT / "models"
PAGE, TRUTH = MODELS / "digits" / "page.png", MODELS / "digits" / "page.json"
DIGITS = [*"0123456789"]
ONLY_DIGITS = ["--classes", ",".join(DIGITS)]


def score(*arguments: object, status: int = 0) -> str:
    """Run the command with the shipped models; returns its output as one line."""
    words = [str(each) for each in arguments]
    models = [] if {"--models", "--server"} & set(words) else ["--models", str(MODELS)]
    result = CliRunner().invoke(app, [*words, *models, *([] if "--model" in words else ["--model", "digits"])])
    assert result.exit_code == status, result.output
    return " ".join(result.output.replace("│", " ").split())


def table(path: Path) -> list[dict[str, str]]:
    """Return the lines of a .csv file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """Return the shipped model, in this process."""
    return Scorer(MODELS)


@pytest.fixture(scope="module")
def answer(scorer: Scorer) -> Answer:
    """Return the shipped page, with its grid."""
    return scorer.score(PAGE, model="digits", grid=True)


def rightly_found(objects: DetectedObjects) -> set[int]:
    """Return the digits of the page in whose middle an object of their class has its centre."""
    digits = json.loads(TRUTH.read_text("utf-8"))["digits"]
    found = set()
    for each in objects:
        centre = each.x + each.width / 2, each.y + each.height / 2
        for number, digit in enumerate(digits):
            x, y, width, height = digit["box"]
            inside = x <= centre[0] <= x + width and y <= centre[1] <= y + height
            if inside and digit["label"] == each.label:
                found.add(number)
    return found


def test_the_digits_of_the_page(answer: Answer) -> None:
    """Each of the 54 digits has an object of its class; if all classes compete, 53 of 54 objects are right."""
    assert len(rightly_found(answer.objects(classes=DIGITS))) == 54
    objects = answer.objects(classes=DIGITS, across_classes=True)
    assert (len(rightly_found(objects)), len(objects)) == (53, 54)


def test_objects_are_those_of_the_command(answer: Answer, tmp_path: Path) -> None:
    """`save` writes the same bytes as the command, in both formats."""
    files = [tmp_path / f"expected{suffix}" for suffix in (".csv", ".geojson")]
    options = ["--threshold", 0.8, "--overlap", 0.1, "--across-classes"]
    score(PAGE, *ONLY_DIGITS, *options, *(part for file in files for part in ("--boxes", file)))
    objects = answer.objects(classes=DIGITS, threshold=0.8, overlap=0.1, across_classes=True)
    for file in files:
        objects.save(tmp_path / f"saved{file.suffix}")
        assert (tmp_path / f"saved{file.suffix}").read_bytes() == file.read_bytes()


def test_tables(answer: Answer, tmp_path: Path) -> None:
    """The table has the objects in the order of their scores, with whole numbers for windows."""
    objects = answer.objects(classes=DIGITS)
    objects.save(tmp_path / "page.CSV")
    lines = table(tmp_path / "page.CSV")
    assert list(lines[0]) == ["minx", "miny", "width", "height", "class", "score"]
    boxes = [[line[name] for name in ("minx", "miny", "width", "height")] for line in lines]
    assert boxes == [[str(number) for number in box] for box in objects.boxes.tolist()]
    assert [line["class"] for line in lines] == objects.labels
    assert_array_equal(np.array([line["score"] for line in lines], np.float32), objects.scores)
    assert (np.diff(objects.scores) <= 0).all()
    assert objects.scores.min() >= 0.5


def test_geojson_for_qupath(answer: Answer, tmp_path: Path) -> None:
    """Each object is a detection: a closed rectangle with its class and its score."""
    objects = answer.objects(classes=DIGITS)
    objects.save(tmp_path / "page.geojson")
    document = json.loads((tmp_path / "page.geojson").read_text("utf-8"))
    assert document["type"] == "FeatureCollection"
    for feature, each in zip(document["features"], objects, strict=True):
        left, top, right, bottom = each.x, each.y, each.x + each.width, each.y + each.height
        assert feature == {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]],
            },
            "properties": {
                "objectType": "detection",
                "classification": {"name": each.label},
                "measurements": {"score": each.score},
            },
        }


def test_colours_of_classes(answer: Answer, scorer: Scorer, tmp_path: Path) -> None:
    """A class with a colour has it in GeoJSON, as three numbers; other classes have none."""
    model = replace(scorer.model("digits"), colours=("#c01040", *[""] * 10))
    answer.objects(classes=["0", "1"], model=model).save(tmp_path / "page.geojson")
    features = json.loads((tmp_path / "page.geojson").read_text("utf-8"))["features"]
    assert {json.dumps(feature["properties"]["classification"]) for feature in features} == {
        '{"name": "0", "color": [192, 16, 64]}',
        '{"name": "1"}',
    }


def test_without_objects(tmp_path: Path) -> None:
    """Files without objects are valid, too."""
    files = [tmp_path / "none.csv", tmp_path / "none.geojson"]
    score(PAGE, "--threshold", 1, "--boxes", files[0], "--boxes", files[1], "--classes", "0")
    assert table(files[0]) == []
    assert json.loads(files[1].read_text("utf-8")) == {"type": "FeatureCollection", "features": []}


@pytest.fixture(scope="module")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image with a digit at its own size beside a digit at twice its size."""
    page = Image.open(PAGE).convert("L")
    image = Image.new("L", (320, 160), page.getpixel((250, 500)))
    image.paste(page.crop((280, 25, 370, 115)), (20, 30))
    image.paste(page.crop((375, 60, 455, 140)).resize((160, 160)), (150, 0))
    path = tmp_path_factory.mktemp("sizes") / "sizes.png"
    image.save(path)
    return path


def test_scales(two_sizes: Path, scorer: Scorer, tmp_path: Path) -> None:
    """Objects of every scale are found, in pixels of the image; the printed averages do not change."""
    options = [*ONLY_DIGITS, "--scales", "1x,0.5x", "--threshold", 0.85, "--json"]
    printed = json.loads(score(two_sizes, *options, "--boxes", tmp_path / "all.csv"))
    plain = json.loads(score(two_sizes, *options[:-3], "--json"))
    assert_allclose(
        [each["score"] for each in printed["average"]["top"]],
        [each["score"] for each in plain["average"]["top"]],
        rtol=0,
        atol=1e-6,
    )
    found = {(line["class"], line["width"], line["height"]) for line in table(tmp_path / "all.csv")}
    assert {("8", "70", "70"), ("3", "140", "140")} <= found

    answers = [scorer.score(two_sizes, model="digits", grid=True, scales=[scale]) for scale in ("1x", "0.5x")]
    answers[0].objects(answers[1], classes=DIGITS, threshold=0.85).save(tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS) as server:
        yield server


@pytest.mark.parametrize("scales", [[], ["--scales", "1x,0.7x"]], ids=["one scale", "two scales"])
def test_servers_give_the_same_files(server: Server, scales: list[str], tmp_path: Path) -> None:
    """The files are the same to the byte, whether a server or this process has scored the image."""
    for name, where in (("here", []), ("there", ["--server", server.address])):
        files = (tmp_path / f"{name}.csv", tmp_path / f"{name}.geojson")
        score(PAGE, *ONLY_DIGITS, *where, *scales, "--boxes", files[0], "--boxes", files[1])
    for suffix in (".csv", ".geojson"):
        assert (tmp_path / f"here{suffix}").read_bytes() == (tmp_path / f"there{suffix}").read_bytes()


def test_several_images(two_sizes: Path, tmp_path: Path) -> None:
    """Each image has its own file; an image that cannot be read has none, and the others are complete."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    score(PAGE, tmp_path / "broken.png", two_sizes, "--boxes", tmp_path / "{stem}.csv", status=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "page.csv", "sizes.csv"]


REFUSED: dict[str, tuple[Callable[[Path], list[object]], int, str]] = {
    "a suffix": (lambda folder: ["--boxes", folder / "a.npz"], 2, "expected a file name that ends in .geojson or .csv"),
    "twice": (lambda folder: ["--boxes", folder / "a.csv", "--grid", folder / "a.csv"], 2, "twice"),
    "an overlap above 1": (lambda folder: ["--boxes", folder / "a.csv", "--overlap", 1.5], 2, "less than or equal to"),
    "an overlap alone": (lambda _: ["--overlap", 0.5], 2, "--overlap: expected --boxes with it, got none"),
    "an output alone": (lambda _: ["--box-output", "b"], 2, "--box-output: expected --boxes with it, got none"),
    "all classes alone": (lambda _: ["--across-classes"], 2, "--across-classes: expected --boxes with it, got none"),
    "a threshold alone": (lambda _: ["--threshold", 0.5], 2, "--threshold: expected --boxes, or --grid OUT.csv"),
    "a threshold above 1": (
        lambda folder: ["--boxes", folder / "a.csv", "--threshold", 1.5],
        2,
        "threshold: expected a probability from 0 to 1, got 1.5",
    ),
    "an unknown class": (lambda folder: ["--boxes", folder / "a.csv", "--classes", "cat"], 3, "got 'cat'"),
    "an unknown output": (
        lambda folder: ["--boxes", folder / "a.csv", "--box-output", "boxes"],
        2,
        "--box-output: expected a further output of model 'digits' with 4 values, but it has none; got 'boxes'",
    ),
}


@pytest.mark.parametrize(("arguments", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(arguments: Callable[[Path], list[object]], status: int, message: str, tmp_path: Path) -> None:
    """Wrong options are one message, and nothing is written."""
    assert message in score(PAGE, *arguments(tmp_path), status=status)
    assert not list(tmp_path.iterdir())


def test_answers_that_lack_scores(scorer: Scorer, answer: Answer, tmp_path: Path) -> None:
    """Objects need the scores of every window and class, of each answer; a file needs a known suffix."""
    pixels = noise(90, 90, 1)
    for other in (scorer.score(pixels, model="digits"), scorer.score(pixels, model="digits", grid="top")):
        with pytest.raises(RequestError, match=r"objects: expected every window's scores, got .*; score with grid"):
            answer.objects(other)
    part = scorer.score(pixels, model="digits", grid=True, classes=["3"])
    with pytest.raises(RequestError, match="grid: expected the scores of 11 classes for objects, got the scores of 1;"):
        part.objects(classes=["3"])
    with pytest.raises(RequestError, match=r"save: expected a file name that ends in \.geojson or \.csv, got"):
        answer.objects().save(tmp_path / "a.txt")


def test_a_pipe_at_several_scales(tmp_path: Path) -> None:
    """A pipe can be read once only, which is refused before it is read."""
    os.mkfifo(tmp_path / "pipe")
    printed = score(tmp_path / "pipe", "--scales", "1x,0.5x", "--boxes", tmp_path / "a.csv", status=3)
    assert "expected a file, which can be read at every scale for --boxes; got a pipe" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("suffix", [".csv", ".geojson"])
def test_a_full_disk(answer: Answer, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one error that names the file, and nothing is left."""
    objects = answer.objects()
    monkeypatch.setattr(Path, "touch", lambda path, **_: path.symlink_to("/dev/full"))
    with pytest.raises(OutputError, match=f"page\\{suffix}: cannot be written: No space left on device"):
        objects.save(tmp_path / f"page{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in which no file can be made is one error before anything is scored."""

    def touch(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", touch)
    monkeypatch.setattr(Scorer, "score_large", lambda *_, **__: pytest.fail("the image was scored"))
    printed = score(PAGE, "--boxes", tmp_path / "page.csv", status=3)
    assert "page.csv: cannot be written: Permission denied" in printed
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with a detector of three classes, which returns boxes and an embedding."""
    folder = tmp_path_factory.mktemp("detector")
    onnx.save(detector(), folder / "net.onnx")
    also = ("boxes", "embedding")
    request = conversion.Request(folder / "models" / "net" / "1", windows=4, scores="prob", also=also)
    conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT)
    return folder / "models"


def test_boxes_of_the_network(detectors: Path, tmp_path: Path) -> None:
    """--box-output moves the edges of each window by the offsets that the source network gives it."""
    pixels = noise(120, 100, 3)
    (tmp_path / "noise.png").write_bytes(encode(pixels, ".png"))
    options = ["--models", detectors, "--model", "net", "--mode", "exact", "--threshold", 0, "--overlap", 1]
    score(tmp_path / "noise.png", *options, "--box-output", "boxes", "--classes", 1, "--boxes", tmp_path / "moved.csv")
    score(tmp_path / "noise.png", *options, "--classes", 1, "--boxes", tmp_path / "windows.csv")
    offsets = windows_of(detector(), pixels, ["boxes"])[0]
    expected = {}
    for line in table(tmp_path / "windows.csv"):
        x, y, width, height = (int(line[name]) for name in ("minx", "miny", "width", "height"))
        left, top, right, bottom = offsets[y // STRIDE, x // STRIDE]
        box = (x + left * width, y + top * height, width * (1 + right - left), height * (1 + bottom - top))
        if min(box[2:]) > 0:
            expected[line["score"]] = box
    moved = {
        line["score"]: [float(line[name]) for name in ("minx", "miny", "width", "height")]
        for line in table(tmp_path / "moved.csv")
    }
    assert len(expected) > 5
    assert list(moved) == list(expected)
    assert_allclose([*moved.values()], [*expected.values()], rtol=0, atol=1e-3)


def test_outputs_that_hold_no_boxes(detectors: Path, tmp_path: Path) -> None:
    """An output with another number of values is refused with the names of outputs that can hold boxes."""
    options = ["--models", detectors, "--model", "net", "--box-output", "embedding"]
    printed = score(PAGE, *options, "--boxes", tmp_path / "a.csv", status=2)
    assert "of model 'net' with 4 values, one of boxes; got 'embedding'" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_other_programs_read_them(answer: Answer, tmp_path: Path) -> None:
    """The polygons are valid in shapely, and have the bounds of the table in pandas; pandas takes the objects, too."""
    import pandas as pd  # noqa: PLC0415 (not always installed)
    import shapely  # noqa: PLC0415

    objects = answer.objects(classes=DIGITS, across_classes=True)
    for name in ("page.csv", "page.geojson"):
        objects.save(tmp_path / name)
    lines = pd.read_csv(tmp_path / "page.csv", dtype={"class": str})
    shapes = shapely.get_parts(shapely.from_geojson((tmp_path / "page.geojson").read_text("utf-8")))
    assert shapely.is_valid(shapes).all()
    corners = lines[["minx", "miny"]].to_numpy()
    sizes = lines[["width", "height"]].to_numpy()
    assert_array_equal(shapely.bounds(shapes), np.concatenate([corners, corners + sizes], axis=1))
    tree = shapely.STRtree(shapes)
    for one, other in tree.query(shapes, predicate="intersects").T:
        shared = shapely.area(shapely.intersection(shapes[one], shapes[other]))
        assert one == other or shared / shapely.area(shapely.union(shapes[one], shapes[other])) <= 0.3
    frame = pd.DataFrame(objects)
    assert_array_equal(frame[["x", "y", "width", "height"]], lines[["minx", "miny", "width", "height"]])
    assert frame["label"].tolist() == lines["class"].tolist()
    assert_array_equal(suppress(objects.boxes, objects.scores, 0.3), np.arange(len(objects)))
