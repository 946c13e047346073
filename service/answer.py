"""What an answer says besides averages, scores and times: the image, the model, the grid, the plan."""

from functools import lru_cache

from fullconv.common.certificate import is_warning, overall, sentence
from fullconv.protos import model_pb2, scoring_pb2
from service.engine.repository import StoredModel
from service.modes import crops_multiply_adds
from service.options import Options
from service.plan import Plan, View

MODELS = 16
"""Whose classes are kept as messages."""


def describe(size: tuple[int, int], model: StoredModel, options: Options, plan: Plan) -> scoring_pb2.ScoreResponse:
    """Everything that is known of an image of (height, width) pixels before one is decoded, but name and classes."""
    position = plan.mode.position
    remark, warnings = _inexact(model, plan)
    return scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(width=size[1], height=size[0]),
        model=model.name,
        version=model.version,
        mode=plan.mode.name,
        mode_reason="; ".join([plan.reason, *remark]),
        grid=_grid(size, options, plan.views[0], model.spec.window),
        average=scoring_pb2.Average(of=options.average),
        parity=_parity(model.spec, position),
        plan=scoring_pb2.Plan(
            file=model.spec.strides[position].file,
            multiply_adds=plan.multiply_adds,
            bytes=plan.bytes,
            views=[_view(view, plan) for view in plan.views],
        ),
        warnings=warnings,
    )


def classes(model: StoredModel, options: Options) -> scoring_pb2.ScoreResponse:
    """The classes of an answer, and nothing else of it."""
    return _named(model, options.chosen) if options.asked.classes else _all(model)


@lru_cache(MODELS)
def _all(model: StoredModel) -> scoring_pb2.ScoreResponse:
    return _named(model, tuple(range(model.spec.output.classes)))


def _named(model: StoredModel, chosen: tuple[int, ...]) -> scoring_pb2.ScoreResponse:
    answer = scoring_pb2.ScoreResponse()
    for index in chosen:
        answer.classes.add(index=index, label=model.label(index))
    return answer


def _grid(size: tuple[int, int], options: Options, view: View, window: model_pb2.Size) -> scoring_pb2.GridInfo:
    vertical, horizontal = view.tile_plan.vertical, view.tile_plan.horizontal
    grid = scoring_pb2.GridInfo(
        rows=vertical.cells,
        cols=horizontal.cells,
        stride=model_pb2.Size(height=vertical.stride, width=horizontal.stride),
        window=window,
        origin_x=horizontal.origin,
        origin_y=vertical.origin,
        left_out=model_pb2.Size(height=vertical.left_out, width=horizontal.left_out),
        last_x=horizontal.position(horizontal.cells - 1),
        last_y=vertical.position(vertical.cells - 1),
        depth=options.depth,
        holds=options.grid_as,
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


def _inexact(model: StoredModel, plan: Plan) -> tuple[list[str], list[str]]:
    """What dense means for a model that is not exact, as a remark or as a warning; nothing for other models."""
    spec, position = model.spec, plan.mode.position
    if plan.mode.name != "dense" or spec.parity[position].exact:
        return [], []
    crops = sum(crops_multiply_adds(model, view.tile_plan) for view in plan.views)
    said = [sentence(spec, position, crops, plan.multiply_adds)]
    return ([], said) if is_warning(overall(spec, position)) else (said, [])


def _parity(spec: model_pb2.ModelSpec, position: int) -> scoring_pb2.ParityInfo:
    """The certificate of one of the strides in short."""
    seen = overall(spec, position)
    return scoring_pb2.ParityInfo(
        exact=spec.parity[position].exact,
        max_abs_diff=seen.max_abs,
        windows=seen.windows,
        top_class_agreement=seen.top_class_agreement,
        agreement_low=seen.agreement_low,
        agreement_high=seen.agreement_high,
    )
