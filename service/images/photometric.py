"""The meaning of the numbers in a TIFF file: PhotometricInterpretation (tag 262), ExtraSamples (338) and related tags.

Stored numbers become samples: a palette's indices become its colours, MinIsWhite is inverted, YCbCr becomes red, green
and blue. A band is alpha if ExtraSamples is 1 (alpha is multiplied into the other bands) or 2, and in no other case.
Other kinds are refused; the error names the kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tifffile import TiffPage

from fullconv.common.text import counted
from service.images.pixels import BandLayout, Colour, SampleArray

PHOTOMETRIC, MIN_IS_WHITE, PALETTE, YCBCR = 262, 0, 3, 6
"""The tag PhotometricInterpretation and some of its values."""
UNSUPPORTED = {
    4: "a transparency mask, which belongs to another page",
    8: "CIELAB colours",
    9: "ICCLAB colours",
    10: "ITULAB colours",
    32803: "the raw data of a camera's sensor (CFA)",
    32844: "LogL luminance",
    32845: "LogLuv colours",
    34892: "linear raw data of a camera (LinearRaw)",
}
"""Names, for errors, of values of PhotometricInterpretation that are not handled."""
INK_SET, CMYK, ICC_PROFILE = 332, 1, 34675
YCBCR_COEFFICIENTS, REFERENCE_BLACK_WHITE = 529, 532
MAX_TAG_BYTES = 4 << 20
"""Largest size of an ICC profile or of JPEG tables."""
SEPARATE = 2
"""PlanarConfiguration of files that store each band in tiles or strips of its own."""
DECODED_TO_RGB = (7, 50001)
"""Compressions, JPEG and WebP, whose decoders convert YCbCr to red, green and blue."""
ASSOCIATED, UNASSOCIATED = 1, 2
"""Values of ExtraSamples that mean alpha."""


@dataclass(frozen=True)
class Interpretation:
    """The meaning of a page's numbers: the layout of the samples, and how the numbers become samples."""

    layout: BandLayout
    apply: Callable[[SampleArray], SampleArray]
    """Converts stored numbers (rows, cols, bands) to samples."""


def interpretation(page: TiffPage) -> Interpretation:
    """Return the meaning of a page's numbers; raises ValueError that names a kind that is not handled."""
    if PHOTOMETRIC not in page.tags:
        raise ValueError("no PhotometricInterpretation, which defines the meaning of the numbers")
    photometric = int(page.photometric)
    if photometric in UNSUPPORTED:
        raise ValueError(UNSUPPORTED[photometric])
    if photometric == PALETTE:
        return _palette(page)
    dtype = _sample_dtype(page)
    layout = _layout(page, dtype)
    if photometric == MIN_IS_WHITE and layout.colour == "grey":
        return Interpretation(layout, _inverted(layout))
    if photometric == YCBCR and _stores_ycbcr(page):
        return Interpretation(layout, _ycbcr_to_rgb(page))
    return Interpretation(layout, lambda stored: stored.astype(dtype, copy=False))


def _layout(page: TiffPage, dtype: np.dtype[Any]) -> BandLayout:
    white = (1 << page.bitspersample) - 1 if dtype.kind == "u" else None
    alpha, premultiplied = _alpha(page)
    colour = _colour(page, page.samplesperpixel - (alpha is not None), white)
    return BandLayout(
        page.samplesperpixel,
        dtype.name,
        colour,
        alpha,
        premultiplied,
        white,
        profile=bytes_of(page.tags.valueof(ICC_PROFILE, default=b"")) if colour == "cmyk" else b"",
        stored_dtype=str(page.dtype) if page.dtype != dtype else "",
    )


def bytes_of(value: object) -> bytes:
    """Return the value of a tag of bytes; raises ValueError for another type or more than `MAX_TAG_BYTES` bytes."""
    if not isinstance(value, bytes) or len(value) > MAX_TAG_BYTES:
        raise ValueError("a profile or JPEG tables of another type or size")
    return value


def _colour(page: TiffPage, colour_bands: int, white: int | None) -> Colour:
    """Return the colour of the bands beside alpha; raises ValueError that names a kind that is not handled."""
    match int(page.photometric):
        case 0 if colour_bands == 1:
            return "grey"
        case 1:
            return "grey" if colour_bands == 1 else ""
        case 2:
            return "rgb" if colour_bands == 3 else ""
        case 5 if colour_bands == 4 and white in (255, 65535) and page.tags.valueof(INK_SET, default=CMYK) == CMYK:
            return "cmyk"
        case 5:
            raise ValueError(f"inks other than CMYK of 8 or 16 bits, in {counted(page.samplesperpixel, 'band')}")
        case 6 if colour_bands == 3:
            return "rgb"
    raise ValueError(f"PhotometricInterpretation {page.photometric} with {counted(page.samplesperpixel, 'band')}")


