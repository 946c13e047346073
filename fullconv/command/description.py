"""The description of a model for a terminal: a table of its properties, then its card."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from fullconv.common.certificate import share_of_windows
from fullconv.common.text import counted, printable
from fullconv.description import ModelDescription, Pair, Parity

SHOWN_LABELS = 20
"""Number of labels that are printed."""


def description_table(model: ModelDescription) -> Group:
    """Lay out the description of a model."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in _properties(model):
        table.add_row(Text(name), Text(printable(text)))
    card: list[RenderableType] = []
    if model.card:
        card = ["", Markdown("\n".join(map(printable, model.card.splitlines())))]
    return Group(Text(f"{printable(model.name)}/{model.version}", "bold"), table, *card)


def _properties(model: ModelDescription) -> Iterator[tuple[str, str]]:
    """Yield the names of properties and their values."""
    yield "window", f"{_size(model.window)} pixels (height×width)"
    yield "strides", ", ".join(map(_size, model.strides)) + " pixels"
    yield "modes", ", ".join(model.modes)
    yield "precision", model.precision
    yield "input", f"{counted(model.input.channels, 'channel')} {model.input.order}, {model.input.dtype}"
    yield "output", f"{model.output.kind}, {counted(model.output.classes, 'class')}"
    for output in model.output.further:
        yield "further output", f"{output.name}, {counted(output.values, 'value')}"
    if model.microns_per_pixel is not None:
        yield "pixel", f"{model.microns_per_pixel:g} micrometres"
    if model.labels:
        more = f", … ({len(model.labels)} in all)" if len(model.labels) > SHOWN_LABELS else ""
        yield "labels", ", ".join(_labels(model)) + more
    for stride, seen in model.parity.items():
        yield f"stride {_size(stride)}", _agreement(seen)


def _labels(model: ModelDescription) -> list[str]:
    """Return the first labels, each with its colour if it has one."""
    colours = model.colours or ("",) * len(model.labels)
    pairs = zip(model.labels[:SHOWN_LABELS], colours, strict=False)
    return [f"{label} {colour}".strip() for label, colour in pairs]


def _agreement(seen: Parity) -> str:
    """Return how far dense scores are the classifier's own."""
    if seen.exact:
        return "dense scores are the classifier's own"
    if seen.top_class_agreement is None or seen.agreement_interval is None:
        return (
            f"dense scores differ from crops by {seen.max_abs_diff:.2g} (largest of {counted(seen.windows, 'window')})"
        )
    share = share_of_windows(seen.top_class_agreement, seen.agreement_interval)
    return f"dense scores have the classifier's own top class on {share}"


def _size(size: Pair) -> str:
    return f"{size[0]}×{size[1]}"
