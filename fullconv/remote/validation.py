"""Checks every answer of a server against its request where the answer arrives.

A server may be faulty, hostile, or of another release. The rest of the client relies on what is checked here:

    texts       the model, the version and the image are those of the request; labels have a bounded length
    counts      classes, averages, views and windows, each against the request and against each other
    geometry    all windows lie inside the image, and inside the region that was requested
    bytes       the scores fill exactly the rows that they are for
    numbers     averages and times are finite; a window has finite scores, or NaN alone if it was not scored
    order       `remote/large.py` takes the parts of ScoreLarge in their order, each row of the grid once

Nothing is allocated in proportion to a number that a server states. What is not checked: whether the scores are right,
and the size of an image that is sent as a file, which this library does not open (`command/sending.py` does). The
timeout of a call ends the wait for a server that sends nothing, or progress without end.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from fullconv.common.model_files import COLOUR, NAME, VERSION
from fullconv.common.names import DEFAULT_TOP
from fullconv.description import OUTPUT_KINDS
from fullconv.images import ArraySource, ImageSource
from fullconv.protos import model_pb2, scoring_pb2
from fullconv.remote.cell_validation import check_cells, check_no_scores, check_unscored
from fullconv.remote.expectations import (
    expect_among,
    expect_between,
    expect_equal,
    expect_finite,
    expect_text,
    parsed,
    quoted,
    refuse,
)

MAX_WINDOWS = 1 << 24
"""Number of windows along one axis: 16.8 million. The library holds the edges of the windows of an axis in memory."""
MAX_CLASSES = 1 << 20
MAX_LABEL_LETTERS = 1000
MODES = ("dense", "shared", "crops")
CHOSEN = ("dense", "crops")
"""The modes that mode auto chooses between."""
HALO_SIDES = 4


class _Axis(NamedTuple):
    """What an answer says of the windows along one axis, in pixels of the scored image."""

    names: tuple[str, str, str]
    """What the fields of this axis are called: "rows", "height" and "y", or "cols", "width" and "x"."""
    windows: int
    origin: int
    last: int
    stride: int
    window: int
    left_out: int
    start: int
    """Start of the region that was requested."""
    stop: int
    """End of this region."""


def check_response(
    response: scoring_pb2.ScoreResponse | None, request: scoring_pb2.ScoreRequest, source: ImageSource
) -> None:
    """Raise MalformedAnswerError unless a response is the whole answer for an image, or its plan with `plan_only`."""
    response = parsed(response)
    _check_described(response, request, source)
    if request.options.plan_only:
        _check_plan(response)
        return
    _check_averages(response, request)
    if request.options.grid:
        check_unscored(response, check_cells(response, response.grid.rows, response))
    else:
        check_no_scores(response)


def check_start(start: scoring_pb2.ScoreResponse, request: scoring_pb2.ScoreRequest, source: ImageSource) -> None:
    """Raise MalformedAnswerError unless a response is the start of a stream for an image."""
    _check_described(start, request, source)
    _check_plan(start)


def check_progress(progress: scoring_pb2.Progress, start: scoring_pb2.ScoreResponse, done: int) -> None:
    """Raise MalformedAnswerError for fewer finished tiles than before, or for other tiles than those of the plan."""
    expect_equal("progress.of", progress.of, sum(view.tiles for view in start.plan.views))
    expect_between("progress.of", progress.of, 1)
    expect_between("progress.tiles", progress.tiles, done, progress.of)


def check_rows(
    rows: scoring_pb2.GridRows, start: scoring_pb2.ScoreResponse, first: int, request: scoring_pb2.ScoreRequest
) -> int:
    """Check rows of the grid of a stream, and return the number of windows without scores; row `first` is next.

    Raises MalformedAnswerError for rows that were not requested, or are not the next ones, or are beyond the grid.
    """
    if not request.options.grid:
        refuse("rows", "none, because no grid was requested", rows.count)
    expect_equal("rows.first", rows.first, first)
    expect_between("rows.first", first, 0, start.grid.rows - 1)
    expect_between("rows.count", rows.count, 1, start.grid.rows - first)
    return check_cells(start, rows.count, rows)


def check_summary(
    summary: scoring_pb2.ScoreResponse, start: scoring_pb2.ScoreResponse, request: scoring_pb2.ScoreRequest
) -> None:
    """Raise MalformedAnswerError unless a summary has averages, and describes the same as the start of its stream."""
    for field in ("model", "version", "mode", "image", "grid"):
        if getattr(summary, field) != getattr(start, field):
            refuse(f"summary.{field}", "the same as at the start of the stream", "another one")
    if summary.classes != start.classes:
        refuse("summary.classes", "the same as at the start of the stream", "others")
    _check_figures(summary, request.options)
    _check_averages(summary, request)
    check_no_scores(summary)


def check_complete(summary: scoring_pb2.ScoreResponse, rows: int, unscored: int) -> None:
    """Raise MalformedAnswerError unless a stream has had all rows, and as many windows with scores as it says."""
    expect_equal("rows", rows, summary.grid.rows)
    check_unscored(summary, unscored)


def check_failure(failure: scoring_pb2.Failure, codes: Iterable[int]) -> None:
    """Raise MalformedAnswerError unless a failure has the number of a status of gRPC other than OK."""
    if not failure.code or failure.code not in codes:
        refuse("failure.code", "the number of a status other than OK", failure.code)


def check_models(response: scoring_pb2.ListModelsResponse | None) -> None:
    """Raise MalformedAnswerError unless a response lists names and versions of models."""
    for model in parsed(response).models:
        if not (NAME.fullmatch(model.name) and VERSION.fullmatch(model.version)):
            refuse("models", "names and versions of models", quoted(f"{model.name}/{model.version}"))


def check_model(response: scoring_pb2.GetModelResponse | None, request: scoring_pb2.GetModelRequest) -> None:
    """Raise MalformedAnswerError unless a response describes a model of the requested version."""
    response = parsed(response)
    spec = response.spec
    _check_version(response.version, request.version)
    _check_size("spec.window", spec.window)
    _check_size("spec.stride", model_pb2.Size(height=spec.vertical.stride, width=spec.horizontal.stride))
    expect_among("spec.output.kind", spec.output.kind, OUTPUT_KINDS)
    expect_between("spec.output.classes", spec.output.classes, 1, MAX_CLASSES)
    _check_further("spec.output.further", spec.output.further)
    if response.labels:
        expect_equal("labels", len(response.labels), spec.output.classes)
        _check_labels(response.labels)
    if spec.colours:
        expect_equal("spec.colours", len(spec.colours), spec.output.classes)
        if not all(COLOUR.fullmatch(colour) for colour in spec.colours):
            refuse("spec.colours", '"#rrggbb" or an empty text for each class', "other texts")
    expect_finite("spec.microns_per_pixel", spec.microns_per_pixel)
    for mode in spec.modes:
        expect_among("spec.modes", mode, MODES)
    expect_equal("spec.parity", len(spec.parity), len(spec.strides))
    for stride, parity in zip(spec.strides, spec.parity, strict=True):
        _check_size("spec.strides.stride", stride.stride)
        for part in ("interior", "border", "overall"):
            _check_difference(f"spec.parity.{part}", getattr(parity, part))


def _check_described(
    response: scoring_pb2.ScoreResponse, request: scoring_pb2.ScoreRequest, source: ImageSource
) -> None:
    """Raise MalformedAnswerError unless a response describes the request's image, windows, classes and plan."""
    options, image = request.options, response.image
    expect_text("model", response.model, request.model)
    _check_version(response.version, request.version)
    expect_text("image.name", image.name, source.name or "image")
    if isinstance(source, ArraySource):
        expect_equal("image.height", image.height, source.shape[0])
        expect_equal("image.width", image.width, source.shape[1])
    expect_among("mode", response.mode, MODES if options.min_agreement else _modes(options.mode))
    expect_equal("average.of", response.average.of, options.average or scoring_pb2.AVERAGE_OF_SCORES)
    _check_classes(response.classes, options.classes)
    _check_grid(response, options)
    _check_figures(response, options)


