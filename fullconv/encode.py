"""Converts options and images to messages (protos/scoring.proto). Only this module makes outgoing messages."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from fullconv.areas import areas_message, is_areas
from fullconv.common.names import AVERAGES, BORDERS, GRIDS, MODES, PRIORITIES
from fullconv.common.special_files import read_whole
from fullconv.common.text import encodable
from fullconv.errors import ImageError, RequestError
from fullconv.images import ArraySource, EncodedSource, FileSource, ImageSource, source_of
from fullconv.options import DEFAULTS, Options
from fullconv.protos import scoring_pb2

MAX_MESSAGE_BYTES = 1 << 31
"""Largest size in bytes of a protobuf message; servers accept less."""
SCALE = re.compile(r"(?P<side>[1-9][0-9]{0,8})|(?P<factor>[0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9})x")

Value = TypeVar("Value")


def score_request(model: str, version: str, options: Options) -> scoring_pb2.ScoreRequest:
    """Make a request without an image; raises RequestError if the model name, the version or an option is invalid."""
    _check_text(model=model, version=version)
    return scoring_pb2.ScoreRequest(model=model, version=version, options=options_message(options))


def model_request(name: str, version: str) -> scoring_pb2.GetModelRequest:
    """Make a request for a model's description; raises RequestError if the name or the version is not text."""
    _check_text(name=name, version=version)
    return scoring_pb2.GetModelRequest(model=name, version=version)


def options_message(options: Options) -> scoring_pb2.ScoreOptions:
    """Make the message of options; raises RequestError, which names the option, for an invalid value."""
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        raise TypeError(
            f"expected options among {', '.join(Options.__annotations__)}, got {', '.join(sorted(unknown))}"
        )
    given: Options = {**DEFAULTS, **options}
    grid = given["grid"]
    message = scoring_pb2.ScoreOptions(
        stride=_count("stride", given["stride"]) if "stride" in given else 0,
        mode=_number_of("mode", given["mode"], MODES),
        min_agreement=_share("min_agreement", given["min_agreement"]) if "min_agreement" in given else 0,
        border=_number_of("border", given["border"], BORDERS),
        flip=_flag("flip", given["flip"]),
        scales=[scale_message(scale) for scale in _several(given["scales"])],
        average=_number_of("average", given["average"], AVERAGES),
        top=_count("top", given["top"]),
        classes=[_class_name(name) for name in _several(given["classes"])],
        grid=bool(grid) if isinstance(grid, str) else _flag("grid", grid, *GRIDS),
        grid_as=_number_of("grid", grid if isinstance(grid, str) else "float32", GRIDS),
        grid_top=_count("grid_top", given["grid_top"]),
        bands=[_count("bands", band) for band in _several(given["bands"])],
        page=_count("page", given["page"]) if "page" in given else 0,
        priority=_number_of("priority", given["priority"], PRIORITIES) if "priority" in given else None,
        region=_region(given["roi"]) if "roi" in given else None,
    )
    _set_resolution(message, given)
    if "mask" in given:
        _set_mask(message, given["mask"])
    return message


def scale_message(scale: int | str) -> scoring_pb2.Scale:
    """Parse a scale: pixels of the shorter side, 384 or "384", or a factor, "0.5x"; raises RequestError."""
    match = SCALE.fullmatch(str(scale))
    if match and match["side"]:
        return scoring_pb2.Scale(shorter_side=int(match["side"]))
    if match and float(match["factor"]):
        return scoring_pb2.Scale(factor=float(match["factor"]))
    raise RequestError(f"scales: expected pixels of the shorter side, 384, or a factor, 0.5x; got {scale!r}")


def with_image(request: scoring_pb2.ScoreRequest, source: ImageSource) -> scoring_pb2.ScoreRequest:
    """Make the same request with an image; raises ImageError if the image cannot be read."""
    return scoring_pb2.ScoreRequest(
        model=request.model, version=request.version, options=request.options, image=image_message(source)
    )


def _read_whole(file: BinaryIO, name: str) -> bytes:
    """Return what a file or a pipe holds; raises ImageError for a device, and for a pipe that holds too much."""
    try:
        return read_whole(file)
    except ValueError as error:
        raise ImageError(f"{name}: {error}") from None


def image_message(source: ImageSource) -> scoring_pb2.Image:
    """Make the message of a whole image; raises ImageError if it cannot be read or does not fit a message."""
    match source:
        case FileSource():
            with source.opened() as file:
                return scoring_pb2.Image(name=source.name, encoded=_read_whole(file, source.name))
        case EncodedSource():
            return scoring_pb2.Image(name=source.name, encoded=source.data)
        case ArraySource():
            return scoring_pb2.Image(name=source.name, raw=_raw_message(source))


