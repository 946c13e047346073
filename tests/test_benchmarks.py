"""The comparison of `make bench`: the windows that stand for an image, the contenders' windows, and the tables."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from bench.cases import FULL, FURTHER, MAIN_PAIRS, QUICK, WINDOWS, Case, Scope
from bench.contenders import BASELINE, Contender, Grid, Pixels, Prepared, Setup, fastest_batch
from bench.measure import CaseRun, Entry, Runner, compare
from bench.networks import Network, make, picture
from bench.numbers import ratios
from bench.ours import AUTO, MODES, REFERENCE, InProcess, Ours, OverGrpc
from bench.pytorch import TorchCrops
from bench.report import BEGIN, END, document, markdown, paste, read, read_json, row, write_json
from bench.run import CONTENDERS, Bench
from bench.summary import summary
from bench.windows import Lattice, Part, Sample, batches, centred, scaled, windows_of
from numpy.testing import assert_allclose

LATTICE = Lattice(side=100, window=30, stride=7)
ABOUT = {
    "machine": {"cpu": "CPU", "cpus": 2, "memory_gib": 4, "flags": ["avx2"], "gpu": "none"},
    "versions": {"fullconv": "0.1.0"},
    "scope": "quick",
    "rounds": 3,
    "date": "2026-11-30",
    "seconds": 1.0,
    "finished": True,
}


def test_lattice_counts_windows() -> None:
    """A lattice has every window that begins at a multiple of the stride and lies inside the image."""
    starts = [start for start in range(0, 100, 7) if start + 30 <= 100]
    assert LATTICE.count == len(starts)
    assert LATTICE.windows == len(starts) ** 2


@pytest.mark.parametrize("given", [(20, 30, 7), (30, 0, 7), (30, 30, 0)], ids=["small", "no-window", "no-stride"])
def test_lattices_without_windows_are_refused(given: tuple[int, int, int]) -> None:
    """A window that is larger than the image, and lengths of 0 pixels, raise ValueError."""
    with pytest.raises(ValueError, match="expected"):
        Lattice(*given)


def test_parts_cover_the_pixels_of_their_windows() -> None:
    """The pixels of a part are those of its windows, and no others."""
    part = Part(row=2, col=1, rows=3, cols=4)
    rows, cols = part.pixels(LATTICE)
    assert (rows, cols) == (slice(14, 14 + 2 * 7 + 30), slice(7, 7 + 3 * 7 + 30))
    assert part.inside(Part(1, 1, 8, 8)) == (slice(1, 4), slice(0, 4))


@pytest.mark.parametrize("seed", range(5))
def test_samples_are_distinct_windows_of_the_area(seed: int) -> None:
    """The blocks of a sample lie inside the area and do not overlap."""
    area = centred(Lattice(300, 30, 7), 30)
    drawn = Sample(3, 4, 5).draw(area, np.random.default_rng(seed))
    counted = np.zeros((area.rows, area.cols), int)
    for part in drawn:
        counted[part.inside(area)] += 1
    assert [part.windows for part in drawn] == [12] * 5
    assert counted.max() == 1
    assert counted.sum() == 60


def test_small_images_are_not_sampled() -> None:
    """If a sample would have all windows of the area or more, the area is measured as one part."""
    area = centred(LATTICE, LATTICE.count)
    assert Sample(5, 5, 5).draw(area, np.random.default_rng(0)) == (area,)


def test_times_are_scaled_to_all_windows() -> None:
    """A time is multiplied by the number of windows for each window that was timed."""
    assert scaled(2.0, timed=16, windows=676) == 84.5
    with pytest.raises(ValueError, match="expected 1 to 10 windows, got 11"):
        scaled(1.0, timed=11, windows=10)


def test_windows_are_cut_row_by_row() -> None:
    """Batches have every window of the image in the order of the grid."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 100, 93), np.uint8)
    views = windows_of(pixels, 30, 7)
    expected = [pixels[:, y : y + 30, x : x + 30] for y in range(0, 71, 7) for x in range(0, 64, 7)]
    got = [*batches(views, 16)]
    assert [len(batch) for batch in got] == [16] * (len(expected) // 16) + [len(expected) % 16]
    assert np.array_equal(np.concatenate(got), expected)


def test_the_fastest_batch_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size with the least time for each window is taken, also if a smaller size was much slower."""
    times = {1: 1.0, 2: 4.0, 4: 2.4, 8: 8.0, 16: 16.0, 32: 32.0}
    monkeypatch.setattr("bench.contenders._seconds_of", lambda run: times[len(run())])
    assert fastest_batch(lambda windows: windows, np.zeros((32, 1, 2, 2), np.float32)) == 4


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Return the digits model as the comparison makes it."""
    return make("digits", tmp_path_factory.mktemp("digits"))


@pytest.mark.parametrize("stride", [8, 4], ids=["native", "half"])
@pytest.mark.parametrize(
    "contender",
    [
        BASELINE,
        *(InProcess(mode, REFERENCE) for mode in ("dense", "crops")),
        pytest.param(TorchCrops("fp32"), marks=pytest.mark.torch),
    ],
    ids=lambda c: c.name,
)
def test_contenders_score_every_window(digits: Network, contender: Contender, stride: int, tmp_path: Path) -> None:
    """A contender's grid has the original classifier's scores of each window by itself."""
    image = picture(digits, 110, tmp_path)
    session = ort.InferenceSession(digits.original)
    (name,) = [value.name for value in session.get_inputs()]
    starts = range(0, 110 - 70 + 1, stride)
    expected = [
        session.run(None, {name: digits.prepare(image[y : y + 70, x : x + 70])[None]})[0][0]
        for y in starts
        for x in starts
    ]
    with ExitStack() as stack:
        grid = contender.prepare(Setup(digits, stride, Sample(2, 2, 1), stack)).run(image)
    assert grid.shape == (len(starts), len(starts), 11)
    assert_allclose(grid.reshape(-1, 11), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def brightness(image: Pixels) -> Grid:
    """Return the mean and the negative mean of every window of digits at its native stride."""
    means = windows_of(np.moveaxis(image, -1, 0), 70, 8).mean((2, 3, 4), dtype=np.float32)
    return np.stack([means, -means], axis=-1)


def test_samples_and_whole_images_are_compared_on_the_same_windows() -> None:
    """Equal contenders agree whether they score the sample, the image or its middle, and are timed in every round."""
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 1), np.uint8)
    prepared = [
        Prepared(brightness),
        Prepared(brightness, multiply_adds=lambda side: side**2),
        Prepared(brightness, multiply_adds=lambda side: 1e9 if side > 200 else 1.0),
        Prepared(lambda image: -brightness(image)),
    ]
    entries = [Entry(name, each) for name, each in zip((BASELINE.name, "b", "c", "d"), prepared, strict=True)]
    run = CaseRun(Case("digits", 400), Lattice(400, 70, 8), is_padded=False, entries=entries)
    runner = Runner(run, image, QUICK)
    runner.compare()
    for number in range(2):
        runner.measure(number)
    assert [entry.problem for entry in entries] == [""] * 4
    assert [entry.timed for entry in entries] == [17**2, 42**2, 17**2, 17**2]
    assert [(entry.difference, entry.agreement) for entry in entries] == [(0, 1), (0, 1), (0, 1), (2, 0)]
    assert [len(entry.seconds) for entry in entries] == [2] * 4


