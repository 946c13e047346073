"""Plans agree with their execution: with multiply-adds counted in the graph, and with measured memory."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.conversion import convert_into
from support.networks import PADDED, UNPADDED, make_network
from support.paths import ROOT
from support.pictures import noise, png
from support.scoring import Scoring, plan_image

from fullconv.protos import scoring_pb2
from service.errors import ImageError
from service.images.arrays import ArrayInMemory, open_array
from service.images.encoded import open_bytes
from service.images.picture import Picture
from service.limits import Tuning
from service.scoring.plan import View
from service.scoring.scorer import Scorer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an unpadded and a padded network, each with a finer and a coarser file."""
    folder = tmp_path_factory.mktemp("plans")
    for toml, strides in ((UNPADDED, (2, 8)), (PADDED, (4, 16))):
        convert_into(folder / "models", make_network(folder, toml), strides=strides)
    return folder / "models"


def planned(models: Path, name: str, *, budget: int = 2 << 30, image: Picture | None = None, **options: Any) -> Scoring:
    image = image or open_bytes(png(noise(211, 307, 3)), name="i")
    options = {"mode": "MODE_DENSE"} | options
    request = scoring_pb2.ScoreRequest(model=name, options=scoring_pb2.ScoreOptions(**options))
    return plan_image(Scorer(models, tuning=Tuning(tile_bytes=budget)), image, request)


def counted(file: Path, tile: np.ndarray) -> float:
    """Return the multiply-adds of all convolutions of a file's graph for a tile, from the shapes at run time."""
    model = onnx.load(file)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in convolutions:
        model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    maps = session.run([node.output[0] for node in convolutions], {"image": tile[None]})
    pairs = zip(convolutions, maps, strict=True)
    return sum(float(found.size) * math.prod(weights[node.input[1]][1:]) for node, found in pairs)


@pytest.mark.parametrize(
    "budget", [pytest.param(1, marks=pytest.mark.slow), 1_000_000, 2 << 30], ids=["smallest", "small", "ample"]
)
@pytest.mark.parametrize(
    ("name", "stride"),
    [("unpadded", 4), ("unpadded", 2), ("unpadded", 8), ("unpadded", 1), ("padded", 8), ("padded", 4), ("padded", 16)],
)
def test_multiply_adds_are_those_that_run(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, stride: int, budget: int
) -> None:
    """The plan's multiply-adds equal the sum over all tiles that the network runs."""
    run = planned(models, name, stride=stride, budget=budget)
    tiles, multiply_adds = what_runs(run, monkeypatch)
    assert tiles == run.plan.tile_count
    assert run.plan.multiply_adds == pytest.approx(multiply_adds, rel=1e-12)
    plan = run.counted().plan
    assert (plan.multiply_adds, plan.views[0].tiles) == (run.plan.multiply_adds, tiles)


def what_runs(run: Scoring, monkeypatch: pytest.MonkeyPatch) -> tuple[int, float]:
    """Score an image; returns the number of tiles that the network runs, and their multiply-adds by its graph."""
    file = run.model.folder / run.response.plan.file
    shapes: dict[tuple[int, ...], int] = {}
    compute = run.session.score

    def score(tiles: list[np.ndarray]) -> np.ndarray:
        for tile in tiles:
            shapes[tile.shape] = shapes.get(tile.shape, 0) + 1
        return compute(tiles)

    monkeypatch.setattr(run.session, "score", score)
    list(run.rows())
    ran = sum(count * counted(file, np.zeros(shape, np.uint8)) for shape, count in shapes.items())
    return sum(shapes.values()), ran


def inside(rows: slice, cols: slice) -> np.ndarray:
    """Return a mask of the image's size, 255 inside and 0 elsewhere."""
    mask = np.zeros((211, 307), np.uint8)
    mask[rows, cols] = 255
    return mask


def drawn(mask: np.ndarray) -> dict[str, Any]:
    """Return the option for a mask image."""
    return {"mask_image": scoring_pb2.Image(encoded=png(mask))}


def with_nodata() -> Picture:
    """Return an image that has data only at its lower right."""
    pixels = noise(211, 307, 3)
    rows, valid = ArrayInMemory(pixels), ArrayInMemory(inside(slice(90, 211), slice(160, 307))[..., None])
    return replace(open_array("i", pixels.shape, "uint8", lambda: rows), open_data_mask=lambda _: valid)


def in_front() -> np.ndarray:
    """Return an image of noise on a background."""
    pixels = np.full((211, 307, 3), 250, np.uint8)
    pixels[30:90, 40:120] = noise(60, 80, 3) // 4
    return pixels


