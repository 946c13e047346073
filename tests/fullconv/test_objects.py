"""Objects in grids: local maxima, suppression of overlapping boxes, offsets of boxes, and options."""

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.paths import ROOT

from fullconv import RequestError, Scorer
from fullconv.common.probabilities import PROBABILITIES, RAW, SIGMOID
from fullconv.description import ModelDescription, ModelOutput
from fullconv.grid import FurtherOutput, GridHeader, GridRows, ImageInfo, WindowAxis
from fullconv.objects.boxes import have_area, moved_boxes
from fullconv.objects.finder import find_objects
from fullconv.objects.maxima import local_maxima
from fullconv.objects.rule import ObjectOptions, object_rule
from fullconv.objects.suppression import suppress, suppress_by_class

Boxes = NDArray[np.int64] | NDArray[np.float64]


def stepped(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Return numbers from 0 to 1, of which many are equal."""
    numbers: NDArray[np.float32] = (rng.integers(0, 6, shape) / 5).astype(np.float32)
    return numbers


def is_maximum(values: NDArray[np.float32], row: int, col: int) -> bool:
    """Return whether a cell of one class exceeds its neighbours, by comparison with each of them."""
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            at = row + down, col + across
            if (down, across) == (0, 0) or not (0 <= at[0] < len(values) and 0 <= at[1] < values.shape[1]):
                continue
            if values[at] > values[row, col] or (values[at] == values[row, col] and (down, across) < (0, 0)):
                return False
    return True


@pytest.mark.parametrize("shape", [(9, 11, 3), (1, 7, 2), (6, 1, 2), (1, 1, 1)], ids=str)
def test_local_maxima(shape: tuple[int, int, int]) -> None:
    """They are the cells that a comparison with every neighbour finds, with cells of equal and of no value."""
    rng = np.random.default_rng(3)
    for _ in range(30):
        values = stepped(rng, *shape)
        values[rng.random(shape[:2]) < 0.1] = np.nan
        framed = np.pad(values, ((1, 1), (0, 0), (0, 0)), constant_values=np.nan)
        expected = [
            (row, col, class_)
            for row, col, class_ in np.ndindex(shape)
            if values[row, col, class_] >= 0.4 and is_maximum(values[..., class_], row, col)
        ]
        assert [*zip(*map(np.ndarray.tolist, local_maxima(framed, 0.4)), strict=True)] == expected


def test_equal_neighbours() -> None:
    """Of a rectangle of equal cells only the first counts."""
    values = np.zeros((8, 9, 1), np.float32)
    values[2:6, 3:8] = 1
    row, col, _ = local_maxima(values, 0.5)
    assert (row.tolist(), col.tolist()) == ([1], [3])  # row 0 is row 1 of the values


def random_boxes(rng: np.random.Generator, count: int, side: int) -> Boxes:
    """Return boxes in a square, most of which overlap others, as whole numbers."""
    return np.concatenate([rng.integers(0, side, (count, 2)), rng.integers(1, 60, (count, 2))], axis=1)


def overlap_of(one: Boxes, other: Boxes) -> float:
    """Return the intersection over union of two boxes."""
    sides = [min(one[at] + one[at + 2], other[at] + other[at + 2]) - max(one[at], other[at]) for at in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return float(shared / (one[2] * one[3] + other[2] * other[3] - shared))


def suppressed_one_by_one(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> list[int]:
    """Return the positions of the boxes that are kept, by comparison of each box with each kept box."""
    kept = list[int]()
    for position in sorted(range(len(boxes)), key=lambda at: -scores[at]):  # the sort is stable
        if all(overlap_of(boxes[position], boxes[other]) <= overlap for other in kept):
            kept.append(position)
    return kept


CASES = [(count, side, overlap) for count, side in ((1, 10), (200, 90), (200, 600)) for overlap in (0, 0.3, 0.7, 1)]


@pytest.mark.parametrize(("count", "side", "overlap"), CASES, ids=str)
def test_suppression(count: int, side: int, overlap: float) -> None:
    """The kept boxes are those of a comparison one by one, with equal scores and in high and wide areas."""
    rng = np.random.default_rng(count + side)
    for stretch in ((1, 1, 1, 1), (9, 1, 1, 1), (0.25, 8.5, 1, 1)):
        boxes = random_boxes(rng, count, side) * np.array(stretch)
        scores = stepped(rng, count)
        assert suppress(boxes, scores, overlap).tolist() == suppressed_one_by_one(boxes, scores, overlap)


def onnx_suppression(boxes: Boxes, scores: NDArray[np.float32], overlap: float) -> NDArray[np.int64]:
    """Return the positions that ONNX's operator NonMaxSuppression keeps, as ONNX Runtime computes it."""
    constants = {"most": np.array([len(boxes)]), "overlap": np.array([overlap], np.float32)}
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"])],
        "suppression",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, None]) for name in ("boxes", "scores")],
        [helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    corners = np.concatenate([boxes[:, 1::-1], boxes[:, 1::-1] + boxes[:, :1:-1]], axis=1)[None].astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString())
    kept: NDArray[np.int64] = session.run(None, {"boxes": corners, "scores": scores[None, None]})[0][:, 2]
    return kept