def _check_figures(response: scoring_pb2.ScoreResponse, options: scoring_pb2.ScoreOptions) -> None:
    """The plan, the parity and the times."""
    _check_views(response, options)
    _check_parity(response.parity)
    for field in ("decode_ms", "queue_ms", "compute_ms", "reduce_ms", "total_ms"):
        expect_finite(f"timing.{field}", getattr(response.timing, field))


def _check_plan(response: scoring_pb2.ScoreResponse) -> None:
    """Raise MalformedAnswerError unless a response that describes an image has neither averages nor scores."""
    expect_equal("average.values", len(response.average.values), 0)
    expect_equal("average.top", len(response.average.top), 0)
    check_no_scores(response)
    expect_between("scored_cells", response.scored_cells, 0, response.grid.rows * response.grid.cols)


def _check_averages(response: scoring_pb2.ScoreResponse, request: scoring_pb2.ScoreRequest) -> None:
    """Raise MalformedAnswerError unless every class has an average, and the highest averages are named in order."""
    values, top, classes = response.average.values, response.average.top, len(response.classes)
    expect_equal("average.values", len(values), classes)
    expect_equal("average.top", len(top), min(request.options.top or DEFAULT_TOP, classes))
    if not all(map(math.isfinite, values)):
        refuse("average.values", "finite numbers", "NaN or infinity")
    expect_between("average.top", max(top), 0, classes - 1)
    highest = [values[position] for position in top]
    if len(set(top)) < len(top) or highest != sorted(highest, reverse=True):
        refuse("average.top", "the classes with the highest averages, in descending order", "another order")
    expect_between("scored_cells", response.scored_cells, 1, response.grid.rows * response.grid.cols)
    _check_areas(response, request.options.mask_areas)


