"""What `--plan` predicts: the seconds of scoring, and the sizes of the files."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import pyvips
from support.command_line import run, score
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running
from tifffile import TiffFile

from fullconv.base import BaseScorer
from fullconv.command.forecast import Speed
from fullconv.errors import UnavailableError


def npz_bytes(path: Path) -> int:
    """Return the bytes of the arrays of values in an archive."""
    with np.load(path) as grid:
        return sum(grid[name].nbytes for name in grid.files if name in ("scores", "winners"))


def zarr_bytes(path: Path) -> int:
    """Return the bytes of the arrays of values in a Zarr group."""
    import zarr  # noqa: PLC0415 (an extra)

    return int(zarr.open_group(path, mode="r")["scores"].nbytes)


def tiff_bytes(path: Path) -> int:
    """Return the bytes of the pixels of all pages."""
    with TiffFile(path) as file:
        return sum(math.prod(page.shape) * page.dtype.itemsize for page in file.pages)


def picture_bytes(path: Path) -> int:
    """Return the bytes of the pixels of a picture."""
    picture = pyvips.Image.new_from_file(path)
    return int(picture.width * picture.height * picture.bands)


@pytest.mark.parametrize(
    ("option", "more", "measured"),
    [
        ("--grid out.npz", "", npz_bytes),
        ("--grid out.npz", "--grid-as float16", npz_bytes),
        ("--grid out.npz", "--grid-as argmax", npz_bytes),
        ("--grid out.npz", "--grid-as top --grid-top 3", npz_bytes),
        ("--grid out.npz", "--classes 3,4", npz_bytes),
        pytest.param("--grid out.zarr", "", zarr_bytes, marks=pytest.mark.extras),
        ("--grid out.tif", "", tiff_bytes),
        ("--grid out.tif", "--grid-as argmax", tiff_bytes),
        ("--heatmap out.png", "", picture_bytes),
        ("--heatmap out.png", "--overlay", picture_bytes),
        ("--heatmap out.png", "--roi 10,10,300,200 --no-legend", picture_bytes),
        ("--heatmap out.tif", "--heatmap-scale 0.5", tiff_bytes),
        ("--heatmap out.tif", "--overlay", tiff_bytes),
    ],
    ids=lambda value: value.replace("--", "") if isinstance(value, str) else "",
)
def test_predicted_sizes(tmp_path: Path, option: str, more: str, measured: Callable[[Path], int]) -> None:
    """The bytes of an output in the plan are those of the values or pixels that the command then writes."""
    image, (name, file) = tmp_path / "image.png", option.split()
    image.write_bytes(png(noise(700, 1300, 1)))
    arguments = [image, "--json", "--stride", 4 if ".tif" in file and name == "--grid" else 16, *more.split()]
    arguments += [name, tmp_path / file]
    plan = json.loads(score(*arguments, "--plan").stdout)["plan"]
    assert not (tmp_path / file).exists()
    assert score(*arguments).returncode == 0
    assert plan["outputs"] == [{"path": str(tmp_path / file), "bytes": measured(tmp_path / file)}]


@pytest.mark.parametrize("option", ["--grid out.csv", "--grid out.geojson", "--html out.html", "--boxes out.csv"])
def test_sizes_that_depend_on_the_scores(image: Path, option: str) -> None:
    """The size of text and of pages is null in the document, and in words in the table."""
    (output,) = json.loads(score(image, "--plan", "--json", *option.split()).stdout)["plan"]["outputs"]
    assert output == {"path": option.split()[1], "bytes": None}
    assert "out.csv: its size is known only after scoring" in score(image, "--plan", "--grid", "out.csv").stdout


def test_predicted_seconds(image: Path, tmp_path: Path) -> None:
    """A plan predicts seconds for an image whose pixels are damaged too, since it does not read them."""
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(image.read_bytes()[:-3000])
    assert json.loads(score(damaged, "--plan", "--json").stdout)["plan"]["predicted_seconds"] > 0
    assert "s with the network here" in score(image, "--plan").stdout


def test_the_speed_of_a_server_is_not_measured(image: Path) -> None:
    """A plan on a server does not let its other clients wait."""
    with running(ROOT / "models") as server:
        document = json.loads(run(image, "--plan", "--json", "--server", server.address, "--model", "digits").stdout)
    assert document["plan"]["predicted_seconds"] is None
    assert len(server.events("request")) == 1


class SimulatedScorer:
    """A scorer that computes 1,000 multiply-adds for each pixel, at a constant rate by a simulated clock."""

    def __init__(self, rate: float) -> None:
        self.rate, self.now, self.sides, self.modes = rate, 0.0, list[int](), set[str]()

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now

    def model(self, *_: str) -> Any:  # noqa: ANN401 (stands for a description)
        """Return the description of a network with a window of 20 pixels and a stride of 10."""
        return SimpleNamespace(window=(20, 20), stride=(10, 10), input=SimpleNamespace(channels=1, dtype="uint8"))

    def score(self, image: np.ndarray, *, mode: str, **_: str) -> Any:  # noqa: ANN401 (stands for an answer)
        """Advance the clock."""
        self.sides.append(len(image))
        self.modes.add(mode)
        if not self.rate:
            raise UnavailableError("no memory")
        self.now += 1000 * image.size / self.rate
        return planned(1000 * image.size)


def planned(multiply_adds: float) -> Any:  # noqa: ANN401 (stands for an answer)
    """Return a plan of so many multiply-adds, and half a second of decoding."""
    plan = SimpleNamespace(multiply_adds=multiply_adds, decode_seconds=0.5)
    return SimpleNamespace(plan=plan, model="net", version="1", mode="shared")


@pytest.mark.parametrize(
    ("rate", "sides"),
    [
        (1e6, [50, 50]),
        (1e8, [50, 50, 90, 90, 170, 170]),
        (1e15, [50, 50, 90, 90, 170, 170, 330, 330, 650, 650, 1290, 1290]),
    ],
    ids=["slow", "fast", "too fast"],
)
def test_the_speed_is_measured_once(rate: float, sides: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Images grow until a run takes a tenth of a second, or has a million pixels; each runs twice."""
    scorer = SimulatedScorer(rate)
    monkeypatch.setattr("fullconv.command.forecast.time", scorer)
    speed = Speed(cast("BaseScorer", scorer))
    assert speed.predicted_seconds(planned(3e9)) == pytest.approx(0.5 + 3e9 / rate)
    assert speed.predicted_seconds(planned(1e9)) == pytest.approx(0.5 + 1e9 / rate)
    assert scorer.sides == sides
    assert scorer.modes == {"shared"}


def test_a_network_that_cannot_run_has_no_speed() -> None:
    """A failure leaves the plan valid, and is not repeated for each image."""
    scorer = SimulatedScorer(0.0)
    speed = Speed(cast("BaseScorer", scorer))
    assert [speed.predicted_seconds(planned(1.0)) for _ in range(2)] == [None, None]
    assert len(scorer.sides) == 1