@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9])
def test_suppression_is_that_of_onnx(overlap: float) -> None:
    """ONNX Runtime keeps the same boxes in the same order, of thousands with many equal scores."""
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 3000, 700), stepped(rng, 3000)
    assert_array_equal(suppress(boxes, scores, overlap), onnx_suppression(boxes, scores, overlap))


def test_suppression_of_many_boxes() -> None:
    """Of 100,000 boxes no two kept boxes overlap, and each dropped box overlaps a kept box of at least its score."""
    rng = np.random.default_rng(6)
    boxes = np.concatenate([rng.integers(0, 4000, (100_000, 2)), np.full((100_000, 2), 224)], axis=1)
    scores = rng.random(100_000, np.float32)
    kept = suppress(boxes, scores, 0.3)
    assert (np.diff(scores[kept]) <= 0).all()
    sides = np.maximum(224 - np.abs(boxes[kept][:, None, :2] - boxes[kept][:, :2]), 0)
    shared = sides.prod(axis=-1)
    overlaps = shared / (2 * 224**2 - shared)
    assert ((overlaps > 0.3) == np.eye(len(kept), dtype=bool)).all()
    for position in rng.choice(np.setdiff1d(np.arange(100_000), kept), 200):
        better = [other for other in kept if scores[other] >= scores[position]]
        assert any(overlap_of(boxes[position], boxes[other]) > 0.3 for other in better)


def test_classes_do_not_suppress_each_other() -> None:
    """Each class keeps the boxes that it keeps alone; together they are in the order of the scores."""
    rng = np.random.default_rng(7)
    boxes, scores, classes = random_boxes(rng, 300, 200), stepped(rng, 300), rng.integers(0, 4, 300)
    kept = suppress_by_class(boxes, scores, classes, 0.3)
    for class_ in range(4):
        own = np.flatnonzero(classes == class_)
        assert sorted(kept[classes[kept] == class_]) == sorted(own[suppress(boxes[own], scores[own], 0.3)])
    assert [(-scores[at], at) for at in kept] == sorted((-scores[at], at) for at in kept)
    assert len(suppress_by_class(boxes[:0], scores[:0], classes[:0], 0.3)) == 0


