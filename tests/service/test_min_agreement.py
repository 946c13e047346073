"""The cheapest mode with a least agreement is chosen by the certificate, and margins that are cut off fit tiles."""

import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console
from support.conversion import convert_into
from support.hostile_models import edit_graph, edit_spec
from support.networks import make_network
from support.pictures import noise, png
from support.servers import infer, running
from support.views import IMAGE, MODES, Models, stitched

from fullconv import Client, Scorer
from fullconv.command.table import answer_table
from fullconv.protos import model_pb2, scoring_pb2
from fullconv.protos import open_inference_pb2 as oip
from service.errors import OptionError
from service.scoring.options import RequestedOptions

NETWORK = """
name = "deep"
channels = 3
window = [32, 32]
preprocess = "unit"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3, pad = 1 }, { op = "relu" },
  { op = "conv", key = "b", out = 6, kernel = 3, pad = 1 }, { op = "relu" },
  { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "c", out = 6, kernel = 3, pad = 1 }, { op = "relu" },
  { op = "conv", key = "d", out = 6, kernel = 3, pad = 1 }, { op = "relu" },
  { op = "flatten" },
  { op = "linear", key = "e" },
]
"""
"""A network whose margins have up to four cells."""
MASK = np.broadcast_to((np.arange(407) > 40) * np.uint8(255), (341, 407))
AGREEMENTS = {0: 0.6, 1: 0.8, 2: 0.95}
"""Lower ends of the intervals that the tests write into the certificates: of dense (0), and of cut margins by limit."""


@pytest.fixture(scope="module", autouse=True)
def _moving_is_free() -> Iterator[None]:
    """Let moved bytes cost nothing, so that small networks share."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fullconv.common.sharing.MOVED_BYTE", 0.0)
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return the network, whose certificates have the agreements above."""
    folder = tmp_path_factory.mktemp("deep")
    images = folder / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(png(noise(60, 80, 3, seed=number)))
    network = make_network(folder, NETWORK)
    convert_into(folder / "models", network, images=images)
    edit_graph(folder / "models" / "deep" / "1" / "model.onnx", edit_spec(_set_agreements))
    return Models(folder / "models", {"deep": network})


