"""The options of a request, as keywords: the same for Client, AsyncClient, Scorer and the command."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

from fullconv.common.names import DEFAULT_TOP, AverageName, BorderName, GridName, ModeName, PriorityName
from fullconv.errors import RequestError

if TYPE_CHECKING:
    from fullconv.images import Image

LONGEST_TIMEOUT = 1e9
"""Largest timeout in seconds. gRPC interprets much longer timeouts as no timeout."""
MAX_TILE_MIB = 1 << 30
"""Largest limit on the memory of a tile, in MiB: 1 PiB, more than any machine has."""


class Options(TypedDict, total=False):
    """Options of a request; lengths are in pixels of the image. `DEFAULTS` has the values of absent options."""

    stride: int
    """Pixels of the scaled image between neighbouring windows. Default: the model's native stride."""
    mode: ModeName
    """"dense": one pass over the image; "crops": every window by itself; "shared": the scores of crops, where what
    overlapping windows have in common is computed once; "exact": the cheapest mode whose scores are the classifier's
    own; "auto": the cheaper of dense and crops if both give the same scores, else "dense". Default: "auto"."""
    min_agreement: float
    """Smallest share of windows, above 0 and at most 1, on which the mode must have the classifier's own top class. The
    cheapest such mode runs. A mode is accepted if the lower end of its measured 95 % interval is at least this share;
    modes with the classifier's own scores are always accepted. Requires mode "auto". Default: the agreement does not
    affect the mode."""
    border: BorderName
    """"lattice": pixels at the bottom and right that belong to no window are left out; "anchor": one more row and
    column of windows, flush with the image's edge. Default: "lattice"."""
    roi: tuple[int, int, int, int]
    """x, y, width, height: only windows inside this region are scored. Default: the whole image."""
    mask: "Image | Mapping[str, Any] | Literal['otsu']"
    """Only windows in which every pixel of this mask image is nonzero are scored; the mask has the image's aspect
    ratio. A .geojson file, a GeoJSON document or a geometry of shapely: only windows inside these areas, in pixels of
    the image, are scored, and each named area has its averages (`Answer.areas`). "otsu": only windows that contain some
    foreground are scored. Default: all windows."""
    flip: bool
    """Whether to score the horizontally mirrored image too, and average both. Default: False."""
    scales: Sequence[int | str]
    """Sizes to average over: pixels of the shorter side, or factors such as "0.5x" of the size at the resolution.
    Default: the size at the resolution."""
    mpp: float
    """Resolution at which the image is scored, in micrometres per pixel; the file must state its own. Windows are in
    pixels of the image all the same. Default: if the model and the file, of a microscope, state theirs, the model's;
    otherwise the image's own."""
    level: int
    """Resolution at which the image is scored, as a reduced copy in the file; 0 is the image itself."""
    magnification: float
    """Resolution at which the image is scored, as magnification of the objective, such as 20."""
    average: AverageName
    """What is averaged over the windows. Default: "scores", the network's own output."""
    top: int
    """Number of classes to list, the highest average first. Default: 5."""
    classes: Sequence[str | int]
    """Labels or indices of the classes to return. Default: all classes."""
    grid: bool | GridName
    """Whether to return the scores of every window. "float16" halves their size; "top" returns the highest scores of
    every window, "argmax" only the highest. Default: False. True means "float32"."""
    grid_top: int
    """Number of scores in each window for grid="top". Default: 5."""
    bands: Sequence[int]
    """Bands of the image to score, in this order, counted from 1. Default: all; alpha is composited over white."""
    page: int
    """Page of a multi-page file, counted from 1. Default: the first page of full resolution."""
    priority: PriorityName
    """Share of a server's compute beside other requests: "low" is a quarter of "normal", "high" four times as much.
    Default: "normal"."""


DEFAULTS: Options = {
    "mode": "auto",
    "border": "lattice",
    "flip": False,
    "scales": (),
    "average": "scores",
    "top": DEFAULT_TOP,
    "classes": (),
    "grid": False,
    "grid_top": DEFAULT_TOP,
    "bands": (),
}
"""Values of options that are not given. The defaults of the other options depend on the model or the image."""


def check_timeout(timeout: Any) -> None:  # noqa: ANN401 (whatever the caller gives)
    """Raise RequestError unless a timeout is None or a number of seconds."""
    if timeout is None:
        return
    number = isinstance(timeout, (int, float, np.number)) and not isinstance(timeout, bool)
    if not (number and 0 < timeout <= LONGEST_TIMEOUT):
        raise RequestError(f"timeout: expected seconds, above 0 and at most {LONGEST_TIMEOUT:g}; got {timeout!r}")


def check_tile_mib(tile_mib: Any) -> None:  # noqa: ANN401 (whatever the caller gives)
    """Raise RequestError unless a limit on the memory of a tile is None or a number of MiB."""
    if tile_mib is None:
        return
    number = isinstance(tile_mib, (int, np.integer)) and not isinstance(tile_mib, bool)
    if not (number and 1 <= tile_mib <= MAX_TILE_MIB):
        raise RequestError(f"tile_mib: expected a whole number of MiB from 1 to {MAX_TILE_MIB}, got {tile_mib!r}")
