"""The options of files of grids, as keywords: the same for `fullconv-score --grid` and `Answer.save`."""

import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import TypedDict, get_args

import numpy as np

from fullconv.common.files import GRID_SUFFIXES, TABLE_SUFFIXES
from fullconv.common.names import DEFAULT_TOP, CoordinatesName, GridAsName
from fullconv.errors import RequestError

HALF_SUFFIXES = (".npz", ".zarr", ".tif")
"""The formats that can hold float16."""


class FileOptions(TypedDict, total=False):
    """What files of a grid hold. `FILE_DEFAULTS` has the values of absent options."""

    grid_as: GridAsName | None
    """"scores": the network's scores of every class; "float16": the same, as float16; "probability": the probability of
    every class; "top": the classes with the highest scores of each window; "argmax": the class with the highest score.
    None: "scores" in .npz and .zarr and for models without probabilities, otherwise "probability". Default: None."""
    grid_top: int
    """Number of classes of each window for grid_as="top". Default: 5."""
    threshold: float | None
    """Tables and GeoJSON leave out windows whose highest probability is smaller, also if they have scores; for models
    without probabilities, whose highest score is smaller. Default: None, all windows."""
    merge: bool
    """Whether neighbouring windows with the same class become one polygon in .geojson. Default: False."""
    coordinates: CoordinatesName
    """Coordinates in .geojson. "pixels": pixels of the image; "map": the image's coordinate system. Default: "pixels".
    """


FILE_DEFAULTS: FileOptions = {
    "grid_as": None,
    "grid_top": DEFAULT_TOP,
    "threshold": None,
    "merge": False,
    "coordinates": "pixels",
}
"""Values of options that are not given."""

FORMATS = {
    "grid_as": GRID_SUFFIXES,
    "threshold": TABLE_SUFFIXES,
    "merge": (".geojson",),
    "coordinates": (".geojson",),
}
"""The formats that an option is for; it has no effect on other files."""


def check_file_options(names: Sequence[str], options: FileOptions) -> None:
    """Raise RequestError, which names the option, for a wrong value or an option that is for none of the files."""
    unknown = set(options) - set(FILE_DEFAULTS)
    if unknown:
        raise TypeError(f"expected options among {', '.join(FILE_DEFAULTS)}, got {', '.join(sorted(unknown))}")
    given: FileOptions = {**FILE_DEFAULTS, **options}
    _check_values(given)
    for field, suffixes in FORMATS.items():
        is_given = dict(given)[field] != dict(FILE_DEFAULTS)[field]
        if is_given and not any(name.lower().endswith(suffixes) for name in names):
            raise RequestError(f"{field}: expected a grid file that ends in {' or '.join(suffixes)} with it, got none")
    for name in names:
        if given["grid_as"] == "float16" and not name.lower().endswith(HALF_SUFFIXES):
            raise RequestError(
                f"grid_as: expected a file that ends in {' or '.join(HALF_SUFFIXES)} for float16, got "
                f"{PurePath(name).name!r}; use scores for it"
            )


def check_no_class(path: PurePath, class_: str | int | None) -> None:
    """Raise RequestError if a class is given for a file that shows no single class, such as a grid."""
    if class_ is not None:
        raise RequestError(
            f"class_: expected a file of a heatmap with it, such as .png, got {path.name!r}; score with the option "
            "classes for a file of some classes"
        )


def _check_values(given: FileOptions) -> None:
    """Raise RequestError for a value of an option that is wrong for every format."""
    for field, value, expected in (
        ("grid_as", given["grid_as"] or "scores", get_args(GridAsName)),
        ("coordinates", given["coordinates"], get_args(CoordinatesName)),
    ):
        if value not in expected:
            raise RequestError(f"{field}: expected {' or '.join(expected)}, got {value!r}")
    if not isinstance(given["grid_top"], int) or given["grid_top"] < 1:
        raise RequestError(f"grid_top: expected a positive number, got {given['grid_top']!r}")
    if given["grid_top"] != DEFAULT_TOP and given["grid_as"] != "top":
        raise RequestError(f"grid_top: expected grid_as 'top' with it, got {given['grid_as']!r}")
    threshold = given["threshold"]
    if threshold is not None and not (_is_number(threshold) and math.isfinite(threshold)):
        raise RequestError(f"threshold: expected a finite number, got {threshold!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
