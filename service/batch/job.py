"""A job: its options, its model and its images, which `job.json` in the results states, and its parts.

    job.json                        what the job is
    inputs/listing-*.parquet        the images; with --update a further file for the images that were added
    results/part-000000.parquet     the rows of a part
    timing/part-000000.parquet      the times of the same images
    grids/                          a file for each image, if grids are written
    sections/                       parts of large images, until these are finished

A part is finished when its file of results exists. Parts have PART_IMAGES images at the most, or PART_BYTES bytes, so
that a job that is killed scores little again. The division depends on the listing alone.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from fullconv import __version__
from fullconv.common.files import OutputError
from fullconv.common.text import counted, printable
from service.batch.changes import Comparison, JobError, Suspect, check_rows, suspects
from service.batch.item import Item
from service.batch.listing import BYTES, GRID, OWN, PATH, Listing, free_places
from service.batch.stores import Store

PART_IMAGES, PART_BYTES = 128, 512 << 20
JOB = "job.json"
RESULTS, TIMING, INPUTS = "results", "timing", "inputs"
FOLDER = "folder"
"""The entry of job.json with the folder to which the paths of images are relative."""
OWN_NAMES = {JOB, RESULTS, TIMING, INPUTS, "grids", "leases", "sections"}
"""What a job's results consist of."""


@dataclass(frozen=True)
class Part:
    """Images that are scored together and whose rows appear together."""

    number: int
    images: Listing

    @property
    def file(self) -> str:
        """The name of the part's file, in the folder of results and in that of times."""
        return part_file(self.number)

    def item(self, position: int) -> Item:
        """Return one of the images."""
        row = self.images.table.slice(position, 1)
        path, size, grid = (row[name][0].as_py() for name in (PATH, BYTES, GRID))
        return Item(path, self.images.raw.get(path, path), size, grid)


def part_file(number: int) -> str:
    """Return the name of the file of a part."""
    return f"part-{number:06d}.parquet"


@dataclass(frozen=True)
class Job:
    """The images of a job, and their division into parts."""

    images: Listing
    bounds: tuple[tuple[int, int], ...]
    """The first image of each part, and the one after its last."""

    def part(self, number: int) -> Part:
        """Return a part."""
        start, stop = self.bounds[number]
        table = self.images.table.slice(start, stop - start)
        raw = {path: self.images.raw[path] for path in table[PATH].to_pylist() if path in self.images.raw}
        return Part(number, Listing(table, raw))

    def count(self, number: int) -> int:
        """Return the number of images of a part."""
        start, stop = self.bounds[number]
        return stop - start


def read_finished(store: Store, number: int, columns: list[str] | None = None) -> pa.Table:
    """Return columns of the rows of a finished part, by default all; raises OutputError."""
    name = f"{RESULTS}/{part_file(number)}"
    try:
        return parquet.read_table(pa.BufferReader(store.read(name) or b""), columns=columns)
    except pa.ArrowException as error:
        raise OutputError(
            f"{name}: expected a part of the results, got a damaged file: {str(error).splitlines()[0]} Delete it, "
            "and the same command scores its images again"
        ) from None


def open_job(
    store: Store, terms: Mapping[str, Any], images: Listing, comparison: Comparison, *, update: bool = False
) -> Job:
    """Begin a job with these terms, options and a model, or continue it.

    Raises JobError if the place belongs to a job with other terms or images, or holds files of no job. With `update`
    images may have been added, which become further parts, or may be missing. Raises OutputError, and StoppedError.
    """
    terms = {**terms, FOLDER: comparison.folder}
    found = store.read(JOB)
    if found is None:
        if foreign := sorted(store.names("") - OWN_NAMES):
            raise JobError(f"OUT: expected a new or empty folder, or the results of this job, got {foreign[0]!r} there")
        if store.create(JOB, _document(terms, [_write_listing(store, images.table)])):
            return _job([images.table], images)
        found = store.read(JOB) or b""  # a run of another shard has begun the job at the same time
    document = _parsed(found)
    _check_terms(document, terms)
    tables = [_read_listing(store, entry) for entry in document[INPUTS]]
    recorded = pa.concat_tables(tables)
    added = _added(recorded, images, update=update)
    _check_rows(store, _job(tables, images), suspects(recorded, images, document[FOLDER], comparison), comparison)
    if added.num_rows:
        terms[FOLDER] = document[FOLDER]
        store.write(JOB, _document(terms, [*document[INPUTS], _write_listing(store, added)]))
        tables.append(added)
    return _job(tables, images)


def _check_rows(store: Store, job: Job, found: Mapping[int, Suspect], comparison: Comparison) -> None:
    """Raise JobError if the finished row of an image that may have changed does not hold."""
    names = store.names(RESULTS) if found else set()
    finished = {number for number in range(len(job.bounds)) if part_file(number) in names}
    check_rows(found, [start for start, _ in job.bounds], finished, partial(read_finished, store), comparison)


def _job(tables: list[pa.Table], images: Listing) -> Job:
    bounds: list[tuple[int, int]] = []
    for table in tables:
        first = bounds[-1][1] if bounds else 0
        bounds += ((first + start, first + stop) for start, stop in _divided(table[BYTES].to_pylist()))
    return Job(Listing(_with_sizes(pa.concat_tables(tables), images).combine_chunks(), images.raw), tuple(bounds))


