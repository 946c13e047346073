"""Measures what a job costs apart from its images: listing them, opening the job, and continuing it.

    python benchmarks/job_scale.py [--count 1000000]

The images are names without files. Their parts are written as a job writes them, with rows that have 10 averages.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from service.batch.changes import Comparison
from service.batch.job import RESULTS, open_job, part_file
from service.batch.limits import FailureLimit
from service.batch.listing import OWN, Listing
from service.batch.reading import Copies
from service.batch.records import Records
from service.batch.run import Run
from service.batch.stop import Stop
from service.batch.stores import LocalStore
from service.batch.work import Work

CLASSES = 10


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the block took, and the most memory that this process has had."""
    began = time.perf_counter()
    yield
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print(f"{what}: {time.perf_counter() - began:.2f} s; at most {memory} MB so far", flush=True)


def listing(count: int) -> Listing:
    """Return images without files."""
    names = [f"s3://bucket/archive/{number // 1000:06d}/picture-{number:09d}.jpg" for number in range(count)]
    places = [name.removeprefix("s3://bucket/") for name in names]
    columns = [pa.array(names), pa.array([150_000] * count, pa.int64()), pa.nulls(count, pa.string()), pa.array(places)]
    return Listing(pa.Table.from_arrays(columns, schema=OWN))


def rows(paths: list[str]) -> list[dict[str, object]]:
    """Return rows as a job has them."""
    return [
        {"path": path, "bytes": 150_000, "sha256": sha256(path.encode()).hexdigest(), "width": 1024, "height": 768,
         "model": "digits", "version": "1", "weights_sha256": "0" * 64, "mode": "dense", "exact": True, "rows": 88,
         "cols": 120, "stride": [8, 8], "window": [70, 70], "windows": 10560, "average": [0.5] * CLASSES,
         "top_class": [0, 1, 2, 3, 4], "top_label": ["0", "1", "2", "3", "4"], "areas": [], "warnings": []}
        for path in paths
    ]  # fmt: skip


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="number of images (default: 1000000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store, work = LocalStore(Path(name)), Work("digits", "1", {}, name, "")
        with timed("names of all images as a table"):
            images = listing(options.count)
        print(f"bytes in memory for each image: {images.table.nbytes / options.count:.0f}")
        with timed("a new job"):
            job = open_job(store, work.terms(""), images, Comparison("", Copies(Stop())))
        size = next((Path(name) / "inputs").iterdir()).stat().st_size
        print(f"{len(job.bounds)} parts; bytes of the listing's file for each image: {size / options.count:.1f}")
        records = Records(tuple(range(CLASSES)), (), "", images.carried.schema)
        with timed("writing the files of all parts"):
            for number in range(len(job.bounds)):
                part = job.part(number)
                store.write(
                    f"{RESULTS}/{part_file(number)}", records.serialize(rows(part.images.paths), part.images.carried)
                )
        size = sum(path.stat().st_size for path in (Path(name) / RESULTS).iterdir())
        print(f"bytes of results for each image: {size / options.count:.0f}")
        run = Run(store, work, "", limit=FailureLimit(), stop=Stop(), as_json=True)
        with timed("continuing the job when all parts are finished"):
            run.run(images, lambda _job, _numbers, _observe: iter(()))


if __name__ == "__main__":
    main()
