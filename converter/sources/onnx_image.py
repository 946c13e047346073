"""Gives a graph the input that every converted network has: images of four axes, float32 or uint8.

Other inputs of ONNX files are views of the same image: pixels in one flat row, a map without a batch or channel axis,
numbers of another type that the graph casts. A new input takes their place, and a Reshape makes the old one from it.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converter.errors import SourceError, UnsupportedError
from converter.graph.nodes import add_constant
from converter.graph.operators import ARITHMETIC, ELEMENTWISE, WINDOWED

IMAGE_TYPES = (ir.DataType.FLOAT, ir.DataType.UINT8)
IMAGE_CHANNELS = (1, 3)
"""Numbers of channels by which an image's layout is recognised."""
MATRIX_OPERATORS = ("Gemm", "MatMul")
Sizes = tuple[int | str | None, ...]


def set_image(graph: ir.Graph, window: tuple[int, int] | None) -> str:
    """Make the graph's only input an image of four axes, in place; returns its layout, "NCHW" or "NHWC".

    `window` (height, width) in pixels is needed if the input is a flat row that nothing reshapes. Raises
    UnsupportedError unless the input is an image, SourceError if the window contradicts it.
    """
    image = _only_input(graph)
    if image.shape is None:
        raise _not_an_image(image)
    _drop_casts(graph, image)
    if image.dtype not in IMAGE_TYPES:
        raise _not_an_image(image)
    if image.shape.rank() == 4:
        return _layout(image, _sizes(image.shape))
    layout, sizes = _four_axes(image, window)
    axes = [letter if size is None else size for letter, size in zip(layout, sizes, strict=True)]
    _reshape_from(graph, image, axes)
    return layout


def _only_input(graph: ir.Graph) -> ir.Value:
    images = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(images) != 1:
        names = ", ".join(str(value.name) for value in images)
        raise UnsupportedError(f"inputs: expected one image, got {len(images)}: {names or 'none'}")
    return images[0]


def _not_an_image(image: ir.Value) -> UnsupportedError:
    return UnsupportedError(
        f"input {image.name!r}: expected float32 or uint8 N,C,H,W or N,H,W,C, or an input that the network casts or "
        f"reshapes to it, got {image.dtype} {image.shape}; convert a network for 2-D images"
    )


def _drop_casts(graph: ir.Graph, image: ir.Value) -> None:
    """Make an input of another type float32, if the graph does nothing with it but cast it to float32."""
    users = [use.node for use in image.uses()]
    if any(user.graph is not graph for user in users):
        return
    if image.dtype in IMAGE_TYPES or not users or not all(map(_casts_to_float, users)):
        return
    image.dtype = ir.DataType.FLOAT
    for cast in users:
        cast.outputs[0].replace_all_uses_with(image, replace_graph_outputs=True)
    graph.remove(users, safe=True)


def _casts_to_float(node: ir.Node) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT


def _sizes(shape: ir.Shape) -> Sizes:
    """Return the sizes of a shape; None stands for a size that the file leaves open."""
    return tuple(size if isinstance(size, int) else None for size in shape)


def _layout(value: ir.Value, sizes: Sizes) -> str:
    """Return "NCHW" or "NHWC": the layout in the graph, else "NHWC" if only the last axis has 1 or 3 elements."""
    last = sizes[1] not in IMAGE_CHANNELS and sizes[3] in IMAGE_CHANNELS
    layout = _layout_in_graph(value) or ("NHWC" if last or not isinstance(sizes[1], int) else "NCHW")
    if not isinstance(sizes[layout.index("C")], int):
        shape = ",".join("?" if size is None else str(size) for size in sizes)
        raise UnsupportedError(f"input {value.name!r}: expected a fixed number of channels, got {shape}")
    return layout


def _layout_in_graph(image: ir.Value) -> str | None:
    """Return the layout that the graph reads: convolutions take channels first, a Transpose may move them there.

    Return None if the graph has neither.
    """
    pending, seen = [image], {image}
    while pending:
        for node in [use.node for use in pending.pop().uses()]:
            if node.op_type in WINDOWED:
                return "NCHW"
            if node.op_type == "Transpose" and "perm" in node.attributes:
                return "NHWC" if list(node.attributes["perm"].as_ints()) == [0, 3, 1, 2] else None
            if node.op_type in ELEMENTWISE | ARITHMETIC and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return None


