"""The parity certificate: each figure is a straightforward count over the windows of the images at their own size."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.conversion import SILENT
from support.networks import PADDED, UNPADDED, Network, make_network
from support.pictures import noise, png

from converter import convert as conversion
from converter.errors import SourceError, VerificationError
from converter.graph.geometry import AxisGeometry, Geometry2D
from converter.preprocessing import PRESETS
from converter.report import Report
from converter.request import Activation
from converter.runtime import session
from converter.sources.read import read_source
from converter.verify import certificates, parity
from converter.verify.given_images import given_images
from converter.verify.grid_axis import GridAxis
from converter.verify.images import PixelFormat, SampleImage, sample_images
from converter.verify.networks import ConvertedNetwork, NetworkOutput
from converter.verify.sampling import Budget, choose_cells
from fullconv.common.certificate import interval, overall, sentence
from fullconv.protos import model_pb2

STRIDE, FIELD, PADDING, WINDOW = 8, 44, 9, 32
"""Geometry of the padded network, computed by hand."""
SIZES = [(32, 32), (41, 100), (150, 90), (120, 170), (31, 200)]
"""Sizes of images: one window; without and with interior cells; and smaller than a window."""


@dataclass(frozen=True)
class Case:
    """The padded network, a folder of images of SIZES, and the source network."""

    network: Network
    images: Path
    original: ort.InferenceSession

    def convert(self, target: Path, **options: Any) -> Report:
        """Convert as TARGET/net/1."""
        classifier = read_source(self.network.checkpoint, arch=str(self.network.toml), window=None)
        request = conversion.Request(target / "net" / "1", **{"images": self.images} | options)
        return conversion.convert(classifier, request, SILENT)

    def crop(self, window: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the classifier's scores of one window (height, width, 3)."""
        preprocessing = PRESETS[str(self.network.architecture.preprocess)]
        scores: NDArray[np.float32] = self.original.run(
            None, {"input": np.moveaxis(preprocessing.apply(window[None]), -1, 1)}
        )[0][0]
        return scores


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Write images to files, and make the network with 40 classes, some of which have similar scores."""
    folder = tmp_path_factory.mktemp("case")
    network = make_network(folder, PADDED, classes=40)
    (folder / "images").mkdir()
    for number, size in enumerate(SIZES):
        (folder / "images" / f"{number}.png").write_bytes(png(noise(*size, 3, seed=number)))
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    return Case(network, folder / "images", session(classifier.model, folder))


def grids(case: Case, target: Path) -> list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]]:
    """Return for each image that holds a window: the scores of dense and of crops, and which cells are interior."""
    converted = ort.InferenceSession(target / "net" / "1" / "model.onnx")
    found = []
    for number, size in enumerate(SIZES[:-1]):
        pixels = noise(*size, 3, seed=number)
        rows, cols = ((extent - WINDOW) // STRIDE + 1 for extent in size)
        height, width = (WINDOW + (count - 1) * STRIDE for count in (rows, cols))
        lattice = pixels[:height, :width]
        dense = np.moveaxis(converted.run(None, {"image": lattice[None]})[0][0], 0, -1)
        crops = np.array(
            [
                [case.crop(lattice[8 * row : 8 * row + 32, 8 * col : 8 * col + 32]) for col in range(cols)]
                for row in range(rows)
            ]
        )
        first = [STRIDE * np.arange(count) - PADDING for count in (rows, cols)]
        down, across = (
            (start >= 0) & (start + FIELD <= extent) for start, extent in zip(first, (height, width), strict=True)
        )
        found.append((dense, crops, down[:, None] & across))
    return found


def assert_counted(got: model_pb2.Difference, dense: NDArray[np.float32], crops: NDArray[np.float32]) -> None:
    """Check the figures of a certificate against the scores of its windows, (windows, classes) each."""
    apart = np.abs(dense.astype(np.float64) - crops)
    assert got.windows == len(dense)
    assert got.top_class_agreement == (dense.argmax(-1) == crops.argmax(-1)).mean()
    assert_allclose(got.max_abs, apart.max(), rtol=0, atol=1e-4)
    assert_allclose(got.median_abs, np.median(apart), rtol=0, atol=1e-5)
    assert_allclose(got.p99_abs, np.percentile(apart, 99), rtol=0, atol=1e-4)
    assert_allclose(got.relative_l2, np.linalg.norm(apart) / np.linalg.norm(crops), rtol=0, atol=1e-5)
    assert_allclose([got.agreement_low, got.agreement_high], interval(got.top_class_agreement, len(dense)), rtol=1e-12)


def test_the_padded_networks_geometry(case: Case, tmp_path: Path) -> None:
    """The padded network has the geometry that the other tests assume."""
    spec = case.convert(tmp_path, windows=1).spec
    axis = model_pb2.AxisGeometry(stride=STRIDE, receptive_field=FIELD, padding_before=PADDING)
    for own in (spec.vertical, spec.horizontal):
        axis.padding_after = own.padding_after
        assert own == axis


def test_whole_grids_are_counted(case: Case, tmp_path: Path) -> None:
    """If there are few windows, all are compared: overall, interior and border are counts over whole grids.

    An image of one window counts as an image without interior cells; a smaller image is left out, which is reported.
    """
    report = case.convert(tmp_path)
    parity = report.spec.parity[0]
    found = grids(case, tmp_path)
    dense, crops = (np.concatenate([grid[part].reshape(-1, 40) for grid in found]) for part in (0, 1))
    interior = np.concatenate([inside.ravel() for _, _, inside in found])
    assert 0 < interior.sum() < len(dense)
    assert_counted(parity.overall, dense, crops)
    assert_counted(parity.interior, dense[interior], crops[interior])
    assert_counted(parity.border, dense[~interior], crops[~interior])
    assert (parity.images, parity.small_images) == (4, sum(not inside.any() for _, _, inside in found))
    assert 0 < parity.small_images < parity.images
    assert "1 image is smaller than a window and was not measured." in report.closing()


def test_windows_are_chosen_at_random(case: Case, tmp_path: Path) -> None:
    """--verify N compares N of many windows, the same N every time, and their agreement is like that of all windows."""
    parity = [case.convert(tmp_path / name, windows=60).spec.parity[0] for name in ("one", "two")]
    assert parity[0] == parity[1]
    whole = case.convert(tmp_path / "whole").spec.parity[0].overall
    assert whole.windows > 4 * 60
    assert parity[0].overall.windows == 60
    assert parity[0].interior.windows + parity[0].border.windows == 60
    assert parity[0].overall.agreement_low < whole.top_class_agreement < parity[0].overall.agreement_high
    assert parity[0].overall.max_abs == max(parity[0].interior.max_abs, parity[0].border.max_abs)


def test_parts_of_large_images_are_scored_like_the_whole(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an image is too large for one pass, a part of it is scored, whose cells equal those of the whole image."""
    monkeypatch.setattr(certificates, "PASS_BYTES", 1)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "large.png").write_bytes(png(noise(260, 310, 3)))
    samples = []

    def recording(*arguments: Any) -> Any:  # noqa: ANN401 (the type of the wrapped function)
        samples.append(choose_cells(*arguments))
        return samples[-1]

    monkeypatch.setattr(parity, "choose_cells", recording)
    measured = case.convert(tmp_path, images=tmp_path / "one").spec.parity[0]
    ((sample,),) = samples
    rows, cols = range(sample.rows.first, sample.rows.stop), range(sample.cols.first, sample.cols.stop)
    assert sample.pixels.shape[:2] == (80, 80)  # the pixels of four cells and their halo along either axis
    pixels = noise(260, 310, 3)[:256, :304]
    session = ort.InferenceSession(tmp_path / "net" / "1" / "model.onnx")
    whole = session.run(None, {"image": pixels[None]})[0][0]
    cells = list(product(rows, cols))
    dense = np.array([whole[:, row, col] for row, col in cells])
    crops = np.array([case.crop(pixels[8 * row : 8 * row + 32, 8 * col : 8 * col + 32]) for row, col in cells])
    assert_counted(measured.overall, dense, crops)