def test_a_contender_that_fails_does_not_stop_the_others() -> None:
    """The table has the first line of an error in place of the times."""

    def broken(image: Pixels) -> Grid:
        raise RuntimeError(f"no {image.ndim}\nmore")

    entries = [Entry(BASELINE.name, Prepared(brightness)), Entry("other", Prepared(broken))]
    run = CaseRun(Case("digits", 100), Lattice(100, 70, 8), is_padded=False, entries=entries)
    runner = Runner(run, np.full((100, 100, 1), 7, np.uint8), QUICK)
    runner.compare()
    runner.measure(0)
    assert len(entries[0].seconds) == 1
    assert row(entries[1], run) == "| other | failed: RuntimeError: no 3 | | | | |"


def a_run() -> CaseRun:
    """Return a case of VGG-16 with three contenders."""
    entries = [
        Entry(BASELINE.name, timed=16, seconds=[10.0, 12.0, 11.0], difference=0.0, agreement=1.0),
        Entry("fullconv dense, cpu fp32", timed=676, seconds=[1.0, 1.0, 1.0], difference=0.31),
        Entry("MONAI", problem="not installed: monai"),
    ]
    return CaseRun(Case("vgg16", 1024), Lattice(1024, 224, 32), is_padded=True, entries=entries)


def test_tables_pair_the_times_of_a_round() -> None:
    """Ratios are of times of the same round; a table has their median and range, and why a contender is missing."""
    run = a_run()
    baseline, dense, monai = run.entries
    dense.agreement = 0.75
    assert ratios(dense, run) == [10.0, 12.0, 11.0]
    assert row(baseline, run) == ("| ONNX Runtime, crops | 11 (10 to 12) | 16 | 1 | 0.0e+00 | 100.0% |")
    assert row(dense, run) == (
        "| fullconv dense, cpu fp32 | 1 (1 to 1) | all | 11 (10 to 12) | 3.1e-01 padded | 75.0% |"
    )
    assert row(monai, run) == "| MONAI | not installed: monai | | | | |"


