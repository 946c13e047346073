"""Remarks on answers whose scores differ from the scores of the original classifier."""

from fullconv.common.certificate import cut_margins_sentence, is_warning, overall, sentence
from fullconv.protos import model_pb2
from service.engine.backend import REFERENCE, ROUNDING
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.scoring.modes import exact_multiply_adds
from service.scoring.plan import Plan
from service.scoring.planned import PlannedImage


def certified(planned: PlannedImage) -> tuple[model_pb2.Difference, bool]:
    """Return the measured agreement with the classifier that goes with a planned image, and whether it is exact.

    It is that of the file that runs, if its scores are not the classifier's own, else that of dense scores. If the
    scores are not those of fp32, as in bf16, the largest difference from fp32 is added. If shares p and q of the
    windows agree, both agree on at least p + q - 1, and possibly on all.
    """
    seen, exact = _of_file(planned.model, planned.plan)
    computed = planned.session.difference
    if _is_full_precision(planned.session):
        return seen, exact
    both = model_pb2.Difference(windows=min(seen.windows, computed.windows))
    if both.windows:
        both.max_abs = seen.max_abs + computed.max_abs
    if seen.agreement_high and computed.agreement_high:
        for field in ("top_class_agreement", "agreement_low"):
            setattr(both, field, max(0.0, getattr(seen, field) + getattr(computed, field) - 1))
        both.agreement_high = 1.0
    return both, False


def has_own_scores(planned: PlannedImage) -> bool:
    """Return whether scores are those that the classifier gives each window by itself, up to rounding in fp32."""
    model, plan = planned.model, planned.plan
    if planned.precision != REFERENCE.precision or not _is_full_precision(planned.session):
        return False
    if plan.mode.name == "dense":
        return model.spec.parity[plan.mode.position].exact
    return cut_margins(model, plan) is None


def _is_full_precision(session: Session) -> bool:
    """Return whether scores differ from those of fp32 on the CPU by rounding at most.

    A GPU may round in fp32 too: TensorRT multiplies numbers of 19 bits by default.
    """
    return session.backend.precision == REFERENCE.precision and session.difference.relative_l2 <= ROUNDING


def _of_file(model: StoredModel, plan: Plan) -> tuple[model_pb2.Difference, bool]:
    spec, position = model.spec, plan.mode.position
    if (cut := cut_margins(model, plan)) is not None:
        return cut.difference, False
    position = position if position < len(spec.strides) else 0
    return overall(spec, position), spec.parity[position].exact


def cut_margins(model: StoredModel, plan: Plan) -> model_pb2.SharedFile | None:
    """Return the file that runs, if it is one of mode shared whose margins are cut off."""
    spec, number = model.spec, plan.mode.position - len(model.spec.strides)
    return spec.shared[number] if number >= 0 and spec.shared[number].margin_limit else None


def remarks_on(planned: PlannedImage) -> tuple[list[str], list[str]]:
    """Return (remarks, warnings) for the answer.

    There is a sentence for each cause for which scores are not the classifier's own: the mode, and the precision.
    """
    remarks, warnings = _remarks_on_mode(planned.model, planned.plan)
    backend, computed = planned.session.backend, planned.session.difference
    if not _is_full_precision(planned.session):
        same = f", and the top class is that of fp32 on {computed.top_class_agreement:.1%}"
        remarks.append(
            f"computed in {backend.precision} by {backend.provider}: on {computed.windows} windows of noise, scores "
            f"differ from fp32 by {computed.relative_l2:.2%} in relative L2 norm"
            + (same if computed.agreement_high else "")
        )
    return remarks, warnings


def _remarks_on_mode(model: StoredModel, plan: Plan) -> tuple[list[str], list[str]]:
    if (cut := cut_margins(model, plan)) is not None:
        return [cut_margins_sentence(cut)], []
    spec, position = model.spec, plan.mode.position
    if plan.mode.name != "dense" or spec.parity[position].exact:
        return [], []
    exact = sum(exact_multiply_adds(model, view.tile_plan) for view in plan.views)
    text = [sentence(spec, position, exact, plan.multiply_adds)]
    return ([], text) if is_warning(overall(spec, position)) else (text, [])