def stored_dtype(page: TiffPage) -> np.dtype[Any]:
    """Return the element type of a page's stored numbers; raises ValueError for numbers that numpy has no type for."""
    dtype: np.dtype[Any] | None = page.dtype
    if dtype is None or dtype.kind == "c" or not isinstance(page.bitspersample, int):
        raise ValueError(f"numbers of {page.bitspersample} bits, SampleFormat {page.sampleformat}")
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _sample_dtype(page: TiffPage) -> np.dtype[Any]:
    """Return the element type of a page's samples: the stored type, or float32 if models do not take that type."""
    stored = stored_dtype(page)
    if stored.kind == "u" and stored.itemsize <= 2:
        return np.dtype(np.uint8 if page.bitspersample <= 8 else np.uint16)
    return np.dtype(np.int16 if stored.kind == "i" and stored.itemsize <= 2 else np.float32)


def _alpha(page: TiffPage) -> tuple[int | None, bool]:
    """Return the index of the alpha band, and whether alpha is multiplied into the other bands; None: no alpha."""
    extras = [int(extra) for extra in page.extrasamples]
    first = page.samplesperpixel - len(extras)
    for position, extra in enumerate(extras):
        if extra in (ASSOCIATED, UNASSOCIATED):
            return first + position, extra == ASSOCIATED
    return None, False


def _inverted(layout: BandLayout) -> Callable[[SampleArray], SampleArray]:
    """Return a function that turns 0 into white, or into alpha where alpha is premultiplied; alpha is kept."""
    white, alpha, dtype = layout.white, layout.alpha, np.dtype(layout.dtype)
    if white is None:
        raise ValueError("MinIsWhite with signed or floating-point numbers, for which no value is defined as black")

    def invert(stored: SampleArray) -> SampleArray:
        numbers = stored.astype(dtype, copy=False)
        if alpha is None:
            inverted: SampleArray = dtype.type(white) - numbers
            return inverted
        opaque = numbers[..., [alpha]] if layout.premultiplied else dtype.type(white)
        inverted = opaque - np.minimum(numbers, opaque)
        inverted[..., alpha] = numbers[..., alpha]
        return inverted

    return invert


def _palette(page: TiffPage) -> Interpretation:
    table = page.colormap
    if table is None or page.samplesperpixel != 1:
        raise ValueError(f"a palette with {counted(page.samplesperpixel, 'band')}")
    table = np.ascontiguousarray(np.asarray(table).T)
    if table.max(initial=0) > 255:  # TIFF 6.0 requires 16 bits; some programs write 8
        table = table >> 8
    entries = np.zeros((1 << page.bitspersample, 3), np.uint8)
    if len(table) < len(entries):
        raise ValueError(f"a palette of {len(table)} colours for numbers of {page.bitspersample} bits")
    entries[:] = table[: len(entries)]

    def look_up(stored: SampleArray) -> SampleArray:
        colours: SampleArray = entries[stored[..., 0]]
        return colours

    return Interpretation(BandLayout(3, "uint8", "rgb", white=255), look_up)


def _stores_ycbcr(page: TiffPage) -> bool:
    """Return whether decoded numbers are YCbCr; raises ValueError for kinds of YCbCr that are not handled."""
    if page.is_subsampled and (int(page.compression) not in DECODED_TO_RGB or page.planarconfig == SEPARATE):
        raise ValueError("YCbCr without JPEG whose colours are stored at a lower resolution")
    if page.bitspersample != 8:
        raise ValueError(f"YCbCr of {page.bitspersample} bits")
    return int(page.compression) not in DECODED_TO_RGB or page.planarconfig == SEPARATE


def _ycbcr_to_rgb(page: TiffPage) -> Callable[[SampleArray], SampleArray]:
    """Return the conversion of TIFF 6.0, section 21: first the reference range, then the coefficients of luma."""
    red, green, blue = _rationals(page, YCBCR_COEFFICIENTS, (0.299, 0.587, 0.114))
    default = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
    black_white = np.array(_rationals(page, REFERENCE_BLACK_WHITE, default)).reshape(3, 2)
    black, spread = black_white[:, 0], np.diff(black_white)[:, 0]
    if not (spread.all() and green):
        raise ValueError("YCbCr with ReferenceBlackWhite or YCbCrCoefficients that cannot be inverted")
    factors = np.array([255, 127, 127]) / spread

    def convert(stored: SampleArray) -> SampleArray:
        scaled = (stored[..., :3] - black) * factors
        luma, cb, cr = scaled[..., 0], scaled[..., 1], scaled[..., 2]
        r, b = cr * (2 - 2 * red) + luma, cb * (2 - 2 * blue) + luma
        g = (luma - blue * b - red * r) / green
        colours = np.clip(np.rint(np.stack([r, g, b], axis=-1)), 0, 255).astype(np.uint8)
        return np.concatenate([colours, stored[..., 3:].astype(np.uint8)], axis=-1)

    return convert


def _rationals(page: TiffPage, code: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return the values of a tag of fractions, each of which is stored as two integers."""
    stored = page.tags.valueof(code, default=None)
    if stored is None:
        return default
    pairs = np.array(stored, np.float64).reshape(-1, 2)
    if len(pairs) != len(default) or not pairs[:, 1].all():
        raise ValueError(f"YCbCr with a tag {code} of {len(pairs)} fractions")
    return tuple((pairs[:, 0] / pairs[:, 1]).tolist())