def _with_sizes(recorded: pa.Table, images: Listing) -> pa.Table:
    """Return recorded images with the sizes that their files have now."""
    positions = pc.index_in(recorded[PATH], value_set=images.table[PATH].combine_chunks())
    sizes = pc.coalesce(images.table[BYTES].take(positions), recorded[BYTES])
    return recorded.set_column(recorded.schema.get_field_index(BYTES), OWN.field(BYTES), sizes)


def _divided(sizes: list[int | None]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the parts of one listing."""
    start = total = 0
    for position, size in enumerate(sizes):
        total += size or 0
        if position > start and (position - start == PART_IMAGES or total > PART_BYTES):
            yield start, position
            start, total = position, size or 0
    yield start, len(sizes)


def _document(terms: Mapping[str, Any], listings: list[dict[str, Any]]) -> bytes:
    return json.dumps({"fullconv": __version__, **terms, INPUTS: listings}, indent=2, ensure_ascii=False).encode()


def _write_listing(store: Store, table: pa.Table) -> dict[str, Any]:
    """Write a file of images; returns its entry in the job's document."""
    file = BytesIO()
    parquet.write_table(table, file, compression="zstd")
    digest = sha256(file.getvalue()).hexdigest()
    name = f"{INPUTS}/listing-{digest[:8]}.parquet"
    store.write(name, file.getvalue())
    return {"file": name, "images": table.num_rows, "sha256": digest}


def _read_listing(store: Store, entry: Mapping[str, Any]) -> pa.Table:
    data = store.read(str(entry["file"]))
    if data is None or sha256(data).hexdigest() != entry["sha256"]:
        raise JobError(f"OUT: expected {entry['file']} as job.json describes it, got another file or none")
    return parquet.read_table(pa.BufferReader(data))


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get(INPUTS), list) or FOLDER not in document:
        raise JobError(f"OUT: expected the results of a job, got a {JOB} that cannot be read")
    return document


def _check_terms(document: Mapping[str, Any], terms: Mapping[str, Any]) -> None:
    """Raise JobError, which names the first differences, unless a job has these terms."""
    recorded = {name: value for name, value in document.items() if name not in ("fullconv", FOLDER, INPUTS)}
    asked = {name: value for name, value in terms.items() if name != FOLDER}
    then, now = dict(_leaves(recorded)), dict(_leaves(json.loads(json.dumps(asked))))
    differences = [
        f"{name} was {json.dumps(then.get(name))} and is {json.dumps(now.get(name))}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise JobError(
            f"OUT: expected the options and the model of the job there: {'; '.join(differences[:3])}; use the same "
            "options, or another OUT"
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 (JSON)
    """Yield every value in a document that is no object, with its path."""
    if isinstance(value, dict):
        yield from chain.from_iterable(_leaves(inner, f"{name}.{key}".lstrip(".")) for key, inner in value.items())
    else:
        yield name, value


def _added(recorded: pa.Table, images: Listing, *, update: bool) -> pa.Table:
    """Return the images that the job does not have yet; raises JobError if images differ."""
    table = images.table
    if table.schema != recorded.schema:
        raise JobError(
            f"OUT: expected a list with the columns {_types(recorded)} as in the job there, got {_types(table)}"
        )
    is_known = pc.is_in(table[PATH], value_set=recorded[PATH].combine_chunks())
    added, known = table.filter(pc.invert(is_known)), table.filter(is_known)
    missing = recorded.num_rows - known.num_rows
    if (added.num_rows or missing) and not update:
        example = printable(str(added[PATH][0])) if added.num_rows else "none"
        raise JobError(
            f"OUT: expected the {counted(recorded.num_rows, 'image')} of the job there, got "
            f"{counted(added.num_rows, 'other')} (first: {example}), and {missing} missing; score the added images too "
            "with --update, or use another OUT"
        )
    _check_carried(recorded, known)
    return _renamed(added, recorded)


def _types(table: pa.Table) -> str:
    """Return the names and types of a list's columns."""
    return ", ".join(f"{field.name} ({field.type})" for field in table.schema if field.name not in OWN.names) or "path"


def _check_carried(recorded: pa.Table, known: pa.Table) -> None:
    """Raise JobError if an image that the job has carries other values."""
    then = recorded.take(pc.index_in(known[PATH], value_set=recorded[PATH].combine_chunks()))
    for name in (each for each in recorded.column_names if each not in OWN.names):
        if _bytes_of(then.select([name])) != _bytes_of(
            known.take(pa.array(range(known.num_rows), pa.int64())).select([name])
        ):
            raise JobError(
                f"OUT: expected the list of the job there, got other values in column {name!r}; use another OUT"
            )


def _bytes_of(table: pa.Table) -> bytes:
    """Return bytes that are equal for equal values, also for NaN and for times."""
    file = BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return file.getvalue()


def _renamed(added: pa.Table, recorded: pa.Table) -> pa.Table:
    """Return added images, with a hash in the places of grids that exclude those of the job."""
    places = [*free_places(added[GRID].to_pylist(), added[PATH].to_pylist(), recorded[GRID].to_pylist())]
    return added.set_column(added.schema.get_field_index(GRID), OWN.field(GRID), pa.array(places, pa.string()))