@pytest.mark.parametrize("toml", [UNPADDED, PADDED], ids=["unpadded", "padded"])
def test_checks_do_not_depend_on_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str) -> None:
    """A network that is wrong on larger images is refused even if all given images have the size of a window."""
    network = make_network(tmp_path, toml)
    height, width = network.architecture.window
    (tmp_path / "images").mkdir()
    for seed in range(3):
        (tmp_path / "images" / f"{seed}.png").write_bytes(png(noise(height, width, 3, seed=seed)))
    right = ConvertedNetwork.__call__

    def wrong(network: ConvertedNetwork, pixels: NDArray[np.uint8]) -> NetworkOutput:
        scored = right(network, pixels)
        if scored.scores.shape[:2] == (1, 1):
            return scored
        ramp = np.arange(scored.scores[..., 0].size, dtype=np.float32).reshape(*scored.scores.shape[:2], 1)
        return NetworkOutput(scored.scores + ramp, scored.logits + ramp)

    monkeypatch.setattr(ConvertedNetwork, "__call__", wrong)
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    request = conversion.Request(tmp_path / "net" / "1", images=tmp_path / "images")
    with pytest.raises(VerificationError, match="nothing was written"):
        conversion.convert(classifier, request, SILENT)
    assert not (tmp_path / "net").exists()


