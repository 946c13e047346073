"""What the numbers in a TIFF file mean: PhotometricInterpretation (tag 262), ExtraSamples (338) and their companions.

Stored numbers become samples: palettes become their colours, MinIsWhite its inverse, YCbCr red, green and blue. A band
is alpha where ExtraSamples says 1 (alpha is multiplied into the other bands) or 2, and nowhere else. What has no rule
here is refused by its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tifffile import TiffPage

from service.images.pixels import Colour, SampleArray, Samples

PHOTOMETRIC, MIN_IS_WHITE, PALETTE, YCBCR = 262, 0, 3, 6
REFUSED = {
    4: "a transparency mask, which belongs to another page",
    8: "CIELAB colours",
    9: "ICCLAB colours",
    10: "ITULAB colours",
    32803: "the raw data of a camera's sensor (CFA)",
    32844: "LogL luminance",
    32845: "LogLuv colours",
    34892: "linear raw data of a camera (LinearRaw)",
}
"""Other values of PhotometricInterpretation."""
INK_SET, CMYK, ICC_PROFILE = 332, 1, 34675
TAG_BYTES = 4 << 20
"""Of the longest profile or tables that are taken."""
SEPARATE = 2
"""PlanarConfiguration of bands that lie one behind the other."""
GIVES_RGB = (7, 50001)
"""Compressions, JPEG and WebP, whose decoders give red, green and blue for YCbCr."""
ASSOCIATED, UNASSOCIATED = 1, 2
"""ExtraSamples that are alpha."""
BYTES = 8
"""Bits of a band that libvips and models know."""


@dataclass(frozen=True)
class Interpretation:
    """What a page's numbers mean: the samples that they become, and how."""

    samples: Samples
    apply: Callable[[SampleArray], SampleArray]
    """Stored numbers (rows, width, bands) to samples."""


def interpretation(page: TiffPage) -> Interpretation:
    """What a page's numbers mean; raises ValueError, by name, for a kind that has no rule."""
    if PHOTOMETRIC not in page.tags:
        raise ValueError("no PhotometricInterpretation, so that it is not known what its numbers mean")
    photometric = int(page.photometric)
    if photometric in REFUSED:
        raise ValueError(REFUSED[photometric])
    if photometric == PALETTE:
        return _palette(page)
    dtype = _dtype(page)
    white = (1 << page.bitspersample) - 1 if dtype.kind == "u" else None
    alpha, premultiplied = _alpha(page)
    colour = _colour(page, page.samplesperpixel - (alpha is not None), white)
    samples = Samples(
        page.samplesperpixel,
        dtype.name,
        colour,
        alpha,
        premultiplied,
        white,
        profile=bytes_of(page.tags.valueof(ICC_PROFILE, default=b"")) if colour == "cmyk" else b"",
        stored=str(page.dtype) if page.dtype != dtype else "",
    )
    if photometric == MIN_IS_WHITE and colour == "grey":
        return Interpretation(samples, _inverted(samples))
    if photometric == YCBCR and _stores_ycbcr(page):
        return Interpretation(samples, _ycbcr(page))
    return Interpretation(samples, lambda stored: stored.astype(dtype, copy=False))


def bytes_of(value: object) -> bytes:
    """The value of a tag of bytes; raises ValueError for another type, and for more than a profile or table is."""
    if not isinstance(value, bytes) or len(value) > TAG_BYTES:
        raise ValueError("a profile or JPEG tables of another type or size")
    return value


def _colour(page: TiffPage, colours: int, white: int | None) -> Colour:
    """What so many bands beside alpha are; raises ValueError for a kind that has no rule."""
    match int(page.photometric):
        case 0 if colours == 1:
            return "grey"
        case 1:
            return "grey" if colours == 1 else ""
        case 2:
            return "rgb" if colours == 3 else ""
        case 5 if colours == 4 and white in (255, 65535) and page.tags.valueof(INK_SET, default=CMYK) == CMYK:
            return "cmyk"
        case 5:
            raise ValueError(f"inks other than CMYK of 8 or 16 bits, in {page.samplesperpixel} bands")
        case 6 if colours == 3:
            return "rgb"
    raise ValueError(f"PhotometricInterpretation {page.photometric} with {page.samplesperpixel} bands")


