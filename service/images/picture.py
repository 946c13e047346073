"""An image whose size and bands are known and whose pixels are not decoded yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import model_pb2
from service.dense.arrays import Pixels
from service.errors import ImageError, LimitError
from service.images.decoder_process import DecoderProcess
from service.images.decoding import FREE, UNSHARED, Decoding, DecodingCost, EncodedFile, Pause
from service.images.optics import UNKNOWN, Optics
from service.images.pixels import BandLayout, Conversion, SampleArray, apply_blockwise, make_conversion
from service.images.rows import RowReader

MAX_SIDE = 10_000_000
"""Largest height and width in pixels, which is libvips's limit."""
MAX_BANDS = 4096


class SampleReader(Protocol):
    """Reads the samples of an image forward."""

    @property
    def block_rows(self) -> int:
        """Number of rows to read in one call: the height of the file's tiles or chunks."""

    def read(self, first: int, stop: int) -> SampleArray:
        """Return rows [first, stop) as (rows, cols, bands); `first` is not before the last call's `stop`."""


@dataclass(frozen=True)
class PageSelection:
    """The page of a file, and the bands of it, to score."""

    page: int = 0
    """Counted from 1. Default: 0, the first page of full resolution."""
    bands: tuple[int, ...] = ()
    """Counted from 1. Default: empty, all bands, with alpha composited over white."""


FIRST_PAGE = PageSelection()
"""The first page of full resolution, with all its bands."""


@dataclass(frozen=True)
class Picture:
    """An image; `width` and `height` are pixels after EXIF rotation."""

    name: str
    """The image's name in answers and errors."""
    height: int
    width: int
    layout: BandLayout
    open_samples: Callable[[Pause], SampleReader]
    """Opens the samples at the top. May be called several times, except for the rows of a stream."""
    bands: tuple[int, ...] = ()
    """The bands that are scored, counted from 1. Default: empty, all bands, with alpha composited over white."""
    open_data_mask: Callable[[Pause], RowReader] | None = None
    """Opens the data mask at the top: (rows, cols, 1) uint8, 255 where the file has data, else 0. Default: None, every
    pixel has data."""
    decoded_whole: bool = False
    """Whether the file may have to be decoded as a whole, so that the limit for such files applies."""
    resampled: bool = False
    """Whether the decoder scales pixels itself, so that they may depend, in the last digit, on where reading begins."""
    notes: tuple[str, ...] = ()
    """What the caller should know about how the file was read."""
    cost: DecodingCost = FREE
    """What decoding it once costs. Default: nothing, it is not encoded."""
    file: EncodedFile | None = None
    """Default: None, the pixels are not in a file."""
    optics: Optics = UNKNOWN
    """What the file states about the size of its pixels on the object."""
    copies: tuple["Picture", ...] = ()
    """Reduced copies of the whole image in the file, of the same layout, from large to small."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def copy_for(self, size: tuple[int, int]) -> "Picture":
        """Return the smallest copy, or the image itself, from which an image of (height, width) pixels can be made.

        It is at least as large, unless the image itself is smaller.
        """
        images = (self, *self.copies)
        return images[covering([image.size for image in images], size)]

    def check_bands(self, model_input: model_pb2.Input) -> None:
        """Raise ImageError if the bands cannot be converted for a model."""
        self._conversion(model_input)

    def warnings(self, model_input: model_pb2.Input) -> list[str]:
        """Return remarks that the caller should read before using a model's scores of this image."""
        note = self._conversion(model_input).note
        return [*self.notes, *([note] if note else [])]

    def rows(self, model_input: model_pb2.Input, decoding: Decoding = UNSHARED) -> RowReader:
        """Open the pixels at the top, as a model takes them. This call and reading may raise ImageError."""
        return ConvertedRows(self._samples(decoding), self._conversion(model_input))

    def data_mask(self, decoding: Decoding = UNSHARED) -> RowReader | None:
        """Open the data mask at the top; None if every pixel has data. See `open_data_mask`."""
        return self.open_data_mask(decoding.pause) if self.open_data_mask is not None else None

    def nonzero_mask(self, decoding: Decoding = UNSHARED) -> RowReader:
        """Open the image as a mask at the top: 255 where any band is not 0 and alpha is not 0, else 0."""
        return NonzeroRows(self._samples(decoding), self.layout.alpha)

    def _samples(self, decoding: Decoding) -> SampleReader:
        """Open the samples at the top, in this process or in a process of their own."""
        if self.file is not None and decoding.is_apart(self.cost):
            shape = (self.height, self.width)
            return DecoderProcess(self.name, self.file, shape, self.layout, self.cost, decoding)
        return self.open_samples(decoding.pause)

    def _conversion(self, model_input: model_pb2.Input) -> Conversion:
        try:
            return make_conversion(self.layout, self.bands, model_input)
        except ValueError as error:
            raise ImageError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class UnopenedPicture:
    """An image of a request, before its header is read."""

    open: Callable[[], Picture]
    """Opens the image; raises ImageError or NotFoundError."""
    is_quick: bool
    """Whether opening takes at most a few milliseconds."""


