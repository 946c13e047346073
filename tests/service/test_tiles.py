"""Lattices, tile plans and costs agree with their definitions."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dense.axis import AxisGeometry, AxisLattice
from service.dense.cost import Cost
from service.dense.tiles import Network, plan_axis, plan_mirrored, plan_tiles

VGG16 = AxisGeometry(window=224, stride=32, receptive_field=404, padding_before=90, padding_after=90)
DIGITS = AxisGeometry(window=70, stride=8, receptive_field=70, padding_before=0, padding_after=0)


@st.composite
def geometries(draw: st.DrawFn) -> AxisGeometry:
    """Return any geometry that returns exactly one cell for one window."""
    stride = draw(st.integers(1, 40))
    window = draw(st.integers(1, 300))
    before, after = draw(st.integers(0, 200)), draw(st.integers(0, 200))
    slack = draw(st.integers(0, min(stride, window + before + after) - 1))
    return AxisGeometry(window, stride, window + before + after - slack, before, after)


@st.composite
def axes(draw: st.DrawFn) -> tuple[AxisLattice, AxisGeometry, int]:
    """Return a lattice of some dozens of cells, a geometry, and the stride of the network that runs.

    The lattice's stride is that of the network, or a divisor or multiple of the native stride.
    """
    geometry = draw(geometries())
    native = geometry.stride
    stride = draw(
        st.sampled_from([size for size in range(1, native + 1) if native % size == 0])
        | st.integers(1, 4).map(lambda times: times * native)
    )
    base = draw(st.sampled_from([native, stride]))
    extent = geometry.window + draw(st.integers(0, 40 * stride))
    start = draw(st.integers(0, extent - geometry.window))
    region = draw(st.sampled_from([(0, None), (start, None), (start, draw(st.integers(start, extent)))]))
    try:
        lattice = AxisLattice(extent, geometry.window, stride, draw(st.booleans()), *region)
    except ValueError:
        lattice = AxisLattice(extent, geometry.window, stride)
    return lattice, geometry, base


def pixels_read(start: int, geometry: AxisGeometry, first: int, stop: int) -> list[int | None]:
    """The pixels that the cell of the window at `start` reads from an image or tile [first, stop); None is padding."""
    reads = range(start - geometry.padding_before, start - geometry.padding_before + geometry.receptive_field)
    return [pixel if first <= pixel < stop else None for pixel in reads]


@given(axes(), st.integers(1, 4000))
def test_every_cell_is_kept_once_from_where_its_window_lies(
    axis: tuple[AxisLattice, AxisGeometry, int], length: int
) -> None:
    """Bands are contiguous, and their tiles keep every cell exactly once, at the first pixel of its window."""
    lattice, geometry, base = axis
    bands = plan_axis(lattice, geometry, base, max_length=length)
    assert (0, lattice.cells) == (bands[0].first, bands[-1].stop)
    assert all(before.stop == after.first for before, after in pairwise(bands))
    assert all(before.pixels[0] <= after.pixels[0] for before, after in pairwise(bands))
    for band in bands:
        kept: list[int] = []
        for tile in band.tiles:
            cells, own = range(lattice.cells)[tile.cells], range(tile.count)[tile.kept]
            assert [lattice.position(cell) for cell in cells] == [tile.start + base * index for index in own]
            kept += cells
        assert sorted(kept) == list(range(band.first, band.stop))


@given(axes(), st.integers(1, 4000))
def test_kept_cells_read_what_the_image_would_give_them(
    axis: tuple[AxisLattice, AxisGeometry, int], length: int
) -> None:
    """A kept cell reads the same pixels and padding from its tile as from the whole image of its phase."""
    lattice, geometry, base = axis
    for band in plan_axis(lattice, geometry, base, max_length=length):
        for tile in band.tiles:
            anchored = lattice.anchor is not None and band.first == lattice.cells - 1
            stop = lattice.extent if anchored else lattice.cropped_extent
            for cell in range(lattice.cells)[tile.cells]:
                start = lattice.position(cell)
                expected = pixels_read(start, geometry, start % base, stop)
                assert expected == pixels_read(start, geometry, tile.start, tile.start + tile.length)


@given(axes(), st.integers(1, 4000))
def test_tiles_have_one_shape_inside_the_image(axis: tuple[AxisLattice, AxisGeometry, int], length: int) -> None:
    """Tiles lie inside the image; they exceed the requested length, or what the halo needs, by less than one stride.

    Tiles of one phase have equal lengths, except a tile that reads up to the edge and the anchored window's tile.
    """
    lattice, geometry, base = axis
    bands = plan_axis(lattice, geometry, base, max_length=length)
    regular = [band for band in bands if lattice.anchor is None or band.first < lattice.cells - 1]
    halo = geometry.halo_before(base) + geometry.halo_after(base)
    longest = max(length, geometry.window + halo * base) + base
    tiles = [tile for band in regular for tile in band.tiles]
    assert all(tile.start >= 0 and tile.start + tile.length <= lattice.cropped_extent for tile in tiles)
    assert all(tile.length < longest for tile in tiles)
    if len(regular) > 1:
        assert len({tile.count for tile in tiles}) == 1
    if len(regular) > 1 and not geometry.halo_after(base):
        assert len({tile.length for tile in tiles}) == 1


@given(axes(), st.integers(1, 4000))
def test_mirrored_tiles_are_those_of_the_mirrored_image(
    axis: tuple[AxisLattice, AxisGeometry, int], length: int
) -> None:
    """Mirrored tiles keep every cell exactly once, with the pixels that the mirrored image gives its window."""
    lattice, geometry, base = axis
    kept: list[int] = []
    for tile in plan_mirrored(lattice, geometry, base, max_length=length):
        cells, own = range(lattice.cells)[tile.cells], range(tile.count)[tile.kept]
        assert tile.mirrored
        assert tile.start >= 0
        assert tile.start + tile.length <= lattice.extent
        for cell, index in zip(cells, reversed(own), strict=True):
            extent = lattice.extent if lattice.position(cell) == lattice.anchor else lattice.cropped_extent
            start = extent - lattice.position(cell) - geometry.window
            from_end = extent - tile.start - tile.length
            assert start == from_end + index * base
            expected = pixels_read(start, geometry, start % base, extent - (extent - geometry.window) % lattice.stride)
            assert expected == pixels_read(start, geometry, from_end, from_end + tile.length)
        kept += cells
    assert sorted(kept) == list(range(lattice.cells))


@given(axes())
def test_regions_choose_the_windows_inside(axis: tuple[AxisLattice, AxisGeometry, int]) -> None:
    """The cells are the regular windows and the anchored window that lie wholly inside the region."""
    lattice, _, _ = axis
    stop = lattice.extent if lattice.stop is None else lattice.stop
    starts = list(range(0, lattice.extent - lattice.window + 1, lattice.stride))
    if lattice.anchored and starts[-1] != lattice.extent - lattice.window:
        starts.append(lattice.extent - lattice.window)
    inside = [start for start in starts if lattice.start <= start and start + lattice.window <= stop]
    assert inside == [lattice.position(cell) for cell in range(lattice.cells)]


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3), st.integers(1, 500))
def test_costs_are_sums(rows: int, cols: int, phases: int, pixels: int) -> None:
    """The multiply-adds of a plan are the sum over its tiles."""
    geometry = AxisGeometry(window=22, stride=6, receptive_field=22, padding_before=0, padding_after=0)
    cost = Cost(100, 20, 30, 5, 64, Network(geometry, geometry, (6, 6)))
    down, across = (AxisLattice(22 + 6 * count, 22, 6 // phases) for count in (rows, cols))
    plan = plan_tiles(down, across, cost.network, pixels=pixels, flip=rows % 2 == 0)
    one_by_one = [cost.multiply_adds(row.length, col.length) for row, col in plan.iter_tiles()]
    assert len(plan) == len(one_by_one)
    assert cost.total(plan) == pytest.approx(sum(one_by_one))


def test_halo_of_vgg16() -> None:
    """The halo of VGG-16 is three cells on either side of a tile."""
    assert (VGG16.halo_before(32), VGG16.halo_after(32)) == (3, 3)


@pytest.mark.parametrize(
    ("extent", "geometry", "cells", "left_out"),
    [(384, VGG16, 6, 0), (1024, DIGITS, 120, 2), (768, DIGITS, 88, 2), (70, DIGITS, 1, 0), (77, DIGITS, 1, 7)],
    ids=["lecture", "page-width", "page-height", "one-window", "nearly-two"],
)
def test_lattice(extent: int, geometry: AxisGeometry, cells: int, left_out: int) -> None:
    """A lattice has as many windows as fit, and counts the pixels that belong to no window."""
    lattice = AxisLattice(extent, geometry.window, geometry.stride)
    assert (cells, left_out) == (lattice.cells, lattice.left_out)


def lattices_of(height: int, width: int) -> tuple[AxisLattice, AxisLattice]:
    return AxisLattice(height, 70, 8), AxisLattice(width, 70, 8)


def test_tiles_fit_the_budget() -> None:
    """Tiles have at most the allowed pixels and are nearly square."""
    plan = plan_tiles(*lattices_of(8192, 6000), Network(DIGITS, DIGITS, (8, 8)), pixels=1_000_000)
    height, width = plan.max_tile_shape
    assert 850_000 <= height * width <= 1_000_000
    assert 0.8 <= height / width <= 1.25


def test_long_images_get_long_tiles() -> None:
    """In a low image tiles are wider, so that they use the allowed pixels."""
    plan = plan_tiles(*lattices_of(100, 50_000), Network(DIGITS, DIGITS, (8, 8)), pixels=1_000_000)
    assert 8_000 <= plan.max_tile_shape[1] <= 1_000_000 // 94


def test_wide_images_get_low_bands() -> None:
    """If the rows of a band are limited, tiles are lower and wider."""
    plan = plan_tiles(*lattices_of(8192, 60_000), Network(DIGITS, DIGITS, (8, 8)), pixels=1_000_000, rows=500)
    height, width = plan.max_tile_shape
    assert plan.max_strip_rows <= 500
    assert 850_000 <= height * width <= 1_000_000


@pytest.mark.parametrize("budget", [1 << 20, 1 << 28, 1 << 31, 1 << 40])
def test_tiles_are_as_large_as_worthwhile(budget: int) -> None:
    """Tiles grow with the allowed memory until their overhead over one large pass is small."""
    digits = Cost(8403904, 1365184, 1365184, 448192, 128, Network(DIGITS, DIGITS, (8, 8)))
    pixels = digits.tile_pixels(budget)
    assert pixels * 128 <= budget
    if budget >= 1 << 31:
        side = math.isqrt(pixels) - 70
        alone = digits.multiply_adds(70 + side, 70 + side) / (digits.cell * (side / 8 + 1) ** 2)
        assert 1.03 < alone <= 1.05


@pytest.mark.parametrize(
    "values",
    [(224, 32, 500, 90, 90), (224, 32, 300, 90, 90), (0, 1, 1, 0, 0), (8, 8, 8, -1, 0)],
    ids=["no-cell", "two-cells", "no-window", "negative"],
)
def test_impossible_geometry_is_refused(values: tuple[int, int, int, int, int]) -> None:
    """A geometry that does not return exactly one cell for one window is refused, and the error shows it."""
    with pytest.raises(ValueError, match="got AxisGeometry"):
        AxisGeometry(*values)


def test_image_below_the_window_is_refused() -> None:
    """An image smaller than the window has no lattice."""
    with pytest.raises(ValueError, match="expected at least 224 pixels, got 223"):
        AxisLattice(223, 224, 32)


def test_strides_that_do_not_fit_are_refused() -> None:
    """A stride that neither divides the network's stride nor is a multiple of it is refused."""
    with pytest.raises(ValueError, match="expected a divisor or a multiple of 8 pixels, got 12"):
        plan_axis(AxisLattice(500, 70, 12), DIGITS, 8)
