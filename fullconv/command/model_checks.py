"""Checks of options against the model, before anything is scored or planned."""

from collections.abc import Callable

import typer

from fullconv.command.outputs import Outputs
from fullconv.command.usage import usage_errors
from fullconv.common.probabilities import RAW
from fullconv.description import ModelDescription
from fullconv.grids import check_model
from fullconv.objects.rule import ObjectOptions, object_rule
from fullconv.options import Options


def check_model_options(outputs: Outputs, options: Options, describe: Callable[[], ModelDescription]) -> None:
    """Exit with status 2 for values of options that the model cannot have.

    `describe` returns the model's description; it is called only if there is such an option, and may raise.
    """
    if options.get("average") == "probabilities" and (model := describe()).output.kind == RAW:
        raise typer.BadParameter(
            f"expected scores, got probabilities, which model {model.name!r} does not have", param_hint="--average"
        )
    with usage_errors():
        if outputs.grids and (outputs.files.get("threshold") is not None or outputs.files.get("grid_as")):
            check_model(describe(), outputs.files)
        if outputs.boxes:
            alone: ObjectOptions = {**outputs.object_options, "classes": ()}  # the service refuses unknown classes
            object_rule(describe(), alone)