MASKED: dict[str, Callable[[], dict[str, Any]]] = {
    "corner": lambda: drawn(inside(slice(0, 80), slice(0, 90))),
    "band": lambda: drawn(inside(slice(100, 160), slice(0, 307))),
    "otsu": lambda: {"mask_otsu": True, "image": open_bytes(png(in_front()), name="i")},
    "nodata": lambda: {"image": with_nodata()},
    "nodata-and-mask": lambda: {"image": with_nodata(), **drawn(inside(slice(0, 211), slice(100, 250)))},
    "flip": lambda: {"flip": True, **drawn(inside(slice(0, 80), slice(0, 90)))},
}


@pytest.mark.parametrize("mask", MASKED)
@pytest.mark.parametrize("budget", [1_000_000, 2 << 30], ids=["small", "ample"])
@pytest.mark.parametrize(("name", "stride"), [("unpadded", 4), ("unpadded", 1), ("padded", 4), ("padded", 16)])
def test_a_masks_plan_is_what_runs(
    models: Path, monkeypatch: pytest.MonkeyPatch, name: str, stride: int, budget: int, mask: str
) -> None:
    """A plan alone counts the tiles with a window inside the mask, and these windows, as the execution does."""
    plan = planned(models, name, stride=stride, budget=budget, plan_only=True, grid=True, **MASKED[mask]()).complete()
    run = planned(models, name, stride=stride, budget=budget, grid=True, **MASKED[mask]())
    tiles, multiply_adds = what_runs(run, monkeypatch)
    assert plan.plan.views[0].tiles == tiles
    assert plan.plan.views[0].multiply_adds == plan.plan.multiply_adds == pytest.approx(multiply_adds, rel=1e-12)
    assert 0 < plan.scored_cells == run.answer().scored_cells < plan.grid.rows * plan.grid.cols
    if budget < 2 << 30:
        assert multiply_adds < run.plan.multiply_adds


@pytest.mark.parametrize("mode", ["MODE_DENSE", "MODE_CROPS"])
def test_masks_of_everything_leave_plans_as_they_are(models: Path, mode: str) -> None:
    """A mask that selects all windows has the same plan as no mask, at every scale."""
    options: dict[str, Any] = {
        "mode": mode,
        "scales": [scoring_pb2.Scale(factor=1), scoring_pb2.Scale(factor=0.5)],
        "stride": 8,
    }
    plain = planned(models, "padded", budget=400_000, plan_only=True, **options).counted()
    masked = planned(
        models, "padded", budget=400_000, plan_only=True, **options, **drawn(np.ones((211, 307), np.uint8))
    )
    response = masked.counted()
    assert response.scored_cells == plain.scored_cells == plain.grid.rows * plain.grid.cols
    for one, other in zip(plain.plan.views, response.plan.views, strict=True):
        assert one.tiles == other.tiles
        assert one.multiply_adds == pytest.approx(other.multiply_adds, rel=1e-12)
    assert response.plan.multiply_adds == pytest.approx(plain.plan.multiply_adds, rel=1e-12)


def test_plans_of_crops_count_the_windows_of_tiles_inside(models: Path) -> None:
    """In mode crops, tiles without a window inside a mask cost nothing."""
    image, mask = open_bytes(png(noise(700, 700, 3)), name="i"), np.zeros((700, 700), np.uint8)
    mask[:80, :90] = 1
    run = planned(models, "padded", image=image, mode="MODE_CROPS", stride=8, plan_only=True, **drawn(mask))
    each, whole = run.model.spec.cost[0].multiply_adds_per_crop, run.plan.multiply_adds
    response = run.counted()
    assert response.scored_cells == 7 * 8
    assert response.scored_cells * each <= response.plan.multiply_adds < 0.3 * whole


def test_plans_of_empty_masks_are_refused(models: Path) -> None:
    """A mask without a window inside gives the same error for a plan as for scoring."""
    run = planned(models, "padded", plan_only=True, **drawn(np.zeros((211, 307), np.uint8)))
    with pytest.raises(ImageError, match="mask: expected at least one window to score, got none"):
        run.counted()


def test_plans_do_not_depend_on_pixels(models: Path) -> None:
    """Images of the same size and options have the same plan, for any pixels and any number of requests."""
    first, second = (planned(models, "padded", flip=True, stride=4, budget=100_000).plan for _ in range(2))
    assert first.views == second.views


