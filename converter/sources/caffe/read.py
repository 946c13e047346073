"""Reads a Caffe network: finds its prototxt, builds its layers in ONNX, and determines its preprocessing.

Refused: networks of several images or several rows of scores, and layers that `layers` does not know. A mean image is
reduced to one number per channel, as scripts for deployed networks do, because a window of a large image has no
position in a mean image.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import onnx_ir as ir
from pydantic import ValidationError

from converter.errors import SourceError, UnsupportedError
from converter.messages import first_problem
from converter.preprocessing import NONE, Preprocessing
from converter.sources.caffe.graph import Blob, GraphBuilder, LayerContext
from converter.sources.caffe.layers import build_layer
from converter.sources.caffe.prototxt import CaffeLayer, CaffeNet, read_prototxt
from converter.sources.caffe.weights import CaffeWeights, read_mean, read_weights
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from fullconv.protos import model_pb2

DEPLOY = "deploy.prototxt"


def read_caffe(path: Path, arch: str | None, window: tuple[int, int] | None) -> Classifier:
    """Read a .caffemodel with the prototxt `arch`. Default: the only prototxt in its folder.

    `window` is (height, width) in pixels; None stands for the size in the prototxt. Raises ConversionError and OSError.
    """
    prototxt = Path(arch) if arch else _prototxt_beside(path)
    net, weights = read_prototxt(prototxt), read_weights(path)
    shape = _image_shape(net, weights, window)
    model = _model(net, weights, shape)
    return Classifier(
        original=model,
        model=model.clone(),
        window=shape[1:],
        preprocess=_preprocess(net, shape[0], prototxt.parent),
        activation=net.activation,
        labels=(),
        source=model_pb2.Source(format="caffe", sha256=sha256(path, prototxt)),
    )


def _prototxt_beside(path: Path) -> Path:
    candidates = [path.with_suffix(".prototxt"), path.with_name(DEPLOY)]
    found = [candidate for candidate in candidates if candidate.is_file()]
    if len(found) != 1:
        names = " or ".join(candidate.name for candidate in candidates)
        raise SourceError(f"arch: expected {names} beside {path}, got {len(found)} of them; give --arch FILE.prototxt")
    return found[0]


def _image_shape(net: CaffeNet, weights: CaffeWeights, window: tuple[int, int] | None) -> tuple[int, int, int]:
    """Return channels, height and width of one window."""
    image = net.image
    height, width = window or (image.height, image.width)
    if height is None or width is None:
        raise SourceError(
            f"window: expected the size of {image.name!r}, which the prototxt leaves open; give --window HEIGHTxWIDTH"
        )
    return image.channels or _channels(net, weights), height, width


def _channels(net: CaffeNet, weights: CaffeWeights) -> int:
    """Return the channels that the first convolution takes; a data layer does not state them."""
    for layer in net.layers:
        if layer.type == "Convolution" and net.image.name in layer.parameters.bottom:
            kernel = next(iter(weights.of(layer.parameters.name)), None)
            if kernel is not None and kernel.ndim == 4:
                return int(kernel.shape[1] * layer.parameters.convolution_param.group)
    raise SourceError(f"input {net.image.name!r}: the prototxt leaves its channels open; add a layer of type Input")


def _model(net: CaffeNet, weights: CaffeWeights, image: tuple[int, int, int]) -> ir.Model:
    """Build the network layer by layer; its output is the blob that no layer reads."""
    graph = GraphBuilder(image)
    blobs, ends, names = {net.image.name: graph.image}, dict[str, Blob](), set[str]()
    for layer in net.layers:
        for bottom in layer.parameters.bottom:
            ends.pop(bottom, None)
        if layer.type == "Silence":
            continue
        _check_connections(layer, blobs)
        arrays = weights.of(layer.parameters.name)
        if arrays and layer.parameters.name in names:
            raise SourceError(f"{layer}: expected a unique name, since weights are assigned by name")
        names.add(layer.parameters.name)
        made = build_layer(LayerContext(layer, [blobs[bottom] for bottom in layer.parameters.bottom], arrays, graph))
        blobs.update(dict.fromkeys(layer.parameters.top, made))
        ends.update(dict.fromkeys(layer.parameters.top, made))
    if len(ends) != 1:
        raise UnsupportedError(
            f"outputs: expected one row of scores, got {', '.join(ends) or 'none'}; remove the layers of the "
            "other outputs from the prototxt"
        )
    return graph.model(net.name, *ends.values())


def _check_connections(layer: CaffeLayer, blobs: Mapping[str, Blob]) -> None:
    """Raise SourceError unless a layer's bottoms exist, and its tops are new or are its bottoms."""
    bottoms, tops = list(layer.parameters.bottom), list(layer.parameters.top)
    missing = [bottom for bottom in bottoms if bottom not in blobs]
    if missing or not bottoms:
        raise SourceError(f"{layer}: expected bottoms that earlier layers compute, got {missing or bottoms}")
    if not tops or any(top in blobs and top not in bottoms for top in tops):
        raise SourceError(f"{layer}: expected tops that no other layer has, got {tops}")


def _preprocess(net: CaffeNet, channels: int, folder: Path) -> str | Preprocessing:
    """Return the data layer's preprocessing; without a data layer Caffe's usual mean for colour images."""
    transform = net.transform
    if transform is None:
        return "caffe" if channels == 3 else NONE
    mean = list(transform.mean_value)
    if transform.mean_file and not mean:
        mean = read_mean(folder / PurePosixPath(transform.mean_file).name).tolist()
    try:
        return Preprocessing(
            scale=transform.scale,
            mean=tuple(value * transform.scale for value in (mean * channels if len(mean) == 1 else mean)),
            order="BGR" if channels == 3 else None,
        )
    except ValidationError as error:
        raise SourceError(f"transform_param: {first_problem(error)}") from None
