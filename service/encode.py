"""Converts planned images and results to messages. Only this module makes a ScoreResponse.

Score: a Scored or a Counted becomes one response. ScoreLarge: Started, Progress, GridRows and Scored become messages of
a stream; Counted becomes one message.
"""

from collections.abc import Iterator
from functools import lru_cache
from weakref import WeakKeyDictionary

import numpy as np

from fullconv.common.names import AVERAGES, GRIDS
from fullconv.protos import model_pb2, scoring_pb2
from service.engine.registry import Registry
from service.engine.repository import StoredModel
from service.limits import Limits
from service.scoring.exactness import certified, has_own_scores, remarks_on
from service.scoring.grid import GridRows
from service.scoring.options import ResolvedOptions
from service.scoring.outcome import Counted, Event, Outcome, Progress, Scored, Started, Timing
from service.scoring.plan import Plan, View
from service.scoring.planned import PlannedImage

KEPT_MODELS = 16
"""Number of models whose classes are kept as a message."""
ROWS_BYTES = 1 << 20
"""Bytes of the rows of the grid in one message, unless one row is larger: within every gRPC client's default limit."""

_described: WeakKeyDictionary[Plan, scoring_pb2.ScoreResponse] = WeakKeyDictionary()
"""For each plan, the part of the answer that is equal for all images with this plan."""


def outcome_response(outcome: Outcome) -> scoring_pb2.ScoreResponse:
    """Return the answer to a request: averages and the grid, or the plan alone."""
    if isinstance(outcome, Counted):
        return plan_response(outcome)
    return complete_response(outcome)


def large_parts(event: Event) -> Iterator[scoring_pb2.ScoreLargeResponse]:
    """Yield an event of ScoreLarge as messages."""
    match event:
        case Started():
            start = planned_response(event.planned)
            start.timing.queue_ms = event.queue_seconds * 1e3
            yield scoring_pb2.ScoreLargeResponse(start=start)
        case Progress():
            progress = scoring_pb2.Progress(tiles=event.tiles, of=event.total)
            yield scoring_pb2.ScoreLargeResponse(progress=progress)
        case GridRows():
            for rows in grid_rows(event):
                yield scoring_pb2.ScoreLargeResponse(rows=rows)
        case Counted():
            yield scoring_pb2.ScoreLargeResponse(start=plan_response(event))
        case Scored():
            yield scoring_pb2.ScoreLargeResponse(summary=summary(event))


def planned_response(planned: PlannedImage) -> scoring_pb2.ScoreResponse:
    """Return what is known before a pixel is decoded: image, model, grid, classes, plan, warnings."""
    response = scoring_pb2.ScoreResponse()
    described = _described.get(planned.plan)
    if described is None:
        described = _described[planned.plan] = _describe(planned)
    response.CopyFrom(described)
    response.MergeFrom(_classes(planned.model, planned.options))
    response.image.name = planned.picture.name
    response.plan.bytes = planned.bytes
    response.plan.decode_bytes = planned.decoding.held_bytes
    response.plan.decode_seconds = planned.decoding.nominal_seconds
    response.warnings.extend(planned.warnings)
    if planned.picture.optics.microns_per_pixel is not None:
        down, across = planned.picture.optics.microns_per_pixel
        response.image.microns_per_pixel_x, response.image.microns_per_pixel_y = across, down
    return response


def plan_response(counted: Counted) -> scoring_pb2.ScoreResponse:
    """Return the answer to a request for the plan alone."""
    response = planned_response(counted.planned)
    for view, count in zip(response.plan.views, counted.counts, strict=True):
        view.tiles, view.multiply_adds = count.tiles, count.multiply_adds
    response.plan.multiply_adds = sum(count.multiply_adds for count in counted.counts)
    response.scored_cells = counted.counts[0].cells
    response.timing.queue_ms = counted.queue_seconds * 1e3
    return response


def summary(scored: Scored) -> scoring_pb2.ScoreResponse:
    """Return the answer without the scores of the grid."""
    response, result = planned_response(scored.planned), scored.result
    response.average.values[:] = result.average.tolist()
    response.average.top[:] = result.top
    response.scored_cells = result.scored_cells
    response.timing.CopyFrom(_timing(result.timing))
    for area in result.areas:
        response.areas.add(name=area.name, cells=area.cells, values=area.average.tolist())
    return response


def complete_response(scored: Scored) -> scoring_pb2.ScoreResponse:
    """Return the whole answer, with the scores of every cell if the request asked for them."""
    response = summary(scored)
    response.scores = b"".join(to_little_endian(part.scores) for part in scored.rows)
    response.positions = b"".join(
        to_little_endian(part.positions) for part in scored.rows if part.positions is not None
    )
    response.further = b"".join(to_little_endian(part.further) for part in scored.rows if part.further is not None)
    return response


