"""The options of `fullconv-score` that say what is scored, how, and which files are written, with their help."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fullconv.command.parsing import band_numbers, class_names, region, scale_names
from fullconv.command.usage import usage_errors
from fullconv.common.files import TABLE_SUFFIXES
from fullconv.common.names import DEFAULT_TOP, AverageName, BorderName, CoordinatesName, GridAsName, ModeName
from fullconv.file_options import FileOptions, check_file_options
from fullconv.objects.rule import ObjectOptions
from fullconv.options import DEFAULTS, Options


@dataclass(frozen=True)
class ScoringLine:
    """What is scored, how, and which files are written, as Typer parses it."""

    model: Annotated[str, typer.Option(metavar="NAME[/VERSION]", help="The model to score with.")]
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE...",
            help="JPEG, PNG, WebP or TIFF files, or arrays: .npy, Zarr; folders of such files, with their sub-folders; "
            "patterns in quotes, such as 'scans/**/*.tif'. Names that begin with a dot are left out.",
        ),
    ] = None
    version: Annotated[
        str,
        typer.Option(
            "--model-version",
            "--version",
            metavar="V",
            help="The model's version; --model NAME/V is another way to give it. Default: the highest version. "
            "`fullconv-score --version` alone prints the program's version.",
        ),
    ] = ""
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Score on this fullconv-serve server. Several servers are separated by commas. Default: score in this "
            "process, without a server.",
        ),
    ] = None
    models: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory of the models to score with in this process. Default: models."),
    ] = None
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="PX", min=1, max=1 << 20, help="Pixels between windows. Default: the model's native stride."
        ),
    ] = None
    mode: Annotated[
        ModeName,
        typer.Option(
            help="dense: one pass over the image. crops: every window by itself, which gives the classifier's own "
            "scores. shared: the scores of crops; what overlapping windows have in common is computed once. exact: the "
            "cheapest mode with the classifier's own scores. auto: the cheaper of dense and crops if both give the "
            "same scores, otherwise dense; crops if the model cannot slide."
        ),
    ] = DEFAULTS["mode"]
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Smallest share of windows, such as 0.95, on which the mode must have the classifier's own top class. "
            "The cheapest such mode runs. A mode is accepted if the lower end of its measured 95 % interval "
            "(fullconv-convert --images) is at least this share; modes with the classifier's own scores are always "
            "accepted. Requires --mode auto. Default: the agreement does not affect the mode.",
        ),
    ] = None
    border: Annotated[
        BorderName,
        typer.Option(
            help="lattice: leave out the pixels beyond the last window. anchor: add windows flush with the edge."
        ),
    ] = DEFAULTS["border"]
    roi: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Score only the windows inside this region, in pixels. Default: the whole image.",
        ),
    ] = None
    mask: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|otsu",
            help="Score only the windows in which every pixel of this mask image is nonzero. The mask has the size of "
            "the image, or another size with the same aspect ratio. FILE.geojson: score only the windows inside these "
            "areas, in pixels of the image, as QuPath exports annotations; each named area gets its own averages. "
            "otsu: score only the windows that contain some foreground. Default: all windows.",
        ),
    ] = None
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,3",
            help="The image's bands to score, in this order, counted from 1. Default: all bands; an image with alpha "
            "is composited over white.",
        ),
    ] = None
    page: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000,
            help="The page of a multi-page file, counted from 1. Default: the first page of full resolution.",
        ),
    ] = None
    flip: Annotated[
        bool, typer.Option("--flip", help="Score the horizontally mirrored image too, and average both.")
    ] = DEFAULTS["flip"]
    scales: Annotated[
        str | None,
        typer.Option(
            metavar="256,384,0.5x",
            help="Score the image at each of these sizes, and average. Sizes are pixels of the shorter side, or "
            "factors of the size at the resolution. Default: that size.",
        ),
    ] = None
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Score at this resolution, in micrometres per pixel; the file must state its own. Files have windows "
            "in pixels of the image all the same. Default: the model's, if the model and the file, of a microscope, "
            "state theirs; otherwise the image's own.",
        ),
    ] = None
    level: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, max=1000, help="Score at the resolution of this level of the file; 0: the image itself."
        ),
    ] = None
    magnification: Annotated[
        float | None,
        typer.Option(metavar="M", help="Score at the resolution of this magnification of the objective, such as 20."),
    ] = None
    average: Annotated[AverageName, typer.Option(help="What is averaged over the windows.")] = DEFAULTS["average"]
    top: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=1_000_000, help="Number of classes to list, the highest average first."),
    ] = DEFAULTS["top"]
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Return only these classes, given as labels or indices. Default: all classes."
        ),
    ] = None
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT",
            help="Write a value of every window to this file; may be given several times. .npz and .zarr: the "
            "network's scores as arrays. .csv and .parquet: a line for each window with its box and the probability of "
            "each class. .geojson: a tile for each window, for QuPath. .tif: a raster with a band for each class, with "
            "the georeference of the image.",
        ),
    ] = None
    grid_as: Annotated[
        GridAsName | None,
        typer.Option(
            help="What the files of --grid hold. scores: the network's scores of every class. float16: the same, as "
            "float16 (.npz, .zarr, .tif). probability: the probability of every class. top: the classes with the "
            "highest scores of each window. argmax: the class with the highest score; .tif then has one band of "
            "classes, with their colours and names. Default: scores in .npz and .zarr, otherwise probability.",
        ),
    ] = None
    grid_top: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=1_000_000, help="Number of classes of each window for --grid-as top."),
    ] = DEFAULT_TOP
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Write one polygon for neighbouring windows of the same class to .geojson, with the number of "
            "windows. Needs rasterio. Default: a polygon for each window.",
        ),
    ] = False
    coordinates: Annotated[
        CoordinatesName,
        typer.Option(
            help="Coordinates in .geojson. pixels: pixels of the image, for QuPath. map: coordinates of the GeoTIFF's "
            "coordinate system, for QGIS."
        ),
    ] = "pixels"
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Write only windows whose highest probability is at least P, such as 0.5, to .csv, .parquet and "
            ".geojson. For a model without probabilities: the highest score. Default: all windows. For --boxes: the "
            "smallest probability, or score, of an object. Default: 0.5; a model without probabilities has no default.",
        ),
    ] = None
    heatmap: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT.png|OUT.jpg|OUT.webp",
            help="Draw the scores over the image, and write this picture; may be given several times. It shows the "
            "probability of one class, or the class with the highest score in each window.",
        ),
    ] = None
    heatmap_class: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The class that the heatmap shows, given as a label or an index. Default: the only class of the model "
            "or of --classes; for a model with two classes, the second; for other models, the class with the highest "
            "score in each window.",
        ),
    ] = None
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT.geojson|OUT.csv",
            help="Find objects, and write the box, the class and the probability of each object to this file; may be "
            "given several times. An object is a window whose probability of a class is at least --threshold and the "
            "highest among its neighbours, and that overlaps no better object of this class by more than --overlap. "
            "The classes are those of --classes. Default: the second of two classes, otherwise all classes. With "
            "several --scales, objects are found at every scale; the image is scored again for each further scale.",
        ),
    ] = None
    overlap: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Largest intersection over union of the boxes of two objects of the same class. Default: 0.3.",
        ),
    ] = None
    across_classes: Annotated[
        bool,
        typer.Option(
            "--across-classes", help="Let a better object of any class suppress an object. Default: of its own class."
        ),
    ] = False
    box_output: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model's further output (fullconv-convert --also) that holds the offsets of the box from the "
            "window: left, top, right, bottom, as shares of its width and height. Default: the box is the window.",
        ),
    ] = None
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Write outputs whose names have no folder into this folder, which is made if it does not exist. The "
            "outputs of an image in a sub-folder go into a sub-folder of the same name. Default: the current folder.",
        ),
    ] = None
    table: Annotated[
        str | None,
        typer.Option(
            metavar="OUT.csv|OUT.parquet",
            help="Write a table with a line for each image: its size, the mode, the number of windows, the average of "
            "each class, the class with the highest average, or the error.",
        ),
    ] = None
    html: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OUT.html",
            help="Write a page for a browser, which needs no network; may be given several times. It shows the image "
            "with the scores over it, the best regions and the averages. The image is inside the file, or, if it has "
            "more than 4 megapixels, in the folder OUT_files beside it.",
        ),
    ] = None
    open_pages: Annotated[bool, typer.Option("--open", help="Open the pages that --html writes in the browser.")] = (
        False
    )

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
        self._check_files()
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise typer.BadParameter(
                f"expected a share of windows above 0 and at most 1, got {self.min_agreement:g}",
                param_hint="--min-agreement",
            )
        if self.min_agreement is not None and self.mode != "auto":
            raise typer.BadParameter(
                f"expected --mode auto with it, so that it can choose the mode; got {self.mode}",
                param_hint="--min-agreement",
            )
        self._check_resolution()

    def _check_files(self) -> None:
        """Exit with status 2 for options of files that are not written, and for values that do not suit the files."""
        for option, value, needed, outputs in (
            ("--heatmap-class", self.heatmap_class, "--heatmap", self.heatmap),
            ("--overlap", self.overlap, "--boxes", self.boxes),
            ("--across-classes", self.across_classes or None, "--boxes", self.boxes),
            ("--box-output", self.box_output, "--boxes", self.boxes),
            ("--open", self.open_pages or None, "--html", self.html),
        ):
            if value is not None and not outputs:
                raise typer.BadParameter(f"expected {needed} with it, got none", param_hint=option)
        names = [
            *(self.grid or ()),
            *(self.heatmap or ()),
            *(self.boxes or ()),
            *(self.html or ()),
            *([self.table] if self.table is not None else ()),
        ]
        if self.output_dir is not None and all("/" in name for name in names):
            raise typer.BadParameter(
                "expected --grid, --heatmap, --boxes, --html or --table with it, with a name without a folder; got "
                "none",
                param_hint="--output-dir",
            )
        tables = [name for name in self.grid or () if Path(name).suffix.lower() in TABLE_SUFFIXES]
        if self.threshold is not None and not tables and not self.boxes:
            raise typer.BadParameter(
                "expected --boxes, or --grid OUT.csv, OUT.parquet or OUT.geojson with it, got none",
                param_hint="--threshold",
            )
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise typer.BadParameter(f"expected a finite number, got {self.threshold}", param_hint="--threshold")
        with usage_errors():
            check_file_options(self.grid or (), {**self.file_options(), "threshold": None})

    def _check_resolution(self) -> None:
        """Exit with status 2 for more than one resolution, and for numbers that are none."""
        given = {"--mpp": self.mpp, "--magnification": self.magnification, "--level": self.level}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise typer.BadParameter(
                f"expected one of them, got {len(named)}: each gives the resolution", param_hint=" and ".join(named)
            )
        for name in ("--mpp", "--magnification"):
            value = given[name]
            if value is not None and not 0 < value < math.inf:
                raise typer.BadParameter(f"expected a number above 0, got {value:g}", param_hint=name)

    def options(self) -> Options:
        """Return the options of a request, without the mask; exit status 2 for text that cannot be parsed."""
        options = Options(
            mode=self.mode,
            border=self.border,
            flip=self.flip,
            scales=scale_names(self.scales),
            average=self.average,
            top=self.top,
            classes=class_names(self.classes),
            grid=bool(self.grid or self.heatmap or self.boxes or self.html),
        )
        if self.stride is not None:
            options["stride"] = self.stride
        if self.min_agreement is not None:
            options["min_agreement"] = self.min_agreement
        if self.bands is not None:
            options["bands"] = band_numbers(self.bands)
        if self.page is not None:
            options["page"] = self.page
        if self.roi is not None:
            options["roi"] = region(self.roi)
        if self.mpp is not None:
            options["mpp"] = self.mpp
        if self.level is not None:
            options["level"] = self.level
        if self.magnification is not None:
            options["magnification"] = self.magnification
        return options

    def object_options(self) -> ObjectOptions:
        """Return the options of objects."""
        options = ObjectOptions(classes=class_names(self.classes), across_classes=self.across_classes)
        if self.threshold is not None:
            options["threshold"] = self.threshold
        if self.overlap is not None:
            options["overlap"] = self.overlap
        if self.box_output is not None:
            options["box_output"] = self.box_output
        return options

    def file_options(self) -> FileOptions:
        """Return what the files of --grid hold."""
        known = FileOptions(threshold=self.threshold, merge=self.merge, coordinates=self.coordinates)
        return {**known, "grid_as": self.grid_as, "grid_top": self.grid_top}
