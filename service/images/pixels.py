"""From the pixels of a file to those that a model takes.

A model of 1 or 3 channels: CMYK goes through its ICC profile, alpha is laid over white, grey is replicated or RGB
turned to luma (ITU-R BT.601, as the common training pipelines do). A model of any other number of channels: an image
of as many bands, as they are. 16 bits become round(v / 257), or v / 257 where the model takes float32. Values are 0 to
255 in any case. Everything is lazy: nothing is decoded here.
"""

import pyvips

WHITE = {"uchar": 255, "ushort": 65535}
LUMA = [[0.299, 0.587, 0.114]]
CMYK_PROFILE = "cmyk"  # libvips's own, for files that carry none


def convert(image: pyvips.Image, *, channels: int, dtype: str) -> pyvips.Image:
    """Return the image with `channels` bands of `dtype` ("uint8" or "float32").

    Raises ValueError, saying what was expected and got, for an element type or number of bands that has no rule.
    """
    bands, element = image.bands, image.format
    got = f"{bands} bands of {element}"
    if element not in WHITE:
        raise ValueError(f"expected 8 or 16 bits unsigned per channel, got {got}: save it as such")
    if channels not in (1, 3):
        if bands != channels:
            raise ValueError(f"expected the model's {channels} bands, got {got}")
        return _element(image, dtype)
    image = _opaque(_rgb(image))
    if image.bands not in (1, 3):
        raise ValueError(f"expected 1 or 3 bands and perhaps alpha, got {got}: select those to score")
    return _element(_channels(image, channels), dtype)


def _rgb(image: pyvips.Image) -> pyvips.Image:
    """CMYK as sRGB, everything else as it is."""
    if image.interpretation != "cmyk":
        return image
    depth = 16 if image.format == "ushort" else 8
    return image.icc_transform("srgb", input_profile=CMYK_PROFILE, embedded=True, depth=depth)


def _opaque(image: pyvips.Image) -> pyvips.Image:
    if not image.hasalpha():
        return image
    white = WHITE[image.format]
    return image.flatten(background=[white], max_alpha=white).cast(image.format)


def _channels(image: pyvips.Image, channels: int) -> pyvips.Image:
    if image.bands == channels:
        return image
    if channels == 3:
        return image.bandjoin([image, image])
    return image.recomb(LUMA).rint().cast(image.format)


def _element(image: pyvips.Image, dtype: str) -> pyvips.Image:
    if image.format == "uchar":
        return image if dtype == "uint8" else image.cast("float")
    scaled = image / 257
    return scaled.cast("float") if dtype == "float32" else scaled.rint().cast("uchar")
