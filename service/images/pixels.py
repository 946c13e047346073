"""The conversion of an image's samples into the pixels that a model takes.

A model of uint8 pixels, or a model without preprocessing, gets values from 0 to 255: v · 255 / white, which for 16 bits
is v / 257, rounded for uint8. A model whose preprocessing says "uint16" or "float32" gets the image's own values.

If the image has as many bands as the model has channels, the bands are taken as they are. Otherwise alpha is laid over
white, CMYK goes through its ICC profile, a single band is repeated for three channels, and red, green and blue become
luma for one channel (ITU-R BT.601, as in the common training pipelines). All other images are refused; the way out is
the option `bands`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fullconv.common.libvips import pyvips
from fullconv.common.text import counted
from fullconv.protos import model_pb2
from service.dense.arrays import Pixels

SampleArray = NDArray[Any]
"""Samples (rows, cols, bands) of an image, in one of the element types of `BandLayout`."""
Colour = Literal["grey", "rgb", "cmyk", ""]
"""Meaning of the bands beside alpha; "": bands without a known colour."""

WHITE = {"uint8": 255, "uint16": 65535}
"""Value of white by element type."""
VIPS_FORMATS = {"uint8": "uchar", "uint16": "ushort", "int16": "short", "float32": "float"}
"""libvips's names of the element types."""
COLOUR_CHANNELS = (1, 3)
"""Numbers of channels of models that take grey, or red, green and blue."""
CMYK_PROFILE = "cmyk"
"""Name of libvips's built-in CMYK profile, used when the file has no usable profile."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in luma."""
BLOCK_PIXELS = 1 << 18
"""Pixels that are converted together, so that intermediate arrays stay small."""


@dataclass(frozen=True)
class BandLayout:
    """What the bands of an image hold."""

    bands: int
    dtype: str
    """Element type of the samples: "uint8", "uint16", "int16" or "float32"."""
    colour: Colour = ""
    alpha: int | None = None
    """Index of the band that holds the opacity, counted from 0. Default: None, no band does."""
    premultiplied: bool = False
    """Whether the other bands are already multiplied by alpha."""
    white: int | None = None
    """Value of white. Default: None, for signed and floating-point numbers, which have no such value."""
    profile: bytes = b""
    """ICC profile of CMYK. Default: empty, the file has no profile."""
    stored_dtype: str = ""
    """Element type in the file. Default: empty, the same as `dtype`."""

    @property
    def colour_bands(self) -> int:
        """Number of bands beside alpha."""
        return self.bands - (self.alpha is not None)

    def select(self, bands: tuple[int, ...]) -> "BandLayout":
        """Return the layout of some bands, counted from 1; raises ValueError for bands that the image does not have."""
        for band in bands:
            if not 1 <= band <= self.bands:
                raise ValueError(f"bands: expected 1 to {self.bands}, got {band}")
        colour: Colour = "grey" if len(bands) == 1 else ""
        return BandLayout(len(bands), self.dtype, colour, white=self.white, stored_dtype=self.stored_dtype)


def layout_of_array(channels: int, dtype: str) -> BandLayout:
    """Return the layout of an array of pixels: one channel is grey, three channels are red, green and blue."""
    colours: dict[int, Colour] = {1: "grey", 3: "rgb"}
    return BandLayout(channels, dtype, colours.get(channels, ""), white=WHITE.get(dtype))


