"""Planning: pure arithmetic, checked against its definition."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dense.axis import AxisGeometry, AxisLattice
from service.dense.tiles import plan_axis, plan_tiles

VGG16 = AxisGeometry(window=224, stride=32, receptive_field=404, padding_before=90, padding_after=90)
DIGITS = AxisGeometry(window=70, stride=8, receptive_field=70, padding_before=0, padding_after=0)


@st.composite
def geometries(draw: st.DrawFn) -> AxisGeometry:
    """Any geometry that gives one cell for one window."""
    stride = draw(st.integers(1, 40))
    window = draw(st.integers(1, 300))
    before, after = draw(st.integers(0, 200)), draw(st.integers(0, 200))
    slack = draw(st.integers(0, min(stride, window + before + after) - 1))
    return AxisGeometry(window, stride, window + before + after - slack, before, after)


@st.composite
def lattices(draw: st.DrawFn) -> AxisLattice:
    """An image of up to some dozens of cells for any geometry."""
    geometry = draw(geometries())
    return AxisLattice(geometry.window + draw(st.integers(0, 60 * geometry.stride)), geometry)


@given(lattices(), st.integers(1, 4000))
def test_every_cell_is_kept_once(lattice: AxisLattice, length: int) -> None:
    """Tiles keep every cell of the lattice, in order, each once."""
    tiles = plan_axis(lattice, length=length)
    assert (0, lattice.cells) == (tiles[0].first, tiles[-1].stop)
    assert all(before.stop == after.first for before, after in pairwise(tiles))
    assert all(tile.first < tile.stop for tile in tiles)


@given(lattices(), st.integers(1, 4000))
def test_tiles_have_one_shape_inside_the_image(lattice: AxisLattice, length: int) -> None:
    """All tiles are of one length, on the lattice, inside the cropped image, and as short as the halo allows."""
    tiles, geometry = plan_axis(lattice, length=length), lattice.geometry
    (size,) = {tile.length for tile in tiles}
    halo = geometry.halo_before + geometry.halo_after
    assert size <= max(length, lattice.pixels(halo + 1))
    assert all(tile.read % geometry.stride == 0 for tile in tiles)
    assert all(tile.read + tile.length <= lattice.cropped <= lattice.extent for tile in tiles)


@given(lattices(), st.integers(1, 4000))
def test_kept_cells_read_what_the_image_would_give_them(lattice: AxisLattice, length: int) -> None:
    """A kept cell's receptive field lies inside its tile, or sticks out only where the tile ends with the image."""
    geometry = lattice.geometry
    for tile in plan_axis(lattice, length=length):
        assert tile.read + tile.kept.start * geometry.stride == tile.first * geometry.stride
        for cell in range(tile.first, tile.stop):
            start = cell * geometry.stride - geometry.padding_before
            assert start >= tile.read or tile.read == 0
            assert start + geometry.receptive_field <= tile.read + tile.length or (
                tile.read + tile.length == lattice.cropped
            )


def test_halo_of_vgg16() -> None:
    """VGG-16 drops three cells on either side of a tile."""
    assert (VGG16.halo_before, VGG16.halo_after) == (3, 3)


@pytest.mark.parametrize(
    ("extent", "geometry", "cells", "left_out"),
    [(384, VGG16, 6, 0), (1024, DIGITS, 120, 2), (768, DIGITS, 88, 2), (70, DIGITS, 1, 0), (77, DIGITS, 1, 7)],
    ids=["lecture", "page-width", "page-height", "one-window", "nearly-two"],
)
def test_lattice(extent: int, geometry: AxisGeometry, cells: int, left_out: int) -> None:
    """The lattice holds as many windows as fit, and says what lies in none."""
    lattice = AxisLattice(extent, geometry)
    assert (cells, left_out) == (lattice.cells, lattice.left_out)


def test_tiles_fit_the_budget() -> None:
    """A plan's tiles hold at most the pixels allowed, and are near square."""
    plan = plan_tiles(AxisLattice(8192, DIGITS), AxisLattice(6000, DIGITS), pixels=1_000_000)
    assert 850_000 <= plan.tile_pixels <= 1_000_000
    assert 0.8 <= plan.rows[0].length / plan.cols[0].length <= 1.25


def test_long_images_get_long_tiles() -> None:
    """An image that is short along one axis gets tiles that are longer along the other."""
    plan = plan_tiles(AxisLattice(100, DIGITS), AxisLattice(50_000, DIGITS), pixels=1_000_000)
    assert 8_000 <= plan.cols[0].length <= 1_000_000 // 94


@pytest.mark.parametrize(
    "values",
    [(224, 32, 500, 90, 90), (224, 32, 300, 90, 90), (0, 1, 1, 0, 0), (8, 8, 8, -1, 0)],
    ids=["no-cell", "two-cells", "no-window", "negative"],
)
def test_impossible_geometry_is_refused(values: tuple[int, int, int, int, int]) -> None:
    """A geometry that does not give one cell for one window names itself."""
    with pytest.raises(ValueError, match="got AxisGeometry"):
        AxisGeometry(*values)


def test_image_below_the_window_is_refused() -> None:
    """No lattice without a window."""
    with pytest.raises(ValueError, match="expected at least 224 pixels, got 223"):
        AxisLattice(223, VGG16)
