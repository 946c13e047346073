"""Networks in half precision and in bytes: converted files, certificates and refusals."""

import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import pyvips
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file
from support.conversion import SILENT
from support.networks import PADDED, make_network
from support.paths import ROOT
from support.pictures import noise, png
from support.scoring import plan_image
from typer.testing import CliRunner

from converter import convert as conversion
from converter.cli import app
from converter.errors import UnsupportedError, VerificationError
from converter.request import Precision
from converter.sources.read import read_source
from converter.verify.difference import difference
from converter.verify.networks import NetworkOutput
from fullconv.protos import model_pb2, scoring_pb2
from service.images.encoded import open_bytes
from service.limits import Tuning
from service.scoring.scorer import Scorer

DIGITS = ROOT / "models" / "digits"
DATA = ROOT / "tests" / "data"
REDUCED = ["fp16", "int8"]
WEIGHTS = {"fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}
TRUNKS = [
    "pytorch/basic_block.torchscript_batch",  # branches that meet in an Add
    pytest.param(
        "pytorch/squeezenet.torchscript", marks=pytest.mark.slow
    ),  # Concat; the classifier is a convolution, then a pool
    pytest.param("pytorch/densenet.torchscript_batch", marks=pytest.mark.slow),  # AveragePool between the layers
    "pytorch/average_pool_pad.torchscript_batch",
    "pytorch/cropped_residual.torchscript_batch",  # Slice
    "pytorch/grouped.torchscript_batch",
    "pytorch/hardswish.torchscript_batch",
    "pytorch/convnext.torchscript",  # LayerNormalization between transposes
    "pytorch/uneven_pad.torchscript",  # Pad
    "keras/same_strided.tf2onnx",
]


def convert(source: Path, folder: Path, precision: Precision, *strides: int, **options: Any) -> model_pb2.ModelSpec:
    """Convert a file as FOLDER/PRECISION/net/1."""
    least = None if precision == "fp32" else 0.0
    usual: dict[str, Any] = {"preprocess": "unit", "min_agreement": least, "images": pages(folder)}
    request = conversion.Request(
        folder / precision / "net" / "1",
        windows=8,
        strides=strides,
        precision=precision,
        **(usual | options),
    )
    return conversion.convert(read_source(source, arch=None, window=None), request, SILENT).spec


def convert_digits(folder: Path, precision: Precision, *strides: int, **options: Any) -> model_pb2.ModelSpec:
    """Convert the shipped model, calibrated and compared on its page."""
    classifier = read_source(DIGITS / "digits.safetensors", arch=str(DIGITS / "digits.toml"), window=None)
    request = conversion.Request(
        folder / precision / "net" / "1", images=DIGITS, strides=strides, precision=precision, **options
    )
    return conversion.convert(classifier, request, SILENT).spec


def pages(folder: Path) -> Path:
    """Write images for the calibration; returns their folder."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for seed in range(4):
        (images / f"{seed}.png").write_bytes(png(noise(90, 110, 3, seed=seed)))
    return images


def scores(folder: Path, precision: Precision, spec: model_pb2.ModelSpec, pixels: np.ndarray) -> list[np.ndarray]:
    """Return each file's scores of an image, (rows, cols, classes)."""
    sessions = [ort.InferenceSession(folder / precision / "net" / "1" / entry.file) for entry in spec.strides]
    return [np.moveaxis(each.run(None, {"image": pixels[None]})[0][0], 0, -1) for each in sessions]


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the difference in relative L2 norm."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("precision", "smaller"), [pytest.param("fp16", 1.99, marks=pytest.mark.slow), ("int8", 3.9)])
def test_the_shipped_model(tmp_path: Path, precision: Precision, smaller: float) -> None:
    """Weights have a half or a quarter of the size, and 99 % of the page's top classes equal those of fp32."""
    full, spec = (convert_digits(tmp_path, kind, 4, 16) for kind in ("fp32", precision))
    assert (full.precision, spec.precision) == ("fp32", precision)
    sizes = [(tmp_path / kind / "net" / "1" / "weights.data").stat().st_size for kind in ("fp32", precision)]
    assert sizes[0] > smaller * sizes[1]
    for file in spec.strides:
        proto = onnx.load(tmp_path / precision / "net" / "1" / file.file, load_external_data=False)
        largest = max(proto.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
        assert largest.data_type == WEIGHTS[precision]
        assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert proto.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    page = pyvips.Image.new_from_file(DIGITS / "page.png").numpy().reshape(768, 1024, -1)[:400, :600, :1]
    pairs = zip(scores(tmp_path, precision, spec, page), scores(tmp_path, "fp32", full, page), strict=True)
    for own, expected in pairs:
        assert own.shape == expected.shape
        assert 0 < relative(own, expected) < 0.06
        assert (own.argmax(-1) == expected.argmax(-1)).mean() >= 0.99


@pytest.mark.parametrize("precision", REDUCED)
def test_certificates_hold_the_difference_from_float32(tmp_path: Path, precision: Precision) -> None:
    """At every stride the certificate measures the effect of reduced precision separately, and is not exact."""
    spec = convert_digits(tmp_path, precision, 4)
    assert len(spec.parity) == 2
    for parity in spec.parity:
        assert not parity.exact
        assert parity.interior.windows == 256
        assert parity.precision.windows == {8: 88 * 120, 4: 175 * 239}[parity.stride.height]  # every cell of the page
        assert parity.precision.top_class_agreement >= 0.99
        assert 0 < parity.precision.max_abs < 1
        assert 0 < parity.native.max_abs < 1
    document = json.loads((tmp_path / precision / "net" / "1" / "report.json").read_text("utf-8"))
    assert document["precision"] == precision
    assert document["parity"][1]["precision"]["windows"] == 175 * 239
    assert document["verdict"].startswith("dense differs from the source network's crops: the top class agrees on")


@pytest.mark.parametrize("precision", ["int8", pytest.param("fp16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TRUNKS)
def test_every_stride_in_reduced_precision(tmp_path: Path, name: str, precision: Precision) -> None:
    """Grids are close to those of float32 at every stride, and cells of the same window are bitwise equal."""
    strides = (1, 2, 4, 8, 16)
    full, spec = (convert(DATA / f"{name}.onnx", tmp_path, kind, *strides) for kind in ("fp32", precision))
    native = (spec.vertical.stride, spec.horizontal.stride)
    size = (spec.window.height + 3 * native[0], spec.window.width + 5 * native[1])
    pixels = noise(*size, spec.input.channels)
    grids = scores(tmp_path, precision, spec, pixels)
    for entry, own, expected in zip(spec.strides, grids, scores(tmp_path, "fp32", full, pixels), strict=True):
        assert 0 < relative(own, expected) < 0.06
        stride = (entry.stride.height, entry.stride.width)
        finer = tuple(slice(None, None, max(1, mine // its)) for mine, its in zip(native, stride, strict=True))
        coarser = tuple(slice(None, None, max(1, its // mine)) for mine, its in zip(native, stride, strict=True))
        assert_array_equal(own[finer], grids[0][coarser])


@pytest.mark.parametrize(
    ("name", "precision"), [("squeeze_excite_linear.torchscript", "fp16"), ("vit.dynamo_batch", "int8")]
)
def test_networks_of_crops(tmp_path: Path, name: str, precision: Precision) -> None:
    """Networks of crops convert to reduced precision, and their certificate compares windows."""
    source = DATA / "pytorch" / f"{name}.onnx"
    full, spec = (convert(source, tmp_path, kind, crops_only=True) for kind in ("fp32", precision))
    pixels = noise(spec.window.height, spec.window.width, 3)
    (own,), (expected,) = (scores(tmp_path, cast("Precision", each.precision), each, pixels) for each in (spec, full))
    assert 0 < relative(own, expected) < 0.06
    assert spec.parity[0].precision.windows >= 16


@pytest.mark.parametrize("precision", REDUCED)
def test_inputs_without_preprocessing(tmp_path: Path, precision: Precision) -> None:
    """Without preprocessing in the graph the input stays float32 in the source's own layout."""
    convert(DATA / "pytorch" / "basic_block.torchscript_batch.onnx", tmp_path, precision, preprocess="none")
    session = ort.InferenceSession(tmp_path / precision / "net" / "1" / "model.onnx")
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape[1]) == ("tensor(float)", 3)
    assert session.get_outputs()[0].type == "tensor(float)"


def test_the_agreement_of_a_single_class(tmp_path: Path) -> None:
    """The agreement of a single class counts whether both networks are on the same side of one half."""
    spec = convert(DATA / "pytorch" / "sigmoid_one.torchscript_batch.onnx", tmp_path, "int8")
    assert spec.output.classes == 1
    one, other = (
        NetworkOutput(np.zeros((2, 2, 1), np.float32), np.array(cells, np.float32).reshape(2, 2, 1))
        for cells in ([1, 1, -1, -1], [1] * 4)
    )
    assert difference([one], [other], has_top_class=True).top_class_agreement == 0.5


@pytest.mark.slow
def test_same_source_gives_same_bytes(tmp_path: Path) -> None:
    """Converting twice to int8 gives the same files, because calibration draws the same images."""
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        convert_digits(tmp_path / folder, "int8", 4)
    one, other = (tmp_path / folder / "int8" / "net" / "1" for folder in ("one", "other"))
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_too_little_agreement_is_refused(tmp_path: Path) -> None:
    """An agreement below --min-agreement is refused in one line with the figure and a way out; nothing is written."""
    network = make_network(tmp_path, PADDED, classes=200)  # enough classes that some have similar scores
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    request = conversion.Request(tmp_path / "net" / "1", precision="int8", images=pages(tmp_path))
    with pytest.raises(VerificationError) as caught:
        conversion.convert(classifier, request, SILENT)
    assert "expected int8 to name the same top class as fp32 on at least 99.00% of windows, got" in str(caught.value)
    assert "lower --min-agreement; nothing was written" in str(caught.value)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    "factors", [{"a.weight": 1e6, "n.weight": 1e6}, {"n.running_var": 1e6, "n.weight": 1e3}], ids=["maps", "weights"]
)
def test_numbers_that_are_too_large_are_refused(tmp_path: Path, factors: dict[str, float]) -> None:
    """fp16 is refused for a network whose weights or maps exceed 65,504, the largest number of half precision."""
    network = make_network(tmp_path, PADDED)
    path = network.checkpoint
    changed = {name: network.tensors[name] * np.float32(factor) for name, factor in factors.items()}
    save_file(network.tensors | changed, path)
    classifier = read_source(path, arch=str(network.toml), window=None)
    request = conversion.Request(tmp_path / "net" / "1", precision="fp16", min_agreement=0)
    with pytest.raises(
        UnsupportedError, match=r"numbers of at most 65504 for fp16, got .*; choose another --precision"
    ):
        conversion.convert(classifier, request, SILENT)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("script", "expected_message"),
    [
        ("kill -SEGV $$", "crashes on it (signal 11); choose another --precision"),
        ("echo a trace; echo NotImplemented: no kernel >&2; exit 1", ": NotImplemented: no kernel; choose another"),
    ],
    ids=["crash", "error"],
)
def test_files_that_the_runtime_cannot_load_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected_message: str
) -> None:
    """A file that crashes ONNX Runtime is loaded in another process first, and is not written."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UnsupportedError, match=re.escape(expected_message)):
        convert_digits(tmp_path, "fp16")
    assert not (tmp_path / "fp16").exists()


def test_the_service_scores_them(tmp_path: Path) -> None:
    """The service gives the grid of one pass tile by tile, and its answer is not exact."""
    spec = convert_digits(tmp_path, "int8")
    page = (DIGITS / "page.png").read_bytes()
    scorer = Scorer(tmp_path / "int8", tuning=Tuning(tile_bytes=1 << 22))
    request = scoring_pb2.ScoreRequest(model="net", options=scoring_pb2.ScoreOptions(grid=True))
    run = plan_image(scorer, open_bytes(page, name="page"), request)
    assert run.plan.tile_count > 4
    grid = np.concatenate([rows.scores for rows in run.rows()])
    pixels = pyvips.Image.new_from_buffer(page, "").numpy().reshape(768, 1024, -1)[..., :1]
    (whole,) = scores(tmp_path, "int8", spec, pixels)
    assert_allclose(grid, whole[:88, :120], rtol=0, atol=1e-4)
    assert not run.answer().parity.exact


BAD = {
    "int8 without images": (["--precision", "int8"], "name their folder with --images"),
    "agreement of nothing": (["--min-agreement", "0.9"], "expected with --precision fp16 or int8 only"),
    "percent": (["--precision", "fp16", "--min-agreement", "99"], "expected a share from 0 to 1, got 99.0"),
    "nan": (["--precision", "fp16", "--min-agreement", "nan"], "expected a share from 0 to 1, got nan"),
    "unknown": (["--precision", "int4"], "'fp32', 'fp16', 'int8'"),
}


@pytest.mark.parametrize(("options", "expected_message"), BAD.values(), ids=BAD)
def test_wrong_command_lines(tmp_path: Path, options: list[str], expected_message: str) -> None:
    """A wrong command line ends with exit status 2 before anything is read."""
    result = CliRunner().invoke(app, [str(tmp_path / "no.onnx"), "-o", str(tmp_path / "net" / "1"), *options])
    assert result.exit_code == 2
    assert expected_message in " ".join(result.stderr.split())
