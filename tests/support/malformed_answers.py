"""What a server may answer wrongly, by kinds: each with the change of an honest answer, and a part of the error.

The honest answers are those of `hostile_servers.ChangedServicer` for PIXELS, with their grid.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
from support.hostile_servers import Parts
from support.pictures import noise

from fullconv.protos import scoring_pb2

PIXELS = noise(90, 111, 1)
ROWS, COLS, CLASSES = 3, 6, 11
"""The digits model's grid of these pixels."""
NAN, INFINITY = float("nan"), float("inf")
Response = scoring_pb2.ScoreResponse
Many = list[scoring_pb2.ScoreManyResponse]
part = scoring_pb2.ScoreLargeResponse


def setting(path: str, value: object) -> Callable[[Any], None]:
    """Set a field of an answer, such as "grid.rows" or "average.values.0"."""

    def change(message: Any) -> None:  # noqa: ANN401 (a message, or several)
        *parents, last = path.split(".")
        for name in parents:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        if last.isdigit():
            message[int(last)] = value
        else:
            setattr(message, last, value)

    return change


def scores(change: Callable[[np.ndarray], object]) -> Callable[[Response], None]:
    """Change the scores (rows, cols, classes) of an answer."""

    def changed(response: Response) -> None:
        values = np.frombuffer(response.scores, "<f4").reshape(ROWS, COLS, CLASSES).copy()
        change(values)
        response.scores = values.tobytes()

    return changed


def add_outputs(*outputs: tuple[str, int]) -> Callable[[Response], None]:
    """Announce further outputs, whose values are missing."""

    def changed(response: Response) -> None:
        for name, values in outputs:
            response.grid.further.add(name=name, values=values)

    return changed


def further(*values: float) -> Callable[[Response], None]:
    """Add an output "boxes" of two values; `values` are those of the first cell, and 0 elsewhere."""

    def changed(response: Response) -> None:
        response.grid.further.add(name="boxes", values=2)
        response.further = np.array([*values, *[0.0] * (2 * ROWS * COLS - 2)], "<f4").tobytes()

    return changed


def doubled_class(response: Response) -> None:
    """Name the first class twice, and not the second."""
    response.classes[1].CopyFrom(response.classes[0])


