"""Requests as messages, and answers from them: what the client and its asyncio twin have in common."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fullconv.errors import RequestError
from fullconv.images import Image, Pixels, check_pixels, message_of, open_array, readable
from fullconv.options import Options, options_message
from fullconv.protos import scoring_pb2


def score_request(model: str, version: str, options: Options) -> scoring_pb2.ScoreRequest:
    """A request without an image; raises RequestError for a name that is none, and an option that cannot be."""
    check_text(model=model, version=version)
    return scoring_pb2.ScoreRequest(model=model, version=version, options=options_message(options))


def model_request(name: str, version: str) -> scoring_pb2.GetModelRequest:
    """A request for what is known of a model; raises RequestError for a name that is none."""
    check_text(name=name, version=version)
    return scoring_pb2.GetModelRequest(model=name, version=version)


def check_text(**fields: object) -> None:
    """Raise RequestError for what is no text, as a version that is a number."""
    for field, value in fields.items():
        if not isinstance(value, str) or value != readable(value):
            raise RequestError(f"{field}: expected text, got {value!r}")


def identified(images: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
    """The same pairs of an id and an image; raises RequestError for what is none."""
    try:
        pairs = iter(images)
    except TypeError:
        raise RequestError(f"images: expected pairs of an id and an image, got {type(images).__name__}") from None
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise RequestError(f"images: expected pairs of an id and an image, got {str(pair)[:80]!r}")
        yield pair[0], pair[1]


def with_image(request: scoring_pb2.ScoreRequest, image: Image) -> scoring_pb2.ScoreRequest:
    """The same request for an image; raises ImageError if it cannot be read."""
    return scoring_pb2.ScoreRequest(
        model=request.model, version=request.version, options=request.options, image=message_of(image)
    )


def large_source(image: str | Path | Pixels) -> tuple[Path | Pixels, str]:
    """What ScoreLarge sends of an image, the pixels of an array's file or else the file, and the file's name.

    Raises ImageError if the file holds an array that cannot be opened or is no image.
    """
    if not isinstance(image, (str, os.PathLike)):
        return image, ""
    path = Path(image)
    pixels = open_array(path)
    return (path if pixels is None else pixels), readable(path.name)


def large_image(request: scoring_pb2.ScoreRequest, image: Path | Pixels, name: str = "") -> scoring_pb2.LargeImage:
    """How ScoreLarge begins; raises ImageError if an array is no image."""
    start = scoring_pb2.LargeImage(model=request.model, version=request.version, options=request.options)
    start.name = name
    if not isinstance(image, Path):
        check_pixels(image, name or "image")
        height, width, channels = (*image.shape, 1)[:3]
        dtype = np.dtype(image.dtype).name
        start.raw.CopyFrom(scoring_pb2.RawImage(height=height, width=width, channels=channels, dtype=dtype))
    return start