def stored_dtype(page: TiffPage) -> np.dtype[Any]:
    """The type of a page's numbers; raises ValueError for numbers that have none."""
    dtype: np.dtype[Any] | None = page.dtype
    if dtype is None or dtype.kind == "c" or not isinstance(page.bitspersample, int):
        raise ValueError(f"numbers of {page.bitspersample} bits, SampleFormat {page.sampleformat}")
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _dtype(page: TiffPage) -> np.dtype[Any]:
    """The type that a page's samples have: its own, or float32 for one that models do not take."""
    stored = stored_dtype(page)
    if stored.kind == "u" and stored.itemsize <= 2:
        return np.dtype(np.uint8 if page.bitspersample <= BYTES else np.uint16)
    return np.dtype(np.int16 if stored.kind == "i" and stored.itemsize <= 2 else np.float32)


def _alpha(page: TiffPage) -> tuple[int | None, bool]:
    """Which band is alpha, counted from 0, and whether the others are multiplied by it."""
    extras = [int(extra) for extra in page.extrasamples]
    first = page.samplesperpixel - len(extras)
    for position, extra in enumerate(extras):
        if extra in (ASSOCIATED, UNASSOCIATED):
            return first + position, extra == ASSOCIATED
    return None, False


def _inverted(samples: Samples) -> Callable[[SampleArray], SampleArray]:
    """Let white, which is 0, be the greatest number, or alpha where that is multiplied in; alpha stays."""
    white, alpha, dtype = samples.white, samples.alpha, np.dtype(samples.dtype)
    if white is None:
        raise ValueError("MinIsWhite with numbers of a sign or fraction, whose black is not known")

    def invert(stored: SampleArray) -> SampleArray:
        numbers = stored.astype(dtype, copy=False)
        if alpha is None:
            inverted: SampleArray = dtype.type(white) - numbers
            return inverted
        opaque = numbers[..., [alpha]] if samples.premultiplied else dtype.type(white)
        inverted = opaque - np.minimum(numbers, opaque)
        inverted[..., alpha] = numbers[..., alpha]
        return inverted

    return invert


def _palette(page: TiffPage) -> Interpretation:
    table = page.colormap
    if table is None or page.samplesperpixel != 1:
        raise ValueError(f"a palette with {page.samplesperpixel} bands")
    table = np.ascontiguousarray(np.asarray(table).T)
    if table.max(initial=0) > 255:  # 16 bits, as the specification wants it; some writers store 8
        table = table >> 8
    entries = np.zeros((1 << page.bitspersample, 3), np.uint8)
    if len(table) < len(entries):
        raise ValueError(f"a palette of {len(table)} colours for numbers of {page.bitspersample} bits")
    entries[:] = table[: len(entries)]

    def look_up(stored: SampleArray) -> SampleArray:
        colours: SampleArray = entries[stored[..., 0]]
        return colours

    return Interpretation(Samples(3, "uint8", "rgb", white=255), look_up)


def _stores_ycbcr(page: TiffPage) -> bool:
    """Whether decoding leaves YCbCr as it is; raises ValueError for kinds of it that have no rule."""
    if page.is_subsampled and (int(page.compression) not in GIVES_RGB or page.planarconfig == SEPARATE):
        raise ValueError("YCbCr whose colours are stored at a lower resolution, without JPEG")
    if page.bitspersample != BYTES:
        raise ValueError(f"YCbCr of {page.bitspersample} bits")
    return int(page.compression) not in GIVES_RGB or page.planarconfig == SEPARATE


def _ycbcr(page: TiffPage) -> Callable[[SampleArray], SampleArray]:
    """TIFF 6.0, section 21: the reference range first, then luma's coefficients."""
    red, green, blue = _rationals(page, 529, (0.299, 0.587, 0.114))
    black_white = np.array(_rationals(page, 532, (0.0, 255.0, 128.0, 255.0, 128.0, 255.0))).reshape(3, 2)
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
    """The values of a tag of fractions, each stored as two integers."""
    stored = page.tags.valueof(code, default=None)
    if stored is None:
        return default
    pairs = np.array(stored, np.float64).reshape(-1, 2)
    if len(pairs) != len(default) or not pairs[:, 1].all():
        raise ValueError(f"YCbCr with a tag {code} of {len(pairs)} fractions")
    return tuple((pairs[:, 0] / pairs[:, 1]).tolist())
