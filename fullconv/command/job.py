"""Images in, answers and files out: what `fullconv-score` does once its options are read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from fullconv.answer import Answer, Scores, failure, plan_document
from fullconv.command.console import complain
from fullconv.command.progress import Progress, progress
from fullconv.command.table import plan_table, table
from fullconv.common.files import OutputError
from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
from fullconv.grid_file import Rows, grid_file
from fullconv.images import readable
from fullconv.options import set_mask
from fullconv.protos import scoring_pb2
from fullconv.remote.client import Client
from fullconv.remote.large import Watch
from fullconv.subject import Subject, subject_of

STEM = "{stem}"
"""Stands for an image's name without its suffix in the names of outputs, and of masks."""


class Run(Protocol):
    """One image being scored: `response` is known but for averages and times; take `bands`, then `answer`."""

    response: scoring_pb2.ScoreResponse

    def bands(self) -> Iterator[tuple[int, Scores]]:
        """(first row, scores (rows, cols, classes)), top to bottom."""

    def answer(self) -> scoring_pb2.ScoreResponse:
        """The averages, after the last band."""

    def close(self) -> None:
        """Stop, wherever it is."""


class Scorer(Protocol):
    """What scores: a server's client, or this process."""

    def model(self, name: str, version: str = "") -> scoring_pb2.GetModelResponse:
        """Describe a model."""

    def start(self, image: Path, request: scoring_pb2.ScoreRequest, watch: Watch) -> Run:
        """Begin to score an image file; `watch` is told how far it is."""


@dataclass(frozen=True)
class Job:
    """How to score images, and where their grids and heatmaps go; `check` ends the process if that was asked for."""

    scorer: Scorer
    request: scoring_pb2.ScoreRequest
    grid: str | None
    heatmap: str | None
    mask: str | None
    check: Callable[[], None]
    heatmap_class: str | None = None
    """The class that heatmaps show; None: as `subject_of` chooses."""
    _subjects: dict[str, Subject] = field(init=False, default_factory=dict)
    """What heatmaps show, by the model's version."""

    def run(self, images: list[Path], *, quiet: bool) -> list[dict[str, Any]]:
        """Score images; one that cannot be scored becomes an entry with its error.

        Returns the JSON documents in the order of the images; unless `quiet`, prints a table for each when it is done.
        """
        documents: dict[int, dict[str, Any]] = {}
        console, planning = Console(highlight=False), self.request.options.plan_only
        with progress() as advance:
            for position, answer in self._answers(images, advance):
                if isinstance(answer, scoring_pb2.ScoreResponse):
                    documents[position] = plan_document(answer) if planning else Answer(answer).document()
                    if not quiet:
                        console.print(plan_table(answer) if planning else table(Answer(answer)), "")
                    continue
                if isinstance(answer, RequestError) or (isinstance(answer, UnavailableError) and len(images) == 1):
                    raise answer
                complain(answer)
                documents[position] = failure(readable(images[position].name), answer)
        return [documents[position] for position in sorted(documents)]

    def _answers(
        self, images: list[Path], advance: Progress
    ) -> Iterator[tuple[int, scoring_pb2.ScoreResponse | ScoringError | OutputError]]:
        """Every image's answer or error, as they come: those that a server takes in one call, then one by one."""
        done: set[int] = set()
        alone = self.grid or self.heatmap or self.request.options.plan_only or len(images) == 1
        if isinstance(self.scorer, Client) and not alone:
            for number, answer in self._together(self.scorer, images, advance):
                done.add(number)
                yield number, answer
        for number, image in enumerate(images):
            if number not in done:
                try:
                    yield number, self._score(image, advance)
                except (ImageError, OutputError, UnavailableError) as error:
                    yield number, error

    def _together(
        self, client: Client, images: list[Path], advance: Progress
    ) -> Iterator[tuple[int, scoring_pb2.ScoreResponse | ScoringError]]:
        """In one call what is not large; where the server goes away, its error for each image without an answer."""
        numbers = [number for number, image in enumerate(images) if client.fits(image, self.request)]
        missing = dict.fromkeys(numbers)
        try:
            for position, answer in client.many([images[number] for number in numbers], self._asked):
                self.check()
                del missing[numbers[position]]
                advance(f"{len(numbers)} images", "scoring", len(numbers) - len(missing), len(numbers))
                yield numbers[position], answer
        except UnavailableError as error:
            yield from ((number, error) for number in missing)

    def _score(self, image: Path, advance: Progress) -> scoring_pb2.ScoreResponse:
        name, options = image.name, self.request.options

        def watch(what: str, done: int, of: int) -> None:
            advance(name, what, done, of)
            if what == "scoring":  # in this thread; files are sent by another one
                self.check()

        with closing(self.scorer.start(image, self._asked(image), watch)) as run, ExitStack() as stack:
            if options.plan_only:
                return run.response
            subject = self._subject(run.response.version) if self.heatmap else None
            sinks = [stack.enter_context(sink) for sink in self._sinks(image, run.response, subject)]
            for first, scores in run.bands():
                for sink in sinks:
                    sink(first, scores)
                self.check()
            answer = run.answer()
            return answer if subject is None else subject.narrowed(answer)

    def _asked(self, image: Path) -> scoring_pb2.ScoreRequest:
        """The request for one image: with its own mask, and with all classes if its heatmap needs them."""
        widened = self.heatmap is not None and self._subject(self.request.version).needs_all
        if self.mask is None and not widened:
            return self.request
        request = scoring_pb2.ScoreRequest()
        request.CopyFrom(self.request)
        if widened:
            request.options.ClearField("classes")
        if self.mask is not None:
            set_mask(request.options, _named(self.mask, image) if self.mask != "otsu" else "otsu")
        return request

    def _subject(self, version: str) -> Subject:
        """What heatmaps show of a version of the model."""
        if version not in self._subjects:
            model = self.scorer.model(self.request.model, version)
            self._subjects[version] = subject_of(model, self.request, self.heatmap_class)
            self._subjects[model.version] = self._subjects[version]
        return self._subjects[version]

    def _sinks(
        self, image: Path, response: scoring_pb2.ScoreResponse, subject: Subject | None
    ) -> Iterator[AbstractContextManager[Rows]]:
        """What the image's rows go into."""
        if self.grid:
            yield _grid(_named(self.grid, image), response, subject)
        if self.heatmap and subject:
            from fullconv.heatmap import heatmap_file  # noqa: PLC0415 (matplotlib takes a second to load)

            yield heatmap_file(_named(self.heatmap, image), image, response, subject, self.request.options)

    def outputs(self, images: list[Path]) -> list[Path]:
        """Every file that is going to be written."""
        return [_named(name, image) for name in (self.grid, self.heatmap) if name is not None for image in images]


@contextmanager
def _grid(path: Path, response: scoring_pb2.ScoreResponse, subject: Subject | None) -> Iterator[Rows]:
    """A grid's file, of the classes that were asked for where the response has more."""
    if subject is None:
        with grid_file(path, response) as rows:
            yield rows
    else:
        with grid_file(path, subject.narrowed(response)) as rows:
            yield lambda first, scores: rows(first, subject.picked(response, scores))


def _named(name: str, image: Path) -> Path:
    return Path(name.replace(STEM, image.stem))
