"""Reads Caffe's binary files: the weights of a .caffemodel by the names of their layers, and mean images.

The records of the messages are read one by one, instead of being parsed as a whole. Therefore weights are views of the
file's bytes, which parsing would copy twice, and a malicious file of empty messages needs no more memory than its own
size; parsing would need fifty times as much.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from converter.errors import SourceError
from fullconv.protos.caffe_pb2 import BlobProto, BlobShape, LayerParameter, NetParameter, V1LayerParameter

MAX_RECORDS = 1 << 18
"""Limit on the records of one file. A network of a thousand layers has some 20,000."""
MAX_MEAN_BYTES = 64 << 20
"""Limit on the bytes of a mean image, which is enough for more than 2,000×2,000 pixels in colour."""
MAX_SHAPE_BYTES = 320
"""Limit on the bytes of a shape: 32 axes, the most that Caffe allows, of ten bytes each."""

LAYERS = {
    NetParameter.LAYER_FIELD_NUMBER: (LayerParameter.NAME_FIELD_NUMBER, LayerParameter.BLOBS_FIELD_NUMBER),
    NetParameter.LAYERS_FIELD_NUMBER: (V1LayerParameter.NAME_FIELD_NUMBER, V1LayerParameter.BLOBS_FIELD_NUMBER),
}
NUMBERS = {BlobProto.DATA_FIELD_NUMBER: "<f4", BlobProto.DOUBLE_DATA_FIELD_NUMBER: "<f8"}
LEGACY_SHAPE = (
    BlobProto.NUM_FIELD_NUMBER,
    BlobProto.CHANNELS_FIELD_NUMBER,
    BlobProto.HEIGHT_FIELD_NUMBER,
    BlobProto.WIDTH_FIELD_NUMBER,
)

Array = NDArray[np.float32]


@dataclass(frozen=True)
class CaffeWeights:
    """The weights in a .caffemodel: the encoded arrays of each layer that has weights."""

    path: Path
    blobs: dict[str, list[memoryview]]
    records: Iterator[int]

    def of(self, layer: str) -> list[Array]:
        """Return the arrays of a layer, an empty list if it has no weights; raises SourceError if they are damaged."""
        try:
            return [_array(blob, self.records) for blob in self.blobs.get(layer, [])]
        except (ValueError, DecodeError) as error:
            raise SourceError(f"{self.path}: layer {layer!r:.100}: {error}") from None


def read_weights(path: Path) -> CaffeWeights:
    """Read a .caffemodel of either format; raises SourceError, and OSError."""
    records, found = iter(range(MAX_RECORDS)), dict[str, list[memoryview]]()
    try:
        for number, layer in _records(memoryview(path.read_bytes()), records):
            if number not in LAYERS or isinstance(layer, int):
                continue
            name, blobs = _layer(layer, *LAYERS[number], records)
            if blobs and found.setdefault(name, blobs) is not blobs:
                raise SourceError(f"{path}: expected one layer {name!r:.100} with weights, got two; rename one")
    except ValueError as error:
        raise SourceError(f"{path}: damaged or truncated caffemodel: {error}") from None
    if not found:
        raise SourceError(f"{path}: expected a caffemodel, got a file without weights")
    return CaffeWeights(path, found, records)


def read_mean(path: Path) -> Array:
    """Return the mean of each channel of a mean image (.binaryproto), (channels,) float32; raises SourceError."""
    try:
        with path.open("rb") as file:
            image = _array(memoryview(file.read(MAX_MEAN_BYTES)), iter(range(MAX_RECORDS)))
    except OSError as error:
        raise SourceError(
            f"{path}: the prototxt's mean_file cannot be read: {error.strerror}; put it beside the prototxt, or remove "
            "mean_file from the prototxt and give --preprocess"
        ) from None
    except (ValueError, DecodeError) as error:
        raise SourceError(f"{path}: damaged mean image: {error}") from None
    if image.ndim < 3 or not image.size or image.size != math.prod(image.shape[-3:]):
        raise SourceError(f"{path}: expected one mean image (1, channels, height, width), got shape {image.shape}")
    mean: Array = image.reshape(image.shape[-3:]).mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
    return mean


def _layer(
    layer: memoryview, name_number: int, blobs_number: int, records: Iterator[int]
) -> tuple[str, list[memoryview]]:
    name, blobs = "", []
    for number, value in _records(layer, records):
        if number == name_number and not isinstance(value, int):
            name = bytes(value).decode("utf-8", "replace")
        elif number == blobs_number and not isinstance(value, int):
            blobs.append(value)
    return name, blobs


def _array(blob: memoryview, records: Iterator[int]) -> Array:
    """Decode a BlobProto; raises ValueError and DecodeError."""
    shape: tuple[int, ...] = ()
    legacy: dict[int, int] = {}
    pieces = []
    for number, value in _records(blob, records):
        if isinstance(value, int):
            legacy[number] = value
        elif number in NUMBERS:
            pieces.append(np.frombuffer(value, NUMBERS[number]))
        elif number == BlobProto.SHAPE_FIELD_NUMBER:
            shape = tuple(BlobShape.FromString(bytes(value[:MAX_SHAPE_BYTES])).dim)
    if legacy.keys() & set(LEGACY_SHAPE):
        shape = tuple(legacy.get(number, 0) for number in LEGACY_SHAPE)
    count = sum(piece.size for piece in pieces)
    if min(shape, default=1) < 0 or math.prod(shape) != count:
        raise ValueError(f"expected {math.prod(shape)} numbers for the shape {shape}, got {count}")
    with np.errstate(over="ignore"):
        array = (
            np.concatenate(pieces, dtype=np.float32) if len(pieces) != 1 else pieces[0].astype(np.float32, copy=False)
        )
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers, got NaN or infinity")
    return array.reshape(shape)


def _records(message: memoryview, records: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the field numbers and values of a message.

    Raises ValueError for a record that reaches beyond the message, and when `records` is exhausted.
    """
    at = 0
    while at < len(message):
        if next(records, None) is None:
            raise ValueError(f"expected at most {MAX_RECORDS} records")
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                number, at = _varint(message, at)
                yield key >> 3, number
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case kind:
                raise ValueError(f"expected a record of kind 0, 1, 2 or 5 before byte {at}, got {kind}")
        if size > len(message) - at:
            raise ValueError(f"expected a record of {size} bytes at byte {at}, got {len(message) - at}")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Decode a varint, which has seven bits per byte, lowest first; returns the number and its end position."""
    number = 0
    for position, byte in enumerate(message[at : at + 10]):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return number, at + position + 1
    raise ValueError(f"expected a whole number at byte {at}")
