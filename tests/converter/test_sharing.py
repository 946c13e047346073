"""Networks whose windows share give the scores of every window by itself, and margins agree with brute force."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, example, given, reject, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from onnx import TensorProto, helper, numpy_helper
from support.networks import PADDED, make_network
from support.random_networks import Net, Pair, TooSmallError, add_block, blocks, pairs, session

from converter.convert import convert_checkpoint
from converter.graph.sharing.margins import AxisMargins
from converter.graph.sharing.parts import DENSE
from converter.graph.sharing.share import share
from converter.verify.certificates import ModelFiles
from converter.verify.networks import ConvertedNetwork, NetworkOutput
from converter.verify.shared import SingleWindows

TOLERANCE = 1e-5
"""Largest difference, relative to the largest score."""


@settings(max_examples=50, deadline=None)
@given(
    st.lists(blocks, min_size=1, max_size=5),
    st.tuples(st.integers(9, 17), st.integers(9, 17)),
    pairs,
    pairs,
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.integers(0, 5),
)
@example(
    [("residual", (1, 1)), ("chain", ("MaxPool", (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), 1))],
    (16, 12),
    (3, 4),
    (1, 1),
    (0, 0),
    0,
)
@example(
    [("chain", ("Conv", (3, 3), (2, 2), (1, 1), (0, 0, 2, 2), 1)), ("residual", (2, 1))],
    (15, 15),
    (2, 2),
    (1, 2),
    (1, 0),
    1,
)
def test_every_window_has_its_own_scores(
    parts: list[tuple[str, tuple[Any, ...]]],
    window: Pair,
    grid: Pair,
    multiple: Pair,
    beyond: Pair,
    level: int,
) -> None:
    """Random networks with kernels, strides, dilations, pads, pools and branches: every window as by itself."""
    net = Net(np.random.default_rng(0), size=window)
    levels = [(1, 1)]
    try:
        for kind, how in parts:
            add_block(net, kind, how)
            levels.append(net.strides)
    except TooSmallError:
        reject()
    proto = net.proto()
    chosen = levels[level % len(levels)]
    shared, cost = share(ir.from_proto(proto), "NCHW", window, {}, chosen)
    stride = chosen[0] * multiple[0], chosen[1] * multiple[1]
    size = [
        extent + (windows - 1) * step + min(more, step - 1)
        for extent, windows, step, more in zip(window, grid, stride, beyond, strict=True)
    ]
    image = net.rng.normal(size=(1, 2, *size)).astype(np.float32)
    got = session(ir.to_proto(shared)).run(None, {"image": image, "stride": np.array(stride)})[0]
    alone = session(proto)
    assert got.shape == (1, 3, *grid)
    for row, col in product(range(grid[0]), range(grid[1])):
        down, across = row * stride[0], col * stride[1]
        crop = image[:, :, down : down + window[0], across : across + window[1]]
        assert_allclose(got[0, :, row, col], alone.run(None, {"image": crop})[0].ravel(), atol=TOLERANCE)
    assert cost.of(grid, stride) > 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(blocks.filter(lambda block: block[0] != "pad"), min_size=1, max_size=5),
    st.tuples(st.integers(9, 17), st.integers(9, 17)),
)
def test_high_limits_cut_nothing_off(parts: list[tuple[str, tuple[Any, ...]]], window: Pair) -> None:
    """Margins that are cut off at more cells than they have give the scores of every window by itself."""
    net = Net(np.random.default_rng(0), size=window)
    try:
        for kind, how in parts:
            add_block(net, kind, how)
    except TooSmallError:
        reject()
    proto = net.proto()
    model, _ = share(ir.from_proto(proto), "NCHW", window, {}, net.strides, limit=99)
    size = [extent + 2 * step for extent, step in zip(window, net.strides, strict=True)]
    image = net.rng.normal(size=(1, 2, *size)).astype(np.float32)
    got = session(ir.to_proto(model)).run(None, {"image": image, "stride": np.array(net.strides)})[0]
    alone = session(proto)
    for row, col in product(range(3), range(3)):
        down, across = row * net.strides[0], col * net.strides[1]
        crop = image[:, :, down : down + window[0], across : across + window[1]]
        assert_allclose(got[0, :, row, col], alone.run(None, {"image": crop})[0].ravel(), atol=TOLERANCE)


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_cells_beyond_cut_margins_are_dense(limit: int) -> None:
    """Layer by layer, a window's outermost cells are those of its strips and corners, and the others are dense."""
    net = Net(np.random.default_rng(0), size=(32, 32))
    for kernel, stride in ((3, 1), (3, 2), (5, 1), (3, 1)):
        pad = kernel // 2
        how = ("Conv", (kernel,) * 2, (stride,) * 2, (1, 1), (pad,) * 4, 1)
        add_block(net, "chain", how)
    proto = net.proto()
    model, _ = share(ir.from_proto(proto), "NCHW", (32, 32), {}, (2, 2), limit)
    image = net.rng.normal(size=(1, 2, 40, 36)).astype(np.float32)
    got = session(ir.to_proto(model)).run(None, {"image": image, "stride": np.array([4, 2])})[0]
    nodes = list(proto.graph.node)
    for row, col in product(range(3), range(3)):
        down, across, reached = 4 * row, 2 * col, np.zeros(32, bool)
        rows, cols = slice(down, down + 32), slice(across, across + 32)
        maps = [image, image[:, :, rows], image[..., cols], image[:, :, rows, cols]]
        for node in nodes[:4]:
            dense, strip, column, own = (run(net, node, value) for value in maps)
            (kernel, _), (stride, _) = (helper.get_node_attr_value(node, name) for name in ("kernel_shape", "strides"))
            padded = np.pad(reached, kernel // 2, constant_values=True)
            reached = np.array([padded[at : at + kernel].any() for at in range(0, len(padded) - kernel + 1, stride)])
            reached[limit : len(reached) - limit] = False
            down, across, inner = down // stride, across // stride, ~reached
            rows, cols = slice(down, down + len(reached)), slice(across, across + len(reached))
            strip[:, :, inner] = dense[:, :, rows][:, :, inner]
            column[..., inner] = dense[..., cols][..., inner]
            own[:, :, inner] = column[:, :, rows][:, :, inner]
            own[..., inner] = strip[..., cols][..., inner]
            maps = [dense, strip, column, own]
        for node in nodes[4:]:
            own = run(net, node, own)
        assert_allclose(got[0, :, row, col], own.ravel(), atol=TOLERANCE)


def run(net: Net, node: onnx.NodeProto, value: np.ndarray) -> np.ndarray:
    """Return what one node of a network makes of a value."""
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in (node.input[0], node.output[0])
    )
    weights = [numpy_helper.from_array(net.weights[name], name) for name in node.input[1:]]
    graph = helper.make_graph([node], "layer", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    result: np.ndarray = session(model).run(None, {node.input[0]: value})[0]
    return result


layers = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(-2, 4), st.integers(-2, 4))
"""Reach, stride, and padding before and after."""


