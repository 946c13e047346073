"""The levels of a pyramid in a TIFF file: the same image at smaller sizes, in further directories or in SubIFDs."""

from typing import Any, BinaryIO


def level_options(file: BinaryIO, page: int, factor: float) -> dict[str, int]:
    """Return the options by which libvips reads the smallest level of a page that is at most `factor` times smaller.

    `page` counts from 0. It is the page itself if the file has no such level, or its directories cannot be read.
    """
    from tifffile import TiffFile  # noqa: PLC0415 (only for files that libvips has recognised as TIFF)

    try:
        with TiffFile(file) as tiff:
            index = min(_levels(tiff, page), key=lambda level: (level[0] > factor, -level[0]))[1]
    except Exception:  # tifffile raises errors of unrelated classes, and libvips may still read the page
        index = (page,)
    return dict(zip(("page", "subifd"), index, strict=False))


def _levels(tiff: Any, page: int) -> list[tuple[float, tuple[int, ...]]]:  # noqa: ANN401 (tifffile has no types)
    """Return the levels of a page: how many times smaller each is, and the indices of its directory and SubIFD."""
    series, position = next(
        (series, position)
        for series in tiff.series
        for position, directory in enumerate(series.pages)
        if directory is not None and directory.treeindex == (page,)
    )
    levels = [level for level in series.levels if len(level.pages) == len(series.pages)]
    return [
        (series.keyframe.imagewidth / level.keyframe.imagewidth, level.pages[position].treeindex) for level in levels
    ]
