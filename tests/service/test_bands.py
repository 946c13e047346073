"""Bands of plans with a grid: their cost, their memory, and the parts of the grid that they yield."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from fullconv.protos import model_pb2, scoring_pb2
from service import decode
from service.dense.axis import AxisGeometry
from service.dense.reducers import top_k
from service.engine.repository import StoredModel
from service.errors import LimitError
from service.limits import Limits, Tuning
from service.scoring.grid import PART_BYTES, BandGrid
from service.scoring.options import resolve
from service.scoring.plan import WORTHWHILE, Bounds, ImageSizes, Plan, make_plan

SMALL = AxisGeometry(window=16, stride=8, receptive_field=16, padding_before=0, padding_after=0)
NO_HALO = AxisGeometry(window=70, stride=8, receptive_field=70, padding_before=0, padding_after=0)
VGG16 = AxisGeometry(window=224, stride=32, receptive_field=404, padding_before=90, padding_after=90)
RESNET50 = AxisGeometry(window=224, stride=32, receptive_field=619, padding_before=213, padding_after=213)
LITE0 = AxisGeometry(window=224, stride=32, receptive_field=1043, padding_before=425, padding_after=425)
KNOWN = [NO_HALO, VGG16, RESNET50, LITE0]
MIB = 1 << 20
DEFAULTS = Bounds(1 << 40, Limits().plan_bytes, Tuning())


def model_of(
    vertical: AxisGeometry, horizontal: AxisGeometry, *, classes: int, finer: int = 1, pixel_bytes: float = 500.0
) -> StoredModel:
    """Return a model without files: 1000 multiply-adds for each pixel, and a second file if `finer` is more than 1."""
    window = model_pb2.Size(height=vertical.window, width=horizontal.window)
    files, costs, parities = [], [], []
    for times in sorted({1, finer}):
        down, right = vertical.stride // times, horizontal.stride // times
        stride = model_pb2.Size(height=down, width=right)
        files.append(model_pb2.StrideFile(stride=stride, file=f"model.stride{down}.onnx"))
        each = 1000.0 * times**2
        costs.append(
            model_pb2.Cost(
                stride=stride,
                multiply_adds_per_window=each * window.height * window.width,
                multiply_adds_per_row=each * down * window.width,
                multiply_adds_per_column=each * right * window.height,
                multiply_adds_per_cell=each * down * right,
                multiply_adds_per_crop=1000.0 * window.height * window.width,
                activation_bytes_per_pixel=pixel_bytes,
            )
        )
        parities.append(model_pb2.Parity(stride=stride))
    spec = model_pb2.ModelSpec(
        name="made",
        window=window,
        input=model_pb2.Input(dtype="uint8", channels=3),
        output=model_pb2.Output(kind="logits-softmax", classes=classes),
        modes=["dense", "crops"],
        strides=files,
        cost=costs,
        parity=parities,
    )
    return StoredModel("made", "1", Path("made/1"), spec.SerializeToString(), (), vertical, horizontal)


def planned(
    model: StoredModel, size: tuple[int, int], bounds: Bounds, options: scoring_pb2.ScoreOptions, *, grid: bool
) -> Plan:
    requested = scoring_pb2.ScoreOptions()
    requested.CopyFrom(options)
    requested.grid = grid
    return make_plan(model, resolve(model, decode.options(requested)), ImageSizes(size, size), bounds)


@st.composite
def geometries(draw: st.DrawFn) -> AxisGeometry:
    """Return the geometry of a known network, or any geometry that gives one cell for one window."""
    stride = draw(st.sampled_from([1, 4, 8, 32]))
    window = draw(st.integers(16, 300))
    before, after = draw(st.integers(0, 500)), draw(st.integers(0, 500))
    slack = draw(st.integers(0, min(stride, window + before + after) - 1))
    made = AxisGeometry(window, stride, window + before + after - slack, before, after)
    return draw(st.sampled_from([*KNOWN, made]))


@st.composite
def requests(draw: st.DrawFn) -> tuple[StoredModel, tuple[int, int], Bounds, scoring_pb2.ScoreOptions]:
    """Return a model, an image's size, limits, and options at strides finer and coarser than the native one."""
    vertical = draw(geometries())
    horizontal = draw(geometries().filter(lambda axis: axis.stride == vertical.stride))
    native = vertical.stride
    divisors = [size for size in range(1, native + 1) if native % size == 0]
    model = model_of(
        vertical,
        horizontal,
        classes=draw(st.sampled_from([1, 10, 1000, 20_000])),
        finer=draw(st.sampled_from(divisors)),
        pixel_bytes=draw(st.sampled_from([30.0, 500.0, 5000.0])),
    )
    size = (
        vertical.window + draw(st.integers(0, 300) | st.integers(0, 9000)),
        horizontal.window + draw(st.integers(0, 300) | st.integers(0, 9000)),
    )
    tuning = Tuning(
        strip_bytes=draw(st.sampled_from([MIB, 16 * MIB, 128 * MIB])),
        tile_bytes=draw(st.sampled_from([1, 64 * MIB, 2048 * MIB])),
    )
    options = scoring_pb2.ScoreOptions(
        mode=draw(st.sampled_from([scoring_pb2.MODE_DENSE, scoring_pb2.MODE_CROPS, scoring_pb2.MODE_AUTO])),
        stride=draw(st.sampled_from([*divisors, 2 * native])),
        border=draw(st.sampled_from([scoring_pb2.BORDER_LATTICE, scoring_pb2.BORDER_ANCHOR])),
        grid_as=draw(st.sampled_from([scoring_pb2.GRID_AS_FLOAT32, scoring_pb2.GRID_AS_TOP])),
        flip=draw(st.booleans()),
        scales=draw(st.sampled_from([[], [scoring_pb2.Scale(factor=1.5), scoring_pb2.Scale(factor=1)]])),
    )
    return model, size, Bounds(1 << 40, 1 << 60, tuning), options


