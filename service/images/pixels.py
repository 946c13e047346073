"""From the pixels of a file to those that a model takes.

Alpha is laid over white; CMYK goes through its ICC profile; grey is replicated or RGB turned to luma (ITU-R BT.601, as
the common training pipelines do) for the channels that the model has; 16 bits become round(v / 257), or v / 257 where
the model takes float32. Values are 0 to 255 in any case. Everything is lazy: nothing is decoded here.
"""

import pyvips

WHITE = {"uchar": 255, "ushort": 65535}
LUMA = [[0.299, 0.587, 0.114]]
CMYK_PROFILE = "cmyk"  # libvips's own, for files that carry none


def convert(image: pyvips.Image, *, channels: int, dtype: str) -> pyvips.Image:
    """Return the image with `channels` bands of `dtype` ("uint8" or "float32").

    Raises ValueError, saying what was expected and got, for an element type or number of bands that has no rule.
    """
    if image.format not in WHITE:
        raise ValueError(f"expected 8 or 16 bits unsigned per channel, got {describe(image)}: save it as such")
    if channels not in (1, 3) and image.bands == channels:
        return _element(image, dtype)
    image = _colours(_opaque(image))
    if image.bands not in (1, 3) or channels not in (1, 3):
        expected = "1 or 3" if channels in (1, 3) else channels
        raise ValueError(f"expected {expected} bands and perhaps alpha, got {describe(image)}: select those to score")
    return _element(_channels(image, channels), dtype)


def describe(image: pyvips.Image) -> str:
    """Name the element type and bands: "3 bands of ushort"."""
    return f"{image.bands} bands of {image.format}"


def _opaque(image: pyvips.Image) -> pyvips.Image:
    if not image.hasalpha():
        return image
    white = WHITE[image.format]
    return image.flatten(background=[white], max_alpha=white).cast(image.format)


def _colours(image: pyvips.Image) -> pyvips.Image:
    """CMYK and Lab to sRGB; grey, RGB and bands without a meaning as they are."""
    if image.interpretation == "cmyk":
        depth = 16 if image.format == "ushort" else 8
        return image.icc_transform("srgb", input_profile=CMYK_PROFILE, embedded=True, depth=depth)
    if image.interpretation in ("lab", "labs", "labq"):
        return image.colourspace("srgb")
    return image


def _channels(image: pyvips.Image, channels: int) -> pyvips.Image:
    if image.bands == channels:
        return image
    if image.bands == 1:
        return image.bandjoin([image] * (channels - 1))
    return image.recomb(LUMA).rint().cast(image.format)


def _element(image: pyvips.Image, dtype: str) -> pyvips.Image:
    scaled = image / 257 if image.format == "ushort" else image
    if dtype == "float32":
        return scaled.cast("float")
    return scaled.rint().cast("uchar")
