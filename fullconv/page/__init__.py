"""The page of a result: a .html file that shows the image, the scores over it, and the averages, without a network.

`values` chooses and stores the values, `tiles` and `picture` make the image's tiles, `document` describes everything,
and `html` writes the file. `assets/` holds what runs in the browser.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fullconv.common.files import atomic_write, spool_file
from fullconv.errors import ImageError
from fullconv.grid import RowSink
from fullconv.grids.cells import CellValues
from fullconv.images import Region
from fullconv.page.document import document_of, picture_document
from fullconv.page.html import write_html
from fullconv.page.tiles import check_folder, remove_folder, tiles_of
from fullconv.page.values import PageValues


@contextmanager
def page_file(path: Path, values: CellValues, answer: Callable[[], Mapping[str, Any]]) -> Iterator[RowSink]:
    """Write a page; yields the function that takes the rows of the grid.

    `answer` is called after the last row, and returns the document that `--json` prints. An image of more than
    `tiles.INLINE_PIXELS` pixels is written into a folder beside the page; without such an image, the folder of an
    earlier page is removed. Raises OutputError.
    """
    image, pixels = values.header.image, values.image
    assert pixels is not None  # noqa: S101 (an answer with a grid has them)
    region = pixels.region or Region(0, 0, image.width, image.height)
    check_folder(path, region)
    with ExitStack() as stack:
        file = stack.enter_context(atomic_write(path))
        page = PageValues(values, stack.enter_context(spool_file(path)))
        yield page.add_rows
        planes = page.planes()
        tiles = stack.enter_context(tiles_of(path, pixels, image))
        document = document_of(values, page.extent, planes, picture_document(region, tiles), answer())
        write_html(file, document, planes, tiles)
        if isinstance(tiles, ImageError) or not tiles.folder:
            remove_folder(path)
