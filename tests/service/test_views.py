"""Strides, modes, borders, regions, masks, flips and scales agree with the plain grid, or with the network itself."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.pictures import noise, png
from support.scoring import plan_image
from support.views import IMAGE, MODES, ROUNDING, Models, make_models, starts, stitched

from fullconv.protos import scoring_pb2
from service.errors import CapabilityError, ImageError, LimitError, OptionError
from service.images.encoded import open_bytes
from service.limits import Limits
from service.scoring.scorer import Scorer

BOMB = pyvips.Image.black(30_000, 30_000).write_to_buffer(".png", compression=9, bitdepth=1, interlace=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return an unpadded and a padded network."""
    return make_models(tmp_path_factory.mktemp("views"))


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 12])
@pytest.mark.parametrize("budget", [1, 400_000, 2 << 30], ids=["smallest", "small", "ample"])
def test_every_stride_gives_the_networks_score_of_every_window(models: Models, stride: int, budget: int) -> None:
    """At finer, native and coarser strides, an unpadded network's cells equal the scores of their windows."""
    grid = models.grid("unpadded", stride=stride, mode=MODES["dense"], budget=budget)
    tops, lefts = starts(121, 22, stride), starts(147, 26, stride)
    assert grid.shape[:2] == (len(tops), len(lefts))
    network, rng = models.networks["unpadded"], np.random.default_rng(stride)
    for row, col in {
        (0, 0),
        (-1, -1),
        (0, -1),
        *zip(rng.integers(len(tops), size=9), rng.integers(len(lefts), size=9), strict=True),
    }:
        crop = IMAGE[tops[row] : tops[row] + 22, lefts[col] : lefts[col] + 26]
        assert_allclose(grid[row, col], network.scores(crop), rtol=1e-4, atol=1e-4)
    assert_allclose(grid, models.crops("unpadded", tops, lefts), **ROUNDING)