MEASURE = """
import sys
from pathlib import Path
import numpy as np
from service.images.arrays import open_array
from service.limits import Tuning
from service.scoring.execution import Execution
from service.scoring.options import ORIGINAL_SIZE, GridAs, ModeChoice, RequestedOptions, Scale
from service.scoring.scorer import Scorer, ScoringRequest

class Zeros:
    block_rows = 1
    def __init__(self, width): self.width = width
    def read(self, first, stop): return np.zeros((stop - first, self.width, channels), np.uint8)

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) << 10

name, grid_as = sys.argv[2:4]
height, width, grid, tile, scale = (int(argument) for argument in sys.argv[4:])
channels = 1 if name == "digits" else 3
scorer = Scorer(Path(sys.argv[1]), tuning=Tuning(tile_bytes=tile))
def run(height, width):
    scales = (Scale(factor=1 / scale),) if scale and height > 70 else (ORIGINAL_SIZE,)
    options = RequestedOptions(grid=bool(grid), grid_as=GridAs(grid_as), mode=ModeChoice.DENSE, scales=scales)
    picture = open_array("zeros", (height, width, channels), "uint8", lambda: Zeros(width))
    planned = scorer.plan(picture, ScoringRequest(name, options=options))
    for rows in Execution(planned).rows(): pass
    return planned.plan.bytes
run(70, 70)
idle = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
print([run(height, width), status("VmHWM") - idle])
"""


@pytest.mark.parametrize(
    ("height", "width", "grid", "tile", "scale"),
    [
        pytest.param(6000, 6000, 1, 2 << 30, 0, id="square", marks=pytest.mark.slow),
        pytest.param(3000, 30_000, 1, 2 << 30, 0, id="wide", marks=pytest.mark.slow),
        pytest.param(6000, 6000, 0, 40 << 20, 0, id="small-tiles", marks=pytest.mark.slow),
        pytest.param(20_000, 3000, 1, 200 << 20, 0, id="long", marks=pytest.mark.slow),
        pytest.param(20_000, 20_000, 1, 2 << 30, 50, id="scaled"),
    ],
)
def test_memory_agrees_with_the_plan(height: int, width: int, grid: int, tile: int, scale: int) -> None:
    """The peak memory above that of the idle process agrees with the plan within a half."""
    planned_bytes, peak_bytes = measured(ROOT / "models", "digits", "float32", height, width, grid, tile, scale)
    assert 0.5 * planned_bytes < peak_bytes < 1.5 * planned_bytes + (32 << 20)


def measured(models: Path, name: str, *arguments: object) -> tuple[int, int]:
    """Return the bytes of a plan, and the measured peak above the memory of the idle process."""
    command = [sys.executable, "-c", MEASURE, str(models), name, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    planned_bytes, peak_bytes = json.loads(result.stdout)
    return planned_bytes, peak_bytes


@pytest.mark.parametrize("grid_as", ["float32", "float16", pytest.param("top", marks=pytest.mark.slow)])
def test_memory_of_many_classes_agrees_with_the_plan(tmp_path: Path, grid_as: str) -> None:
    """At most one band of a grid of many classes is in memory, even if the caller holds earlier rows."""
    convert_into(tmp_path / "models", make_network(tmp_path, UNPADDED, classes=1000))
    planned_bytes, peak_bytes = measured(tmp_path / "models", "unpadded", grid_as, 3000, 2000, 1, 80 << 20, 0)
    assert 0.5 * planned_bytes < peak_bytes < 1.25 * planned_bytes + (32 << 20)


@pytest.mark.parametrize(("strip_bytes", "expected"), [(1 << 20, 6), (100, 2)], ids=["small scores", "large scores"])
def test_batches_are_submitted_in_advance(strip_bytes: int, expected: int, models: Path) -> None:
    """More than two batches are submitted in advance only if their scores take little memory, which is planned."""

    def view(prefetch: int) -> View:
        tuning = Tuning(tile_bytes=1 << 18, strip_bytes=strip_bytes, prefetch=prefetch)
        request = scoring_pb2.ScoreRequest(model="unpadded", options=scoring_pb2.ScoreOptions(mode="MODE_DENSE"))
        image = open_bytes(png(noise(211, 307, 3)), name="i")
        return plan_image(Scorer(models, tuning=tuning), image, request).plan.views[0]

    two, more = view(2), view(6)
    assert (two.prefetch, more.prefetch) == (2, expected)
    assert (more.activation_bytes > two.activation_bytes) is (expected > 2)
