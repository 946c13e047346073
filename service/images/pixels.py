"""From the samples of an image to the pixels that a model takes.

A model of uint8 pixels, or one without preprocessing, gets values from 0 to 255: v · 255 / white, which for 16 bits is
v / 257, rounded for uint8. A model whose preprocessing says "uint16" or "float32" gets the image's own values.

As many bands as the model's channels are taken as they are. Otherwise alpha is laid over white, CMYK goes through its
ICC profile, one band is repeated for three channels, and red, green and blue become luma (ITU-R BT.601, as the common
training pipelines do) for one. Anything else is refused, and `bands` is the way out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import pyvips
from numpy.typing import NDArray

from fullconv.protos import model_pb2
from service.dense.arrays import Pixels

SampleArray = NDArray[Any]
"""(rows, width, bands), as an image holds them."""
Colour = Literal["grey", "rgb", "cmyk", ""]
"""What bands beside alpha mean; "": bands of no known colour."""

WHITE = {"uint8": 255, "uint16": 65535}
VIPS_FORMATS = {"uint8": "uchar", "uint16": "ushort", "int16": "short", "float32": "float"}
CMYK_PROFILE = "cmyk"
"""Name of libvips's built-in CMYK profile, used when the file has no usable profile."""
LUMA = [[0.299, 0.587, 0.114]]
BLOCK = 1 << 18
"""Pixels that are converted at once."""


@dataclass(frozen=True)
class Samples:
    """What the bands of an image hold."""

    bands: int
    dtype: str
    """As numpy spells it: "uint8", "uint16", "int16" or "float32"."""
    colour: Colour = ""
    alpha: int | None = None
    """Which band says how opaque a pixel is, counted from 0; None: no band does."""
    premultiplied: bool = False
    """Whether the other bands are multiplied by alpha already."""
    white: int | None = None
    """The value of white; None: numbers of a sign or fraction, which have no such value."""
    profile: bytes = b""
    """ICC profile of CMYK; empty: the file has no profile."""
    stored: str = ""
    """Element type in the file, where `dtype` is another one that holds its numbers."""

    @property
    def colours(self) -> int:
        """Bands beside alpha."""
        return self.bands - (self.alpha is not None)

    def chosen(self, bands: tuple[int, ...]) -> "Samples":
        """What some bands hold, counted from 1; raises ValueError for bands that the image does not have."""
        for band in bands:
            if not 1 <= band <= self.bands:
                raise ValueError(f"bands: expected 1 to {self.bands}, got {band}")
        count = len(bands)
        return Samples(count, self.dtype, "grey" if count == 1 else "", white=self.white, stored=self.stored)


def samples_of_array(channels: int, dtype: str) -> Samples:
    """What an array of pixels holds: grey, or red, green and blue, or else bands of no known colour."""
    colours: dict[int, Colour] = {1: "grey", 3: "rgb"}
    return Samples(channels, dtype, colours.get(channels, ""), white=WHITE.get(dtype))


