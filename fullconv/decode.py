"""Converts the messages of a server, or of the service in this process, to plain values. No other module reads them.

`fullconv/remote/validation.py` has checked the messages of a server before.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fullconv.answer import Answer
from fullconv.averages import AreaAverage, Entry, highest
from fullconv.common.certificate import overall
from fullconv.common.names import AVERAGES, name_of
from fullconv.description import (
    ModelDescription,
    ModelInput,
    ModelLimits,
    ModelOutput,
    Parity,
    PrecisionDifference,
)
from fullconv.grid import FurtherOutput, GridHeader, GridRows, ImageInfo, Scores, WindowAxis, join_rows
from fullconv.images import ImageSource, Region, ScoredPixels
from fullconv.plan import Plan, PlannedView
from fullconv.protos import model_pb2, scoring_pb2
from fullconv.timing import Timing

DEFAULT_PRECISION, PIXEL_DTYPE = "fp32", "uint8"
"""Defaults for specs that do not state them: a model's precision, and the element type of the pixels that it takes."""


def answer_of(
    response: scoring_pb2.ScoreResponse,
    rows: Sequence[GridRows] = (),
    *,
    pixels: ScoredPixels | None = None,
    describe: Callable[[], ModelDescription] | None = None,
) -> Answer:
    """Return the answer of a response, whose grid is in the message itself or in `rows`."""
    header = header_of(response)
    grid = join_rows(rows) if rows else _grid_of(response, header)
    indices, labels, average = header.indices, header.labels, response.average
    return Answer(
        header=header,
        model=response.model,
        version=response.version,
        mode=response.mode,
        mode_reason=response.mode_reason,
        average_of=name_of(AVERAGES, average.of or scoring_pb2.AVERAGE_OF_SCORES),
        average=np.array(average.values, np.float64),
        top=tuple(Entry(indices[at], labels[at], average.values[at]) for at in average.top),
        parity=_parity_of(response.parity),
        warnings=tuple(response.warnings),
        timing=_timing_of(response.timing),
        plan=_plan_of(response.plan),
        scored=response.scored_cells,
        grid=None if grid is None else grid.scores,
        winners=None if grid is None else grid.positions,
        areas=tuple(_area_of(area, header, len(average.top)) for area in response.areas),
        further={} if grid is None or grid.further is None else header.split(grid.further),
        provider=response.provider,
        precision=response.precision,
        precision_difference=_precision_difference_of(response.parity),
        own_scores=response.own_scores,
        pixels=pixels,
        describe=describe,
    )


def header_of(response: scoring_pb2.ScoreResponse) -> GridHeader:
    """Return a response's description of its grid: everything but the scores."""
    image, grid = response.image, response.grid
    scaled = grid.scaled if grid.HasField("scaled") else model_pb2.Size(height=image.height, width=image.width)
    return GridHeader(
        image=ImageInfo(image.name, image.width, image.height, _microns_of(image)),
        vertical=WindowAxis(
            count=grid.rows,
            origin=grid.origin_y,
            last=grid.last_y,
            stride=grid.stride.height,
            window=grid.window.height,
            left_out=grid.left_out.height,
            scale=_ratio(image.height, scaled.height),
        ),
        horizontal=WindowAxis(
            count=grid.cols,
            origin=grid.origin_x,
            last=grid.last_x,
            stride=grid.stride.width,
            window=grid.window.width,
            left_out=grid.left_out.width,
            scale=_ratio(image.width, scaled.width),
        ),
        indices=tuple([entry.index for entry in response.classes]),
        labels=tuple([entry.label for entry in response.classes]),
        depth=grid.depth,
        further=_further_outputs(grid.further),
    )


def _area_of(area: scoring_pb2.AreaAverage, header: GridHeader, top: int) -> AreaAverage:
    average = np.array(area.values, np.float64)
    entries = highest(average, header.indices, header.labels, top)
    return AreaAverage(area.name, area.cells, average, tuple(entries))


def _microns_of(image: scoring_pb2.ImageInfo) -> tuple[float, float] | None:
    return (image.microns_per_pixel_x, image.microns_per_pixel_y) if image.microns_per_pixel_x else None


def description_of(response: scoring_pb2.GetModelResponse) -> ModelDescription:
    """Return a model's description."""
    spec, limits = response.spec, response.limits
    return ModelDescription(
        name=spec.name,
        version=response.version,
        labels=tuple(response.labels),
        window=_pair(spec.window),
        stride=(spec.vertical.stride, spec.horizontal.stride),
        strides=tuple(_pair(file.stride) for file in spec.strides),
        modes=tuple(spec.modes),
        precision=spec.precision or DEFAULT_PRECISION,
        weights_sha256=spec.weights_sha256,
        input=ModelInput(spec.input.preprocessing.dtype or PIXEL_DTYPE, spec.input.channels, spec.input.order),
        output=ModelOutput(spec.output.kind, spec.output.classes, _further_outputs(spec.output.further)),
        parity={
            _pair(parity.stride): _parity(parity.exact, overall(spec, position))
            for position, parity in enumerate(spec.parity)
        },
        limits=ModelLimits(limits.image_pixels, limits.message_bytes, limits.large_image_pixels),
        microns_per_pixel=spec.microns_per_pixel or None,
        colours=tuple(spec.colours),
        card=spec.card,
    )