def _check_areas(response: scoring_pb2.ScoreResponse, requested: scoring_pb2.Areas) -> None:
    """Raise MalformedAnswerError unless each named area, once, has its averages."""
    names = list(dict.fromkeys(polygon.name for polygon in requested.polygons if polygon.name))
    if [area.name for area in response.areas] != names:
        refuse("areas.name", "the requested names, each once", "others")
    for area in response.areas:
        expect_between("areas.cells", area.cells, 0, response.scored_cells)
        if area.cells or area.values:
            expect_equal("areas.values", len(area.values), len(response.classes))
        if not all(map(math.isfinite, area.values)):
            refuse("areas.values", "finite numbers", "NaN or infinity")


def _modes(mode: scoring_pb2.Mode) -> tuple[str, ...]:
    """The modes that may answer a requested mode."""
    match mode:
        case scoring_pb2.MODE_DENSE:
            return ("dense",)
        case scoring_pb2.MODE_CROPS:
            return ("crops",)
        case scoring_pb2.MODE_SHARED:
            return ("shared",)
        case scoring_pb2.MODE_EXACT:
            return MODES
    return CHOSEN


def _check_version(version: str, requested: str) -> None:
    """Raise MalformedAnswerError unless a version is the requested one, or any version if none was requested."""
    if requested:
        expect_text("version", version, requested)
    elif not VERSION.fullmatch(version):
        refuse("version", "a decimal number from 1", quoted(version))


def _check_classes(classes: Any, requested: Any) -> None:  # noqa: ANN401 (repeated fields)
    """All classes in the order of the network's output; or some of the requested classes, each once."""
    labels, indices = [entry.label for entry in classes], [entry.index for entry in classes]
    expect_between("classes", len(classes), 1, len(requested) or MAX_CLASSES)
    _check_labels(labels)
    if not requested:
        if indices != list(range(len(indices))):
            refuse("classes.index", "0, 1, 2 and so on", "others")
        return
    names = set(requested)
    if len(set(indices)) < len(indices):
        refuse("classes.index", "each class once", "a class twice")
    for label, index in zip(labels, indices, strict=True):
        if label not in names and str(index) not in names:
            refuse("classes", "the requested classes", quoted(label))


def _check_labels(labels: Iterable[str]) -> None:
    longest = max(map(len, labels))
    if longest > MAX_LABEL_LETTERS:
        refuse("labels", f"at most {MAX_LABEL_LETTERS} letters in each", longest)


def _check_grid(response: scoring_pb2.ScoreResponse, options: scoring_pb2.ScoreOptions) -> None:
    """The size of the image, the windows in it, and what their cells hold."""
    grid, classes = response.grid, len(response.classes)
    _check_size("image", response.image)
    for field in ("microns_per_pixel_x", "microns_per_pixel_y"):
        expect_finite(f"image.{field}", getattr(response.image, field), least=0)
    may_be_scaled = options.scales or options.WhichOneof("resolution") or response.image.microns_per_pixel_x
    if not may_be_scaled:
        expect_equal("grid.scaled", grid.HasField("scaled"), expected=False)
    _check_size("grid.scaled", _scaled(response))
    if options.stride:
        expect_equal("grid.stride", (grid.stride.height, grid.stride.width), (options.stride, options.stride))
    for axis in _axes(response, options):
        _check_axis(axis)
    holds = options.grid_as or scoring_pb2.GRID_AS_FLOAT32
    expect_equal("grid.holds", grid.holds, holds)
    depths = {
        scoring_pb2.GRID_AS_TOP: min(options.grid_top or DEFAULT_TOP, classes),
        scoring_pb2.GRID_AS_ARGMAX: 1,
    }
    expect_equal("grid.depth", grid.depth, depths.get(holds, classes))
    _check_further("grid.further", grid.further)


