"""Large images in sections, which several workers score, and which a worker merges (service/scoring/sections.py).

    sections/IMAGE/0000-KEY.npz     the rows and the sums of a section, until its image is merged

The file of a section stays in the place of results if the worker or the job ends: the section is not scored again. KEY
depends on the image's file and on the version of this package. After a change of either, no file has the new key.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from fullconv import __version__
from fullconv.decode import answer_of, scored_pixels
from fullconv.encode import score_request
from fullconv.images import source_of
from fullconv.options import Options
from fullconv.protos import scoring_pb2
from fullconv.stream import ScoreStream
from service.batch.budget import Budget
from service.batch.reading import ReadImage
from service.batch.section_file import section_bytes, section_of
from service.batch.stop import Stop
from service.batch.stores import Store
from service.batch.work import Work
from service.local import Execute, LocalStream, LocalTransport
from service.scoring.execution import Execution
from service.scoring.grid import GridRows
from service.scoring.outcome import Timing
from service.scoring.planned import PlannedImage
from service.scoring.sections import MergedSections, SectionScores, sections_of, why_whole

SECTIONS = "sections"


@dataclass(frozen=True)
class Division:
    """Whether an image is divided."""

    sections: int = 1
    """Number of sections; 1 if the image is scored as a whole."""
    why_whole: str = ""
    """Why a large image is scored as a whole; empty if it is divided, or not large."""


@dataclass(frozen=True)
class SectionScorer:
    """Scores sections of large images, and merges them; may be used by several threads."""

    transport: LocalTransport
    work: Work
    store: Store
    budget: Budget
    stop: Stop

    def division(self, read: ReadImage, options: Options) -> Division:
        """Return whether a large image is divided, by its plan; raises ScoringError."""
        with self._stream(read, options) as stream:
            return Division(len(sections_of(stream.planned_image)), why_whole(stream.planned_image))

    def score(self, read: ReadImage, options: Options, grid: str, number: int) -> Timing:
        """Score a section, and write its file unless it exists; `grid` is the place of the image's grid.

        Returns the time by stage. Raises ScoringError, OutputError and StoppedError.
        """

        def execute(planned: PlannedImage, *arguments: Any, **named: Any) -> Execution:
            return Execution(planned, *arguments, **named, bands=sections_of(planned)[number])

        with self._stream(read, options, execute) as stream:
            image, execution = stream.planned_image, stream.execution
            assert isinstance(execution, Execution)  # noqa: S101 (which `execute` has returned)
            files = _files_of(read, image, grid)
            if files.name(number) in self.store.names(files.folder):
                return Timing()
            with self.budget.claim(read.held_bytes + image.bytes + files.grid_bytes(number), self.stop.check):
                section = SectionScores.of(self._rows(stream), execution)
                self.store.write(f"{files.folder}/{files.name(number)}", section_bytes(section))
            return execution.timing

    @contextmanager
    def merged(self, read: ReadImage, options: Options, grid: str) -> Iterator[ScoreStream]:
        """Yield the stream of an image whose sections are scored, as if it were scored as a whole.

        A section without a file is scored. Raises ScoringError, OutputError and StoppedError.
        """

        def execute(planned: PlannedImage, *_: object, **__: object) -> MergedSections:
            return MergedSections(planned, self._sections(read, options, grid, _files_of(read, planned, grid)))

        pixels = scored_pixels(source_of(read.image), self._request(options).options)
        with self._stream(read, options, execute) as stream:
            yield ScoreStream(stream, partial(answer_of, pixels=pixels))

    def remove(self, grid: str) -> None:
        """Remove the files of an image's sections; raises OutputError."""
        self.store.remove_folder(folder_of(grid))

    def _sections(self, read: ReadImage, options: Options, grid: str, files: "_Files") -> Iterator[SectionScores]:
        """Yield the sections of an image, from top to bottom. One at a time is in memory."""
        known = self.store.names(files.folder)
        for number in range(len(files.bands)):
            if files.name(number) not in known:
                self.score(read, options, grid, number)
            with self.budget.claim(files.grid_bytes(number), self.stop.check):
                data = self.store.read(f"{files.folder}/{files.name(number)}")
                assert data is not None  # noqa: S101 (the file exists)
                yield section_of(data)

    def _rows(self, stream: LocalStream) -> Iterator[GridRows]:
        """Yield the rows of a stream; raises StoppedError if the job stops at once."""
        for part in stream.rows():
            yield GridRows(*part)
            self.stop.check()

    def _request(self, options: Options) -> scoring_pb2.ScoreRequest:
        return score_request(self.work.model, self.work.version, options)

    @contextmanager
    def _stream(self, read: ReadImage, options: Options, execute: Execute = Execution) -> Iterator[LocalStream]:
        """Yield an image's stream, which is closed at the end of the block, or when the job stops at once."""
        self.stop.check()
        stream = self.transport.stream(
            self._request(options), source_of(read.image), None, lambda *_: self.stop.check(), execute=execute
        )
        with closing(stream), self.stop.closing(stream.close):
            yield stream


@dataclass(frozen=True)
class _Files:
    """The files of an image's sections."""

    planned: PlannedImage
    bands: tuple[slice, ...]
    """The bands of each section."""
    folder: str
    key: str

    def name(self, number: int) -> str:
        """Return the name of a section's file in the folder."""
        return f"{number:04d}-{self.key}.npz"

    def grid_bytes(self, number: int) -> int:
        """Return the bytes of a section's rows of the grid."""
        tiles, options = self.planned.plan.views[0].tile_plan, self.planned.options
        rows = sum(band.stop - band.first for band in tiles.bands[self.bands[number]])
        return rows * tiles.horizontal.cells * options.cell_bytes * options.requested.grid


def _files_of(read: ReadImage, planned: PlannedImage, grid: str) -> _Files:
    bands = sections_of(planned)
    known = (__version__, read.size, read.path.stat().st_mtime_ns, bands)
    return _Files(planned, bands, folder_of(grid), sha256(repr(known).encode()).hexdigest()[:16])


def folder_of(grid: str) -> str:
    """Return the folder of an image's sections; `grid` is the place of its grid."""
    return f"{SECTIONS}/{sha256(grid.encode()).hexdigest()[:16]}"
