"""Measures the size of each file of a grid, and the processor time to write it.

    python benchmarks/grid_files.py [--size 20000x15000] [--stride 32] [--window 64] [--classes 6] [--rounds 3]
        [--folder DIR]

The grid is that of an image of this size; its logits are random, with regions of one class as in real images, and
arrive in parts of 4 MiB as from the service. In every round, each file is written once. The results are the sizes, the
medians of the seconds of the processor, and of their ratios to .npz of the same round. Files stay in --folder if it is
given. Formats whose package is not installed are left out. If geopandas is installed, it reads the .geojson files, and
the seconds of the processor are printed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fullconv.common.probabilities import SOFTMAX
from fullconv.file_options import FileOptions
from fullconv.grid import GridHeader, GridRows, ImageInfo, WindowAxis
from fullconv.grids import grid_file
from fullconv.grids.cells import CellValues

PART_BYTES = 4 << 20
"""Size of the rows that arrive at once."""
REGION, GRAIN = 16, 0.5
"""Cells along the side of a typical region of one class, and the standard deviation of the noise of every logit."""
SPREAD = 4.0
"""The standard deviation of logits between regions."""
NEEDS = {".parquet": "pyarrow", ".zarr": "zarr"}
"""The packages of formats that need more than the base. Merged polygons need rasterio."""
FILES: list[tuple[str, str, FileOptions]] = [
    ("", ".npz", {}),
    ("float16", ".npz", {"grid_as": "float16"}),
    ("top", ".npz", {"grid_as": "top"}),
    ("argmax", ".npz", {"grid_as": "argmax"}),
    ("", ".zarr", {}),
    ("argmax", ".zarr", {"grid_as": "argmax"}),
    ("", ".tif", {}),
    ("float16", ".tif", {"grid_as": "float16"}),
    ("argmax", ".tif", {"grid_as": "argmax"}),
    ("", ".parquet", {}),
    ("argmax", ".parquet", {"grid_as": "argmax"}),
    ("", ".csv", {}),
    ("argmax", ".csv", {"grid_as": "argmax"}),
    ("", ".geojson", {}),
    ("argmax", ".geojson", {"grid_as": "argmax"}),
    ("merge", ".geojson", {"merge": True}),
]
"""The name of what each file holds, its suffix, and the options."""


def axis(length: int, stride: int, window: int) -> WindowAxis:
    """Return the windows along a side of an image."""
    count = (length - window) // stride + 1
    return WindowAxis(count, 0, (count - 1) * stride, stride, window)


def logits(header: GridHeader) -> Iterator[GridRows]:
    """Yield the rows of a grid with regions of one class."""
    rows, cols, classes = header.shape
    rng = np.random.default_rng(1)
    coarse = rng.normal(0, SPREAD, (rows // REGION + 2, cols // REGION + 2, classes)).astype(np.float32)
    each = max(1, PART_BYTES // (cols * classes * 4))
    for first in range(0, rows, each):
        count = min(each, rows - first)
        wide = between(coarse, np.arange(first, first + count))
        smooth = np.swapaxes(between(np.swapaxes(wide, 0, 1), np.arange(cols)), 0, 1)
        grain = rng.standard_normal(smooth.shape, np.float32) * GRAIN
        yield GridRows(first, np.ascontiguousarray(smooth + grain))


def between(coarse: NDArray[np.float32], positions: NDArray[np.intp]) -> NDArray[np.float32]:
    """Interpolate values at positions of the first axis, in cells; neighbours in `coarse` are REGION cells apart."""
    before, share = positions // REGION, (positions % REGION / REGION).astype(np.float32)[:, None, None]
    return coarse[before] * (1 - share) + coarse[before + 1] * share


def seconds_of(path: Path, options: FileOptions, header: GridHeader, parts: list[GridRows]) -> float:
    """Write a file; returns the seconds of the processor."""
    values = CellValues(header, SOFTMAX, header.indices, options)
    start = time.process_time()
    with grid_file(path, values) as write:
        for rows in parts:
            write(rows)
    return time.process_time() - start


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in path.rglob("*")) if path.is_dir() else path.stat().st_size


def measure(folder: Path, header: GridHeader, rounds: int, suffixes: list[str]) -> None:
    """Write every file in every round, and print a line of a table for each."""
    parts = list(logits(header))
    files = [(name, suffix, options) for name, suffix, options in FILES if suffix in suffixes]
    names = [f"{suffix} {name}".strip() for name, suffix, _ in files]
    paths = [folder / f"grid-{name or 'default'}{suffix}" for name, suffix, _ in files]
    seconds: list[list[float]] = [[] for _ in files]
    for _ in range(rounds):
        for times, path, (_, _, options) in zip(seconds, paths, files, strict=True):
            times.append(seconds_of(path, options, header, parts))
    print("| file | MB | of .npz | seconds | of .npz |\n|---|---|---|---|---|")
    for name, path, times in zip(names, paths, seconds, strict=True):
        ratio = statistics.median(time / first for time, first in zip(times, seconds[0], strict=True))
        size = size_of(path)
        print(
            f"| {name} | {size / 1e6:.2f} | {size / size_of(paths[0]):.3f} | {statistics.median(times):.2f} | "
            f"{ratio:.1f} |"
        )
    if find_spec("geopandas"):
        for path in paths:
            if path.suffix == ".geojson":
                print_reading(path)


def print_reading(path: Path) -> None:
    """Read a .geojson file with geopandas, and print the number of its polygons and the seconds of the processor."""
    import geopandas  # noqa: PLC0415 (not always installed)

    start = time.process_time()
    table = geopandas.read_file(path)
    print(f"geopandas reads {len(table)} polygons of {path.name} in {time.process_time() - start:.2f} s")


def main() -> None:
    """Make the grid, write the files, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="20000x15000", help="width and height of the image (default: 20000x15000)")
    parser.add_argument("--stride", type=int, default=32, help="pixels between windows (default: 32)")
    parser.add_argument("--window", type=int, default=64, help="side of a window in pixels (default: 64)")
    parser.add_argument("--classes", type=int, default=6, help="number of classes (default: 6)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--folder", type=Path, help="folder for the files (default: a temporary folder)")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    across, down = (axis(length, arguments.stride, arguments.window) for length in (width, height))
    indices = tuple(range(arguments.classes))
    labels = tuple(f"class {index}" for index in indices)
    header = GridHeader(ImageInfo("image", width, height), down, across, indices, labels, len(indices))
    print(f"{down.count}×{across.count} windows, {arguments.classes} classes")
    suffixes = [suffix for _, suffix, _ in FILES if suffix not in NEEDS or find_spec(NEEDS[suffix])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        measure(folder, header, arguments.rounds, suffixes)


if __name__ == "__main__":
    main()
