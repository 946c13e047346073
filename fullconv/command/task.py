"""The work of `fullconv-score`: scores the images, prints the answers and writes the files."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fullconv.answer import Answer
from fullconv.base import BaseScorer
from fullconv.command.console import print_error, printing
from fullconv.command.forecast import Speed
from fullconv.command.image_table import ImageTable, image_table
from fullconv.command.map_region import MapRegion
from fullconv.command.outputs import Outputs, mask_path
from fullconv.command.progress import ShowProgress, progress
from fullconv.command.sending import check_size, fits_message, goes_in_parts
from fullconv.command.writing import OutputWriter
from fullconv.common.files import OutputError
from fullconv.common.text import encodable
from fullconv.description import ModelDescription
from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
from fullconv.grid import GridRows, RowSink
from fullconv.objects.files import object_files
from fullconv.objects.finder import ObjectFinder
from fullconv.objects.rule import object_rule
from fullconv.options import Options
from fullconv.scorer import Scorer

Result = Answer | ScoringError | OutputError


@dataclass(frozen=True)
class ScoreTask:
    """How images are scored, and where their grids, heatmaps and objects are written."""

    scorer: BaseScorer
    model: str
    version: str
    options: Options
    """The options of every image, without the mask."""
    mask: str | None = None
    """A file's name, which may contain STEM, or "otsu"."""
    map_region: MapRegion | None = None
    """The region of a map in which windows are scored."""
    outputs: Outputs = field(default_factory=Outputs)
    """The files to write."""
    plan_only: bool = False
    check: Callable[[], None] = lambda: None
    """Called repeatedly; ends the process if a signal has requested it."""
    _models: dict[str, ModelDescription] = field(init=False, default_factory=dict)
    """Descriptions of the model, by its version."""

    @property
    def _is_remote(self) -> bool:
        """Whether a server scores the images. The class of clients is not loaded for scoring in this process."""
        return not isinstance(self.scorer, Scorer)

    @cached_property
    def _writer(self) -> OutputWriter:
        return OutputWriter(self.outputs, self.options, self.version, self._model)

    @cached_property
    def _speed(self) -> Speed:
        return Speed(self.scorer)

    def run(self, images: list[Path], *, quiet: bool) -> list[dict[str, Any]]:
        """Score images, and return their JSON documents in the order of the images.

        The document of an image that cannot be scored has its error. Unless `quiet`, a table is printed for each image
        when it is done. Raises RequestError, OutputError if the table of images cannot be written, and for a single
        image UnavailableError.
        """
        documents: dict[int, dict[str, Any]] = {}
        with self._image_table() as table, progress(len(images)) as shown:
            for position, result in self._results(images, shown.show):
                if isinstance(result, RequestError) or (isinstance(result, UnavailableError) and len(images) == 1):
                    raise result
                image = images[position]
                documents[position] = document = self._document(image, result)
                if table is not None:
                    table.add(position, image, result)
                if not isinstance(result, Answer):
                    print_error(self._located(image, result, alone=len(images) == 1))
                elif not quiet:
                    self._print(image, result, document)
                shown.finish_image()
        return [documents[position] for position in sorted(documents)]

    def _image_table(self) -> AbstractContextManager[ImageTable | None]:
        """Open the table of images, if there is one; a plan only checks its folder. Raises OutputError."""
        outputs = self.outputs
        if outputs.table is None:
            return nullcontext()
        path = outputs.path(outputs.table)
        if self.plan_only:
            outputs.check_folders(path)
            return nullcontext()
        outputs.make_folders(path)
        names = [str(name) for name in self.options.get("classes", ())]
        return image_table(path, self._describe(), names, self.options.get("average", "scores"))

    def _document(self, image: Path, result: Result) -> dict[str, Any]:
        """Return an image's document; that of an image that was found states its path too."""
        name = encodable(image.name)
        document = result.document() if isinstance(result, Answer) else failure_document(name, result)
        if self.plan_only and isinstance(result, Answer):
            document["plan"] |= self._forecast(image, result)
        if image in self.outputs.folders:
            document["image"]["path"] = encodable(str(image))
        return document

    def _forecast(self, image: Path, plan: Answer) -> dict[str, Any]:
        """Return the predicted seconds for an image, and the bytes of its files, as `--plan --json` prints them."""
        sizes = self._writer.sizes(image, plan)
        seconds = None if self._is_remote else self._speed.predicted_seconds(plan)
        return {
            "predicted_seconds": seconds,
            "outputs": [{"path": encodable(path), "bytes": size} for path, size in sizes.items()],
        }

    def _located(self, image: Path, error: Exception, *, alone: bool) -> str:
        """Return a message that names its image, unless the image is `alone`.

        An image that was found is named by its path, since names may occur in many folders.
        """
        message, prefix = str(error), f"{encodable(image.name)}: "
        if message.startswith(str(image)):
            return message
        if image in self.outputs.folders:
            return f"{image}: {message.removeprefix(prefix)}"
        is_named = alone or not isinstance(error, ImageError) or message.startswith(prefix)
        return message if is_named else f"{image}: {message}"

    def _print(self, image: Path, answer: Answer, document: dict[str, Any]) -> None:
        """Print an answer, or a plan, as a table; an image that was found is named by its path."""
        from fullconv.command.table import answer_table, plan_table  # noqa: PLC0415 (only tables need them)
        from fullconv.common.console import result_console  # noqa: PLC0415

        if image in self.outputs.folders:
            named = replace(answer.image, name=encodable(str(image)))
            answer = replace(answer, header=replace(answer.header, image=named))
        table = plan_table(answer, document["plan"]) if self.plan_only else answer_table(answer)
        with printing():
            result_console().print(table, "")

    def _results(self, images: list[Path], show: ShowProgress) -> Iterator[tuple[int, Result]]:
        """Yield each image's answer or error: first of images that a server scores in one call, then of the others."""
        done: set[int] = set()
        alone = self.outputs.names or self.map_region or self.plan_only or len(images) == 1
        if self._is_remote and not alone:
            for number, result in self._score_together(images):
                done.add(number)
                yield number, result
        for number, image in enumerate(images):
            if number not in done:
                try:
                    yield number, self._score(image, show)
                except (ImageError, OutputError, UnavailableError) as error:
                    yield number, error

    def _score_together(self, images: list[Path]) -> Iterator[tuple[int, Answer | ScoringError]]:
        """Score images that are not large in one call; if no server is left, each missing image gets the error."""
        numbers = [number for number, image in enumerate(images) if fits_message(image, self.options, self._describe)]
        items = ((str(number), images[number], self._mask_of(images[number])) for number in numbers)
        missing = dict.fromkeys(numbers)
        try:
            for name, result in self.scorer.score_many(items, model=self.model, version=self.version, **self.options):
                self.check()
                del missing[int(name)]
                yield int(name), result
        except UnavailableError as error:
            yield from ((number, error) for number in missing)

    def _score(self, image: Path, show: ShowProgress) -> Answer:
        """Score one image and write its outputs; raises ScoringError or OutputError."""
        options = self._options_of(image)
        if self.plan_only:
            plan = self.scorer.plan(image, model=self.model, version=self.version, **options)
            self._writer.check(image, plan)
            return plan
        outputs = self.outputs
        outputs.make_folders(*outputs.paths_for(outputs.names, image))
        with object_files(outputs.paths_for(outputs.boxes, image)) as write:
            finder = self._finder(image) if outputs.boxes else None
            with self._scored(image, options, show) as (planned, parts, result):
                files = self._writer.sinks(image, planned, result, partial(self._report_drawing, image, show))
                answer = self._take(parts, result, [*files, *([finder.grid(planned.header)] if finder else ())])
            if finder is not None:
                self._find_at_further_scales(image, options, show, finder)
                write(finder.objects())
        return self._writer.chosen(answer)

    def _report_drawing(self, image: Path, show: ShowProgress, done: int, of: int) -> None:
        show(image.name, "drawing", done, of)
        self.check()

    def _take(
        self, parts: Iterable[GridRows], result: Callable[[], Answer], files: Iterable[AbstractContextManager[RowSink]]
    ) -> Answer:
        """Hand rows on to files, and return the answer after the last row."""
        with ExitStack() as stack:
            sinks = [stack.enter_context(file) for file in files]
            for rows in parts:
                for sink in sinks:
                    sink(rows)
                self.check()
            return result()

    def _finder(self, image: Path) -> ObjectFinder:
        """Return what finds the objects of an image; raises RequestError, or ImageError for a pipe at several scales.

        An answer has the grid of the first scale only, so that the image is read again for each further scale.
        """
        if len(self.options.get("scales", ())) > 1 and image.is_fifo():
            raise ImageError(f"{image}: expected a file, which can be read at every scale for --boxes; got a pipe")
        model = self._describe()
        return ObjectFinder(model, object_rule(model, self.outputs.object_options))

    def _find_at_further_scales(self, image: Path, options: Options, show: ShowProgress, finder: ObjectFinder) -> None:
        """Score the image at every scale but the first by itself, and let the finder take the grid."""
        for scale in self.options.get("scales", ())[1:]:
            alone: Options = {**options, "scales": [scale]}
            with self._scored(image, alone, show) as (planned, parts, result):
                self._take(parts, result, [finder.grid(planned.header)])

    @contextmanager
    def _scored(
        self, image: Path, options: Options, show: ShowProgress
    ) -> Iterator[tuple[Answer, Iterable[GridRows], Callable[[], Answer]]]:
        """Yield the planned answer, the rows, and a function that returns the whole answer after the last row."""

        def report(what: str, done: int, of: int) -> None:
            show(image.name, what, done, of)
            if what == "scoring":  # in this thread; a file is sent by another thread
                self.check()

        if self._goes_in_one_message(image, options):
            answer = self.scorer.score(image, model=self.model, version=self._scoring_version, **options)
            yield answer, answer.rows(), lambda: answer
            return
        with self.scorer.score_large(
            image, model=self.model, version=self._scoring_version, progress=report, **options
        ) as stream:
            if self._is_remote:
                check_size(image, stream.planned.image)
            yield stream.planned, stream.rows(), stream.result

    @property
    def _scoring_version(self) -> str:
        """The version to score with: for objects the described version, also if a new version appears meanwhile."""
        return self._describe().version if self.outputs.boxes else self.version

    def _goes_in_one_message(self, image: Path, options: Options) -> bool:
        if not self._is_remote:
            return False
        return not goes_in_parts(image, options, self._describe)

    def _describe(self) -> ModelDescription:
        """Return the model's description, which is requested once."""
        return self._model(self.version)

    def _model(self, version: str) -> ModelDescription:
        """Return the description of a version of the model, which is requested once."""
        if version not in self._models:
            model = self.scorer.model(self.model, version)
            self._models.update({version: model, model.version: model})
        return self._models[version]

    def _mask_of(self, image: Path) -> Options:
        """Return the option that names an image's own mask."""
        if self.mask is None:
            return {}
        return {"mask": "otsu" if self.mask == "otsu" else mask_path(self.mask, image)}

    def _options_of(self, image: Path) -> Options:
        """Return the options of one image: with its own mask, and what its files need."""
        options: Options = {**self.options, **self._mask_of(image), **self._writer.needed_options()}
        if self.map_region is not None:
            options["roi"] = self.map_region.pixels(image, self.options.get("page", 0))
        return options


def failure_document(name: str, error: Exception) -> dict[str, Any]:
    """Return the document that stands for an image that could not be scored."""
    return {"image": {"name": name}, "error": str(error)}
