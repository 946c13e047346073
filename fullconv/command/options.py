"""The options that say with which model images are scored, and how, with their help."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fullconv.command.map_region import MapRegion
from fullconv.command.parsing import band_numbers, class_names, folder_name, map_region, region, scale_names
from fullconv.common.model_files import VERSION
from fullconv.common.names import AverageName, BorderName, ModeName
from fullconv.options import DEFAULTS, Options


@dataclass(frozen=True)
class ScoringLine:
    """What is scored, and how, as Typer parses it."""

    model: Annotated[str, typer.Option(metavar="NAME[/VERSION]", help="The model to score with.")]
    version: Annotated[
        str,
        typer.Option(
            "--model-version",
            "--version",
            metavar="V",
            help="The model's version; --model NAME/V is another way to give it. Default: the highest version. "
            "`--version` alone prints the program's version.",
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
        typer.Option(
            metavar="DIR",
            parser=folder_name,
            help="Directory of the models to score with in this process. Default: models.",
        ),
    ] = None
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            min=1,
            max=1 << 20,
            help="Pixels between windows, in the image as it is scored (see --mpp, --scales). Default: the model's "
            "native stride.",
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
            help="Score only the windows inside this region, in pixels, or with --roi-crs in units of a map. Default: "
            "the whole image.",
        ),
    ] = None
    roi_crs: Annotated[
        str | None,
        typer.Option(
            metavar="CRS",
            help="The coordinate system of --roi, such as EPSG:4326; X and Y are the smallest coordinates of the "
            "region. image: the image's own. Default: --roi is in pixels.",
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
            max=10_000,
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
            "factors, such as 0.5x, of the size that --mpp, --level or --magnification gives. Default: 1x.",
        ),
    ] = None
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Score at this resolution, in micrometres per pixel. The file must state the size of its pixels. "
            "Results have windows in pixels of the image. Default: the resolution of the model's training images, if "
            "the model states it and the file states at most 20 micrometres per pixel; otherwise the image's own.",
        ),
    ] = None
    level: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=1000,
            help="Score at the resolution of this level of the file; 0: the image itself. Default: see --mpp.",
        ),
    ] = None
    magnification: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Score at the resolution of this magnification of the objective, such as 20. Default: see --mpp.",
        ),
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

    def __post_init__(self) -> None:
        """Exit with status 2 for options that contradict each other."""
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
        if self.roi_crs is not None and self.roi is None:
            raise typer.BadParameter("expected --roi with it, got none", param_hint="--roi-crs")
        if self.mask == "":
            raise typer.BadParameter("expected a file or otsu, got an empty name", param_hint="--mask")
        self._check_resolution()

    def _check_resolution(self) -> None:
        """Exit with status 2 for more than one resolution, and for numbers that are not above 0."""
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

    def map_region(self) -> MapRegion | None:
        """Return the region of a map, or None without --roi-crs; exit status 2 for text that cannot be parsed."""
        return None if self.roi is None or self.roi_crs is None else map_region(self.roi, self.roi_crs)

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
        )
        if self.stride is not None:
            options["stride"] = self.stride
        if self.min_agreement is not None:
            options["min_agreement"] = self.min_agreement
        if self.bands is not None:
            options["bands"] = band_numbers(self.bands)
        if self.page is not None:
            options["page"] = self.page
        if self.roi is not None and self.roi_crs is None:
            options["roi"] = region(self.roi)
        if self.mpp is not None:
            options["mpp"] = self.mpp
        if self.level is not None:
            options["level"] = self.level
        if self.magnification is not None:
            options["magnification"] = self.magnification
        return options

    def named_version(self) -> tuple[str, str]:
        """Return the model's name and version. --model NAME/VERSION gives both."""
        name, _, number = self.model.rpartition("/")
        if not VERSION.fullmatch(number) or not name:
            return self.model, self.version
        if self.version not in ("", number):
            raise typer.BadParameter(
                f"expected one version, got '{self.model}' and '{self.version}'", param_hint="--model"
            )
        return name, number
