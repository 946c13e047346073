"""Mode shared gives the scores of crops with every option, and mode exact takes the cheapest mode with these scores."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.hostile_models import edit_graph, edit_spec
from support.pictures import noise, png
from support.scoring import plan_image
from support.servers import infer, running
from support.views import IMAGE, MODES, ROUNDING, Models, make_models, stitched

from fullconv import Answer, Client, RequestError
from fullconv.protos import model_pb2, scoring_pb2
from fullconv.protos import open_inference_pb2 as oip
from service.dense.tiles import plan_tiles
from service.errors import CapabilityError, ModelError
from service.images.encoded import open_bytes
from service.scoring.scorer import Scorer

MASK = np.broadcast_to((np.arange(147) > 40) * np.uint8(255), (121, 147))
BUDGETS = pytest.mark.parametrize(
    "budget", [pytest.param(1, marks=pytest.mark.slow), 400_000, 2 << 30], ids=["smallest", "small", "ample"]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return an unpadded and a padded network."""
    return make_models(tmp_path_factory.mktemp("shared"))


@BUDGETS
@pytest.mark.parametrize("stride", [1, 3, 4, 12, 40])
def test_every_window_has_the_scores_of_crops(models: Models, stride: int, budget: int) -> None:
    """At any stride and with any tiles, each cell equals its window by itself."""
    run = models.run("padded", stride=stride, mode=MODES["shared"], budget=budget)
    grid = stitched(run)
    assert (run.response.mode, run.response.mode_reason) == ("shared", "requested")
    pixels = math.lcm(stride, 4 if run.response.plan.file == "model.shared4.onnx" else 1)
    assert run.response.plan.views[0].phases == (pixels // stride) ** 2
    assert_allclose(grid, models.grid("padded", stride=stride, mode=MODES["crops"]), rtol=1e-5, atol=1e-5)
    assert_allclose(run.answer().average.values, grid.mean((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 3])
def test_files_run_on_phases_where_this_is_cheaper(models: Models, stride: int) -> None:
    """A stride that a file does not serve is computed from windows that are a multiple of its pixels apart."""
    plan = models.run("padded", stride=stride, mode=MODES["exact"]).response.plan
    assert (plan.file, plan.views[0].phases) == ("model.shared4.onnx", 16)


@BUDGETS
@pytest.mark.parametrize(
    "options",
    [
        {"border": "BORDER_ANCHOR"},
        {"region": scoring_pb2.Region(x=13, y=31, width=90, height=61)},
        {"flip": True},
        {"flip": True, "border": "BORDER_ANCHOR"},
        {"scales": [scoring_pb2.Scale(factor=1.3), scoring_pb2.Scale(shorter_side=100)]},
        {"mask_image": scoring_pb2.Image(encoded=png(MASK))},
        {"grid_as": "GRID_AS_TOP", "top": 2},
    ],
    ids=["anchor", "region", "flip", "flip_anchor", "scales", "mask", "top"],
)  # fmt: skip
@pytest.mark.parametrize("stride", [4, 6])
def test_options_mean_the_same(models: Models, options: dict[str, Any], stride: int, budget: int) -> None:
    """Borders, regions, flips, scales, masks and kinds of grids are those of crops."""
    shared = models.run("padded", stride=stride, mode=MODES["shared"], budget=budget, **options)
    crops = models.run("padded", stride=stride, mode=MODES["crops"], **options)
    rounding = 0.05 if "scales" in options else 1e-5  # strips of other heights are scaled to pixels that differ by 1
    assert_allclose(stitched(shared), stitched(crops), rtol=1e-5, atol=rounding)
    got, expected = shared.answer(), crops.answer()
    assert_allclose(got.average.values, expected.average.values, rtol=1e-4, atol=rounding)
    assert got.grid == expected.grid
    assert got.scored_cells == expected.scored_cells


def test_exact_takes_the_cheapest_exact_mode(models: Models) -> None:
    """Dense where it is exact, otherwise shared, and crops where windows hardly overlap; auto does not change."""
    reason = "the cheapest mode with the classifier's own scores"
    for name, stride, mode in (("unpadded", 4, "dense"), ("padded", 8, "shared"), ("unpadded", 3, "crops")):
        response = models.run(name, noise(400, 400, 3), stride=stride, mode=MODES["exact"]).response
        assert (response.mode, response.mode_reason) == (mode, reason)
        assert response.warnings == []
    assert models.run("padded", mode=MODES["auto"]).response.mode == "dense"


def test_dense_names_the_exact_mode_and_its_cost(models: Models) -> None:
    """A dense answer that is not exact states about what the exact mode costs by its plan."""
    image = noise(900, 900, 3)
    dense, exact = (models.run("padded", image, mode=MODES[mode]).response for mode in ("dense", "exact"))
    times = exact.plan.multiply_adds / dense.plan.multiply_adds
    said = re.search(
        "--mode exact gives the classifier's own answers for ([0-9.]+) times the compute",
        " ".join([dense.mode_reason, *dense.warnings]),
    )
    assert said is not None
    assert float(said[1]) == pytest.approx(times, rel=0.15)


def test_models_and_strides_without_the_mode(models: Models) -> None:
    """The error names the modes that are possible; mode shared takes every stride, even where crops are cheaper."""
    with pytest.raises(CapabilityError, match="mode: expected dense or crops, since model 'unpadded' has no files for"):
        models.run("unpadded", mode=MODES["shared"])
    scorer = Scorer(models.folder)
    options = scoring_pb2.ScoreOptions(stride=6, mode=MODES["shared"])
    request = scoring_pb2.ScoreRequest(model="padded", options=options)
    assert plan_message(scorer, request) == "shared"
    request.options.mode, request.options.stride = MODES["exact"], 37
    assert plan_message(scorer, request) == "crops"


@pytest.mark.parametrize(
    ("field", "change", "expected_message"),
    [
        ("multiply_adds", {"multiply_adds": [1.0] * 8}, r"shared\[0\]: expected 9 factors, finite and not negative"),
        ("activation_bytes", {"activation_bytes": [-1.0] * 9}, r"shared\[0\]: expected 9 factors, finite"),
        ("multiple_of", {}, r"shared\[0\]: expected a multiple of pixels"),
        ("file", {"file": "../other.onnx"}, r"shared\[0\].file: expected the name of an .onnx file"),
        ("file", {"file": "none.onnx"}, "none.onnx: expected a file, got none"),
    ],
)
def test_damaged_specs_are_refused(
    models: Models, tmp_path: Path, field: str, change: dict[str, Any], expected_message: str
) -> None:
    """A version whose files of mode shared are described wrongly is not served."""
    version = copied(models, tmp_path)

    def damage(spec: model_pb2.ModelSpec) -> None:
        spec.shared[0].ClearField(field)
        spec.shared[0].MergeFrom(model_pb2.SharedFile(**change))

    edit_graph(version / "model.onnx", edit_spec(damage))
    with pytest.raises(ModelError, match=expected_message):
        Scorer(tmp_path / "models").model("padded")


def test_servers_share_in_every_call(models: Models) -> None:
    """Score, ScoreMany, ScoreLarge and the Open Inference Protocol give the scores of crops, at several strides."""
    crops = {stride: models.grid("padded", stride=stride, mode=MODES["crops"]) for stride in (4, 6, 8)}
    with running(models.folder) as server, Client(server.address, timeout=60) as client:
        assert client.model("padded").modes == ("dense", "shared", "crops")
        for stride, expected in crops.items():
            answer = client.score(IMAGE, model="padded", stride=stride, mode="shared", grid=True)
            assert (answer.mode, answer.grid is None) == ("shared", False)
            assert_allclose(np.asarray(answer.grid), expected, **ROUNDING)
            with client.score_large(IMAGE, model="padded", stride=stride, mode="exact", grid=True) as run:
                rows = np.concatenate([rows for _, rows in run.bands()])
            assert_array_equal(rows, np.asarray(answer.grid))
            many = client.score_many([("a", IMAGE)], model="padded", stride=stride, mode="shared")
            ((_, alone),) = many
            assert isinstance(alone, Answer)
            assert_allclose(alone.average, expected.mean((0, 1)), **ROUNDING)
            request = oip.ModelInferRequest(model_name="padded", raw_input_contents=[IMAGE.tobytes()])
            request.inputs.add(name="image", datatype="UINT8", shape=[1, *IMAGE.shape])
            request.outputs.add(name="scores")
            request.parameters["mode"].string_param = "shared"
            request.parameters["stride"].int64_param = stride
            (grid,) = infer(server, request).raw_output_contents
            classes_first = np.frombuffer(grid, "<f4").reshape(-1, *expected.shape[:2])
            assert_allclose(np.moveaxis(classes_first, 0, -1), expected, **ROUNDING)
        with pytest.raises(RequestError, match="expected dense or crops"):
            client.score(IMAGE, model="unpadded", mode="shared")


def test_memory_is_planned(models: Models) -> None:
    """A plan counts the activations of the largest tile, which grow with the windows that overlap."""
    image = noise(700, 700, 3)
    plans = [models.run("padded", image, stride=stride, mode=MODES["shared"]).plan for stride in (8, 4)]
    assert plans[0].views[0].activation_bytes < plans[1].views[0].activation_bytes
    small = models.run("padded", image, stride=4, mode=MODES["shared"], budget=3_000_000).plan
    assert small.tile_count > 1
    assert small.views[0].activation_bytes < 5_000_000


@pytest.mark.parametrize("size", [(700, 700), (300, 1100), (121, 147)])
@pytest.mark.parametrize("stride", [4, 8])
def test_tiles_suit_the_image(models: Models, size: tuple[int, int], stride: int) -> None:
    """No tiles that the memory allows cost much less for this image, and larger ones gain hardly anything."""
    image, budget = noise(*size, 3), 400_000_000
    plan = models.run("padded", image, stride=stride, mode=MODES["shared"], budget=budget).plan
    view = plan.views[0]
    assert view.activation_bytes <= budget
    sizes = plan.mode.cost.tile_sizes(budget)  # type: ignore[attr-defined]
    assert len(sizes) > 1
    assert [*sizes] == sorted(sizes)
    lattices = (view.tile_plan.vertical, view.tile_plan.horizontal)
    others = [plan_tiles(*lattices, plan.mode.network, pixels=pixels) for pixels in sizes]
    assert plan.effort <= 1.02 * min(map(plan.mode.effort, others))
    smaller = [tiles for tiles in others if math.prod(tiles.max_tile_shape) < math.prod(view.tile_plan.max_tile_shape)]
    assert all(plan.mode.effort(tiles) > plan.effort for tiles in smaller)


@pytest.mark.parametrize(
    ("model", "mode", "own"),
    [
        ("padded", "dense", False),
        ("padded", "shared", True),
        ("padded", "crops", True),
        ("padded", "exact", True),
        ("unpadded", "dense", True),
    ],
)
def test_answers_say_whose_scores_they_have(models: Models, model: str, mode: str, own: bool) -> None:  # noqa: FBT001 (of pytest)
    """An answer says whether its scores are the classifier's own, which its parity, that of dense, does not."""
    answer = models.run(model, mode=MODES[mode]).response
    assert answer.own_scores is own
    assert answer.parity.exact is (model == "unpadded")


def plan_message(scorer: Scorer, request: scoring_pb2.ScoreRequest) -> str:
    """Return the mode that is planned for an image."""
    return plan_image(scorer, open_bytes(png(IMAGE), name="i"), request).plan.mode.name


def copied(models: Models, folder: Path) -> Path:
    """Copy the padded network into a repository of its own; returns its version."""
    version = folder / "models" / "padded" / "1"
    shutil.copytree(models.folder / "padded" / "1", version)
    return version