@dataclass(frozen=True)
class Conversion:
    """How an image's samples become a model's pixels."""

    samples: Samples
    """Of the bands that were chosen."""
    bands: tuple[int, ...]
    """Chosen bands, counted from 1; empty: all."""
    channels: int
    dtype: str
    scaled: bool
    """Whether values are brought to 0 to 255."""

    @property
    def note(self) -> str:
        """What the caller should know of it; empty: nothing."""
        white, alpha = self.samples.white, self.samples.alpha
        if alpha is not None and _taken_as_they_are(self.samples, self.channels):
            return f"band {alpha + 1}, which the file says is alpha, was taken for band {alpha + 1} of the model"
        if not self.scaled or self.dtype != "uint8" or white is None or white <= 255:
            return ""
        return f"values from 0 to {white} were scaled to 0 to 255, which the model takes"

    def apply(self, rows: SampleArray) -> Pixels:
        """Convert (rows, width, bands) to (rows, width, channels)."""
        if self.bands:
            rows = rows[..., [band - 1 for band in self.bands]]
        if not _taken_as_they_are(self.samples, self.channels):
            rows = self._of_channels(self._coloured(self._opaque(rows)))
        return self._valued(rows)

    def _opaque(self, rows: SampleArray) -> SampleArray:
        """Lay alpha over white: v · a + white · (1 − a), where v · a is v if it is multiplied already."""
        samples = self.samples
        if samples.alpha is None:
            return rows
        alpha = rows[..., [samples.alpha]].astype(np.float32) / np.float32(samples.white or 1)
        colours = np.delete(rows, samples.alpha, axis=-1)
        paper = np.float32((0 if samples.colour == "cmyk" else samples.white) or 0)
        laid = colours * (np.float32(1) if samples.premultiplied else alpha) + paper * (1 - alpha)
        return np.clip(np.rint(laid), 0, samples.white).astype(rows.dtype)

    def _coloured(self, rows: SampleArray) -> SampleArray:
        """CMYK as sRGB where the model takes colours or grey, everything else as it is."""
        if self.samples.colour != "cmyk" or self.channels not in COLOURS:
            return rows
        image = image_of(rows, "cmyk")
        if self.samples.profile:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", self.samples.profile)
        depth = 16 if rows.dtype == np.uint16 else 8
        return array_of(image.icc_transform("srgb", input_profile=CMYK_PROFILE, embedded=True, depth=depth))

    def _of_channels(self, rows: SampleArray) -> SampleArray:
        if rows.shape[-1] == self.channels:
            return rows
        if rows.shape[-1] == 1:
            return np.repeat(rows, self.channels, axis=-1)
        luma = image_of(rows, "multiband").recomb(LUMA)
        return array_of((luma.rint() if rows.dtype.kind == "u" else luma).cast(VIPS_FORMATS[rows.dtype.name]))

    def _valued(self, rows: SampleArray) -> Pixels:
        """The values that the model takes: from 0 to 255, or the image's own."""
        dtype, white = np.dtype(self.dtype), self.samples.white or 255
        if not self.scaled or white == 255:
            return cast("Pixels", rows.astype(dtype, copy=False))
        if dtype == np.float32:
            return cast("Pixels", rows.astype(np.float32) * np.float32(255 / white))
        return cast("Pixels", ((rows.astype(np.uint32) * 510 + white) // (2 * white)).astype(np.uint8))


def blockwise(apply: Callable[[SampleArray], SampleArray], rows: SampleArray) -> SampleArray:
    """Apply a function of rows to some rows at a time, so that what it needs on the way stays small."""
    each = max(1, BLOCK // rows.shape[1])
    if len(rows) <= each:
        return apply(rows)
    first = apply(rows[:each])
    if np.may_share_memory(first, rows):  # nothing is converted
        return apply(rows)
    made = np.empty((len(rows), *first.shape[1:]), first.dtype)
    made[:each] = first
    for start in range(each, len(rows), each):
        made[start : start + each] = apply(rows[start : start + each])
    return made


COLOURS = (1, 3)
"""Channels of models that take grey, or red, green and blue."""


def conversion(samples: Samples, bands: tuple[int, ...], wanted: model_pb2.Input) -> Conversion:
    """How an image's bands, those chosen counted from 1 or all, become what a model takes.

    Raises ValueError, saying what was expected and got, for numbers of bands and for values that have no rule.
    """
    own = wanted.preprocessing.dtype if wanted.preprocessing.dtype not in ("", "uint8") else ""
    made = _conversion(replace(samples, profile=b""), bands, wanted.channels, wanted.dtype, own)
    if not samples.profile:  # profiles are large, and not kept with the conversions
        return made
    return replace(made, samples=replace(made.samples, profile=samples.profile))


@lru_cache(maxsize=256)
def _conversion(samples: Samples, bands: tuple[int, ...], channels: int, dtype: str, own: str) -> Conversion:
    got = f"{_counted(samples.bands)} of {samples.stored or samples.dtype}"
    if own == "uint16" and samples.white is None:
        raise ValueError(f"expected values of uint8 or uint16, which the model takes, got {got}")
    if not own and samples.white is None:
        raise ValueError(
            f"expected 8 or 16 bits unsigned per channel, got {got}: save the image as such, or convert the model "
            'with --preprocess FILE.json that says "dtype": "float32"'
        )
    chosen = samples.chosen(bands) if bands else samples
    if not (_taken_as_they_are(chosen, channels) or _can_become(chosen, channels)):
        raise ValueError(f"expected the model's {_counted(channels)}, got {_mismatch(samples, bands, channels, got)}")
    return Conversion(chosen, bands, channels, dtype, scaled=not own)


def _taken_as_they_are(samples: Samples, channels: int) -> bool:
    return samples.bands == channels


def _can_become(samples: Samples, channels: int) -> bool:
    """Whether there is a rule by which bands beside alpha become so many channels."""
    if samples.alpha is not None and samples.white is None:
        return False
    if samples.colour == "cmyk" and channels in COLOURS:
        return True
    if samples.colour == "rgb" and samples.colours == 3 and channels == 1:
        return True
    return samples.colours == channels or (samples.colours == 1 and channels == 3)


def _counted(bands: int) -> str:
    return "1 band" if bands == 1 else f"{bands} bands"


def _mismatch(samples: Samples, bands: tuple[int, ...], channels: int, got: str) -> str:
    """What an image has instead of a model's channels, and the way out."""
    if bands:
        return f"bands {', '.join(map(str, bands))}: choose as many as the model takes"
    if samples.bands < channels:
        one = ", or choose one band to repeat, in the command --bands 1" if channels == 3 else ""
        return f"{got}: score an image with as many bands{one}"
    if samples.alpha is not None and samples.white is None:
        return f"{got}, of which band {samples.alpha + 1} is alpha: choose those to score, without it, with bands"
    example = ",".join(str(band + 1) for band in range(channels))
    last = "" if samples.alpha is not None else f", and the file does not say that band {samples.bands} is alpha"
    return f"{got}{last}: choose those to score with bands, in the command --bands {example}"


def image_of(rows: SampleArray, interpretation: str) -> pyvips.Image:
    """Samples (rows, width, bands) as an image of libvips, which reads them where they are."""
    native = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
    height, width, bands = native.shape
    image = pyvips.Image.new_from_memory(native.data, width, height, bands, VIPS_FORMATS[native.dtype.name])
    return image.copy(interpretation=interpretation)


def array_of(image: pyvips.Image) -> SampleArray:
    """An image of libvips as (rows, width, bands)."""
    pixels: SampleArray = image.numpy()
    return pixels.reshape(image.height, image.width, image.bands)