@settings(deadline=None, max_examples=100)
@given(requests())
def test_a_grid_costs_hardly_more(
    request: tuple[StoredModel, tuple[int, int], Bounds, scoring_pb2.ScoreOptions],
) -> None:
    """With a grid a plan has at most 1.1 times the multiply-adds, and counts the memory of its highest band."""
    without, plan = (planned(*request, grid=grid) for grid in (False, True))
    assert plan.multiply_adds <= 1.1 * without.multiply_adds
    model, _, bounds, options = request
    requested, view = resolve(model, decode.options(options)), plan.views[0]
    numbers = (
        2 * requested.depth
        if options.grid_as == scoring_pb2.GRID_AS_TOP and not options.flip
        else len(requested.classes)
    )
    rows = max(band.stop - band.first for band in view.tile_plan.bands)
    strips = 2 * view.tile_plan.max_strip_rows * view.width * 3
    assert view.held_bytes >= strips + rows * view.tile_plan.horizontal.cells * numbers * 4
    fitting = planned(model, request[1], replace(bounds, memory_bytes=plan.bytes), options, grid=True)
    assert (fitting.mode, fitting.reason, fitting.views) == (plan.mode, plan.reason, plan.views)
    with pytest.raises(LimitError, match="memory: expected a plan of at most"):
        planned(model, request[1], replace(bounds, memory_bytes=plan.bytes - 1), options, grid=True)


@pytest.mark.parametrize("finer", [1, 4], ids=["shifted", "file"])
@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("geometry", [VGG16, RESNET50, LITE0], ids=["vgg16", "resnet50", "lite0"])
def test_grids_of_photographs_take_the_same_tiles(geometry: AxisGeometry, stride: int, finer: int) -> None:
    """With 4096 pixels and 1000 classes, bands are as high as without a grid if lower bands would cost more."""
    model = model_of(geometry, geometry, classes=1000, finer=finer)
    options = scoring_pb2.ScoreOptions(stride=stride, mode=scoring_pb2.MODE_DENSE)
    without, plan = (planned(model, (4096, 4096), DEFAULTS, options, grid=grid) for grid in (False, True))
    assert plan.multiply_adds <= WORTHWHILE * without.multiply_adds
    assert plan.views[0].tile_plan.max_tile_shape[0] <= without.views[0].tile_plan.max_tile_shape[0]
    assert plan.bytes <= DEFAULTS.memory_bytes