def grid_rows(rows: GridRows) -> Iterator[scoring_pb2.GridRows]:
    """Yield rows of the grid as messages of at most ROWS_BYTES bytes, or of one row each."""
    row_bytes = rows.scores[0].nbytes + (0 if rows.further is None else rows.further[0].nbytes)
    each = max(1, ROWS_BYTES // max(1, row_bytes))
    for first in range(0, len(rows.scores), each):
        scores = rows.scores[first : first + each]
        message = scoring_pb2.GridRows(first=rows.first + first, count=len(scores), scores=to_little_endian(scores))
        if rows.positions is not None:
            message.positions = to_little_endian(rows.positions[first : first + each])
        if rows.further is not None:
            message.further = to_little_endian(rows.further[first : first + each])
        yield message


def model_response(model: StoredModel, limits: Limits) -> scoring_pb2.GetModelResponse:
    """Return the description of a model, and the limits of requests."""
    return scoring_pb2.GetModelResponse(
        spec=model.spec,
        version=model.version,
        labels=model.labels,
        limits=scoring_pb2.Limits(
            image_pixels=limits.image_pixels,
            message_bytes=limits.message_bytes,
            large_image_pixels=limits.large_pixels,
        ),
    )


def models_response(registry: Registry) -> scoring_pb2.ListModelsResponse:
    """List all versions of all models, with the error of each version that cannot serve."""
    return scoring_pb2.ListModelsResponse(
        models=[
            scoring_pb2.ModelVersion(name=name, version=version, error=registry.state(name, version)[1])
            for name, version in registry.models()
        ]
    )


def to_little_endian(numbers: np.ndarray) -> bytes:
    """Return an array as an answer holds it: little-endian, the last index fastest."""
    return np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).tobytes()


def _timing(timing: Timing) -> scoring_pb2.Timing:
    return scoring_pb2.Timing(
        queue_ms=timing.queue * 1e3,
        decode_ms=timing.decode * 1e3,
        compute_ms=timing.compute * 1e3,
        reduce_ms=timing.reduce * 1e3,
        total_ms=timing.total * 1e3,
    )


def _describe(planned: PlannedImage) -> scoring_pb2.ScoreResponse:
    """Return the parts that are the same for every image with this plan: all except name, classes and file warnings."""
    model, plan, options = planned.model, planned.plan, planned.options
    size = (planned.picture.height, planned.picture.width)
    remarks, warnings = remarks_on(planned)
    return scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(width=size[1], height=size[0]),
        model=model.name,
        version=model.version,
        mode=plan.mode.name,
        mode_reason="; ".join([plan.reason, *remarks]),
        grid=_grid(size, options, plan.views[0], model.spec),
        average=scoring_pb2.Average(of=AVERAGES[options.requested.average]),
        parity=_parity(*certified(planned), planned.session.difference),
        provider=planned.session.backend.provider,
        precision=planned.precision,
        own_scores=has_own_scores(planned),
        plan=scoring_pb2.Plan(
            file=model.files[plan.mode.position],
            multiply_adds=plan.multiply_adds,
            views=[_view(view, plan) for view in plan.views],
        ),
        warnings=warnings,
    )


def _classes(model: StoredModel, options: ResolvedOptions) -> scoring_pb2.ScoreResponse:
    """Return a response with the classes alone."""
    return _all_classes(model) if options.has_all_classes else _named_classes(model, options.classes)


@lru_cache(KEPT_MODELS)
def _all_classes(model: StoredModel) -> scoring_pb2.ScoreResponse:
    return _named_classes(model, tuple(range(model.spec.output.classes)))


def _named_classes(model: StoredModel, classes: tuple[int, ...]) -> scoring_pb2.ScoreResponse:
    response = scoring_pb2.ScoreResponse()
    for index in classes:
        response.classes.add(index=index, label=model.label(index))
    return response


def _grid(
    size: tuple[int, int], options: ResolvedOptions, view: View, spec: model_pb2.ModelSpec
) -> scoring_pb2.GridInfo:
    vertical, horizontal = view.tile_plan.vertical, view.tile_plan.horizontal
    grid = scoring_pb2.GridInfo(
        rows=vertical.cells,
        cols=horizontal.cells,
        stride=model_pb2.Size(height=vertical.stride, width=horizontal.stride),
        window=spec.window,
        origin_x=horizontal.origin,
        origin_y=vertical.origin,
        left_out=model_pb2.Size(height=vertical.left_out, width=horizontal.left_out),
        last_x=horizontal.position(horizontal.cells - 1),
        last_y=vertical.position(vertical.cells - 1),
        depth=options.depth,
        holds=GRIDS[options.requested.grid_as],
        further=spec.output.further,
    )
    if (view.height, view.width) != size:
        grid.scaled.CopyFrom(model_pb2.Size(height=view.height, width=view.width))
    return grid


def _view(view: View, plan: Plan) -> scoring_pb2.View:
    tiles, network = view.tile_plan, plan.mode.network
    height, width = tiles.max_tile_shape
    halo = [(axis.halo_before(stride), axis.halo_after(stride)) for axis, stride in network.axes]
    phases = [
        max(1, stride // lattice.stride)
        for (_, stride), lattice in zip(network.axes, (tiles.vertical, tiles.horizontal), strict=True)
    ]
    return scoring_pb2.View(
        image=model_pb2.Size(height=view.height, width=view.width),
        cells=model_pb2.Size(height=tiles.vertical.cells, width=tiles.horizontal.cells),
        tiles=len(tiles),
        tile=model_pb2.Size(height=height, width=width),
        halo=[halo[0][0], halo[1][0], halo[0][1], halo[1][1]],
        phases=phases[0] * phases[1],
        flip=bool(tiles.mirrored),
        multiply_adds=view.multiply_adds,
        strip_rows=tiles.max_strip_rows,
    )


def _parity(
    seen: model_pb2.Difference,
    exact: bool,  # noqa: FBT001 (a field)
    computed: model_pb2.Difference,
) -> scoring_pb2.ParityInfo:
    """Return a summary of a certificate."""
    return scoring_pb2.ParityInfo(
        exact=exact,
        max_abs_diff=seen.max_abs,
        windows=seen.windows,
        top_class_agreement=seen.top_class_agreement,
        agreement_low=seen.agreement_low,
        agreement_high=seen.agreement_high,
        computed=computed if computed.windows else None,
    )
