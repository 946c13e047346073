"""The record of a conversion: report.json, and the same as tables for the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any

from google.protobuf import json_format
from rich.table import Table
from rich.text import Text

from converter.graph.rewrites import Rewrite
from converter.verdict import margins_verdict, precision_verdict, recommendation, shared_multiply_adds, verdict
from converter.verify.given_images import OPTION, shown_reasons
from fullconv.common.text import counted
from fullconv.protos import model_pb2


@dataclass(frozen=True, repr=False)
class Report:
    """The ModelSpec of a converted network, the rewritten layers, and the agreement of the result with its source.

    `given` says whether the agreement was measured on the user's images; `skipped` is the number of these images that
    are smaller than a window, and `unreadable` are the reasons why others cannot be read. `removed` are the reasons why
    files of mode shared were removed. `notes` state how the source was read, such as the prefix of the network's keys.
    """

    spec: model_pb2.ModelSpec
    rewrites: Sequence[Rewrite]
    _: KW_ONLY
    given: bool = True
    skipped: int = 0
    unreadable: Sequence[str] = ()
    removed: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        """Return the certificate in words and the recommendation, one sentence per line."""
        return "\n".join([*self.verdicts(), *self.margins(), self.closing()])

    def document(self) -> dict[str, Any]:
        """Return report.json: the ModelSpec, the rewritten layers, and the certificate in words."""
        return {
            "verdict": f"{self.verdicts()[0]}. {self.closing()}",
            "notes": [*self.notes, *shown_reasons(self.unreadable)],
            "rewritten": [asdict(rewrite) for rewrite in self.rewrites],
            **spec_document(self.spec),
        }

    def layers(self) -> Table:
        """Return a table of the rewritten layers, "Gemm 25088→4096 → Conv 7×7, 512→4096"."""
        table = Table("node", "rewritten", box=None, pad_edge=False)
        for rewrite in self.rewrites:
            table.add_row(Text(rewrite.node), Text(f"{rewrite.was} → {rewrite.now}"))
        return table

    def facts(self) -> Table:
        """Return a table of geometry, cost and certificate."""
        table = Table.grid(padding=(0, 2))
        for name, fact in (*self._interface(), *(self._crops() if self.spec.modes[0] == "crops" else self._dense())):
            table.add_row(Text(name, style="bold"), Text(fact))
        return table

    def verdicts(self) -> list[str]:
        """Return the certificate of every stride in words."""
        if self.spec.modes[0] == "crops":
            return ["crops only: every window is scored by itself, which gives the classifier's own answers"]
        return [verdict(self.spec, position) for position in range(len(self.spec.parity))]

    def margins(self) -> list[str]:
        """Return the certificate of every file of mode shared whose margins are cut off, in words."""
        return [margins_verdict(self.spec, file) for file in self.spec.shared if file.margin_limit]

    def closing(self) -> str:
        """Return how exact dense is at the native stride, the recommended mode, and what was not measured."""
        parts = [recommendation(self.spec)]
        if not self.given and not self.spec.parity[0].exact:
            parts.append("The measurement did not use your images; name their folder with --images DIR.")
        parts += _left_out(self.skipped, "is smaller than a window", "are smaller than a window")
        parts += _left_out(len(self.unreadable), "cannot be read", "cannot be read")
        return " ".join(parts)

    def _interface(self) -> Iterator[tuple[str, str]]:
        spec = self.spec
        yield from (("source", note) for note in self.notes)
        yield from (("images", line.removeprefix(OPTION)) for line in shown_reasons(self.unreadable))
        yield "window", f"{spec.window.height}×{spec.window.width} pixels"
        yield (
            "input",
            f"{spec.input.name}: {spec.input.dtype} {spec.input.layout}, {counted(spec.input.channels, 'channel')}",
        )
        yield "preprocessing", _preprocessing(spec.input)
        yield "output", f"{spec.output.name}: {counted(spec.output.classes, 'class')}, {spec.output.kind}"
        yield from (
            ("output", f"{further.name}: {counted(further.values, 'value')}") for further in spec.output.further
        )
        yield "cost of a crop", f"{_count(spec.cost[0].multiply_adds_per_crop)} multiply-adds"
        if spec.parity[0].precision.windows:
            yield "precision", spec.precision
        else:
            yield "single windows", f"equal up to rounding (largest difference {spec.parity[0].native.max_abs:.1e})"

    def _dense(self) -> Iterator[tuple[str, str]]:
        spec = self.spec
        yield "receptive field", _pixels(spec.vertical.receptive_field, spec.horizontal.receptive_field)
        yield "padding", _pixels(spec.vertical.padding_before, spec.horizontal.padding_before)
        for position, (file, cost) in enumerate(zip(spec.strides, spec.cost, strict=True)):
            yield "", ""
            yield "stride", f"{_pixels(file.stride.height, file.stride.width)}, {file.file}"
            yield "cost", f"{_count(cost.multiply_adds_per_cell)} multiply-adds per cell of the native stride"
            yield from self._certificate(position)
        for shared in (file for file in spec.shared if not file.margin_limit):
            gain = spec.cost[0].multiply_adds_per_crop / shared_multiply_adds(shared, shared.multiple_of)
            pixels = _pixels(shared.multiple_of.height, shared.multiple_of.width)
            yield "", ""
            yield "mode shared", f"any multiple of a stride of {pixels}, {shared.file}"
            yield "cost", f"crops need {gain:.2g} times the multiply-adds at a stride of {pixels} in a large image"
            yield "parity", f"equals crops up to rounding (largest difference seen {shared.difference.max_abs:.1e})"

        for reason in self.removed:
            yield "", ""
            yield "mode shared", f"removed {reason}"
        if cut := self.margins():
            yield "", ""
            yield from (("cut margins", line) for line in cut)

    def _crops(self) -> Iterator[tuple[str, str]]:
        yield "stride", f"{_pixels(self.spec.vertical.stride, self.spec.horizontal.stride)} between windows"
        yield from self._certificate(0)

    def _certificate(self, position: int) -> Iterator[tuple[str, str]]:
        yield "parity", self.verdicts()[position]
        if self.spec.parity[position].precision.windows:
            yield self.spec.precision, precision_verdict(self.spec, position)


def spec_document(spec: model_pb2.ModelSpec) -> dict[str, Any]:
    """Return a ModelSpec as JSON, with the field names of the proto file, and every field whether set or not."""
    document: dict[str, Any] = json_format.MessageToDict(
        spec, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return document


def _preprocessing(image: model_pb2.Input) -> str:
    """Return a description of the preprocessing in the graph."""
    if not image.HasField("preprocessing"):
        return "none: the network gets pixel values 0 to 255; choose other preprocessing with --preprocess"
    chosen = image.preprocessing
    given = (("mean", chosen.mean), ("std", chosen.std))
    numbers = [f"{name} {', '.join(f'{number:.4g}' for number in part)}" for name, part in given if part]
    own = "" if chosen.dtype in ("", "uint8") else f"the image's own values as {chosen.dtype}, "
    return "; ".join([f"{own}{chosen.order or 'channels'} times {chosen.scale:.4g}", *numbers])


def _pixels(vertical: int, horizontal: int) -> str:
    if vertical == horizontal:
        return counted(vertical, "pixel")
    return f"{vertical}×{horizontal} pixels"


def _left_out(count: int, one: str, many: str) -> list[str]:
    """Return a sentence on images that were not measured, for one image or for several; no sentence for none."""
    sentence = f"1 image {one} and was not measured." if count == 1 else f"{count} images {many} and were not measured."
    return [sentence] if count else []


def _count(count: float) -> str:
    """Return a large number in words, such as 15.5 G or 8.4 M."""
    scale, unit = (1e9, "G") if count >= 1e9 else (1e6, "M") if count >= 1e6 else (1e3, "k")
    return f"{count / scale:.3g} {unit}"