def _check_further(field: str, outputs: Iterable[model_pb2.FurtherOutput]) -> None:
    """Further outputs of different names, each with some values."""
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):
        refuse(f"{field}.name", "each output once", "an output twice")
    for output in outputs:
        expect_between(f"{field}.name", len(output.name), 1, MAX_LABEL_LETTERS)
        expect_between(f"{field}.values", output.values, 1, MAX_CLASSES)


def _scaled(response: scoring_pb2.ScoreResponse) -> Any:  # noqa: ANN401 (a message with height and width)
    """The size at which the image was scored."""
    return response.grid.scaled if response.grid.HasField("scaled") else response.image


def _axes(response: scoring_pb2.ScoreResponse, options: scoring_pb2.ScoreOptions) -> tuple[_Axis, _Axis]:
    grid, image, scaled, region = response.grid, response.image, _scaled(response), options.region
    rows = (grid.rows, grid.origin_y, grid.last_y, grid.stride.height, grid.window.height, grid.left_out.height)
    cols = (grid.cols, grid.origin_x, grid.last_x, grid.stride.width, grid.window.width, grid.left_out.width)
    down, across = (0, scaled.height), (0, scaled.width)
    if options.HasField("region"):
        down = _part("height", region.y, region.height, image.height, scaled.height)
        across = _part("width", region.x, region.width, image.width, scaled.width)
    return _Axis(("rows", "height", "y"), *rows, *down), _Axis(("cols", "width", "x"), *cols, *across)


def _part(side: str, start: int, length: int, extent: int, scaled: int) -> tuple[int, int]:
    """Start and end of the requested region along an axis, in pixels of the scored image."""
    expect_between(f"image.{side}", extent, start + length)
    return -(-start * scaled // extent), (start + length) * scaled // extent


def _check_axis(axis: _Axis) -> None:
    """Windows from `origin` to `last`, `stride` apart but for the last, inside [start, stop)."""
    count, side, letter = axis.names
    expect_between(f"grid.{count}", axis.windows, 1, MAX_WINDOWS)
    expect_between(f"grid.stride.{side}", axis.stride, 1)
    expect_between(f"grid.window.{side}", axis.window, 1)
    expect_between(f"grid.origin_{letter}", axis.origin, axis.start)
    regular = axis.origin + (axis.windows - 1) * axis.stride
    expect_between(f"grid.last_{letter}", axis.last, max(axis.origin, regular - axis.stride + 1), regular)
    expect_equal(f"grid.left_out.{side}", axis.left_out, axis.stop - axis.last - axis.window)


def _check_views(response: scoring_pb2.ScoreResponse, options: scoring_pb2.ScoreOptions) -> None:
    """The plan: a view for each scale, the first with the grid of the answer."""
    plan, grid, scaled = response.plan, response.grid, _scaled(response)
    expect_finite("plan.multiply_adds", plan.multiply_adds, least=0)
    expect_finite("plan.bytes", plan.bytes, least=0)
    expect_finite("plan.decode_bytes", plan.decode_bytes, least=0)
    expect_finite("plan.decode_seconds", plan.decode_seconds, least=0)
    expect_equal("plan.views", len(plan.views), max(1, len(options.scales)))
    for view in plan.views:
        _check_size("plan.views.image", view.image)
        _check_size("plan.views.cells", view.cells)
        _check_size("plan.views.tile", view.tile)
        expect_equal("plan.views.halo", len(view.halo), HALO_SIDES)
        expect_finite("plan.views.multiply_adds", view.multiply_adds, least=0)
    first = plan.views[0]
    expect_equal("plan.views.image", (first.image.height, first.image.width), (scaled.height, scaled.width))
    expect_equal("plan.views.cells", (first.cells.height, first.cells.width), (grid.rows, grid.cols))


def _check_parity(parity: scoring_pb2.ParityInfo) -> None:
    expect_finite("parity.max_abs_diff", parity.max_abs_diff, least=0)
    for field in ("top_class_agreement", "agreement_low", "agreement_high"):
        expect_finite(f"parity.{field}", getattr(parity, field), least=0, most=1)
    _check_difference("parity.computed", parity.computed)


def _check_difference(field: str, difference: model_pb2.Difference) -> None:
    expect_finite(f"{field}.max_abs", difference.max_abs, least=0)
    for name in ("top_class_agreement", "agreement_low", "agreement_high", "rarer_agreement"):
        expect_finite(f"{field}.{name}", getattr(difference, name), least=0, most=1)


def _check_size(field: str, size: Any) -> None:  # noqa: ANN401 (a message with height and width)
    expect_between(f"{field}.height", size.height, 1)
    expect_between(f"{field}.width", size.width, 1)