ANSWERS: dict[str, tuple[Callable[[Response], object], str]] = {
    "empty": (Response.Clear, "model: expected 'digits', got ''"),
    "another model": (setting("model", "\x1b[2J\u202e"), r"model: expected 'digits', got '\x1b[2J\u202e'"),
    "no version": (setting("version", ""), "version: expected a decimal number from 1, got ''"),
    "a version that is text": (setting("version", "1\n2"), r"version: expected a decimal number from 1, got '1\n2'"),
    "another image": (setting("image.name", "x" * 200), "image.name: expected 'image.png', got 'xxx"),
    "no height": (setting("image.height", 0), "image.height: expected at least 1, got 0"),
    "no width": (setting("image.width", 0), "image.width: expected at least 1, got 0"),
    "an unknown mode": (setting("mode", "quantum"), "mode: expected dense or crops, got 'quantum'"),
    "another average": (setting("average.of", scoring_pb2.AVERAGE_OF_PROBABILITIES), "average.of: expected 1, got 2"),
    "an unknown average": (setting("average.of", 77), "average.of: expected 1, got 77"),
    "no classes": (lambda answer: answer.ClearField("classes"), "classes: expected 1 to 1048576, got 0"),
    "a class less": (lambda answer: answer.classes.pop(), "grid.depth: expected 10, got 11"),
    "a class twice": (doubled_class, "classes.index: expected 0, 1, 2 and so on, got others"),
    "a long label": (setting("classes.3.label", "x" * 2000), "labels: expected at most 1000 letters in each, got 2000"),
    "no rows": (setting("grid.rows", 0), "grid.rows: expected 1 to 16777216, got 0"),
    "too many rows": (setting("grid.rows", 2**32 - 1), "grid.rows: expected 1 to 16777216, got 4294967295"),
    "too many columns": (setting("grid.cols", 2**32 - 1), "grid.cols: expected 1 to 16777216, got 4294967295"),
    "more rows": (setting("grid.rows", ROWS + 1), "grid.last_y: expected 17 to 24, got 16"),
    "no stride": (setting("grid.stride.height", 0), "grid.stride.height: expected at least 1, got 0"),
    "no window": (setting("grid.window.width", 0), "grid.window.width: expected at least 1, got 0"),
    "windows below the image": (setting("grid.window.height", 99), "grid.left_out.height: expected -25, got 4"),
    "windows from the right": (setting("grid.origin_x", 2**32 - 1), "grid.last_x: expected 4294967328 to"),
    "another size": (setting("grid.scaled.width", 9), "grid.scaled: expected False, got True"),
    "float16": (setting("grid.holds", scoring_pb2.GRID_AS_FLOAT16), "grid.holds: expected 1, got 2"),
    "no depth": (setting("grid.depth", 0), "grid.depth: expected 11, got 0"),
    "too deep": (setting("grid.depth", 2**32 - 1), "grid.depth: expected 11, got 4294967295"),
    "no scores": (setting("scores", b""), "scores: expected 792 bytes, got 0 bytes"),
    "an odd number of bytes": (setting("scores", b"\0" * 791), "scores: expected 792 bytes, got 791 bytes"),
    "too many scores": (setting("scores", b"\0" * 1584), "scores: expected 792 bytes, got 1584 bytes"),
    "positions": (setting("positions", b"\0" * 4), "positions: expected 0 bytes, got 4 bytes"),
    "values of no output": (setting("further", b"\0" * 4), "further: expected 0 bytes, got 4 bytes"),
    "an output without values": (add_outputs(("boxes", 4)), "further: expected 288 bytes, got 0 bytes"),
    "an output of nothing": (add_outputs(("boxes", 0)), "grid.further.values: expected 1 to 1048576, got 0"),
    "an output without a name": (add_outputs(("", 4)), "grid.further.name: expected 1 to 1000, got 0"),
    "an output twice": (add_outputs(("boxes", 4), ("boxes", 4)), "grid.further.name: expected each output once"),
    "an infinite value": (further(INFINITY, 0), "further: expected finite numbers"),
    "half of a cell's values": (further(NAN, 0), "further: expected finite numbers"),
    "no values of a scored cell": (further(NAN, NAN), "further: expected 0, got 1"),
    "an infinite score": (scores(lambda values: values.__setitem__((1, 2, 3), INFINITY)), "scores: expected finite"),
    "a score that is NaN": (scores(lambda values: values.__setitem__((1, 2, 3), NAN)), "scores: expected finite"),
    "a window without scores": (
        scores(lambda values: values.__setitem__((1, 2), NAN)),
        "scored_cells: expected 17, got 18",
    ),
    "no averages": (lambda answer: answer.average.ClearField("values"), "average.values: expected 11, got 0"),
    "an average that is NaN": (setting("average.values.4", NAN), "average.values: expected finite numbers, got NaN"),
    "an infinite average": (setting("average.values.0", -INFINITY), "average.values: expected finite numbers, got NaN"),
    "no top class": (lambda answer: answer.average.ClearField("top"), "average.top: expected 5, got 0"),
    "a top class beyond": (setting("average.top.0", 2**32 - 1), "average.top: expected 0 to 10, got 4294967295"),
    "a top class twice": (
        lambda answer: setting("average.top.1", answer.average.top[0])(answer),
        "average.top: expected the classes with the highest averages, in descending order, got another order",
    ),
    "top classes upwards": (
        lambda answer: answer.average.top.reverse(),
        "average.top: expected the classes with the highest averages, in descending order, got another order",
    ),
    "no scored windows": (setting("scored_cells", 0), "scored_cells: expected 1 to 18, got 0"),
    "too many windows": (setting("scored_cells", 2**60), "scored_cells: expected 1 to 18, got 1152921504606846976"),
    "no view": (lambda answer: answer.plan.ClearField("views"), "plan.views: expected 1, got 0"),
    "a view of another grid": (setting("plan.views.0.cells.width", 7), "plan.views.cells: expected (3, 6), got (3, 7)"),
    "a view without halo": (lambda answer: answer.plan.views[0].ClearField("halo"), "plan.views.halo: expected 4"),
    "a cost that is NaN": (setting("plan.multiply_adds", NAN), "plan.multiply_adds: expected a finite number from 0"),
    "infinite memory": (setting("plan.bytes", INFINITY), "plan.bytes: expected a finite number from 0, got inf"),
    "an agreement of 2": (setting("parity.agreement_low", 2), "parity.agreement_low: expected a finite number from 0"),
    "a difference that is NaN": (setting("parity.max_abs_diff", NAN), "parity.max_abs_diff: expected a finite number"),
    "a time that is NaN": (setting("timing.total_ms", NAN), "timing.total_ms: expected a finite number, got nan"),
}  # fmt: skip
ENDLESS = part(rows=scoring_pb2.GridRows(count=1, scores=b"\0" * 4 * COLS * CLASSES))


