"""The work of `fullconv-score`: scores the images, prints the answers and writes the files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console, Group

from fullconv.answer import Answer
from fullconv.base import BaseScorer
from fullconv.command.console import print_error
from fullconv.command.image_table import ImageTable, image_table
from fullconv.command.progress import ShowProgress, progress
from fullconv.command.sending import check_size, fits_message, goes_in_parts
from fullconv.command.table import answer_table, plan_table
from fullconv.common.files import OutputError, make_folder_of
from fullconv.common.names import DEFAULT_TOP, GridAsName, GridName
from fullconv.common.probabilities import RAW, SOFTMAX
from fullconv.common.text import encodable
from fullconv.description import ModelDescription
from fullconv.errors import ImageError, RequestError, ScoringError, UnavailableError
from fullconv.file_options import FileOptions
from fullconv.grid import GridRows, RowSink
from fullconv.grids import cell_values, held_kind, needs_model, values_file
from fullconv.grids.cells import CellValues
from fullconv.objects.files import object_files
from fullconv.objects.finder import ObjectFinder
from fullconv.objects.rule import ObjectOptions, object_rule
from fullconv.options import Options
from fullconv.remote.client import Client
from fullconv.shown import ShownClasses, class_indices, shown_classes

STEM = "{stem}"
"""Stands for an image's name without its suffix in the names of outputs and masks."""

