"""Remarks on answers whose dense scores differ from the scores of the original classifier."""

from fullconv.common.certificate import is_warning, overall, sentence
from service.engine.repository import StoredModel
from service.scoring.modes import exact_multiply_adds
from service.scoring.plan import Plan


def remarks_on_dense(model: StoredModel, plan: Plan) -> tuple[list[str], list[str]]:
    """Return (remarks, warnings) for answers by this plan.

    One of the lists has one sentence if the plan is dense and not exact; otherwise both are empty.
    """
    spec, position = model.spec, plan.mode.position
    if plan.mode.name != "dense" or spec.parity[position].exact:
        return [], []
    exact = sum(exact_multiply_adds(model, view.tile_plan) for view in plan.views)
    text = [sentence(spec, position, exact, plan.multiply_adds)]
    return ([], text) if is_warning(overall(spec, position)) else (text, [])
