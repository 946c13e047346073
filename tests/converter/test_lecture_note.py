"""The examples of the CS231n lecture note that describes the conversion."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import TensorProto, helper
from onnxruntime import InferenceSession
from support import reference
from support.networks import LECTURE, Network, make_network
from support.pictures import png
from support.scoring import plan_image

from fullconv.protos import scoring_pb2
from service.images.encoded import open_bytes
from service.scoring.scorer import Scorer

WORKED = json.loads((Path(__file__).parents[1] / "data" / "worked_convolution.json").read_text())


@pytest.mark.parametrize(
    ("size", "field", "padding", "stride", "expected"),
    [(227, 11, 0, 4, 55), (384 // 32, 7, 0, 1, 6), (5, 3, 1, 2, 3), (7, 3, 0, 1, 5), (7, 3, 0, 2, 3)],
    ids=["alexnet", "384-image", "worked", "stride-1", "stride-2"],
)
def test_output_size(size: int, field: int, padding: int, stride: int, expected: int) -> None:
    """The formula (W - F + 2P)/S + 1 gives the sizes in the note."""
    assert expected == reference.output_size(size, field, padding, stride)


def test_uneven_fit_is_refused() -> None:
    """10 pixels with a receptive field of 3 and a stride of 2 are refused, because they do not fit."""
    with pytest.raises(ValueError, match="does not fit"):
        reference.output_size(10, 3, 0, 2)


def test_alexnet_as_im2col() -> None:
    """AlexNet's first layer is a product of 96×363 weights and 363×3025 columns."""
    image = np.random.default_rng(0).standard_normal((3, 227, 227))
    assert reference.im2col(image, 11, 4).shape == (363, 3025)


def worked_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the worked example's padded input, filters, biases and output, channels first."""
    image, filters, output = (
        np.moveaxis(np.array(WORKED[name], np.float32), -1, -3) for name in ("padded_input", "filters", "output")
    )
    return image, filters, np.array(WORKED["biases"], np.float32), output


def test_worked_convolution_by_reference() -> None:
    """im2col and one matrix product give the note's worked numbers."""
    image, filters, biases, expected = worked_arrays()
    assert_array_equal(expected, reference.convolve(image, filters, biases, WORKED["stride"]))


def test_worked_convolution_by_onnx_runtime() -> None:
    """ONNX Runtime's Conv gives the same worked numbers, with the padding as its own."""
    image, filters, biases, expected = worked_arrays()
    pad = WORKED["pad"]
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[pad] * 4, strides=[WORKED["stride"]] * 2)
    graph = helper.make_graph(
        [node],
        "worked",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xwb"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = InferenceSession(model.SerializeToString())
    inner = image[:, pad:-pad, pad:-pad]
    (got,) = session.run(None, {"x": inner[None], "w": filters, "b": biases})
    assert_array_equal(expected, got[0])


def test_convolution_as_fully_connected_layer() -> None:
    """A convolution is a fully connected layer whose matrix is mostly zero."""
    rng = np.random.default_rng(1)
    image, weights, bias = rng.standard_normal((3, 8, 9)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    matrix, biases = reference.as_matrix(weights, bias, 8, 9)
    assert (matrix == 0).mean() > 0.8
    assert_allclose((matrix @ image.ravel() + biases).reshape(4, 6, 7), reference.convolve(image, weights, bias))


def test_fully_connected_layer_as_convolution() -> None:
    """A fully connected layer over a map is a convolution as large as the map."""
    rng = np.random.default_rng(2)
    image, matrix, bias = rng.standard_normal((5, 7, 7)), rng.standard_normal((10, 245)), rng.standard_normal(10)
    expected = matrix @ image.ravel() + bias
    assert_allclose(expected, reference.convolve(image, matrix.reshape(10, 5, 7, 7), bias)[:, 0, 0])


def test_36_crops_in_one_pass(tmp_path: Path, convert: Callable[[Network], Path]) -> None:
    """A 384×384 image gives a 6×6 grid in one pass, equal to the original network on its 36 crops."""
    network = make_network(tmp_path, LECTURE)
    models = convert(network)
    image = np.random.default_rng(3).integers(0, 256, (384, 384, 3), dtype=np.uint8)
    request = scoring_pb2.ScoreRequest(model="lecture", options=scoring_pb2.ScoreOptions(grid=True))
    run = plan_image(Scorer(models), open_bytes(png(image), name="image"), request)
    assert run.plan.tile_count == 1
    (rows,) = run.rows()
    grid = rows.scores
    assert grid.shape == (6, 6, 5)
    for row, col in np.ndindex(6, 6):
        crop = image[32 * row : 32 * row + 224, 32 * col : 32 * col + 224]
        assert_allclose(grid[row, col], network.scores(crop), atol=1e-4)