def models_of(response: scoring_pb2.ListModelsResponse) -> list[tuple[str, str]]:
    """Return the name and the version of every model."""
    return [(entry.name, entry.version) for entry in response.models]


def scored_pixels(source: ImageSource, options: scoring_pb2.ScoreOptions) -> ScoredPixels | None:
    """Return the pixels of an image that a request scores, for a heatmap; None if the request has no grid."""
    if not options.grid:
        return None
    box = options.region
    region = Region(box.x, box.y, box.width, box.height) if options.HasField("region") else None
    return ScoredPixels(source, region, options.page, tuple(options.bands))


def rows_of(rows: scoring_pb2.GridRows, grid: scoring_pb2.GridInfo) -> GridRows:
    """Return rows of a grid, which are a part of an answer of ScoreLarge."""
    shape = (rows.count, grid.cols, grid.depth)
    return GridRows(
        rows.first,
        _scores(rows.scores, grid, shape),
        _positions(rows.positions, shape),
        _further(rows.further, shape[:2]),
    )


def _grid_of(response: scoring_pb2.ScoreResponse, header: GridHeader) -> GridRows | None:
    """Return the grid in a response's own message; None if there is no grid."""
    if not response.scores:
        return None
    return GridRows(
        0,
        _scores(response.scores, response.grid, header.shape),
        _positions(response.positions, header.shape),
        _further(response.further, header.shape[:2]),
    )


def _scores(data: bytes, grid: scoring_pb2.GridInfo, shape: tuple[int, int, int]) -> Scores:
    if grid.holds == scoring_pb2.GRID_AS_FLOAT16:
        return np.frombuffer(data, "<f2").astype(np.float16, copy=False).reshape(shape)
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(shape)


def _positions(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint32] | None:
    """Return the positions of the scores in the answer's classes; None for a grid of all classes."""
    return np.frombuffer(data, "<u4").astype(np.uint32, copy=False).reshape(shape) if data else None


def _further(data: bytes, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the values of the further outputs, (rows, cols, values); None without a grid."""
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(*shape, -1) if data else None


def _further_outputs(outputs: Iterable[model_pb2.FurtherOutput]) -> tuple[FurtherOutput, ...]:
    return tuple(FurtherOutput(output.name, output.values) for output in outputs)


def _parity_of(info: scoring_pb2.ParityInfo) -> Parity:
    limits = (info.agreement_low, info.agreement_high) if info.agreement_high else None
    return Parity(info.exact, info.max_abs_diff, info.windows, info.top_class_agreement if limits else None, limits)


def _precision_difference_of(info: scoring_pb2.ParityInfo) -> PrecisionDifference | None:
    if not info.HasField("computed"):
        return None
    seen = info.computed
    agreement = seen.top_class_agreement if seen.agreement_high else None
    return PrecisionDifference(seen.windows, seen.max_abs, seen.relative_l2, agreement)


def _parity(exact: bool, seen: model_pb2.Difference) -> Parity:  # noqa: FBT001 (a field)
    limits = (seen.agreement_low, seen.agreement_high) if seen.agreement_high else None
    return Parity(exact, seen.max_abs, seen.windows, seen.top_class_agreement if limits else None, limits)


def _timing_of(timing: scoring_pb2.Timing) -> Timing:
    return Timing(timing.decode_ms, timing.queue_ms, timing.compute_ms, timing.reduce_ms, timing.total_ms)


def _plan_of(plan: scoring_pb2.Plan) -> Plan:
    views = tuple(_view_of(view) for view in plan.views)
    return Plan(plan.file, plan.multiply_adds, plan.bytes, views, plan.decode_bytes, plan.decode_seconds)


def _view_of(view: scoring_pb2.View) -> PlannedView:
    return PlannedView(
        image=_pair(view.image),
        cells=_pair(view.cells),
        tiles=view.tiles,
        tile=_pair(view.tile),
        halo=tuple(view.halo),
        phases=view.phases,
        flip=view.flip,
        multiply_adds=view.multiply_adds,
        strip_rows=view.strip_rows,
    )


def _pair(size: model_pb2.Size) -> tuple[int, int]:
    return size.height, size.width


def _ratio(length: int, scaled: int) -> float:
    """Return the number of pixels of the image for each pixel that was scored."""
    return length / scaled if scaled else 1.0