def test_summaries_compare_one_contender_with_the_fastest_of_each_kind() -> None:
    """A summary has the median ratio to the fastest contender of a kind, and empty cells for those not measured."""
    run = a_run()
    slow, fast = (
        Entry(f"PyTorch {each}, crops", seconds=[seconds] * 3) for each, seconds in (("fp32", 9), ("bf16", 5))
    )
    run.entries += [slow, fast]
    _, line = summary([run])
    assert line == "| VGG-16 | 1024², 32 | dense (padded) | 1 | 11 | 5 |  |  | 1 |"


def test_summaries_compare_groups_by_the_times_of_onnx_runtime() -> None:
    """A contender of another group is compared by the ratios of both to the original classifier."""
    dense, windows = a_run(), a_run()
    windows.case, windows.entries[1].name = replace(windows.case, group=WINDOWS), "fullconv shared, cpu fp32"
    windows.entries[0].seconds, windows.entries[1].seconds = [20.0] * 3, [5.0] * 3
    dense.entries.append(Entry("PyTorch fp32, crops", seconds=[22.0, 22.0, 22.0]))
    *_, line = summary([dense, windows])
    assert line == "| VGG-16 | 1024², 32 | shared | 5 | 4 | 8 |  |  | 1 |"


def test_documents_have_every_time() -> None:
    """The JSON document has the times of every round, the paired ratios and the problems."""
    (case,) = document([a_run()], {"scope": "quick"})["cases"]
    assert case["windows"] == 676
    assert case["contenders"][1]["seconds"] == [1.0, 1.0, 1.0]
    assert case["contenders"][1]["times_as_fast_median"] == 11.0
    assert case["contenders"][2] == {"name": "MONAI", "problem": "not installed: monai"}


@pytest.mark.parametrize("seconds", [[10.0], []], ids=["one round", "none"])
def test_an_interrupted_run_is_continued(seconds: list[float], tmp_path: Path) -> None:
    """What a run has measured is read as it was; a case that lacks rounds is measured again."""
    run, half = a_run(), a_run()
    run.entries[1].detail = "bf16"
    half.case, half.entries[1].seconds = Case("vgg16", 384), seconds
    write_json(tmp_path / "results.json", document([run, half], {"rounds": 3}))
    cases = read_json(tmp_path / "results.json")["cases"]
    of_earlier_release = {name: value for name, value in cases[0].items() if name != "group"}
    found = read([*cases, of_earlier_release], rounds=3)
    assert found == [run]
    bench = Bench(Scope((run.case,), rounds=3, is_full=False, seconds=1), tmp_path, found)
    assert not [*bench.measure()]
    assert bench.has_results


@pytest.mark.parametrize("text", ["", "[", "[]", None], ids=["empty", "damaged", "of another kind", "missing"])
def test_runs_without_earlier_results_begin_anew(text: str | None, tmp_path: Path) -> None:
    """Results that are missing or damaged count as none."""
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert read_json(tmp_path / "results.json") == {}


def test_results_replace_the_text_between_the_markers() -> None:
    """Only the text between both markers changes; a page without them is refused."""
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nMore.\n"
    assert paste(page, "new") == f"# Title\n\n{BEGIN}\n\nnew\n{END}\n\nMore.\n"
    with pytest.raises(ValueError, match="expected a page with the lines"):
        paste("# Title\n", "new")