def _four_axes(image: ir.Value, window: tuple[int, int] | None) -> tuple[str, Sizes]:
    """Return the layout and the sizes of the image that an input of other than four axes holds."""
    assert image.shape is not None  # noqa: S101 (checked by set_image)
    sizes = _sizes(image.shape)
    value, seen = image, {image}
    while next_value := _reshaped(value, sizes, seen):
        value, sizes = next_value
        seen.add(value)
        if len(sizes) == 4:
            return _layout(value, sizes), sizes
    users = {use.node.op_type for use in value.uses()}
    if len(sizes) != 2 or not users or not users <= {*MATRIX_OPERATORS}:
        raise _not_an_image(image)
    return "NCHW", _flat_image(image, sizes, window)


def _reshaped(value: ir.Value, sizes: Sizes, seen: set[ir.Value]) -> tuple[ir.Value, Sizes] | None:
    """Return the next value in a chain of reshapes and pointwise operators, and its sizes; None at its end."""
    for node in [use.node for use in value.uses()]:
        output = node.outputs[0]
        if output in seen or not node.inputs or node.inputs[0] is not value:
            continue
        if node.op_type in ELEMENTWISE | ARITHMETIC:
            return output, sizes
        if node.op_type in ("Reshape", "Unsqueeze"):
            numbers = _numbers(node)
            made = None if numbers is None else _new_sizes(node.op_type, sizes, numbers)
            return None if made is None else (output, made)
    return None


def _numbers(node: ir.Node) -> list[int] | None:
    """Return the constant shape of a Reshape, or the axes of an Unsqueeze; None if they are computed."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    given = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    return None if given is None else [int(number) for number in given.numpy().reshape(-1)]


def _new_sizes(op_type: str, sizes: Sizes, numbers: Sequence[int]) -> Sizes | None:
    """Return the sizes after a Reshape or Unsqueeze; None if it does not fit."""
    if op_type == "Unsqueeze":
        rank = len(sizes) + len(numbers)
        rest, added = iter(sizes), {axis % rank for axis in numbers}
        if len(added) < len(numbers):
            return None
        return tuple(1 if axis in added else next(rest) for axis in range(rank))
    made = [sizes[axis] if size == 0 and axis < len(sizes) else size for axis, size in enumerate(numbers)]
    if -1 in made:
        known = [size for size in made if isinstance(size, int) and size != -1]
        total = [size for size in sizes if isinstance(size, int)]
        is_whole = len(total) == len(sizes) and len(known) == len(made) - 1 and math.prod(known) > 0
        made[made.index(-1)] = math.prod(total) // math.prod(known) if is_whole else None
    return tuple(made)


def _flat_image(image: ir.Value, sizes: Sizes, window: tuple[int, int] | None) -> Sizes:
    """Return the sizes (N, C, H, W) of the image in a flat row of pixels."""
    batch, pixels = sizes
    if window is None:
        raise SourceError(
            f"window: expected the size of the image, which the input {image.name!r} of {pixels} numbers leaves open; "
            "give --window HEIGHTxWIDTH"
        )
    if not isinstance(pixels, int) or pixels % math.prod(window):
        raise SourceError(
            f"window: the input {image.name!r} of {pixels} numbers does not hold images of {window[0]}×{window[1]} "
            "pixels; check --window"
        )
    return (batch, pixels // math.prod(window), *window)


def _reshape_from(graph: ir.Graph, old: ir.Value, axes: Sequence[int | str]) -> None:
    """Replace an input by an image of four axes, from which a Reshape makes the old input."""
    assert old.shape is not None  # noqa: S101 (checked by set_image)
    shape = [size if isinstance(size, int) else -1 for size in old.shape]
    if shape.count(-1) > 1:
        raise _not_an_image(old)
    image = ir.val(str(old.name), old.dtype, axes)
    reshape = ir.node("Reshape", [image, add_constant(graph, f"{old.name}.shape", np.array(shape))], name="image_axes")
    reshape.outputs[0].name, reshape.outputs[0].type = f"{old.name}.reshaped", old.type
    graph.insert_before(graph[0], reshape)
    old.replace_all_uses_with(reshape.outputs[0], replace_graph_outputs=True)
    graph.inputs[graph.inputs.index(old)] = image
