"""The answer for one image: its averages and its grid, and the heatmap, the files and the arrays made from them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from fullconv.averages import AreaAverage, Entry, highest
from fullconv.common.files import GRID_SUFFIXES, PAGE_SUFFIXES, PICTURE_SUFFIXES, TIFF_SUFFIXES
from fullconv.common.text import apart, printable
from fullconv.description import ModelDescription, Parity, PrecisionDifference
from fullconv.errors import RequestError
from fullconv.file_options import FileOptions, check_file_options, check_no_class
from fullconv.grid import GridHeader, GridRows, ImageInfo, Scores
from fullconv.images import ScoredPixels
from fullconv.notebook import html_of
from fullconv.plan import Plan
from fullconv.style import DEFAULT_STYLE, HeatmapStyle
from fullconv.timing import Timing

if TYPE_CHECKING:
    import PIL.Image
    import xarray

    from fullconv.heatmap import Heatmap
    from fullconv.objects.found import DetectedObjects
    from fullconv.objects.rule import ObjectOptions

REPR_CLASSES, REPR_WARNINGS, REPR_LETTERS = 5, 3, 60
"""Largest numbers of classes and warnings in an answer's `repr`, and of characters of each name in it."""


@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """The scores of one image. Pairs are vertical before horizontal; lengths are in pixels of the image.

    An answer to `plan` has the plan and the positions of the windows, but neither averages nor a grid.
    """

    header: GridHeader
    """The image, the windows and the classes."""
    model: str
    """Name of the model."""
    version: str
    """Version of the model."""
    mode: str
    """"dense", "shared" or "crops"."""
    mode_reason: str
    """The reason for the choice of the mode."""
    average_of: str
    """What was averaged: "scores" or "probabilities"."""
    average: NDArray[np.float64]
    """The mean over all windows, (classes,)."""
    top: tuple[Entry, ...]
    """The classes with the highest averages, the highest first."""
    parity: Parity
    """How far dense scores of this model agree with those of crops, at this stride. For this answer: `own_scores`."""
    warnings: tuple[str, ...]
    """Facts to know before the scores are used."""
    timing: Timing
    """The time of the request, by stage."""
    plan: Plan
    """The tiles that ran, and their cost."""
    scored: int
    """Number of windows that were scored: all windows that no mask excludes."""
    grid: Scores | None = None
    """Scores of every window, (rows, cols, classes), NaN for windows that were not scored; None if no grid was
    requested. In a grid of the highest scores, the last axis has the requested number of scores, the highest first."""
    winners: NDArray[np.uint32] | None = None
    """For a grid of the highest scores: their positions in `labels`, (rows, cols, depth); otherwise None."""
    further: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Values of the model's further outputs for every window by the output's name, each (rows, cols, values), NaN for
    windows that were not scored. They are those of the image at the first scale, without flip. Empty without a grid."""
    areas: tuple[AreaAverage, ...] = ()
    """Averages over the windows in each named area of a mask of areas."""
    provider: str = ""
    """The runtime that computed the scores: "cpu", "openvino", "cuda" or "tensorrt"; empty: an older server."""
    precision: str = ""
    """The number format of the computation if it is "bf16" or "fp16", or else the precision of the model: "fp32",
    "fp16" or "int8"."""
    precision_difference: PrecisionDifference | None = None
    """Difference of the scores from fp32 on the CPU, as it was measured when the server chose its runtime. None: they
    were computed in fp32 on the CPU, or an older server has answered."""
    own_scores: bool = False
    """Whether the scores are those that the classifier gives each window by itself, up to rounding in fp32. Servers of
    earlier releases never say so."""
    pixels: ScoredPixels | None = None
    """The image, to draw a heatmap over; None if no grid was requested."""
    describe: Callable[[], ModelDescription] | None = field(default=None, repr=False)
    """Returns the model's description; None if this answer has no connection to request it."""

    @property
    def image(self) -> ImageInfo:
        """The image's name and size."""
        return self.header.image

    @property
    def labels(self) -> list[str]:
        """Labels of the classes, in the order of `average` and of the grid's last axis."""
        return list(self.header.labels)

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of the classes in the network's output, in the same order."""
        return self.header.indices

    @property
    def x(self) -> NDArray[np.int64]:
        """Left edges of the windows, (cols,)."""
        return self.header.horizontal.starts

    @property
    def y(self) -> NDArray[np.int64]:
        """Top edges of the windows, (rows,)."""
        return self.header.vertical.starts

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the windows."""
        return self.header.window

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels between neighbouring windows, vertical and horizontal; rounded if the image was scaled."""
        return self.header.stride

    @property
    def left_out(self) -> tuple[int, int]:
        """Rows and columns of pixels, at the bottom and right, that belong to no window."""
        return self.header.left_out

    @property
    def boxes(self) -> NDArray[np.int64]:
        """x, y, width and height of every window, (rows, cols, 4)."""
        vertical, horizontal = self.header.vertical, self.header.horizontal
        boxes = np.empty((vertical.count, horizontal.count, 4), np.int64)
        boxes[..., 0], boxes[..., 2] = horizontal.starts, horizontal.lengths
        boxes[..., 1], boxes[..., 3] = vertical.starts[:, None], vertical.lengths[:, None]
        return boxes

    def rows(self) -> list[GridRows]:
        """Return all rows of the grid in one part, as `ScoreStream.rows` yields them; no part without a grid."""
        if self.grid is None:
            return []
        further = np.concatenate([*self.further.values()], axis=-1) if self.further else None
        return [GridRows(0, self.grid, self.winners, further)]

    def document(self) -> dict[str, Any]:
        """Return the document that `--json` prints, or for an answer to `plan` the document of `--plan --json`."""
        known = {
            "image": self.image.document(),
            "model": self.model,
            "version": self.version,
            "mode": self.mode,
            "mode_reason": self.mode_reason,
            "provider": self.provider,
            "precision": self.precision,
            "own_scores": self.own_scores,
            "grid": {
                "rows": len(self.y),
                "cols": len(self.x),
                "stride": list(self.stride),
                "window": list(self.window),
                "origin": [int(self.y[0]), int(self.x[0])],
                "left_out": list(self.left_out),
                "scored": self.scored,
            },
        }
        remarks = {
            "parity": {
                "exact": self.parity.exact,
                "max_abs_diff": self.parity.max_abs_diff,
                "top_class_agreement": self.parity.top_class_agreement,
            }
            | ({"difference_from_fp32": asdict(difference)} if (difference := self.precision_difference) else {}),
            "warnings": list(self.warnings),
        }
        if not self.average.size:
            return known | remarks | {"plan": self.plan.document()}
        top = [entry.document() for entry in self.top]
        areas = {"areas": [area.document() for area in self.areas]} if self.areas else {}
        times = {name: getattr(self.timing, f"{name}_ms") for name in ("decode", "queue", "compute", "total")}
        return {
            **known,
            "average": {"of": self.average_of, "top": top},
            **areas,
            **remarks,
            "timing_ms": {name: round(time, 3) for name, time in times.items()},
        }

    def with_classes(self, indices: tuple[int, ...]) -> "Answer":
        """Return the same answer with these classes only, in this order.

        If the answer has other classes too, the result has no grid.
        """
        if indices == self.classes:
            return self
        columns = self.header.columns(indices)
        labels = tuple(self.header.labels[column] for column in columns)
        average = self.average[columns] if self.average.size else self.average
        areas = [(area, area.average[columns] if area.average.size else area.average) for area in self.areas]
        return replace(
            self,
            header=replace(self.header, indices=indices, labels=labels, depth=len(indices)),
            average=average,
            top=tuple(highest(average, indices, labels, len(self.top))),
            areas=tuple(
                replace(area, average=mean, top=tuple(highest(mean, indices, labels, len(area.top))))
                for area, mean in areas
            ),
            grid=None,
            winners=None,
            further={},
        )

    def heatmap(
        self,
        class_: str | int | None = None,
        *,
        style: HeatmapStyle = DEFAULT_STYLE,
        model: ModelDescription | None = None,
    ) -> "PIL.Image.Image":
        """Draw the scores over the image, as `fullconv-score --heatmap` does.

        Needs a grid of all classes (grid=True). The image is read again; if that fails, a warning says so and the
        background is white.

        Args:
            class_: The class to show, given as a label or an index. Default: the only class of the answer or of the
                model; for a model with two classes, the second; for other models, the class with the highest score in
                each window.
            style: The parts of the picture and their colours. The scale is for `save` only.
            model: The description of the model. Default: the client that returned the answer requests the description,
                while the client is open. An answer of AsyncClient needs this argument.

        Raises:
            RequestError: There is no such grid or class, or no description of the model.
        """
        from PIL import Image  # noqa: PLC0415 (only pictures need it)

        drawing = self._drawing(class_, model, style)
        picture = Image.fromarray(drawing.picture)
        drawing.warn_unread()
        return picture

    def save(
        self,
        path: str | Path,
        class_: str | int | None = None,
        *,
        style: HeatmapStyle | None = None,
        model: ModelDescription | None = None,
        **options: Unpack[FileOptions],
    ) -> None:
        """Write the grid, the heatmap or a page for a browser, according to the suffix of the path.

        A grid is written as .npz, .zarr, .csv, .parquet, .geojson or .tif, a heatmap as .png, .jpg, .jpeg or .webp, or
        with a style also as .tif or .tiff, a page as .html. The files are those of `fullconv-score --grid`, `--heatmap`
        and `--html`. `class_`, `style` and `model` are the arguments of `heatmap`; `class_` is for heatmaps only.
        `options` say what a grid's file holds: see `fullconv.file_options.FileOptions`.

        Raises:
            RequestError: The suffix or an option is invalid, or the answer does not have what the file needs.
            ImageError: The scores are too large for float16, or the image has no coordinates on a map.
            OutputError: The file cannot be written.
        """
        path, suffix = Path(path), Path(path).suffix.lower()
        check_file_options([path.name], options)
        if suffix in PICTURE_SUFFIXES or (suffix in TIFF_SUFFIXES and style is not None):
            self._drawing(class_, model, style or DEFAULT_STYLE, tiff=suffix in TIFF_SUFFIXES).save(path)
        elif suffix in (*GRID_SUFFIXES, *PAGE_SUFFIXES):
            from fullconv.grids import checked_values, values_file  # noqa: PLC0415 (only here)

            check_no_class(path, class_)
            self._all_scores("save")
            describe = self._description if model is None else lambda: model
            values = checked_values(path.name, self.header, describe, options, self.pixels)
            with values_file(path, values, self.document) as write:
                for rows in self.rows():
                    write(rows)
        else:
            expected = " or ".join((*GRID_SUFFIXES, *PICTURE_SUFFIXES, *PAGE_SUFFIXES))
            raise RequestError(f"save: expected a file name that ends in {expected}, got {str(path)!r}")

    def objects(
        self, *others: "Answer", model: ModelDescription | None = None, **options: Unpack["ObjectOptions"]
    ) -> "DetectedObjects":
        """Return the objects: windows with a high probability of a class that no better window of it overlaps.

        They are the objects of `fullconv-score --boxes`; `fullconv.objects.rule.ObjectOptions` describes the options.
        Needs a grid of all classes. `others` are answers for the same image at other scales, whose windows compete
        too; `model` is that of `heatmap`. Raises RequestError if an option is invalid or scores are missing.
        """
        from fullconv.objects.finder import find_objects  # noqa: PLC0415 (only here)

        for answer in (self, *others):
            answer._all_scores("objects")  # noqa: SLF001 (of the same class)
        grids = [(answer.header, answer.rows()) for answer in (self, *others)]
        return find_objects(model or self._description(), grids, **options)

    def to_xarray(self) -> "xarray.DataArray":
        """Return the grid as an xarray.DataArray with the dimensions row, col and class.

        Its coordinates, by which it can be indexed, are x and y, the windows' left and top edges, and label.

        Raises:
            ImportError: xarray is not installed.
            RequestError: There is no grid of all classes.
        """
        try:
            import xarray  # noqa: PLC0415 (an extra)
        except ImportError:
            raise ImportError("to_xarray: expected the package xarray, got none; pip install xarray") from None
        array = xarray.DataArray(
            self._all_scores("to_xarray"),
            dims=("row", "col", "class"),
            coords={"x": ("col", self.x), "y": ("row", self.y), "label": ("class", self.labels)},
            name="scores",
            attrs={"model": self.model, "version": self.version, "window": self.window, "stride": self.stride},
        )
        return array.set_xindex("x").set_xindex("y").set_xindex("label")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the client, which cannot be pickled: a copy cannot request the model's description."""
        return {**self.__dict__, "describe": None}

    def __repr__(self) -> str:
        """Return the image and the model, the grid, the highest averages and the first warnings, one line each."""
        rows, cols, _ = self.header.shape
        averages = ", ".join(f"{_short(entry.label)} {entry.score:.4g}" for entry in self.top[:REPR_CLASSES])
        size, window = f"{self.image.width}×{self.image.height}", f"{self.window[0]}×{self.window[1]}"
        grid = "without their scores" if self.grid is None else "with their scores"
        lines = [
            f"<Answer {_short(self.image.name)} ({size}): {_short(self.model)}/{_short(self.version)}, {self.mode}",
            f"  {rows}×{cols} windows of {window} pixels, {apart(self.stride)}, {grid}",
            f"  averages of {self.average_of}: {averages}" if averages else "  planned, not scored",
            *(f"  warning: {_short(warning)}" for warning in self.warnings[:REPR_WARNINGS]),
        ]
        return "\n".join(lines) + ">"

    def _repr_html_(self) -> str:
        """Return the answer for a notebook: a table of the highest averages, and the heatmap if there is a grid."""
        first, *facts = repr(self)[1:-1].split("\n")
        picture = None
        if self.grid is not None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    picture = self.heatmap()
            except RequestError as error:
                facts.append(str(error))
        rows = [(entry.index, entry.label, entry.score) for entry in self.top]
        return html_of(first, facts, rows, picture)

    def _drawing(
        self, class_: str | int | None, model: ModelDescription | None, style: HeatmapStyle, *, tiff: bool = False
    ) -> "Heatmap":
        """Return the heatmap of the whole grid, not drawn yet."""
        from fullconv.heatmap import heatmap_for  # noqa: PLC0415 (matplotlib takes a second to load)
        from fullconv.shown import shown_classes  # noqa: PLC0415 (only here)

        scores = self._all_scores("heatmap")
        model = model or self._description()
        chosen = () if len(self.classes) == model.output.classes else self.classes
        shown = shown_classes(model, chosen, self.average_of, None if class_ is None else str(class_))
        if shown.needs_all:
            raise RequestError(
                f"heatmap: expected the scores of all {model.output.classes} classes, got the scores of "
                f"{len(self.classes)}; score without the option classes"
            )
        assert self.pixels is not None  # noqa: S101 (an answer with a grid has them)
        drawing = heatmap_for(self.header, shown, self.pixels, style, tiff=tiff)
        drawing.add_rows(0, scores.astype(np.float32, copy=False))
        return drawing

    def _description(self) -> ModelDescription:
        if self.describe is None:
            raise RequestError(
                "model: expected the model's description, which this answer cannot request by itself; pass it, for "
                "example heatmap(model=await client.model(name))"
            )
        return self.describe()

    def _all_scores(self, what: str) -> Scores:
        """Return the grid; raises RequestError unless it has the scores of all classes of the answer."""
        if self.grid is None or self.winners is not None:
            got = "none" if self.grid is None else "the highest scores of each window"
            raise RequestError(f"{what}: expected every window's scores, got {got}; score with grid=True")
        return self.grid


def _short(text: str) -> str:
    """Return a name without control characters, cut if it is long."""
    line = printable(text)
    return line if len(line) <= REPR_LETTERS else f"{line[: REPR_LETTERS - 1]}…"