@pytest.mark.parametrize("budget", [1, 400_000, 2 << 30], ids=["smallest", "small", "ample"])
@pytest.mark.parametrize("stride", [1, 2])
def test_phases_of_a_padded_network(models: Models, stride: int, budget: int) -> None:
    """By shift and stitch, phase (a, b) equals one run over the image from pixel (a, b) times the stride on."""
    grid = models.grid("padded", stride=stride, mode=MODES["dense"], budget=budget)
    tops, lefts = starts(121, 32, stride), starts(147, 32, stride)
    assert grid.shape[:2] == (len(tops), len(lefts))
    cropped = IMAGE[: tops[-1] + 32, : lefts[-1] + 32]
    for a, b in product(range(8 // stride), repeat=2):
        phase = models.plain("padded", cropped[a * stride :, b * stride :])
        cells = grid[a :: 8 // stride, b :: 8 // stride]
        assert_allclose(cells, phase[: cells.shape[0], : cells.shape[1]], **ROUNDING)


def test_files_and_phases_of_a_padded_network_agree_where_they_should(models: Models) -> None:
    """The file of half the stride equals the native grid at even cells, and shift and stitch after the first border."""
    run = models.run("padded", stride=4, mode=MODES["dense"])
    assert run.response.plan.file == "model.stride4.onnx"
    grid, geometry = stitched(run), run.model.vertical
    rows, cols = (len(starts(extent, 32, 8)) for extent in (121, 147))
    pixels = IMAGE[: 32 + 4 * (grid.shape[0] - 1), : 32 + 4 * (grid.shape[1] - 1)]
    assert_allclose(grid[::2, ::2], models.plain("padded", pixels)[:rows, :cols], **ROUNDING)
    far = -(-geometry.padding_before // 8) * 2
    phase = models.plain("padded", pixels[4:, 4:])
    odd = grid[1::2, 1::2]
    assert_allclose(odd[far // 2 :, far // 2 :], phase[far // 2 : len(odd), far // 2 : odd.shape[1]], **ROUNDING)
    assert np.abs(odd[0] - phase[0, : odd.shape[1]]).max() > 1e-3


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("budget", [1, 700_000], ids=["smallest", "small"])
def test_tiles_of_a_padded_network(models: Models, stride: int, budget: int) -> None:
    """The grid of tiles equals that of one pass, at every stride and at all four borders."""
    image = noise(301, 357, 3)
    whole = models.run("padded", image, stride=stride, mode=MODES["dense"])
    tiled = models.run("padded", image, stride=stride, mode=MODES["dense"], budget=budget)
    assert whole.plan.tile_count == 1
    assert tiled.plan.tile_count > 3
    assert_allclose(stitched(tiled), stitched(whole), **ROUNDING)


@pytest.mark.parametrize("name", ["unpadded", "padded"])
@pytest.mark.parametrize("stride", [3, 8, 40])
def test_crops_are_the_windows_by_themselves(models: Models, name: str, stride: int) -> None:
    """At any stride, padded or not, each cell equals the classifier's score of its window alone, to 1e-5."""
    run = models.run(name, stride=stride, mode=MODES["crops"])
    assert (run.response.mode, run.response.mode_reason) == ("crops", "requested")
    window = run.model.spec.window
    tops, lefts = starts(121, window.height, stride), starts(147, window.width, stride)
    assert_allclose(stitched(run), models.crops(name, tops, lefts), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "mode"), [("unpadded", "dense"), ("padded", "dense"), ("padded", "crops")])
@pytest.mark.parametrize("budget", [1, 2 << 30], ids=["smallest", "ample"])
def test_anchored_windows_are_flush_with_the_edge(models: Models, name: str, mode: str, budget: int) -> None:
    """One more row and column of windows end at the image's edge; cells on the lattice do not change."""
    run = models.run(name, border="BORDER_ANCHOR", mode=MODES[mode], budget=budget)
    grid, info, window = stitched(run), run.response.grid, run.model.spec.window
    plain = models.grid(name, mode=MODES[mode])
    assert (info.last_y, info.last_x) == (121 - window.height, 147 - window.width)
    assert (info.left_out.height, info.left_out.width) == (0, 0)
    assert grid.shape[:2] == (plain.shape[0] + 1, plain.shape[1] + 1)
    assert_allclose(grid[:-1, :-1], plain, **ROUNDING)
    native = run.model.vertical.stride
    flush = IMAGE[info.last_y % native :, info.last_x % native :]
    expected = (
        models.plain(name, flush)[-1, -1] if mode == "dense" else models.crops(name, [info.last_y], [info.last_x])
    )
    assert_allclose(grid[-1, -1], expected.reshape(-1), **ROUNDING)


@pytest.mark.parametrize("budget", [1, 2 << 30], ids=["smallest", "ample"])
@pytest.mark.parametrize(("name", "stride"), [("unpadded", 4), ("unpadded", 1), ("padded", 8), ("padded", 4)])
def test_regions_have_the_whole_images_values(models: Models, name: str, stride: int, budget: int) -> None:
    """A region has the cells of the windows inside it, with the whole image's values; its origin is their position."""
    whole = models.grid(name, stride=stride, mode=MODES["dense"])
    x, y, width, height = 13, 31, 90, 61
    region = scoring_pb2.Region(x=x, y=y, width=width, height=height)
    run = models.run(name, stride=stride, mode=MODES["dense"], region=region, budget=budget)
    window = run.model.spec.window
    rows = [row for row, top in enumerate(starts(121, window.height, stride)) if y <= top <= y + height - window.height]
    cols = [col for col, left in enumerate(starts(147, window.width, stride)) if x <= left <= x + width - window.width]
    assert_allclose(stitched(run), whole[np.ix_(rows, cols)], **ROUNDING)
    assert (run.response.grid.origin_y, run.response.grid.origin_x) == (rows[0] * stride, cols[0] * stride)
    assert_allclose(run.answer().average.values, whole[np.ix_(rows, cols)].mean((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 2 << 30], ids=["smallest", "ample"])
@pytest.mark.parametrize(
    ("name", "stride", "border"),
    [("unpadded", 4, "BORDER_LATTICE"), ("padded", 8, "BORDER_LATTICE"), ("padded", 4, "BORDER_ANCHOR"),
     ("padded", 2, "BORDER_LATTICE"), ("unpadded", 2, "BORDER_ANCHOR")],
)  # fmt: skip
def test_flips(models: Models, name: str, stride: int, border: str, budget: int) -> None:
    """The grid is the mean of the image's grid and the mirrored image's grid, mirrored back; averages are too."""
    options: dict[str, Any] = {"stride": stride, "mode": MODES["dense"], "border": border}
    plain = models.run(name, **options)
    grid, info = stitched(plain), plain.response.grid
    left_out = 147 - (info.stride.width * ((147 - info.window.width) // info.stride.width) + info.window.width)
    mirrored = models.grid(name, IMAGE[:, : 147 - left_out][:, ::-1], stride=stride, mode=MODES["dense"])[:, ::-1]
    if border == "BORDER_ANCHOR":
        lattice = slice(0, mirrored.shape[1])
        down = models.grid(name, IMAGE[:, : 147 - left_out][:, ::-1], **options)[:, ::-1]
        assert_allclose(down[:-1], mirrored, **ROUNDING)
        mirrored = down
    else:
        lattice = slice(None)
    run = models.run(name, flip=True, budget=budget, **options)
    flipped = stitched(run)
    assert_allclose(flipped[:, lattice], (grid[:, lattice] + mirrored) / 2, **ROUNDING)
    assert_allclose(run.answer().average.values, flipped.mean((0, 1)), rtol=1e-4, atol=1e-6)


def test_the_anchored_column_is_flipped_too(models: Models) -> None:
    """The anchored column is averaged with the first column of the mirrored image."""
    run = models.run("unpadded", flip=True, border="BORDER_ANCHOR")
    grid, left = stitched(run), run.response.grid.last_x
    tops = starts(121, 22, 4)
    unmirrored, mirrored = models.crops("unpadded", tops, [left]), models.crops("unpadded", tops, [0], IMAGE[:, ::-1])
    assert_allclose(grid[:-1, -1:], (unmirrored + mirrored) / 2, **ROUNDING)


@pytest.mark.parametrize("name", ["unpadded", "padded"])
@pytest.mark.parametrize("average", ["AVERAGE_OF_SCORES", "AVERAGE_OF_PROBABILITIES"])
def test_scales(models: Models, name: str, average: str) -> None:
    """Averages are over cells, then over views of equal weight; the grid is that of the first scale."""
    sizes = {"80": (80, 97), "0.5x": (60, 74), "1.5x": (182, 220), "1x": (121, 147)}
    scales = [scoring_pb2.Scale(shorter_side=80)] + [scoring_pb2.Scale(factor=factor) for factor in (0.5, 1.5, 1)]
    run = models.run(name, scales=scales, average=average, flip=True)
    grid, response = stitched(run), run.answer()
    averages = []
    for size in sizes.values():
        image = np.asarray(Image.fromarray(IMAGE).resize(size[::-1], Image.Resampling.BILINEAR))
        alone = models.run(name, image, average=average, flip=True)
        whole = stitched(alone)
        averages.append(alone.answer().average.values)
        if size == (80, 97):
            assert_allclose(grid, whole, rtol=0.05, atol=0.02)  # pixels differ by one here and there
    assert_allclose(response.average.values, np.mean(averages, axis=0), rtol=0.02, atol=2e-3)
    assert (response.grid.scaled.height, response.grid.scaled.width) == (80, 97)
    assert [(view.image.height, view.image.width) for view in response.plan.views] == list(sizes.values())


def test_grids_in_fewer_bytes(models: Models) -> None:
    """Grids as float16, top and argmax agree with the full grid; chosen classes keep their order."""
    full = models.grid("unpadded")
    (half,) = models.run("unpadded", grid_as="GRID_AS_FLOAT16").rows()
    assert half.scores.dtype == np.float16
    assert_allclose(half.scores, full, rtol=1e-3)
    (highest,) = models.run("unpadded", grid_as="GRID_AS_TOP", grid_top=3).rows()
    order = np.argsort(-full, axis=-1, kind="stable")[..., :3]
    assert_allclose(highest.scores, np.take_along_axis(full, order, -1), **ROUNDING)
    assert_array_equal(order, highest.positions)
    (winner,) = models.run("unpadded", grid_as="GRID_AS_ARGMAX", classes=["3", "1"]).rows()
    assert_array_equal(full[..., [3, 1]].argmax(-1)[..., None], winner.positions)


def test_the_cheaper_mode_is_taken_where_both_are_exact(models: Models) -> None:
    """Windows with little overlap are scored in mode crops only if both modes give the same scores."""
    for name, stride, mode in (("unpadded", 4, "dense"), ("unpadded", 40, "crops"), ("padded", 40, "dense")):
        run = models.run(name, stride=stride)
        assert run.response.mode == mode
        dense, crops = (models.run(name, stride=stride, mode=MODES[mode]).plan for mode in ("dense", "crops"))
        if name == "unpadded":
            assert run.plan.multiply_adds == min(dense.multiply_adds, crops.multiply_adds)
    assert models.run("unpadded", stride=3).response.mode == "crops"
    assert "no dense stride of 3 pixels" in models.run("unpadded", stride=3).response.mode_reason
    assert "instead of" in models.run("unpadded", stride=40).response.mode_reason


@pytest.mark.parametrize(
    ("options", "error", "expected_message"),
    [
        ({"stride": 3}, CapabilityError, r"expected a divisor or a multiple of 8 pixels, or .* \(8, 4\), got 3"),
        ({"stride": 1 << 21}, OptionError, "stride: expected at most"),
        ({"mode": 9}, OptionError, "mode: expected a value of Mode, got 9"),
        ({"border": 9}, OptionError, "border: expected a value of Border, got 9"),
        ({"grid_as": 9}, OptionError, "grid_as: expected a value of GridAs, got 9"),
        ({"scales": [scoring_pb2.Scale()]}, OptionError, "scales: expected a positive"),
        ({"scales": [scoring_pb2.Scale(factor=float("nan"))]}, OptionError, "scales: expected a positive"),
        ({"scales": [scoring_pb2.Scale(factor=-1)]}, OptionError, "scales: expected a positive"),
        ({"scales": [scoring_pb2.Scale(factor=1)] * 17}, OptionError, "scales: expected at most 16, got 17"),
        (
            {"scales": [scoring_pb2.Scale(factor=0.1)]},
            ImageError,
            "window of 32×32 pixels .*, got 12×15 at 0.1x",
        ),
        ({"scales": [scoring_pb2.Scale(factor=1e5)]}, LimitError, "scales: expected at most 1099512 megapixels, got"),
        ({"scales": [scoring_pb2.Scale(factor=1e300)]}, OptionError, "scales: expected a positive"),
        ({"region": scoring_pb2.Region(x=120, y=0, width=40, height=40)}, ImageError, "region: expected pixels inside"),
        ({"region": scoring_pb2.Region(x=1, y=0, width=38, height=40)}, ImageError, "region: horizontally, expected"),
        ({"region": scoring_pb2.Region(x=0, y=0, width=40)}, ImageError, "region: vertically, expected a region that"),
        (
            {"mask_image": scoring_pb2.Image(encoded=png(noise(121, 140, 1)))},
            ImageError,
            "121×147 pixels .*, got 121×140",
        ),
        ({"mask_image": scoring_pb2.Image(name="m", encoded=b"x")}, ImageError, "m: expected a JPEG, PNG"),
        (
            {"mask_image": scoring_pb2.Image(name="m", encoded=BOMB)},
            LimitError,
            "m: 30000×30000 pixels .height×width. are 900 megapixels",
        ),
    ],
)
def test_invalid_options(
    models: Models, options: dict[str, Any], error: type[Exception], expected_message: str
) -> None:
    """Each invalid option is refused before a pixel is decoded, with one line that names the field."""
    with pytest.raises(error, match=expected_message):
        models.run("padded", **options)


def test_nan_scores_are_reported(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN cell is an error that names its position; a NaN cell outside the mask is ignored."""

    def with_nan(compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def run(tiles: list[np.ndarray]) -> np.ndarray:
            scores = compute(tiles).copy()
            scores[0, 3, 5, 1] = np.nan
            return scores

        return run

    run = models.run("unpadded")
    monkeypatch.setattr(run.session, "score", with_nan(run.session.score))
    with pytest.raises(ImageError, match="NaN or infinite, among rows 0 to 24, columns 0 to 30"):
        stitched(run)
    mask = np.ones((121, 147), np.uint8)
    mask[:40] = 0
    run = models.run("unpadded", mask_image=scoring_pb2.Image(encoded=png(mask)))
    monkeypatch.setattr(run.session, "score", with_nan(run.session.score))
    assert np.isfinite(stitched(run)[10:]).all()
    assert np.isfinite(run.answer().average.values).all()


def test_memory_has_a_limit(models: Models) -> None:
    """A plan that takes more than allowed is refused before anything is read."""
    request = scoring_pb2.ScoreRequest(model="padded", options=scoring_pb2.ScoreOptions(grid=True))
    with pytest.raises(LimitError, match="memory: expected a plan of at most 1 MiB, got "):
        plan_image(
            Scorer(models.folder, Limits(plan_bytes=1 << 20)), open_bytes(png(noise(900, 900, 3)), name="i"), request
        )