@dataclass(frozen=True)
class Conversion:
    """The steps from an image's samples to a model's pixels."""

    layout: BandLayout
    """Layout of the scored bands."""
    bands: tuple[int, ...]
    """The scored bands, counted from 1; empty: all bands."""
    channels: int
    """Channels of the model."""
    dtype: str
    """Element type of the model's pixels."""
    scaled: bool
    """Whether values are scaled to 0 to 255."""

    @property
    def note(self) -> str:
        """What the caller should know about the conversion; empty if there is nothing to say."""
        white, alpha = self.layout.white, self.layout.alpha
        if alpha is not None and _fits(self.layout, self.channels):
            return f"band {alpha + 1}, which the file declares as alpha, was used as band {alpha + 1} of the model"
        if not self.scaled or self.dtype != "uint8" or white is None or white <= 255:
            return ""
        return f"values from 0 to {white} were scaled to the range 0 to 255, which the model takes"

    def apply(self, rows: SampleArray) -> Pixels:
        """Convert samples (rows, cols, bands) to pixels (rows, cols, channels)."""
        if self.bands:
            rows = rows[..., [band - 1 for band in self.bands]]
        if not _fits(self.layout, self.channels):
            rows = self._to_channels(self._cmyk_to_rgb(self._over_white(rows)))
        return self._to_values(rows)

    def _over_white(self, rows: SampleArray) -> SampleArray:
        """Lay alpha over white: v · a + white · (1 − a); premultiplied samples are v · a already."""
        layout = self.layout
        if layout.alpha is None:
            return rows
        alpha = rows[..., [layout.alpha]].astype(np.float32) / np.float32(layout.white or 1)
        colours = np.delete(rows, layout.alpha, axis=-1)
        paper = np.float32((0 if layout.colour == "cmyk" else layout.white) or 0)
        laid = colours * (np.float32(1) if layout.premultiplied else alpha) + paper * (1 - alpha)
        return np.clip(np.rint(laid), 0, layout.white).astype(rows.dtype)

    def _cmyk_to_rgb(self, rows: SampleArray) -> SampleArray:
        """Convert CMYK to sRGB if the model takes grey or RGB."""
        if self.layout.colour != "cmyk" or self.channels not in COLOUR_CHANNELS:
            return rows
        image = vips_image(rows, "cmyk")
        if self.layout.profile:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", self.layout.profile)
        depth = 16 if rows.dtype == np.uint16 else 8
        return samples_of(image.icc_transform("srgb", input_profile=CMYK_PROFILE, embedded=True, depth=depth))

    def _to_channels(self, rows: SampleArray) -> SampleArray:
        """Repeat one band, or convert RGB to luma, where the number of bands is not that of the channels."""
        if rows.shape[-1] == self.channels:
            return rows
        if rows.shape[-1] == 1:
            return np.repeat(rows, self.channels, axis=-1)
        return _luma(rows)

    def _to_values(self, rows: SampleArray) -> Pixels:
        """Scale values to 0 to 255, or keep the image's own, in the element type of the model."""
        dtype, white = np.dtype(self.dtype), self.layout.white or 255
        if not self.scaled or white == 255:
            return cast("Pixels", rows.astype(dtype, copy=False))
        if dtype == np.float32:
            return cast("Pixels", rows.astype(np.float32) * np.float32(255 / white))
        return cast("Pixels", ((rows.astype(np.uint32) * 510 + white) // (2 * white)).astype(np.uint8))


def _luma(rows: SampleArray) -> SampleArray:
    """Return the luma (rows, cols, 1) of red, green and blue, in their element type, rounded for unsigned integers."""
    luma: NDArray[np.float64] = rows[..., :1] * LUMA[0]
    luma += rows[..., 1:2] * LUMA[1]
    luma += rows[..., 2:3] * LUMA[2]
    if rows.dtype.kind == "u":
        np.rint(luma, out=luma)
    return luma.astype(rows.dtype)


def apply_blockwise(apply: Callable[[SampleArray], SampleArray], rows: SampleArray) -> SampleArray:
    """Apply a function of rows to blocks of `BLOCK_PIXELS` pixels, and put the results together."""
    block_rows = max(1, BLOCK_PIXELS // rows.shape[1])
    if len(rows) <= block_rows:
        return apply(rows)
    first = apply(rows[:block_rows])
    if np.may_share_memory(first, rows):  # the function returns its argument, or a view of it
        return apply(rows)
    result = np.empty((len(rows), *first.shape[1:]), first.dtype)
    result[:block_rows] = first
    for start in range(block_rows, len(rows), block_rows):
        result[start : start + block_rows] = apply(rows[start : start + block_rows])
    return result


def make_conversion(layout: BandLayout, bands: tuple[int, ...], model_input: model_pb2.Input) -> Conversion:
    """Return the conversion of an image's bands, counted from 1, for a model. Empty `bands` are all bands.

    Raises ValueError, which names the expected and the actual bands, if there is no rule for them.
    """
    dtype = model_input.preprocessing.dtype
    own_dtype = dtype if dtype not in ("", "uint8") else ""
    # profiles are large, and are not kept in the cache
    bare = replace(layout, profile=b"") if layout.profile else layout
    made = _cached_conversion(bare, bands, model_input.channels, model_input.dtype, own_dtype=own_dtype)
    if not layout.profile:
        return made
    return replace(made, layout=replace(made.layout, profile=layout.profile))


@lru_cache(maxsize=256)
def _cached_conversion(
    layout: BandLayout, bands: tuple[int, ...], channels: int, dtype: str, *, own_dtype: str
) -> Conversion:
    """Return the conversion; `own_dtype` is the element type of a model that takes the image's own values, or ""."""
    got = f"{counted(layout.bands, 'band')} of {layout.stored_dtype or layout.dtype}"
    if own_dtype == "uint16" and layout.white is None:
        raise ValueError(f"expected values of uint8 or uint16, which the model takes, got {got}")
    if not own_dtype and layout.white is None:
        raise ValueError(
            f"expected unsigned values of 8 or 16 bits, got {got}; save the image with such values, or convert the "
            'model with a --preprocess FILE.json that contains "dtype": "float32"'
        )
    selected = layout.select(bands) if bands else layout
    if not (_fits(selected, channels) or _is_convertible(selected, channels)):
        raise ValueError(
            f"expected the model's {counted(channels, 'band')}, got {_mismatch(layout, bands, channels, got)}"
        )
    return Conversion(selected, bands, channels, dtype, scaled=not own_dtype)


def _fits(layout: BandLayout, channels: int) -> bool:
    """Return whether the bands, alpha included, are used unchanged."""
    return layout.bands == channels


def _is_convertible(layout: BandLayout, channels: int) -> bool:
    """Return whether there is a rule that makes `channels` channels of the bands beside alpha."""
    if layout.alpha is not None and layout.white is None:
        return False
    if layout.colour == "cmyk" and channels in COLOUR_CHANNELS:
        return True
    if layout.colour == "rgb" and layout.colour_bands == 3 and channels == 1:
        return True
    return layout.colour_bands == channels or (layout.colour_bands == 1 and channels == 3)


def _mismatch(layout: BandLayout, bands: tuple[int, ...], channels: int, got: str) -> str:
    """Return the bands that an image has instead of the model's channels, and how to proceed."""
    if bands:
        return f"bands {', '.join(map(str, bands))}; choose as many bands as the model takes"
    if layout.bands < channels:
        one = ", or choose one band, which is repeated (in the command --bands 1)" if channels == 3 else ""
        return f"{got}; score an image with as many bands{one}"
    if layout.alpha is not None and layout.white is None:
        return f"{got}, of which band {layout.alpha + 1} is alpha; choose the bands to score, without alpha, with bands"
    example = ",".join(str(band + 1) for band in range(channels))
    last = "" if layout.alpha is not None else f", and the file does not say that band {layout.bands} is alpha"
    return f"{got}{last}; choose the bands to score with bands (in the command --bands {example})"


def vips_image(rows: SampleArray, interpretation: str) -> pyvips.Image:
    """Return samples (rows, cols, bands) as an image of libvips, which reads them from the array's memory."""
    native = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
    height, width, bands = native.shape
    image = pyvips.Image.new_from_memory(native.data, width, height, bands, VIPS_FORMATS[native.dtype.name])
    return image.copy(interpretation=interpretation)


def samples_of(image: pyvips.Image) -> SampleArray:
    """Return an image of libvips as samples (rows, cols, bands)."""
    samples: SampleArray = image.numpy()
    return samples.reshape(image.height, image.width, image.bands)