def large_image(request: scoring_pb2.ScoreRequest, source: ImageSource) -> scoring_pb2.LargeImage:
    """Make the first message of ScoreLarge, after which the image follows in parts."""
    start = scoring_pb2.LargeImage(model=request.model, version=request.version, options=request.options)
    start.name = source.name
    if isinstance(source, ArraySource):
        start.raw.CopyFrom(_raw_header(source))
    return start


def little_endian(rows: NDArray[np.generic]) -> bytes:
    """Return the bytes of an array as messages hold them: little-endian, the last index fastest."""
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes()


def _raw_header(source: ArraySource) -> scoring_pb2.RawImage:
    height, width, channels = source.shape
    return scoring_pb2.RawImage(height=height, width=width, channels=channels, dtype=source.dtype.name)


def _raw_message(source: ArraySource) -> scoring_pb2.RawImage:
    if source.size >= MAX_MESSAGE_BYTES:  # before it is read
        raise ImageError(
            f"{source.label}: expected less than {MAX_MESSAGE_BYTES} bytes, the limit of one message, got "
            f"{source.size}; use score_large"
        )
    message = _raw_header(source)
    message.data = little_endian(source.read(0, source.shape[0]))
    return message


def _set_resolution(message: scoring_pb2.ScoreOptions, given: Options) -> None:
    """Set the resolution; raises RequestError for several, because each of them says the same in its own way."""
    named = [name for name in ("mpp", "level", "magnification") if name in given]
    if len(named) > 1:
        raise RequestError(f"{named[1]}: expected none with {named[0]}, which gives the resolution too, got both")
    if "mpp" in given:
        message.microns_per_pixel = _positive("mpp", given["mpp"])
    if "magnification" in given:
        message.magnification = _positive("magnification", given["magnification"])
    if "level" in given:
        message.level = _count("level", given["level"], least=0)


def _set_mask(message: scoring_pb2.ScoreOptions, mask: Any) -> None:  # noqa: ANN401 (whatever the caller gives)
    if isinstance(mask, str) and mask == "otsu":
        message.mask_otsu = True
        return
    if is_areas(mask):
        message.mask_areas.CopyFrom(areas_message(mask))
        return
    message.mask_image.CopyFrom(image_message(source_of(mask, "mask", truth_values=True)))


def _region(roi: Any) -> scoring_pb2.Region:  # noqa: ANN401
    try:
        x, y, width, height = roi
    except (TypeError, ValueError):
        raise RequestError(f"roi: expected x, y, width, height; got {roi!r}") from None
    fields = {"x": x, "y": y, "width": width, "height": height}
    return scoring_pb2.Region(**{name: _count("roi", value, least=0) for name, value in fields.items()})


def _check_text(**fields: object) -> None:
    """Raise RequestError for a value that is not text, such as a version given as a number."""
    for field, value in fields.items():
        if not isinstance(value, str) or value != encodable(value):
            raise RequestError(f"{field}: expected text, got {value!r}")


def _number_of(field: str, name: str, numbers: Mapping[str, Value]) -> Value:
    if not isinstance(name, str) or name not in numbers:
        raise RequestError(f"{field}: expected {' or '.join(numbers)}, got {name!r}")
    return numbers[name]


def _several(values: Any) -> list[Any]:  # noqa: ANN401
    """Return a list of values; a single value becomes a list with this value."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return [values]
    return list(values)


def _class_name(name: object) -> str:
    if not isinstance(name, (str, int, np.integer)) or isinstance(name, bool) or str(name) != encodable(str(name)):
        raise RequestError(f"classes: expected labels or indices, got {name!r}")
    return str(name)


def _share(field: str, value: Any) -> float:  # noqa: ANN401 (whatever the caller gives)
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and 0 < value <= 1):
        raise RequestError(f"{field}: expected a share of windows above 0 and at most 1, got {value!r}")
    return float(value)


def _positive(field: str, value: Any) -> float:  # noqa: ANN401 (whatever the caller gives)
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (is_number and 0 < value < math.inf):
        raise RequestError(f"{field}: expected a number above 0, got {value!r}")
    return float(value)


def _flag(field: str, value: object, *others: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"{field}: expected {' or '.join(('True', 'False', *others))}, got {value!r}")
    return bool(value)


def _count(field: str, value: object, *, least: int = 1) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not least <= value < 1 << 32:
        raise RequestError(f"{field}: expected {least} to {(1 << 32) - 1}, got {value!r}")
    return int(value)