def test_images_are_never_enlarged(case: Case, tmp_path: Path) -> None:
    """A folder whose images are all smaller than a window is refused before anything is compared."""
    (tmp_path / "small").mkdir()
    for number in range(3):
        (tmp_path / "small" / f"{number}.png").write_bytes(png(noise(31, 400, 3)))
    with pytest.raises(SourceError) as caught:
        case.convert(tmp_path, images=tmp_path / "small")
    expected_message = (
        "expected an image of at least 32×32 pixels, the window's size, got 3 smaller images; images are not enlarged"
    )
    assert expected_message in str(caught.value)
    assert not (tmp_path / "net").exists()


def test_crops_are_continued_by_mirror_images(tmp_path: Path) -> None:
    """Crops for checks and calibration hold the image's own pixels, continued by their mirror image."""
    pixels = noise(20, 90, 3)
    (tmp_path / "image.png").write_bytes(png(pixels))
    given = given_images(tmp_path, PixelFormat(3), (8, 8)).readable
    cutting = next(sample_images((50, 64), PixelFormat(3), given, np.random.default_rng(0)))
    left = next(left for left in range(27) if np.array_equal(pixels[:, left : left + 64], cutting[:20]))
    rows = [*range(20), *reversed(range(20)), *range(10)]
    assert_array_equal(pixels[rows, left : left + 64], cutting)


@pytest.mark.parametrize(
    ("classes", "activation", "kind"), [(5, "none", "raw"), (1, None, "logits-sigmoid"), (1, "none", "raw")]
)
def test_certificates_of_scores_without_a_top_class(
    tmp_path: Path, classes: int, activation: Activation | None, kind: str
) -> None:
    """Certificates of regression and single outputs hold differences, but no agreement of a top class."""
    network = make_network(tmp_path, PADDED, classes=classes)
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    request = conversion.Request(tmp_path / "net" / "1", windows=32, activation=activation)
    report = conversion.convert(classifier, request, SILENT)
    assert report.spec.output.kind == kind
    parity = report.spec.parity[0]
    for part in (parity.native, parity.interior, parity.border, parity.overall):
        assert (part.top_class_agreement, part.agreement_low, part.agreement_high) == (0, 0, 0)
    assert 0 < parity.overall.median_abs < parity.overall.p99_abs <= parity.overall.max_abs
    words = f"{report.verdicts()[0]} {report.closing()}"
    assert "class on" not in words
    assert "top class" not in words
    assert f"{parity.overall.max_abs:.2g} (largest seen on 32 windows); --mode exact gives" in words


def test_regression_has_no_required_agreement(tmp_path: Path) -> None:
    """For raw scores the effect of reduced precision is reported in figures, without an agreement of the top class."""
    network = make_network(tmp_path, PADDED, classes=2)
    classifier = read_source(network.checkpoint, arch=str(network.toml), window=None)
    request = conversion.Request(
        tmp_path / "net" / "1", windows=16, activation="none", precision="fp16", min_agreement=1.0
    )
    report = conversion.convert(classifier, request, SILENT)
    assert report.spec.parity[0].precision.agreement_high == 0
    assert report.spec.parity[0].precision.max_abs > 0


