"""What the files of an image need from its answer, and the sinks that take the rows of its grid."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fullconv.answer import Answer
from fullconv.command.console import print_error
from fullconv.command.outputs import Outputs
from fullconv.common.names import DEFAULT_TOP, GridAsName, GridName
from fullconv.common.probabilities import RAW, SOFTMAX
from fullconv.description import ModelDescription
from fullconv.grid import RowSink
from fullconv.grids import cell_values, file_bytes, grid_file, needs_model, uses_softmax, values_file
from fullconv.grids.cells import CellValues
from fullconv.grids.corners import corners_of
from fullconv.options import Options
from fullconv.shown import ShownClasses, class_indices, shown_classes

REDUCED: Mapping[GridAsName, GridName] = {"float16": "float16", "top": "top", "argmax": "argmax"}
"""The reduced grid that is enough for each --grid-as. Other files need all scores."""


@dataclass(frozen=True)
class OutputWriter:
    """Writes the files of grids, heatmaps and pages."""

    outputs: Outputs
    options: Options
    """The options of every image."""
    version: str
    """The version of the model that is requested; empty: the highest."""
    model: Callable[[str], ModelDescription]
    """Returns the description of a version of the model."""
    _shown: dict[str, ShownClasses] = field(init=False, default_factory=dict)
    """The classes that files show, by the model's version."""

    @property
    def needs_values(self) -> bool:
        """Whether a file needs more than the network's scores, and therefore the model's description."""
        outputs = self.outputs
        return bool(outputs.heatmaps or outputs.boxes or outputs.pages) or any(
            needs_model(name, outputs.files) for name in outputs.grids
        )

    def needed_options(self) -> Options:
        """Return options of the request that follow from the files: all classes, or a smaller grid."""
        if self.needs_values and self._needs_all():
            return {"classes": ()}
        grid_as = self._reduced_grid()
        return {} if grid_as is None else {"grid": grid_as, "grid_top": self.outputs.files.get("grid_top", DEFAULT_TOP)}

    def chosen(self, answer: Answer) -> Answer:
        """Return an answer with the classes that the user chose, which may be fewer than the files need."""
        return answer.with_classes(self._shown_by(answer.version).chosen) if self.needs_values else answer

    def sinks(
        self, image: Path, planned: Answer, result: Callable[[], Answer], drawing: Callable[[int, int], None]
    ) -> Iterator[AbstractContextManager[RowSink]]:
        """Yield the files that take the rows of an image's grid; pages also take the answer after the last row.

        `drawing` is called while a heatmap is written, with the amount that is done and the total amount.
        """
        outputs = self.outputs

        def document() -> dict[str, Any]:
            return self.chosen(result()).document()

        for path in outputs.paths_for((*outputs.grids, *outputs.pages), image):
            yield values_file(path, self._cell_values(planned), document)
        if outputs.heatmaps and planned.pixels:
            from fullconv.heatmap import heatmap_files  # noqa: PLC0415 (matplotlib takes a second to load)

            paths = outputs.paths_for(outputs.heatmaps, image)
            shown = self._shown_by(planned.version)
            report = partial(_report_unread, image)
            yield heatmap_files(
                paths, planned.header, shown, planned.pixels, outputs.style, drawing, report_unread=report
            )

    def check(self, image: Path, planned: Answer) -> None:
        """Raise OutputError or ImageError if the files of an image cannot be written, as `sinks` would."""
        outputs = self.outputs
        outputs.check_folders(*outputs.paths_for(outputs.names, image))
        if any(name.lower().endswith(".geojson") for name in outputs.grids):
            corners_of(self._cell_values(planned))

    def sizes(self, image: Path, planned: Answer) -> dict[str, int | None]:
        """Return the bytes of the uncompressed values or pixels in each file of an image; None: not known yet."""
        outputs = self.outputs
        sizes: dict[str, int | None] = {}
        for path in outputs.paths_for(outputs.grids, image):
            sizes[str(path)] = file_bytes(path, self._cell_values(planned))
        if outputs.heatmaps and planned.pixels:
            from fullconv.heatmap import picture_bytes  # noqa: PLC0415 (matplotlib takes a second to load)

            shown = self._shown_by(planned.version)
            for path in outputs.paths_for(outputs.heatmaps, image):
                sizes[str(path)] = picture_bytes(path, planned.image, shown, planned.pixels, outputs.style)
        return sizes | dict.fromkeys(map(str, outputs.paths_for((*outputs.boxes, *outputs.pages), image)))

    def grid(self, path: Path, planned: Answer) -> AbstractContextManager[RowSink]:
        """Write one grid to a path, whatever the names of the outputs; the context yields what takes its rows."""
        return grid_file(path, self._cell_values(planned))

    def _reduced_grid(self) -> GridName | None:
        """Return the form of a smaller grid that has what every file holds; None if a file needs all scores."""
        outputs = self.outputs
        reduced = REDUCED.get(outputs.files.get("grid_as") or "scores")
        if reduced is None or outputs.heatmaps or outputs.boxes or outputs.pages or not outputs.grids:
            return None
        return None if self.needs_values and self._uses_softmax(self._shown_by(self.version)) else reduced

    def _uses_softmax(self, shown: ShownClasses) -> bool:
        """Return whether a file has probabilities that follow from the scores of all classes."""
        outputs, kind = self.outputs, shown.output.kind
        in_grids = any(uses_softmax(name, kind, outputs.files) for name in outputs.grids)
        return in_grids or (kind == SOFTMAX and bool(outputs.boxes or outputs.pages))

    def _needs_all(self) -> bool:
        """Return whether a file needs scores of classes that the answer does not have."""
        shown = self._shown_by(self.version)
        return not shown.has_all and (self._uses_softmax(shown) or (bool(self.outputs.heatmaps) and shown.needs_all))

    def _shown_by(self, version: str) -> ShownClasses:
        """Return the classes that files show for a version of the model."""
        if version not in self._shown:
            model = self.model(version)
            names = [str(name) for name in self.options.get("classes", ())]
            chosen = class_indices(model, names, "classes")
            average_of = self.options.get("average", "scores")
            shown = shown_classes(model, chosen, average_of, self.outputs.heatmap_class)
            self._shown.update({version: shown, model.version: shown})
        return self._shown[version]

    def _cell_values(self, planned: Answer) -> CellValues:
        """Return what the files of a grid hold: only the requested classes, even if the answer has more."""
        if not self.needs_values:
            return CellValues(planned.header, RAW, planned.header.indices, self.outputs.files)
        chosen = self._shown_by(planned.version).chosen
        return cell_values(planned.header, self.model(planned.version), chosen, self.outputs.files, planned.pixels)


def _report_unread(image: Path, reason: str) -> None:
    """Print that the heatmap of an image has no background, and the reason, which begins with the image's name."""
    print_error(f"{image}: heatmap: {reason.removeprefix(f'{image.name}: ')}; the background is white")
