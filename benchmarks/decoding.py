"""Compares what decoding is planned to cost with what it costs, for some 50 image files of all kinds and sizes.

    python benchmarks/decoding.py [--side 4096]

Every file is planned and scored in a process of its own with the model digits. Prints, for each file, the planned and
the measured peak of memory, and the planned and the measured seconds of decoding. Exit status 1 if the planned memory
of a file is less than 0.9 of the measured memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile

from fullconv.common.libvips import pyvips
from service.images.decoding import UnsharedDecoding
from service.images.encoded import open_bytes
from service.images.files import open_path
from service.scoring.execution import Execution
from service.scoring.scorer import Scorer, ScoringRequest

MODELS = Path(__file__).parent.parent / "models"
MIB = 1 << 20
ALLOWED = 0.9
"""Lowest ratio of planned to measured memory."""
ROOM_BYTES = 16 * MIB
"""Memory of the process that belongs to no image: allocators, threads, and the network's own buffers."""
TIFF_COMPRESSIONS = ("none", "deflate", "lzw", "jpeg", "webp", "packbits")


def photograph(side: int, bands: int) -> pyvips.Image:
    """Return a picture with the statistics of a photograph: smooth areas, edges and noise."""
    noise = pyvips.Image.gaussnoise(side, side, sigma=4, mean=0, seed=1)
    low = np.random.default_rng(0).integers(40, 216, (32, 32, bands), np.uint8)
    image = pyvips.Image.new_from_array(low).resize(side / 32, kernel="cubic").crop(0, 0, side, side)
    colour = {1: "b-w", 3: "srgb", 4: "srgb"}[bands]
    return (image + noise).cast("uchar").copy(interpretation=colour).copy_memory()


def files(side: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of image files."""
    for size in (side, side // 4):
        rgb, grey = photograph(size, 3), photograph(size, 1)
        rgba = rgb.bandjoin(grey).copy_memory()
        deep = (rgb.cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16").copy_memory()
        turned = rgb.copy()
        turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
        for name, image in (("rgb", rgb), ("grey", grey)):
            for options in ("", ",interlace", ",subsample-mode=off", ",interlace,subsample-mode=off"):
                yield f"{size} {name} Q=85{options}.jpg", image.write_to_buffer(f".jpg[Q=85{options}]")
        yield f"{size} turned.jpg", turned.write_to_buffer(".jpg")
        for name, image in (("rgb", rgb), ("grey", grey), ("rgba", rgba), ("16 bits", deep)):
            for options in ("", "[interlace]"):
                yield f"{size} {name} {options}.png", image.write_to_buffer(f".png{options}")
        for options in ("[effort=0]", "[effort=0,lossless]"):
            yield f"{size} {options}.webp", rgb.write_to_buffer(f".webp{options}")
        for compression in TIFF_COMPRESSIONS:
            for layout in ("", ",tile,tile-width=256,tile-height=256"):
                options = f"[compression={compression}{layout}]"
                yield f"{size} {options}.tif", rgb.write_to_buffer(f".tif{options}")
        one_strip = BytesIO()
        tifffile.imwrite(one_strip, rgb.numpy(), rowsperstrip=size, compression="deflate", photometric="rgb")
        yield f"{size} one strip.tif", one_strip.getvalue()


def peak_bytes() -> int:
    """Return the largest resident memory of this process since it was reset."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def measure(path: Path) -> dict[str, float]:
    """Return the planned and measured bytes and seconds of one file."""
    scorer, request = Scorer(MODELS), ScoringRequest("digits")
    for name in (".jpg", ".png", ".webp", ".tif"):  # loads all decoders
        small = open_bytes(photograph(128, 3).write_to_buffer(name), name=name)
        for _ in Execution(scorer.plan(small, request)).rows():
            pass
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # resets the peak
    before = peak_bytes()
    planned = scorer.plan(open_path(path), request)
    execution = Execution(planned, decoding=UnsharedDecoding())
    for _ in execution.rows():
        pass
    peak = peak_bytes() - before
    rows, start = planned.picture.rows(planned.model.spec.input), time.process_time()
    step = max(rows.block_rows, (1 << 18) // planned.picture.width)
    for first in range(0, planned.picture.height, step):
        rows.read(first, min(first + step, planned.picture.height))
    seconds = time.process_time() - start
    return {
        "planned": planned.bytes,
        "peak": peak,
        "planned seconds": planned.decoding.seconds,
        "seconds": seconds,
    }


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="side of the largest files in pixels (default: 4096)")
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure))))
        return 0
    lowest = np.inf
    print(f"{'':44} {'planned':>9} {'peak':>9} MiB   ratio {'planned':>9} {'measured':>9} s   ratio")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files(options.side):
            path = Path(folder, "image")
            path.write_bytes(content)
            command = [sys.executable, __file__, "--measure", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603
            ratio = (found["planned"] + ROOM_BYTES) / max(1, found["peak"])
            lowest = min(lowest, ratio)
            print(
                f"{name:44} {found['planned'] / MIB:9.1f} {found['peak'] / MIB:9.1f}     {ratio:7.2f}"
                f" {found['planned seconds']:9.3f} {found['seconds']:9.3f} "
                f"{found['planned seconds'] / found['seconds']:7.2f}",
                flush=True,
            )
    print(f"lowest ratio of planned to measured memory, with {ROOM_BYTES / MIB:.0f} MiB for the process: {lowest:.2f}")
    return int(lowest < ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