@pytest.mark.parametrize(
    ("agreement", "windows", "expected"),
    [
        (0.5, 10, (0.23659, 0.76341)),
        (0.0, 20, (0.0, 0.16113)),
        (1.0, 20, (0.83887, 1.0)),
        (0.488336, 643, (0.44988, 0.52693)),
    ],
)
def test_intervals(agreement: float, windows: int, expected: tuple[float, float]) -> None:
    """Wilson's interval, against published values and, for zero and all, z²/(n + z²)."""
    assert_allclose(interval(agreement, windows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_parts_of_an_axis(seed: int) -> None:
    """A part of an axis reads the pixels that its cells need, fits the pass, and locates each window."""
    rng = np.random.default_rng(seed)
    stride, padding = int(rng.integers(1, 9)), int(rng.integers(0, 30))
    window = int(rng.integers(1, 40))
    field = max(1, window + padding + int(rng.integers(0, 30)))
    grid = GridAxis.of_image(AxisGeometry(stride, field, padding), window, window + int(rng.integers(0, 400)))
    least = GridAxis.with_interior(grid.geometry, window, 1).pixels
    most = least + int(rng.integers(0, 200))
    part = grid.random_part(most, rng)
    read = part.pixels_read
    assert 0 <= part.first < part.stop <= grid.cells
    assert 0 <= read.start < read.stop <= grid.pixels
    assert read.stop - read.start <= max(most, grid.pixels if grid.pixels <= most else 0)
    assert read.start % stride == 0
    for cell in range(part.first, part.stop):
        reach = range(max(0, cell * stride - padding), min(grid.pixels, cell * stride - padding + field))
        assert read.start <= reach.start
        assert reach.stop <= read.stop
        start = read.start + part.window_of(cell).start
        assert (start, part.window_of(cell).stop - part.window_of(cell).start) == (cell * stride, window)
        inside = cell * stride - padding >= 0 and cell * stride - padding + field <= grid.pixels
        assert (cell in grid.interior) == inside
    assert part.cells_scored == (read.stop - read.start - window) // stride + 1
    assert range(part.cells_scored)[part.cells_kept] == range(
        part.first - read.start // stride, part.stop - read.start // stride
    )


def test_cells_are_equally_likely() -> None:
    """Cells are drawn from all grids together, without repetition, and images without a chosen cell are not read."""

    def refuse(_: slice, __: slice) -> NDArray[np.uint8]:
        raise AssertionError("read before it was asked for")

    images = [SampleImage((WINDOW + 8 * rows, WINDOW + 8 * cols), refuse) for rows, cols in ((0, 0), (9, 4), (4, 19))]
    axis = AxisGeometry(STRIDE, WINDOW)
    counts = np.zeros(151)
    for seed in range(400):
        budget = Budget(windows=30, pass_pixels=1 << 20)
        samples = choose_cells(images, Geometry2D(axis, axis), (WINDOW, WINDOW), budget, np.random.default_rng(seed))
        cells = [(images.index(sample.image), *cell) for sample in samples for cell in sample.cells]
        assert len(set(cells)) == 30
        starts, widths = (0, 1, 51), (1, 5, 20)
        counts[[starts[image] + row * widths[image] + col for image, row, col in cells]] += 1
    assert_allclose(counts, 400 * 30 / 151, rtol=0, atol=5 * np.sqrt(400 * 0.2 * 0.8))


def old(parts: Sequence[model_pb2.Difference], kind: str = "logits-softmax") -> model_pb2.ModelSpec:
    """Return the ModelSpec of a model whose certificate records interior and border only."""
    parity = model_pb2.Parity(interior=parts[0], border=parts[1])
    return model_pb2.ModelSpec(output=model_pb2.Output(kind=kind, classes=3), parity=[parity])


def test_certificates_of_earlier_releases() -> None:
    """Interior and border are combined with equal weight per window; the agreement of a regression is left out."""
    parts = [
        model_pb2.Difference(windows=32, max_abs=0.5, median_abs=0.1, top_class_agreement=0.75),
        model_pb2.Difference(windows=96, max_abs=0.4, median_abs=0.2, top_class_agreement=0.25),
    ]
    whole = overall(old(parts), 0)
    assert (whole.windows, whole.max_abs, whole.top_class_agreement) == (128, 0.5, 0.375)
    assert_array_equal([whole.agreement_low, whole.agreement_high], interval(0.375, 128))
    raw = overall(old(parts, "raw"), 0)
    assert (raw.windows, raw.max_abs, raw.agreement_high) == (128, 0.5, 0)


def test_words(case: Case, tmp_path: Path) -> None:
    """The report states the figures, the number of windows and images, the reasons, and the recommended mode."""
    report = case.convert(tmp_path, windows=100)
    difference = report.spec.parity[0].overall
    low, share, high = (
        f"{100 * part:.0f}"
        for part in (difference.agreement_low, difference.top_class_agreement, difference.agreement_high)
    )
    verdict, closing = report.verdicts()[0], report.closing()
    reason = "since the network is padded (a cell reads 9 pixels before its window and 3 after it)"
    assert verdict.startswith(
        f"dense differs from crops, {reason}: the top class agrees on {share} % of windows ({low} to"
    )
    assert f"{difference.p99_abs:.2g} (99th percentile) and {difference.max_abs:.2g} (largest seen)" in verdict
    assert verdict.endswith(
        f"on {difference.windows} windows of 4 images; 2 of them too small to hold a window that is not at the border"
    )
    assert "up to" not in verdict + closing
    expected_message = (
        f"Dense names the classifier's own top class on {share} % of windows ({low} to {high} %); --mode exact gives"
    )
    assert closing.startswith(expected_message)
    assert "Recommended: --mode " in closing
    assert json.loads((tmp_path / "net" / "1" / "report.json").read_text("utf-8"))["verdict"] == f"{verdict}. {closing}"


def test_networks_of_pools_alone() -> None:
    """The cost factor of a network without multiplications is 1."""
    spec = old([model_pb2.Difference(windows=8, top_class_agreement=0.5), model_pb2.Difference()])
    assert sentence(spec, 0, 0.0, 0.0).endswith("gives the classifier's own answers for 1 times the compute")
