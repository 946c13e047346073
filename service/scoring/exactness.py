"""Remarks on answers whose scores differ from the scores of the original classifier."""

from fullconv.common.certificate import cut_margins_sentence, is_warning, overall, sentence
from fullconv.protos import model_pb2
from service.engine.repository import StoredModel
from service.scoring.modes import exact_multiply_adds
from service.scoring.plan import Plan


def certified(model: StoredModel, plan: Plan) -> tuple[model_pb2.Difference, bool]:
    """Return the measured agreement with the classifier that goes with this plan, and whether it is exact.

    It is that of the file that runs, if its scores are not the classifier's own, else that of dense scores.
    """
    spec, position = model.spec, plan.mode.position
    if (cut := cut_margins(model, plan)) is not None:
        return cut.difference, False
    position = position if position < len(spec.strides) else 0
    return overall(spec, position), spec.parity[position].exact


def cut_margins(model: StoredModel, plan: Plan) -> model_pb2.SharedFile | None:
    """Return the file that runs, if it is one of mode shared whose margins are cut off."""
    spec, number = model.spec, plan.mode.position - len(model.spec.strides)
    return spec.shared[number] if number >= 0 and spec.shared[number].margin_limit else None


def remarks_on(model: StoredModel, plan: Plan) -> tuple[list[str], list[str]]:
    """Return (remarks, warnings) for answers by this plan.

    One of the lists has one sentence if the scores are not the classifier's own; otherwise both are empty.
    """
    if (cut := cut_margins(model, plan)) is not None:
        return [cut_margins_sentence(cut)], []
    spec, position = model.spec, plan.mode.position
    if plan.mode.name != "dense" or spec.parity[position].exact:
        return [], []
    exact = sum(exact_multiply_adds(model, view.tile_plan) for view in plan.views)
    text = [sentence(spec, position, exact, plan.multiply_adds)]
    return ([], text) if is_warning(overall(spec, position)) else (text, [])