def test_bands_are_as_low_as_is_worthwhile() -> None:
    """If lower bands cost little more, the grid's rows in a band have at most the bytes of a strip."""
    model = model_of(SMALL, SMALL, classes=1000, pixel_bytes=30.0)
    plan = planned(model, (40_000, 9000), DEFAULTS, scoring_pb2.ScoreOptions(), grid=True)
    tiles = plan.views[0].tile_plan
    assert tiles.max_band_rows * tiles.horizontal.cells * 4000 <= 128 * MIB
    whole = planned(model, (40_000, 9000), DEFAULTS, scoring_pb2.ScoreOptions(), grid=False).views[0].tile_plan
    assert whole.max_band_rows > 2 * tiles.max_band_rows


@pytest.mark.parametrize(
    "grid_as", [scoring_pb2.GRID_AS_TOP, pytest.param(scoring_pb2.GRID_AS_ARGMAX, marks=pytest.mark.slow)]
)
def test_too_large_grids_are_refused_with_remedies(grid_as: scoring_pb2.GridAs) -> None:
    """A slide's whole grid of 1000 classes is refused with the remedies; a grid of the highest scores is not."""
    model, size = model_of(RESNET50, RESNET50, classes=1000), (90_000, 120_000)
    options = scoring_pb2.ScoreOptions(stride=1, mode=scoring_pb2.MODE_DENSE)
    with pytest.raises(LimitError, match=r"fewer classes, a coarser stride, only the highest scores \(grid_as\) or no"):
        planned(model, size, DEFAULTS, options, grid=True)
    options.grid_as = grid_as
    plan, without = (planned(model, size, DEFAULTS, options, grid=grid) for grid in (True, False))
    assert plan.multiply_adds <= 1.1 * without.multiply_adds


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("grid_as", ["FLOAT32", "FLOAT16", "TOP", "ARGMAX"])
def test_a_band_is_returned_in_parts(grid_as: str, *, flip: bool) -> None:
    """Parts are consecutive and equal the whole band, with NaN for cells outside the mask."""
    model, rng = model_of(NO_HALO, NO_HALO, classes=40), np.random.default_rng(0)
    requested = scoring_pb2.ScoreOptions(
        grid_as=f"GRID_AS_{grid_as}", grid_top=3, classes=["7", "3", "39", "1"], flip=flip
    )
    options, shape = resolve(model, decode.options(requested)), (700, 900)
    scores, mirrored = rng.standard_normal((2, *shape, 4), np.float32)
    wanted = rng.random(shape) < 0.9
    grid = BandGrid(options, shape, "i")
    for cols in (slice(0, 400), slice(400, 900)):
        for rows in (slice(0, 700, 2), slice(1, 700, 2)):
            grid.add(rows, cols, scores[rows, cols])
            if flip:
                grid.add(rows, cols, mirrored[rows, cols])
    parts = list(grid.parts(50, wanted))
    starts = [part.first for part in parts]
    assert starts == [50, *(50 + np.cumsum([len(part.scores) for part in parts])[:-1])]
    assert all(part.scores.nbytes <= PART_BYTES for part in parts)
    expected = (scores + mirrored) / 2 if flip else scores
    found = np.concatenate([part.scores for part in parts])
    if grid_as in ("TOP", "ARGMAX"):
        expected, positions = top_k(expected, options.depth)
        assert_array_equal(np.concatenate([part.positions for part in parts])[wanted], positions[wanted])
    assert_array_equal(found[wanted], expected.astype(found.dtype)[wanted])
    assert np.isnan(found[~wanted]).all()
    assert found.dtype == (np.float16 if grid_as == "FLOAT16" else np.float32)