@settings(max_examples=200, deadline=None)
@given(st.integers(5, 40), st.lists(layers, min_size=1, max_size=5))
def test_margins_hold_every_cell_that_padding_reaches(size: int, chain: list[tuple[int, int, int, int]]) -> None:
    """Cells outside of the margins read no padding, also through earlier layers; the margins are no larger."""
    margins, reached = AxisMargins(size), np.zeros(size, bool)
    for reach, stride, before, after_ in chain:
        assume(size + before + after_ >= reach)
        read = margins.after_layer(reach=reach, stride=stride, before=before, after=after_)
        padded = np.pad(
            reached[max(0, -before) : len(reached) + min(0, after_)],
            (max(0, before), max(0, after_)),
            constant_values=True,
        )
        reached = np.array([padded[at : at + reach].any() for at in range(0, len(padded) - reach + 1, stride)])
        if read is None:
            return
        margins, size = read.after, read.after.size
        assert margins.size == len(reached)
        near, far = np.argmin(reached), np.argmin(reached[::-1])
        assert margins.near >= near
        assert margins.far >= far
        is_padded = (before > 0 and reach <= before, after_ > 0 and reach <= after_)
        assert is_padded[0] or margins.near == near
        assert is_padded[1] or margins.far == far
        reached[: margins.near] = reached[len(reached) - margins.far :] = True


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
def test_costs_are_those_that_run(stride: int) -> None:
    """The counted multiply-adds of a residual network grow with the windows as its layers do."""
    net = Net(np.random.default_rng(0), size=(16, 16))
    for kind, how in (("residual", (1, 1)), ("chain", ("MaxPool", (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), 1))):
        add_block(net, kind, how)
    _, cost = share(ir.from_proto(net.proto()), "NCHW", (16, 16), {}, (1, 1))
    rows = 14 + 2 * stride + 2 * 3  # the dense map of three windows, and two margins of one cell for each
    assert cost.of((3, 3), (stride, stride)) == pytest.approx(rows**2 * 36 + 9 * 3 * 2 * 64)