@pytest.fixture(scope="module")
def only_cut(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return the network without whole margins, so that small tiles with many halos run cut margins too."""
    folder = tmp_path_factory.mktemp("cut") / "models"
    shutil.copytree(models.folder, folder)
    edit_graph(folder / "deep" / "1" / "model.onnx", edit_spec(_remove_whole))
    return Models(folder, models.networks)


def _remove_whole(spec: model_pb2.ModelSpec) -> None:
    cut = [file for file in spec.shared if file.margin_limit]
    del spec.shared[:]
    spec.shared.extend(cut)


def _set_agreements(spec: model_pb2.ModelSpec) -> None:
    spec.parity[0].overall.agreement_low = AGREEMENTS[0]
    assert [file.margin_limit for file in spec.shared if file.margin_limit] == [2, 1]
    for file in spec.shared:
        if file.margin_limit:
            assert file.difference.windows == 8
            file.difference.agreement_low = AGREEMENTS[file.margin_limit]


@pytest.mark.parametrize(
    ("least", "mode", "file"),
    [
        (0.5, "dense", "model.onnx"),
        (0.7, "shared", "model.margins1.onnx"),
        (0.9, "shared", "model.margins2.onnx"),
        (0.96, "shared", "model.shared2.onnx"),
        (1, "shared", "model.shared2.onnx"),
    ],
)
def test_the_cheapest_mode_that_agrees_runs(models: Models, least: float, mode: str, file: str) -> None:
    """Dense, cut margins or an exact mode, by the lower end of the measured interval."""
    response = models.run("deep", min_agreement=least).response
    assert (response.mode, response.plan.file) == (mode, file)
    assert response.mode_reason.startswith(
        "the cheapest mode with the classifier's own scores, or measured to have its top class on at least "
        f"{100 * least:g} % of windows"
    )
    if "margins" in file:
        limit = int(file[13])
        assert f"margins are cut off at {limit} cell" in response.mode_reason
        assert response.parity.agreement_low == AGREEMENTS[limit]
        assert not response.parity.exact
    costs = [models.run("deep", min_agreement=share).plan.multiply_adds for share in (0.5, 0.7, 0.9, 1)]
    assert costs == sorted(costs)


def test_agreement_on_synthetic_images_does_not_count(models: Models, tmp_path: Path) -> None:
    """Dense is not chosen by a certificate that was not measured on the user's images."""
    shutil.copytree(models.folder, tmp_path / "models")

    def forget(spec: model_pb2.ModelSpec) -> None:
        spec.parity[0].of_given_images = False

    edit_graph(tmp_path / "models" / "deep" / "1" / "model.onnx", edit_spec(forget))
    synthetic = Models(tmp_path / "models", models.networks)
    assert synthetic.run("deep", min_agreement=0.5).response.plan.file == "model.margins1.onnx"


def test_strides_without_cut_margins_run_exact_modes(models: Models) -> None:
    """Cut margins serve the multiples of the native stride; at other strides, dense or an exact mode runs."""
    assert models.run("deep", stride=1, min_agreement=0.5).response.mode == "dense"
    assert models.run("deep", stride=1, min_agreement=0.9).response.plan.file == "model.shared2.onnx"
    assert models.run("deep", stride=6, min_agreement=0.9).response.plan.file == "model.margins2.onnx"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 6},
        {"border": "BORDER_ANCHOR", "stride": 4},
        {"region": scoring_pb2.Region(x=13, y=31, width=290, height=260)},
        {"flip": True},
        {"mask_image": scoring_pb2.Image(encoded=png(MASK))},
    ],
    ids=["native", "coarser", "anchor", "region", "flip", "mask"],
)
@pytest.mark.parametrize("least", [pytest.param(0.7, marks=pytest.mark.slow), 0.9])
def test_tiles_do_not_change_the_scores(only_cut: Models, least: float, options: dict[str, Any]) -> None:
    """Cells whose margins are cut off read pixels beyond their windows, also where a tile ends."""
    image = noise(341, 407, 3)
    whole = only_cut.run("deep", image, min_agreement=least, **options)
    tiled = only_cut.run("deep", image, min_agreement=least, budget=12_000_000, **options)
    assert tiled.plan.tile_count > whole.plan.tile_count
    assert whole.response.plan.file == tiled.response.plan.file == f"model.margins{1 if least < 0.9 else 2}.onnx"
    assert_allclose(stitched(tiled), stitched(whole), rtol=1e-4, atol=1e-5)


def test_cut_margins_lie_between_dense_and_crops(models: Models) -> None:
    """The more cells are kept, the nearer are the scores to those of crops."""
    crops = models.grid("deep", mode=MODES["crops"])
    apart = [
        np.abs(models.grid("deep", min_agreement=least) - crops)[4:-4, 4:-4].mean() for least in (0.5, 0.7, 0.9, 1)
    ]
    assert apart == sorted(apart, reverse=True)
    assert apart[2] > 1e-4
    assert apart[3] < 1e-5


def test_every_call_takes_it(models: Models) -> None:
    """The API in this process, a server and the Open Inference Protocol choose alike."""
    local = Scorer(models.folder).score(IMAGE, model="deep", min_agreement=0.9)
    with running(models.folder) as server, Client(server.address, timeout=60) as client:
        remote = client.score(IMAGE, model="deep", min_agreement=0.9)
        request = oip.ModelInferRequest(model_name="deep", raw_input_contents=[IMAGE.tobytes()])
        request.inputs.add(name="image", datatype="UINT8", shape=[1, *IMAGE.shape])
        request.outputs.add(name="average")
        request.parameters["min_agreement"].string_param = "0.9"
        (average,) = infer(server, request).raw_output_contents
    assert remote.plan.file == "model.margins2.onnx"
    assert remote.parity.agreement_interval == local.parity.agreement_interval
    with Console(width=200, record=True, file=StringIO()) as console:
        console.print(answer_table(remote))
    assert "; shared with margins cut off, " in console.export_text()
    assert_allclose(np.frombuffer(average, "<f4"), remote.average, rtol=1e-4, atol=1e-6)
    assert_array_equal(local.average, remote.average)


@pytest.mark.parametrize("options", [{"min_agreement": 1.5}, {"min_agreement": 0.5, "mode": "dense"}])
def test_wrong_values_are_refused(options: dict[str, Any]) -> None:
    """The share is above 0 and at most 1, and the mode is left to choose."""
    with pytest.raises(OptionError, match="min_agreement: expected"):
        RequestedOptions(**options)