@dataclass(frozen=True)
class TurnRows:
    """Reads rows in the turns of a request to decode; a `RowReader`."""

    rows: RowReader
    cost: DecodingCost
    decoding: Decoding

    @property
    def block_rows(self) -> int:
        """Number of rows to read in one call."""
        return self.rows.block_rows

    def read(self, first: int, stop: int) -> Pixels:
        """Return rows [first, stop), decoded in a turn."""
        with self.decoding.turn(self.cost):
            return self.rows.read(first, stop)


@dataclass(frozen=True)
class ConvertedRows:
    """Reads an image's pixels as a model takes them; a `RowReader`."""

    source: SampleReader
    conversion: Conversion

    @property
    def block_rows(self) -> int:
        """Number of rows to read in one call."""
        return self.source.block_rows

    def read(self, first: int, stop: int) -> Pixels:
        """Return rows [first, stop) as (rows, cols, channels)."""
        return apply_blockwise(self.conversion.apply, self.source.read(first, stop))


@dataclass(frozen=True)
class NonzeroRows:
    """Reads an image as a mask; a `RowReader`."""

    source: SampleReader
    alpha: int | None

    @property
    def block_rows(self) -> int:
        """Number of rows to read in one call."""
        return self.source.block_rows

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Return rows [first, stop) as (rows, cols, 1): 255 where a band is not 0 and alpha is not 0, else 0."""
        rows = np.nan_to_num(self.source.read(first, stop))  # NaN means no data
        if self.alpha is None:
            nonzero = np.any(rows, axis=-1)
        else:
            nonzero = np.any(np.delete(rows, self.alpha, axis=-1), axis=-1) & (rows[..., self.alpha] != 0)
        return np.where(nonzero[..., None], np.uint8(255), np.uint8(0))


def covering(sizes: Sequence[tuple[int, int]], wanted: tuple[int, int]) -> int:
    """Return the position of the smallest of (height, width), from large to small, that covers another; else 0."""
    return max(
        (at for at, (height, width) in enumerate(sizes) if height >= wanted[0] and width >= wanted[1]), default=0
    )


def has_same_aspect_ratio(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Return whether one factor scales (height, width) pixels to others, each side rounded up or down."""
    lower_bounds, upper_bounds = (
        [(side + rounding) / original for side, original in zip(size, of, strict=True)] for rounding in (-1, 1)
    )
    return max(lower_bounds) < min(upper_bounds)


def check_size(picture: Picture, *, max_pixels: int, max_whole_pixels: int, window: model_pb2.Size) -> None:
    """Raise LimitError or ImageError for an image that is too large or too small; no pixel is decoded.

    `max_whole_pixels` is the limit for files that may have to be decoded as a whole.
    """
    size = picture.width * picture.height
    is_large_whole = min(max_pixels, max_whole_pixels) < size <= max_pixels and picture.decoded_whole
    allowed = min(max_pixels, max_whole_pixels) if is_large_whole else max_pixels
    if size > allowed:
        way_out = "scale or cut the image"
        if is_large_whole:
            way_out = "scale or cut it, or save it as a tiled TIFF file, for which the limit is higher"
        elif max_pixels <= max_whole_pixels:
            way_out += ", or send it to ScoreLarge in parts"
        raise LimitError(
            f"{picture.name}: {picture.height}×{picture.width} pixels (height×width) are {size / 1e6:.0f} megapixels, "
            f"expected at most {allowed / 1e6:.0f}: {way_out}"
        )
    if picture.width < window.width or picture.height < window.height:
        raise ImageError(
            f"{picture.name}: expected at least the model's window of {window.height}×{window.width} pixels "
            f"(height×width), got {picture.height}×{picture.width}"
        )
