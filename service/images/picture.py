"""An image whose size and samples are known and whose pixels are not decoded yet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fullconv.protos import model_pb2
from service.dense.arrays import Pixels
from service.errors import ImageError, LimitError
from service.images.pixels import Conversion, SampleArray, Samples, blockwise, conversion
from service.images.rows import RowReader

MAX_SIDE = 10_000_000  # libvips's own bound
MAX_BANDS = 4096


class SampleReader(Protocol):
    """The samples of an image, read forward."""

    @property
    def block_rows(self) -> int:
        """Rows that are best read together: as many as a tile or chunk has."""

    def read(self, first: int, stop: int) -> SampleArray:
        """Rows [first, stop) as (rows, width, bands); `first` is at or behind the last `stop`."""


@dataclass(frozen=True)
class PageSelection:
    """Page and bands of a file to score. Default: the first page of full resolution, all bands."""

    page: int = 0
    """Of a file of several pages, counted from 1; 0: the first page of full resolution."""
    bands: tuple[int, ...] = ()
    """Counted from 1; empty: all, alpha laid over white."""


FIRST_PAGE = PageSelection()


@dataclass(frozen=True)
class Picture:
    """An image; `width` and `height` are pixels after EXIF rotation."""

    name: str
    """Named in the answer and in errors."""
    height: int
    width: int
    samples: Samples
    begin: Callable[[], SampleReader]
    """The samples from the top; may be asked for again, except for those of a stream."""
    bands: tuple[int, ...] = ()
    """The bands that are scored, counted from 1; empty: all, alpha laid over white."""
    open_data_mask: Callable[[], RowReader] | None = None
    """Opens the data mask from the top, (rows, width, 1) uint8: 255 where the file has data, else 0. None if every
    pixel has data."""
    whole: bool = False
    """Whether the limit for files that may have to be decoded all at once binds it."""
    notes: tuple[str, ...] = ()
    """What the caller should know of how the file was read."""

    def check_bands(self, wanted: model_pb2.Input) -> None:
        """Raise ImageError if the bands cannot become what a model takes."""
        self._conversion(wanted)

    def warnings(self, wanted: model_pb2.Input) -> list[str]:
        """What the caller should know before using a model's scores of it."""
        note = self._conversion(wanted).note
        return [*self.notes, *([note] if note else [])]

    def data_mask(self) -> RowReader | None:
        """The data mask from the top, 255 where the file has data, else 0; None if every pixel has data."""
        return self.open_data_mask() if self.open_data_mask is not None else None

    def rows(self, wanted: model_pb2.Input) -> "ConvertedRows":
        """The pixels as a model takes them, from the top. Raises ImageError, here or while reading."""
        return ConvertedRows(self.begin(), self._conversion(wanted))

    def nonzero_mask(self) -> "NonzeroMaskRows":
        """255 where a band beside alpha is not 0, and alpha is not either; else 0. One channel, from the top."""
        return NonzeroMaskRows(self.begin(), self.samples.alpha)

    def _conversion(self, wanted: model_pb2.Input) -> Conversion:
        try:
            return conversion(self.samples, self.bands, wanted)
        except ValueError as error:
            raise ImageError(f"{self.name}: {error}") from None


@dataclass(frozen=True)
class ConvertedRows:
    """An image's rows as a model takes them."""

    source: SampleReader
    conversion: Conversion

    @property
    def block_rows(self) -> int:
        """Rows that are best read together."""
        return self.source.block_rows

    def read(self, first: int, stop: int) -> Pixels:
        """Rows [first, stop) as (rows, width, channels)."""
        return blockwise(self.conversion.apply, self.source.read(first, stop))


@dataclass(frozen=True)
class NonzeroMaskRows:
    """Where an image is not 0."""

    source: SampleReader
    alpha: int | None

    @property
    def block_rows(self) -> int:
        """Rows that are best read together."""
        return self.source.block_rows

    def read(self, first: int, stop: int) -> NDArray[np.uint8]:
        """Rows [first, stop) as (rows, width, 1), 255 or 0."""
        rows = np.nan_to_num(self.source.read(first, stop))  # NaN is no data
        if self.alpha is None:
            nonzero = np.any(rows, axis=-1)
        else:
            nonzero = np.any(np.delete(rows, self.alpha, axis=-1), axis=-1) & (rows[..., self.alpha] != 0)
        return np.where(nonzero[..., None], np.uint8(255), np.uint8(0))


def check_size(picture: Picture, *, max_pixels: int, max_whole_pixels: int, window: model_pb2.Size) -> None:
    """Refuse, before a pixel is decoded, an image that is too large or too small to be scored."""
    size = picture.width * picture.height
    megapixels = size / 1e6
    whole = min(max_pixels, max_whole_pixels) < size <= max_pixels and picture.whole
    allowed = min(max_pixels, max_whole_pixels) if whole else max_pixels
    if size > allowed:
        way_out = "scale or cut the image"
        if whole:
            way_out = "scale or cut it, or save it as a tiled TIFF, which may be larger"
        elif max_pixels <= max_whole_pixels:
            way_out += ", or send it to ScoreLarge in parts"
        raise LimitError(
            f"{picture.name}: {picture.height}×{picture.width} pixels (height×width) are {megapixels:.0f} megapixels, "
            f"expected at most {allowed / 1e6:.0f}: {way_out}"
        )
    if picture.width < window.width or picture.height < window.height:
        raise ImageError(
            f"{picture.name}: expected at least the model's window of {window.height}×{window.width} pixels "
            f"(height×width), got {picture.height}×{picture.width}"
        )