def test_offsets() -> None:
    """Offsets move the edges of the window by shares of its width and height."""
    windows = np.array([[100, 50, 20, 40], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    offsets = np.array([[-0.5, 0.25, 0.5, -0.25], [0, 0, 0, 0], [0, 0.5, 0, -0.5], [0, 0, np.inf, 0]], np.float32)
    boxes = moved_boxes(windows, offsets)
    assert boxes[:3].tolist() == [[90, 60, 40, 20], [0, 0, 10, 10], [0, 5, 10, 0]]
    assert have_area(boxes).tolist() == [True, True, False, False]


@pytest.fixture(scope="module")
def model() -> ModelDescription:
    """Return the description of a model with two classes, whose probabilities it returns, and with boxes."""
    with Scorer(ROOT / "models") as scorer:
        described = scorer.model("digits")
    output = ModelOutput(PROBABILITIES, 2, (FurtherOutput("code", 3), FurtherOutput("offsets", 4)))
    return replace(described, output=output, labels=("other", "face"), colours=("", "#c01040"))


def header_of(model: ModelDescription, rows: int, cols: int) -> GridHeader:
    """Describe a grid with windows of 20×30 pixels (height×width), 10 apart."""
    return GridHeader(
        ImageInfo("image.png", 30 + 10 * cols, 20 + 10 * rows),
        WindowAxis(rows, 0, 10 * (rows - 1), 10, 20),
        WindowAxis(cols, 0, 10 * (cols - 1), 10, 30),
        tuple(range(model.output.classes)),
        model.labels,
        model.output.classes,
        model.output.further,
    )


def rows_of(rng: np.random.Generator, rows: int, cols: int) -> GridRows:
    """Return a grid of random probabilities of two classes, with further values."""
    faces = rng.random((rows, cols), np.float32)
    further = rng.uniform(-0.3, 0.3, (rows, cols, 7)).astype(np.float32)
    return GridRows(0, np.stack([1 - faces, faces], axis=-1), None, further)


def parts_of(rows: GridRows, sizes: list[int]) -> Iterator[GridRows]:
    """Yield rows in parts of some sizes."""
    ends = np.cumsum(sizes).tolist()
    assert rows.further is not None
    for first, end in zip([0, *ends], ends, strict=False):
        yield GridRows(first, rows.scores[first:end], None, rows.further[first:end])


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [2, 1, 5, 4], [11, 1]], ids=str)
@pytest.mark.parametrize("box_output", [None, "offsets"])
def test_rows_in_parts(model: ModelDescription, sizes: list[int], box_output: str | None) -> None:
    """The objects are those of a comparison one by one, in whatever parts the rows arrive."""
    rows, header = rows_of(np.random.default_rng(8), 12, 15), header_of(model, 12, 15)
    options = ObjectOptions(threshold=0.6, overlap=0.1)
    if box_output is not None:
        options["box_output"] = box_output
    found = find_objects(model, [(header, parts_of(rows, sizes))], **options)

    faces, further = rows.scores[..., 1].astype(np.float32), rows.further
    assert further is not None
    cells = [at for at in np.ndindex(faces.shape) if faces[at] >= 0.6 and is_maximum(faces, *at)]
    windows = np.array([[10 * col, 10 * row, 30, 20] for row, col in cells])
    values, scores = np.array([further[at] for at in cells]), np.array([faces[at] for at in cells])
    boxes = windows if box_output is None else moved_boxes(windows, values[:, 3:])
    kept = suppressed_one_by_one(boxes, scores, 0.1)
    assert 3 < len(kept) < len(cells)
    assert_allclose(found.boxes, boxes[kept], rtol=0, atol=1e-12)
    assert_array_equal(found.windows, windows[kept])
    assert_array_equal(found.scores, scores[kept])
    assert (found.labels, set(found.classes.tolist())) == (["face"] * len(kept), {1})
    for name, part in (("code", values[:, :3]), ("offsets", values[:, 3:])):
        assert_array_equal(found.further[name], part[kept])
    first = next(iter(found))
    assert (first.label, first.index, first.colour) == ("face", 1, "#c01040")
    assert (first.x, first.y, first.width, first.height) == tuple(found.boxes[0].tolist())
    assert np.float32(first.score) == found.scores[0]


def test_grids_of_several_scales(model: ModelDescription) -> None:
    """Candidates of all grids compete, the candidates of earlier grids first if the scores are equal."""
    rng = np.random.default_rng(9)
    grids = [(header_of(model, 9, 9), [rows_of(rng, 9, 9)]), (header_of(model, 4, 5), [rows_of(rng, 4, 5)])]
    every = [find_objects(model, [grid], overlap=1) for grid in grids]
    boxes = np.concatenate([each.boxes for each in every])
    scores = np.concatenate([each.scores for each in every])
    found = find_objects(model, grids)
    assert_array_equal(found.boxes, boxes[suppressed_one_by_one(boxes, scores, 0.3)])
    same = find_objects(model, [grids[0], grids[0]])
    assert_array_equal(same.boxes, find_objects(model, grids[:1]).boxes)


def test_objects_of_several_classes(model: ModelDescription) -> None:
    """Objects of different classes overlap, unless all classes are compared."""
    rows, header = rows_of(np.random.default_rng(10), 9, 9), header_of(model, 9, 9)
    found = find_objects(model, [(header, [rows])], classes=["face", 0])
    for index, label in enumerate(model.labels):
        alone = find_objects(model, [(header, [rows])], classes=label)
        assert_array_equal(found.boxes[found.classes == index], alone.boxes)
    across = find_objects(model, [(header, [rows])], classes=["face", 0], across_classes=True)
    boxes, scores = (getattr(found, name) for name in ("boxes", "scores"))
    assert_array_equal(across.boxes, boxes[suppressed_one_by_one(boxes, scores, 0.3)])
    assert 0 < len(across) < len(found)
    faces, others = across.labels.count("face"), across.labels.count("other")
    assert repr(across) == f"<{faces + others} objects: face ({faces}), other ({others})>"


def test_no_grids(model: ModelDescription) -> None:
    """Without a grid there is an error, because the classes of the image are not known."""
    with pytest.raises(RequestError, match="grids: expected at least one grid of the image, got none"):
        find_objects(model, [])


