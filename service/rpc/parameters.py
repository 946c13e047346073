"""The parameters of an Open Inference request as options: stride, mode, border, average, flip and others."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from fullconv.protos import open_inference_pb2 as oip
from service.errors import OptionError
from service.images.picture import PageSelection
from service.scoring.options import AverageOf, Border, ModeChoice, Priority, Region, RequestedOptions, Scale

IGNORED = {"triton_enable_empty_final_response", "binary_data_output", "sequence_id", "sequence_start", "sequence_end"}
"""Parameters that clients send and that have no effect: each request has one answer, and there are no sequences."""
TIMEOUT = "timeout"

Choice = TypeVar("Choice", bound=StrEnum)


def options_of(request: oip.ModelInferRequest, *, grid: bool) -> RequestedOptions:
    """Return the options that a request's parameters ask for; raises OptionError."""
    values: dict[str, Any] = {"grid": grid}
    selection: dict[str, Any] = {}
    for name, parameter in request.parameters.items():
        if name in IGNORED or name == TIMEOUT:
            continue
        if name not in READERS:
            raise OptionError(f"parameters: expected {', '.join(READERS)} or {TIMEOUT}, got {name[:40]!r}")
        (selection if name in SELECTION else values)[name] = READERS[name](value_of(parameter))
    given = {name: value for name, value in values.items() if value is not None}
    return RequestedOptions(**given, selection=PageSelection(**selection))


def timeout_seconds(request: oip.ModelInferRequest) -> float | None:
    """Return the seconds that a request may take (Triton gives microseconds); None: no limit. Raises OptionError."""
    if TIMEOUT not in request.parameters:
        return None
    return count_of(TIMEOUT, value_of(request.parameters[TIMEOUT]), bits=64) / 1e6 or None


def value_of(parameter: oip.InferParameter) -> Any:  # noqa: ANN401 (one of several types)
    """Return the value of a parameter; None if it has none."""
    choice = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, choice) if choice else None


def count_of(name: str, value: Any, bits: int = 32) -> int:  # noqa: ANN401
    """Return an unsigned integer of `bits` bits; raises OptionError for other values."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise OptionError(f"parameters: {name}: expected an integer from 0 to {(1 << bits) - 1}, got {value!r}")
    return value


def _flag(name: str, value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, bool):
        raise OptionError(f"parameters: {name}: expected true or false, got {value!r}")
    return value


def _choice(name: str, value: Any, choices: type[Choice]) -> Choice:  # noqa: ANN401
    if value not in list(choices):
        raise OptionError(f"parameters: {name}: expected {' or '.join(choices)}, got {str(value)[:40]!r}")
    return choices(value)


def _share(name: str, value: Any) -> float:  # noqa: ANN401
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise OptionError(f"parameters: {name}: expected a share of windows above 0 and at most 1, got {str(value)[:40]!r}")


def _words(name: str, value: Any) -> list[str]:  # noqa: ANN401
    if not isinstance(value, str) or not value:
        raise OptionError(f"parameters: {name}: expected words separated by commas, got {value!r}")
    return [word.strip() for word in value.split(",")]


def _scale(word: str) -> Scale:
    try:
        return Scale(factor=float(word[:-1])) if word.endswith("x") else Scale(shorter_side=int(word))
    except ValueError:
        raise OptionError(f"parameters: scales: expected pixels, 384, or a factor, 0.5x; got {word[:40]!r}") from None


def _band(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 9):
        raise OptionError(f"parameters: bands: expected numbers from 1, such as 1,2,3; got {word[:40]!r}")
    return int(word)


def scales_of(value: Any) -> tuple[Scale, ...]:  # noqa: ANN401
    """Return scales, such as "384,0.5x"; raises OptionError."""
    return tuple(map(_scale, _words("scales", value)))


def region_of(value: Any) -> Region:  # noqa: ANN401
    """Return a region, such as "0,0,640,480"; raises OptionError."""
    words = _words("region", value)
    if len(words) != 4 or not all(
        word.isascii() and word.isdecimal() and len(word) <= 10 and int(word) < 1 << 32 for word in words
    ):
        raise OptionError(f"parameters: region: expected x,y,width,height in pixels, got {value[:40]!r}")
    return Region(*map(int, words))


def _priority(value: Any) -> Priority:  # noqa: ANN401
    """Return Triton's priority as ours: 0 is the model's default, 1 the highest."""
    number = count_of("priority", value)
    return {0: Priority.NORMAL, 1: Priority.HIGH}.get(number, Priority.LOW)


READERS: dict[str, Callable[[Any], Any]] = {
    "stride": lambda value: count_of("stride", value) or None,
    "mode": lambda value: _choice("mode", value, ModeChoice),
    "min_agreement": lambda value: _share("min_agreement", value),
    "border": lambda value: _choice("border", value, Border),
    "average": lambda value: _choice("average", value, AverageOf),
    "flip": lambda value: _flag("flip", value),
    "classes": lambda value: tuple(_words("classes", value)),
    "scales": scales_of,
    "bands": lambda value: tuple(map(_band, _words("bands", value))),
    "page": lambda value: count_of("page", value),
    "region": region_of,
    "priority": _priority,
}
"""For each parameter that has an effect: the function that reads its value."""
SELECTION = {"bands", "page"}
"""Parameters that select parts of the file."""