def test_files_that_differ_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of mode shared whose scores differ from single windows is removed, and the report states the reason."""
    network = make_network(tmp_path, PADDED)
    monkeypatch.setattr("converter.graph.sharing.parts.kinds", lambda axes: [(DENSE, DENSE)] * len(axes))
    report = convert_checkpoint(network.checkpoint, tmp_path / "net" / "1", arch=network.toml, verify=4)
    assert list(report.spec.modes) == ["dense", "crops"]
    assert not list((tmp_path / "net" / "1").glob("model.shared*"))
    assert report.removed


def test_exchanged_rows_and_columns_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of mode shared whose windows are in the wrong order is removed."""
    network = make_network(tmp_path, PADDED)

    class Transposed(ConvertedNetwork):
        def __call__(self, pixels: np.ndarray) -> NetworkOutput:
            return NetworkOutput.of([grid.swapaxes(0, 1) for grid in super().__call__(pixels).grids])

    monkeypatch.setattr("converter.verify.shared.ConvertedNetwork", Transposed)
    report = convert_checkpoint(network.checkpoint, tmp_path / "net" / "1", arch=network.toml, verify=4)
    assert not report.spec.shared
    assert report.removed


def test_every_window_of_the_check_is_scored_by_itself_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of mode shared have one compared window in common; each reports two windows."""
    network = make_network(tmp_path, PADDED)
    monkeypatch.setattr("converter.graph.sharing.variants._is_needed", lambda *_: True)
    found = list[SingleWindows]()

    class Found(SingleWindows):
        def __init__(self, files: ModelFiles) -> None:
            super().__init__(files)
            found.append(self)

    monkeypatch.setattr("converter.verify.shared.SingleWindows", Found)
    report = convert_checkpoint(network.checkpoint, tmp_path / "net" / "1", arch=network.toml, verify=4)
    assert [file.difference.windows for file in report.spec.shared] == [2] * len(report.spec.shared)
    assert len(report.spec.shared) > 1
    assert len(found[0].scored) == len(report.spec.shared) + 1


def test_files_that_coarser_files_replace_are_not_written(tmp_path: Path) -> None:
    """Phases of the file for multiples of 4 pixels are cheaper than the file for multiples of 1 pixel."""
    network = make_network(tmp_path, PADDED)
    convert_checkpoint(network.checkpoint, tmp_path / "net" / "1", arch=network.toml, verify=4)
    assert [path.name for path in (tmp_path / "net" / "1").glob("model.shared*")] == ["model.shared4.onnx"]