def test_no_objects(model: ModelDescription) -> None:
    """Without a candidate the arrays are empty, and keep their shapes and types."""
    rows, header = rows_of(np.random.default_rng(11), 3, 3), header_of(model, 3, 3)
    found = find_objects(model, [(header, [rows])], threshold=1)
    assert (len(found), found.boxes.shape, found.further["offsets"].shape) == (0, (0, 4), (0, 4))
    assert (found.boxes.dtype.name, found.scores.dtype.name) == ("int64", "float32")
    assert not list(found)
    assert not found.labels


def test_memory_of_high_images(model: ModelDescription) -> None:
    """Rows without candidates are not kept."""
    header = header_of(model, 1000, 2000)

    def rows() -> Iterator[GridRows]:
        for first in range(1000):
            yield GridRows(first, np.zeros((1, 2000, 2), np.float32), None, np.zeros((1, 2000, 7), np.float32))

    tracemalloc.start()
    found = find_objects(model, [(header, rows())])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 0
    assert peak < 2_000_000  # the rows have 72 MB


def with_output(model: ModelDescription, kind: str, classes: int) -> ModelDescription:
    """Return the description of a model of another kind, with labels a, b and so on, without further outputs."""
    return replace(model, output=ModelOutput(kind, classes), labels=tuple("abcdefgh"[:classes]), colours=())


@pytest.mark.parametrize(
    ("classes", "named", "expected"),
    [(1, (), (0,)), (2, (), (1,)), (3, (), (0, 1, 2)), (2, "a", (0,)), (3, ("c", 0), (2, 0)), (3, [1], (1,))],
    ids=["one class", "two classes", "three classes", "a label", "labels and indices", "an index"],
)
def test_classes(model: ModelDescription, classes: int, named: Sequence[str | int], expected: tuple[int, ...]) -> None:
    """Objects are of the named classes, else of the second of two classes, else of all classes."""
    assert object_rule(with_output(model, SIGMOID, classes), {"classes": named}).classes == expected


def test_scores_of_models_without_probabilities(model: ModelDescription) -> None:
    """The threshold is a score of the network, and must be given."""
    raw = with_output(model, RAW, 3)
    rows = GridRows(0, np.random.default_rng(12).normal(0, 3, (6, 6, 3)).astype(np.float32))
    found = find_objects(raw, [(header_of(raw, 6, 6), [rows])], threshold=2.5)
    assert len(found) > 0
    assert found.scores.min() >= 2.5
    assert set(found.scores.tolist()) <= set(rows.scores.ravel().tolist())
    with pytest.raises(RequestError, match="threshold: expected the smallest score of an object, since model 'digits'"):
        object_rule(raw, {})


REFUSED: dict[str, tuple[Any, str]] = {
    "a threshold above 1": ({"threshold": 1.5}, "threshold: expected a probability from 0 to 1, got 1.5"),
    "a threshold that is no number": ({"threshold": "high"}, "threshold: expected a probability from 0 to 1, got 'hi"),
    "an overlap below 0": ({"overlap": -0.1}, "overlap: expected an intersection over union from 0 to 1, got -0.1"),
    "no overlap": ({"overlap": float("nan")}, "overlap: expected an intersection over union from 0 to 1, got nan"),
    "an unknown class": ({"classes": ["cat"]}, "classes: expected labels of model 'digits' or 0 to 1, got 'cat'"),
    "an unknown output": ({"box_output": "box"}, "box_output: expected a further output of model 'digits' with 4 valu"),
    "an output of 3 values": ({"box_output": "code"}, "with 4 values, one of offsets; got 'code'"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(model: ModelDescription, options: ObjectOptions, message: str) -> None:
    """Options that the model cannot have are refused by name."""
    with pytest.raises(RequestError) as refused:
        object_rule(model, options)
    assert message in str(refused.value)


def test_a_model_without_boxes(model: ModelDescription) -> None:
    """The refusal says that the model has no output that can hold boxes."""
    with pytest.raises(RequestError, match="with 4 values, but it has none; got 'offsets'"):
        object_rule(with_output(model, SIGMOID, 2), {"box_output": "offsets"})


def test_unknown_options(model: ModelDescription) -> None:
    """An unknown option is a TypeError, as for `score` and `save`, which names the known options."""
    options: Any = {"threshhold": 0.9, "overlap": 0.3}
    with pytest.raises(TypeError, match=r"^expected options among classes, threshold, .*, got threshhold$"):
        find_objects(model, [], **options)
