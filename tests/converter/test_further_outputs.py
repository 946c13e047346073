"""--also: further outputs of a network, such as the offsets of boxes, beside the scores."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support.conversion import SILENT
from support.detectors import OUTPUTS, SIDE, STRIDE, detector, windows_of
from support.pictures import noise

from converter import convert as conversion
from converter.errors import ConversionError
from converter.report import Report
from converter.sources.read import read_source

ALSO = ("boxes", "embedding")


def convert(proto: onnx.ModelProto, folder: Path, **options: Any) -> Report:
    """Convert the detector with its probabilities as scores."""
    onnx.save(proto, folder / "net.onnx")
    request = conversion.Request(folder / "net" / "1", windows=4, **{"scores": "prob", "also": ALSO, **options})
    return conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT)


@pytest.mark.parametrize("stride", [STRIDE, 2, 1, 2 * STRIDE])
def test_every_output_of_every_window(stride: int, tmp_path: Path) -> None:
    """Each stride's file returns the values of the source for every window, output by output."""
    proto = detector(pad=0)
    report = convert(proto, tmp_path, strides=(stride,))
    assert report.spec.parity[0].exact
    assert [(each.name, each.values) for each in report.spec.output.further] == [("boxes", 4), ("embedding", 6)]
    pixels = noise(SIDE + 13, SIDE + 9, 3)
    served = ort.InferenceSession(tmp_path / "net" / "1" / report.spec.strides[-1].file)
    assert [output.name for output in served.get_outputs()] == ["scores", *ALSO]
    grids = served.run(None, {"image": np.moveaxis(pixels, -1, 0)[None].astype(np.float32)})
    for grid, expected in zip(grids, windows_of(proto, pixels, ["prob", *ALSO], stride), strict=True):
        rows, cols, _ = expected.shape  # the network reads 15 of the 16 pixels, which may leave room for another cell
        assert_allclose(np.moveaxis(grid[0], 0, -1)[:rows, :cols], expected, rtol=0, atol=1e-5)


def test_shared_files_have_them_too(tmp_path: Path) -> None:
    """A padded network returns them in mode shared, each equal to the source's."""
    proto = detector(pad=1)
    report = convert(proto, tmp_path)
    assert report.spec.shared
    pixels = noise(SIDE + 3 * STRIDE, SIDE + 5 * STRIDE, 3)
    for file in report.spec.shared:
        stride = file.multiple_of.height * max(1, STRIDE // file.multiple_of.height)
        served = ort.InferenceSession(tmp_path / "net" / "1" / file.file)
        image = np.moveaxis(pixels, -1, 0)[None].astype(np.float32)
        grids = served.run(["scores", *ALSO], {"image": image, "stride": np.array([stride, stride])})
        for grid, expected in zip(grids, windows_of(proto, pixels, ["prob", *ALSO], stride), strict=True):
            assert_allclose(np.moveaxis(grid[0], 0, -1), expected, rtol=0, atol=1e-5)


def test_crops_only(tmp_path: Path) -> None:
    """A network that runs window by window keeps its further outputs too."""
    proto = detector()
    convert(proto, tmp_path, crops_only=True)
    pixels = noise(SIDE, SIDE, 3)
    served = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    grids = served.run(None, {"image": np.moveaxis(pixels, -1, 0)[None].astype(np.float32)})
    for grid, expected in zip(grids, windows_of(proto, pixels, ["prob", *ALSO]), strict=True):
        assert_allclose(grid[0, :, 0, 0], expected[0, 0], rtol=0, atol=1e-5)


def test_reduced_precision(tmp_path: Path) -> None:
    """Files of reduced precision have them too, with the rounding of fp16."""
    proto = detector(pad=0)
    convert(proto, tmp_path, precision="fp16")
    pixels = noise(SIDE, SIDE, 3)
    served = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    grids = served.run(None, {"image": np.moveaxis(pixels, -1, 0)[None].astype(np.float32)})
    for grid, expected in zip(grids, windows_of(proto, pixels, ["prob", *ALSO]), strict=True):
        assert_allclose(grid[0, :, 0, 0], expected[0, 0], rtol=0, atol=2e-3)


def test_logits_beside_probabilities(tmp_path: Path) -> None:
    """The input of the final activation may be one of the further outputs."""
    proto = detector(pad=0)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3]))
    report = convert(proto, tmp_path, also=("logits",))
    assert report.spec.output.kind == "probabilities"
    assert [each.name for each in report.spec.output.further] == ["logits"]


def test_a_difference_of_a_further_output_is_found(tmp_path: Path) -> None:
    """The comparison with the source covers further outputs: other boxes end the conversion, and nothing is left."""
    onnx.save(detector(pad=0), tmp_path / "net.onnx")
    classifier = read_source(tmp_path / "net.onnx", arch=None, window=None)
    weights = classifier.original.graph.initializers["wb"]
    assert weights.const_value is not None
    weights.const_value = ir.tensor(1.01 * weights.const_value.numpy(), name="wb")
    request = conversion.Request(tmp_path / "net" / "1", windows=4, scores="prob", also=ALSO)
    with pytest.raises(
        ConversionError, match="between the values of output 1 of --also of the source and converted networks on single"
    ):
        conversion.convert(classifier, request, SILENT)
    assert not (tmp_path / "net" / "1").exists()


REFUSED = {
    "an unknown name": (
        {"also": ("box",)},
        "also: expected the name of a further output, one of boxes, embedding; got 'box'",
    ),
    "the scores": ({"also": ("prob",)}, "one of boxes, embedding; got 'prob'"),
    "a name that is taken": ({"also": ("average",)}, "also: expected another name than average, image, scores, stride"),
    "all outputs": (
        {"scores": None, "also": ("prob", "boxes", "embedding")},
        "also: expected an output that remains for the scores, got all outputs",
    ),
    "no scores": ({"scores": None, "also": ("boxes",)}, "outputs: expected one row of scores, got several"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A wrong name is refused with the names that are possible."""
    with pytest.raises(ConversionError) as refused:
        convert(detector(), tmp_path, **options)
    assert message in str(refused.value)


def test_a_network_of_one_output(tmp_path: Path) -> None:
    """There is nothing to keep beside the only output."""
    proto = detector()
    del proto.graph.output[1:]
    with pytest.raises(ConversionError, match="also: expected none, since no other output can be kept; got 'boxes'"):
        convert(proto, tmp_path, scores=None, also=("boxes",))


def test_a_single_name(tmp_path: Path) -> None:
    """The Python function takes one name as a text, too."""
    onnx.save(detector(pad=0), tmp_path / "net.onnx")
    report = conversion.convert_checkpoint(
        tmp_path / "net.onnx", tmp_path / "net" / "1", scores="prob", also="boxes", verify=4
    )
    assert [each.name for each in report.spec.output.further] == ["boxes"]


def test_an_output_that_is_no_row(tmp_path: Path) -> None:
    """A map of the trunk is no row of values for each window."""
    proto = detector()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("r2", onnx.TensorProto.FLOAT, ["N", 6, 4, 4]))
    with pytest.raises(ConversionError, match="output 'r2': expected one row"):
        convert(proto, tmp_path, also=("r2",))


def test_sizes_of_outputs() -> None:
    """The detector's outputs have the values that its description says."""
    assert {
        output.name: output.type.tensor_type.shape.dim[1].dim_value for output in detector().graph.output
    } == OUTPUTS