REDUCED: Mapping[GridAsName, GridName] = {"float16": "float16", "top": "top", "argmax": "argmax"}
"""For what files hold, the form of a grid that is smaller than all scores and has enough for them."""

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
    grids: tuple[str, ...] = ()
    """Names of the grid's files, which contain STEM if there are several images."""
    files: FileOptions = field(default_factory=FileOptions)
    """What the grid's files hold."""
    heatmaps: tuple[str, ...] = ()
    """Names of the heatmap's files, likewise with STEM."""
    heatmap_class: str | None = None
    """The class that heatmaps show. Default: the choice of `shown_classes`."""
    boxes: tuple[str, ...] = ()
    """Names of the objects' files, likewise with STEM."""
    object_options: ObjectOptions = field(default_factory=ObjectOptions)
    pages: tuple[str, ...] = ()
    """Names of the pages for a browser, likewise with STEM."""
    plan_only: bool = False
    check: Callable[[], None] = lambda: None
    """Called repeatedly; ends the process if a signal has requested it."""
    folders: Mapping[Path, Path] = field(default_factory=dict)
    """The folder of each image that was found in a folder or by a pattern (`Inputs.folders`)."""
    output_dir: Path | None = None
    """Where outputs go whose names have no folder, each in the folder of its image. None: the current directory."""
    table: str | None = None
    """Name of the file with a row for each image."""
    _shown: dict[str, ShownClasses] = field(init=False, default_factory=dict)
    """The classes that files show, by the model's version."""
    _models: dict[str, ModelDescription] = field(init=False, default_factory=dict)
    """Descriptions of the model, by its version."""

    def run(self, images: list[Path], *, quiet: bool) -> list[dict[str, Any]]:
        """Score images, and return their JSON documents in the order of the images.

        The document of an image that cannot be scored has its error. Unless `quiet`, a table is printed for each image
        when it is done. Raises RequestError, OutputError if the table of images cannot be written, and for a single
        image UnavailableError.
        """
        documents: dict[int, dict[str, Any]] = {}
        console = Console(highlight=False)
        with self._image_table() as table, progress(len(images)) as shown:
            for position, result in self._results(images, shown.show):
                if isinstance(result, RequestError) or (isinstance(result, UnavailableError) and len(images) == 1):
                    raise result
                image = images[position]
                documents[position] = self._document(image, result)
                if table is not None:
                    table.add(position, image, result)
                if not isinstance(result, Answer):
                    print_error(self._located(image, result))
                elif not quiet:
                    console.print(self._layout(image, result), "")
                shown.finish_image()
        return [documents[position] for position in sorted(documents)]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files of each image."""
        return (*self.grids, *self.heatmaps, *self.boxes, *self.pages)

    def outputs(self, images: list[Path]) -> list[tuple[Path, str]]:
        """Return every file that will be written, and the name of its image or option."""
        table = [(self.output_path(self.table), "--table")] if self.table is not None else []
        return table + [(self._output(name, image), str(image)) for name in self.names for image in images]

    def page_paths(self, images: list[Path]) -> list[Path]:
        """Return the pages that are written for images."""
        return [self._output(name, image) for name in self.pages for image in images]

    def _image_table(self) -> AbstractContextManager[ImageTable | None]:
        """Open the table of images, if there is one."""
        if self.table is None or self.plan_only:
            return nullcontext()
        path = self.output_path(self.table)
        self._make_folder_of(path)
        names = [str(name) for name in self.options.get("classes", ())]
        return image_table(path, self._describe(), names, self.options.get("average", "scores"))

    def _document(self, image: Path, result: Result) -> dict[str, Any]:
        """Return an image's document; that of an image that was found states its path too."""
        name = encodable(image.name)
        document = result.document() if isinstance(result, Answer) else failure_document(name, result)
        if image in self.folders:
            document["image"]["path"] = encodable(str(image))
        return document

    def _located(self, image: Path, error: Exception) -> str:
        """Return a message that names an image that was found by its path, since names may occur in many folders."""
        message = str(error)
        if image not in self.folders or message.startswith(str(image)):
            return message
        return f"{image}: {message.removeprefix(f'{image.name}: ')}"

    def _layout(self, image: Path, answer: Answer) -> Group:
        """Lay out an answer for the terminal; an image that was found is named by its path."""
        if image in self.folders:
            named = replace(answer.image, name=encodable(str(image)))
            answer = replace(answer, header=replace(answer.header, image=named))
        return plan_table(answer) if self.plan_only else answer_table(answer)

    def _results(self, images: list[Path], show: ShowProgress) -> Iterator[tuple[int, Result]]:
        """Yield each image's answer or error: first of images that a server scores in one call, then of the others."""
        done: set[int] = set()
        alone = self.names or self.plan_only or len(images) == 1
        if isinstance(self.scorer, Client) and not alone:
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
            return self.scorer.plan(image, model=self.model, version=self.version, **options)
        for name in self.names:
            self._make_folder_of(self._output(name, image))
        with object_files([self._output(name, image) for name in self.boxes]) as write:
            finder = self._finder(image) if self.boxes else None
            with self._scored(image, options, show) as (planned, parts, result):
                shown = self._shown_by(planned.version) if self._reads_values else None
                answer = self._take(parts, result, self._sinks(image, planned, shown, finder, result))
            if finder is not None:
                self._find_at_further_scales(image, options, show, finder)
                write(finder.objects())
        return answer if shown is None else answer.with_classes(shown.chosen)

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
        return ObjectFinder(model, object_rule(model, self.object_options))

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
            if isinstance(self.scorer, Client):
                check_size(image, stream.planned.image)
            yield stream.planned, stream.rows(), stream.result

    @property
    def _scoring_version(self) -> str:
        """The version to score with: for objects the described version, also if a new version appears meanwhile."""
        return self._describe().version if self.boxes else self.version

    def _goes_in_one_message(self, image: Path, options: Options) -> bool:
        if not isinstance(self.scorer, Client):
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
        return {"mask": "otsu" if self.mask == "otsu" else _for_image(self.mask, image)}

    def _options_of(self, image: Path) -> Options:
        """Return the options of one image: its own mask, and all classes if its files need their scores."""
        options: Options = {**self.options, **self._mask_of(image)}
        if self._reads_values and self._needs_all():
            options["classes"] = ()
        elif (grid_as := self._reduced_grid()) is not None:
            options["grid"], options["grid_top"] = grid_as, self.files.get("grid_top", DEFAULT_TOP)
        return options

    def _reduced_grid(self) -> GridName | None:
        """Return the form of a smaller grid that has what every file holds; None if a file needs all scores."""
        reduced = REDUCED.get(self.files.get("grid_as") or "scores")
        if reduced is None or self.heatmaps or self.boxes or self.pages or not self.grids:
            return None
        return None if self._reads_values and self._uses_softmax(self._shown_by(self.version)) else reduced

    def _uses_softmax(self, shown: ShownClasses) -> bool:
        """Return whether a file has probabilities that follow from the scores of all classes."""
        kinds = [held_kind(name, shown.output.kind, self.files) for name in self.grids]
        return SOFTMAX in [*kinds, *([shown.output.kind] if self.boxes or self.pages else [])]

    def _needs_all(self) -> bool:
        """Return whether a file needs scores of classes that the answer does not have."""
        shown = self._shown_by(self.version)
        return not shown.has_all and (self._uses_softmax(shown) or (bool(self.heatmaps) and shown.needs_all))

    def _shown_by(self, version: str) -> ShownClasses:
        """Return the classes that files show for a version of the model."""
        if version not in self._shown:
            model = self._model(version)
            names = [str(name) for name in self.options.get("classes", ())]
            chosen = class_indices(model, names, "classes")
            average_of = self.options.get("average", "scores")
            shown = shown_classes(model, chosen, average_of, self.heatmap_class)
            self._shown.update({version: shown, model.version: shown})
        return self._shown[version]

    @property
    def _reads_values(self) -> bool:
        """Whether a file needs more than the network's scores, and therefore the model's description."""
        return bool(self.heatmaps or self.boxes or self.pages) or any(
            needs_model(name, self.files) for name in self.grids
        )

    def _cell_values(self, planned: Answer, shown: ShownClasses | None) -> CellValues:
        """Return what the files of a grid hold: only the requested classes, even if the answer has more."""
        if shown is None:
            return CellValues(planned.header, RAW, planned.header.indices, self.files)
        model = self._model(planned.version)
        return cell_values(planned.header, model, shown.chosen, self.files, planned.pixels)

    def _sinks(
        self,
        image: Path,
        planned: Answer,
        shown: ShownClasses | None,
        finder: ObjectFinder | None,
        result: Callable[[], Answer],
    ) -> Iterator[AbstractContextManager[RowSink]]:
        """Yield the files, and the finder of objects, that take the rows of an image's grid.

        Pages also take the whole answer after the last row.
        """

        def document() -> dict[str, Any]:
            answer = result()
            return (answer if shown is None else answer.with_classes(shown.chosen)).document()

        for name in (*self.grids, *self.pages):
            yield values_file(self._output(name, image), self._cell_values(planned, shown), document)
        if self.heatmaps and shown and planned.pixels:
            from fullconv.heatmap import heatmap_files  # noqa: PLC0415 (matplotlib takes a second to load)

            paths = [self._output(name, image) for name in self.heatmaps]
            yield heatmap_files(paths, planned.header, shown, planned.pixels)
        if finder is not None:
            yield finder.grid(planned.header)

    def output_path(self, name: str, folder: Path = Path()) -> Path:
        """Return the path of an output: a name without a folder lies in the folder of outputs, if there is one."""
        return Path(name) if self.output_dir is None or "/" in name else self.output_dir / folder / name

    def _output(self, name: str, image: Path) -> Path:
        """Return the path of an image's output."""
        return self.output_path(name.replace(STEM, image.stem), self.folders.get(image, Path()))

    def _make_folder_of(self, output: Path) -> None:
        """Make the folder of an output, if it is in the folder of outputs; raises OutputError."""
        if self.output_dir is not None and output.is_relative_to(self.output_dir):
            make_folder_of(output)


def _for_image(name: str, image: Path) -> Path:
    """Return the path of an image's output or mask."""
    return Path(name.replace(STEM, image.stem))


def failure_document(name: str, error: Exception) -> dict[str, Any]:
    """Return the document that stands for an image that could not be scored."""
    return {"image": {"name": name}, "error": str(error)}