def endless_rows(parts: Parts) -> Iterator[part]:
    """All parts but the summary, then rows without end."""
    yield from parts[:-1]
    for first in count(ROWS):
        ENDLESS.rows.first = first
        yield ENDLESS


def in_part(position: int, path: str, value: object) -> Callable[[Parts], None]:
    """Set a field of one of the parts: the start, progress, three rows, progress, the summary."""
    return lambda parts: setting(path, value)(parts[position])


STREAMS: dict[str, tuple[Callable[[Parts], object], str]] = {
    "nothing": (lambda _: [], "the server ended the stream before it sent the summary"),
    "no start": (lambda parts: parts[1:], "part: expected start, got progress"),
    "an empty part": (lambda parts: [parts[0], part(), *parts[1:]], "part: expected progress or rows or summary, got"),
    "two starts": (lambda parts: [parts[0], *parts], "part: expected progress or rows or summary, got start"),
    "a malformed start": (in_part(0, "start.grid.rows", 0), "grid.rows: expected 1 to 16777216, got 0"),
    "another image": (in_part(0, "start.image.width", 112), "image.width: expected 111, got 112"),
    "averages at the start": (
        lambda parts: parts[0].start.average.values.append(1),
        "average.values: expected 0, got 1",
    ),
    "progress beyond the end": (in_part(5, "progress.tiles", 99), "progress.tiles: expected 0 to"),
    "progress without an end": (in_part(1, "progress.of", 0), "progress.of: expected"),
    "progress backwards": (lambda parts: [*parts[:6], parts[1], parts[6]], "progress.tiles: expected"),
    "a row less": (lambda parts: parts[:4] + parts[5:], "rows: expected 3, got 2"),
    "a row skipped": (lambda parts: parts[:3] + parts[4:], "rows.first: expected 1, got 2"),
    "a row twice": (lambda parts: parts.insert(3, parts[2]), "rows.first: expected 1, got 0"),
    "rows upwards": (lambda parts: [*parts[:2], *parts[4:1:-1], *parts[5:]], "rows.first: expected 0, got 2"),
    "rows without end": (endless_rows, "rows.first: expected 0 to 2, got 3"),
    "no rows in a part": (in_part(2, "rows.count", 0), "rows.count: expected 1 to 3, got 0"),
    "too many rows in a part": (in_part(3, "rows.count", 2**32 - 1), "rows.count: expected 1 to 2, got 4294967295"),
    "rows cut short": (in_part(2, "rows.scores", b"\0" * 8), "scores: expected 264 bytes, got 8 bytes"),
    "positions": (in_part(2, "rows.positions", b"\0" * 8), "positions: expected 0 bytes, got 8 bytes"),
    "rows of NaN": (
        in_part(2, "rows.scores", np.full(COLS * CLASSES, NAN, "<f4").tobytes()),
        "scored_cells: expected 12, got 18",
    ),
    "no summary": (lambda parts: parts[:-1], "the server ended the stream before it sent the summary"),
    "two summaries": (lambda parts: [*parts, parts[-1]], "part: expected the end of the stream after the summary"),
    "the summary of another image": (
        in_part(6, "summary.image.width", 112),
        "summary.image: expected the same as at the start of the stream, got another one",
    ),
    "the summary of other classes": (
        in_part(6, "summary.classes.0.label", "x"),
        "summary.classes: expected the same as at the start of the stream, got others",
    ),
    "a summary without averages": (
        lambda parts: parts[6].summary.average.ClearField("values"),
        "average.values: expected 11, got 0",
    ),
    "scores in the summary": (in_part(6, "summary.scores", b"\0\0\0\0"), "scores: expected 0 bytes, got 4 bytes"),
}
MANY: dict[str, tuple[Callable[[Many], object], str]] = {
    "an unknown id": (setting("1.id", "\x1b[m"), r"id: expected the id of a request without an answer, got '\x1b[m'"),
    "an id twice": (setting("1.id", "0"), "id: expected the id of a request without an answer, got '0'"),
    "no result": (lambda many: many[0].ClearField("response"), "failure.code: expected the number of a status"),
    "an unknown status": (
        lambda many: many[0].failure.MergeFrom(scoring_pb2.Failure(code=999)),
        "failure.code: expected the number of a status other than OK, got 999",
    ),
    "a failure that is OK": (
        lambda many: many[0].failure.MergeFrom(scoring_pb2.Failure(code=0, message="fine")),
        "failure.code: expected the number of a status other than OK, got 0",
    ),
    "a malformed answer": (setting("0.response.average.top.0", 11), "average.top: expected 0 to 10, got 11"),
}  # fmt: skip
MODELS: dict[str, tuple[Callable[[scoring_pb2.GetModelResponse], object], str]] = {
    "empty": (scoring_pb2.GetModelResponse.Clear, "version: expected a decimal number from 1, got ''"),
    "no window": (setting("spec.window.height", 0), "spec.window.height: expected at least 1, got 0"),
    "no stride": (setting("spec.vertical.stride", 0), "spec.stride.height: expected at least 1, got 0"),
    "no classes": (setting("spec.output.classes", 0), "spec.output.classes: expected 1 to 1048576, got 0"),
    "too many classes": (setting("spec.output.classes", 2**32 - 1), "spec.output.classes: expected 1 to 1048576, got"),
    "an unknown kind": (setting("spec.output.kind", "\x9b2J"), "spec.output.kind: expected logits-softmax or"),
    "a further output twice": (
        lambda model: [model.spec.output.further.add(name="a", values=1) for _ in range(2)],
        "spec.output.further.name: expected each output once",
    ),
    "a label less": (lambda model: model.labels.pop(), "labels: expected 11, got 10"),
    "a long label": (setting("labels.0", "x" * 1001), "labels: expected at most 1000 letters in each, got 1001"),
    "an unknown mode": (
        lambda model: model.spec.modes.append("?"),
        "spec.modes: expected dense or shared or crops, got '?'",
    ),
    "a colour for each of other classes": (
        lambda model: model.spec.colours.append("#123456"),
        "spec.colours: expected 11, got 1",
    ),
    "a word in place of a colour": (
        lambda model: model.spec.colours.extend(["red"] * 11),
        'spec.colours: expected "#rrggbb" or an empty text for each class, got other texts',
    ),
    "a pixel of infinite size": (
        setting("spec.microns_per_pixel", float("inf")),
        "spec.microns_per_pixel: expected a finite number, got inf",
    ),
    "no parity": (lambda model: model.spec.ClearField("parity"), "spec.parity: expected"),
    "an agreement of 2": (
        setting("spec.parity.0.interior.top_class_agreement", 2),
        "spec.parity.interior.top_class_agreement: expected a finite number from 0 to 1, got 2.0",
    ),
}