def test_scores_are_compared_window_by_window() -> None:
    """The difference is relative to the largest score, and the agreement is a share of windows."""
    expected = np.array([[[1.0, 0.0], [0.0, -4.0]]], np.float32)
    got = np.array([[[1.0, 0.5], [-1.0, 0.0]]], np.float32)
    assert compare([got], [expected]) == (1.0, 0.5)


def test_plot_has_contenders_of_quick_run(tmp_path: Path) -> None:
    """The plot of a full run leaves out what only a full run measures, unless the user chose the contenders."""
    plotted = Bench(FULL, tmp_path).plotted
    assert {BASELINE.name, "fullconv dense, auto", "fullconv dense, auto, gRPC"} < plotted
    assert "fullconv dense, openvino bf16" not in plotted
    assert Bench(replace(FULL, only="dense, openvino"), tmp_path).plotted == {
        BASELINE.name,
        "fullconv dense, openvino fp32",
        "fullconv dense, openvino bf16",
    }


def test_full_run_measures_each_contender_once() -> None:
    """At native strides each contender is in one group of an image; at finer strides, only the main ones are."""
    pairs = {(case.network, case.side, case.divisor) for case in FULL.cases}
    assert len(pairs) == 4 * 3 * 3 + 1
    for network, side, divisor in pairs:
        cases = [case for case in FULL.cases if (case.network, case.side, case.divisor) == (network, side, divisor)]
        for contender in set(CONTENDERS) - {BASELINE}:
            included = sum(FULL.includes(case, contender) for case in cases)
            is_left_out = False
            if isinstance(contender, Ours):
                is_remote = isinstance(contender, OverGrpc)
                is_left_out = contender.pair not in MAIN_PAIRS and (is_remote or divisor > 1)
                is_left_out |= is_remote and divisor > 1 and (contender.mode, contender.pair) != ("dense", AUTO)
            assert included == (not is_left_out), contender.name


def test_quick_run_measures_fp32_in_mode_dense() -> None:
    """A quick run measures every mode with "auto", and beside it only mode dense in fp32."""
    included = {contender.name for contender in CONTENDERS if QUICK.includes(QUICK.cases[0], contender)}
    assert {name for name in included if name.startswith("fullconv")} == {
        *(f"fullconv {mode}, auto" for mode in MODES), "fullconv dense, auto, gRPC", "fullconv dense, cpu fp32"
    }  # fmt: skip


def test_networks_are_converted_anew_for_other_strides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full run returns to each network for finer strides; it then has an empty folder and only these strides."""
    made = []

    def make(name: str, folder: Path, divisors: set[int]) -> Network:
        made.append((name, divisors))
        (folder / "network").mkdir()
        raise ImportError(name=f"library of {name}")

    monkeypatch.setattr("bench.run.make", make)
    cases = (Case("digits", 384), Case("digits", 1024), Case("vgg16", 384), Case("digits", 384, 2))
    runs = list(Bench(replace(QUICK, cases=cases), tmp_path).measure())
    assert made == [("digits", {1}), ("vgg16", {1}), ("digits", {2})]
    assert [run.entries[0].problem for run in runs] == [
        f"not installed: library of {name}" for name in ("digits", "digits", "vgg16", "digits")
    ]
    assert not list(tmp_path.iterdir())


def test_groups_share_a_table() -> None:
    """The table of an image has the contenders of all groups, each compared with the times of its own group."""
    main, further = a_run(), a_run()
    further.case, further.entries[1].name = replace(further.case, group=FURTHER[0]), "fullconv dense, openvino fp32"
    further.entries[0].seconds, further.entries[2:] = [5.0, 6.0, 7.0], []
    *_, first, second, third, fourth = markdown([main, further], ABOUT).splitlines()
    assert [line.split(" | ")[0] for line in (first, second, third, fourth)] == [
        "| ONNX Runtime, crops", "| fullconv dense, cpu fp32", "| MONAI", "| fullconv dense, openvino fp32"
    ]  # fmt: skip
    assert "| 11 (10 to 12) |" in second
    assert "| 6 (5 to 7) |" in fourth
