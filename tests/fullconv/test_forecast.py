"""What `--plan` predicts: the seconds of scoring, and the sizes of the files."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvips
from support.command_line import run, score
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running
from tifffile import TiffFile

from fullconv.command.forecast import Speed
from fullconv.errors import ImageError


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
    """A plan predicts seconds in proportion to the multiply-adds; it is null if no image can be scored."""
    larger, damaged = tmp_path / "larger.png", tmp_path / "damaged.png"
    larger.write_bytes(png(noise(180, 222, 1)))
    damaged.write_bytes(image.read_bytes()[:-3000])
    first, second = json.loads(score(image, larger, "--plan", "--json").stdout)
    assert first["plan"]["predicted_seconds"] > 0
    assert second["plan"]["predicted_seconds"] > 0
    assert "s of scoring" in score(image, "--plan").stdout
    assert json.loads(score(damaged, "--plan", "--json").stdout)["plan"]["predicted_seconds"] is None
    assert "time not known: nothing could be scored here" in score(damaged, "--plan").stdout


def test_the_speed_of_a_server_is_not_measured(image: Path) -> None:
    """A plan on a server does not let its other clients wait."""
    with running(ROOT / "models") as server:
        document = json.loads(run(image, "--plan", "--json", "--server", server.address, "--model", "digits").stdout)
    assert document["plan"]["predicted_seconds"] is None
    assert len(server.events("request")) == 1


def planned(multiply_adds: float) -> Any:  # noqa: ANN401 (stands for an answer)
    """Return a plan of so many multiply-adds."""
    return SimpleNamespace(plan=SimpleNamespace(multiply_adds=multiply_adds))


def speed_of(clock: list[float], steps: int, *, seconds: float, fails: bool = False) -> Speed:
    """Return the speed of images that are scored in some steps of some seconds by a false clock."""

    @contextmanager
    def scored(_: Path, options: Any, show: Any) -> Iterator[Any]:  # noqa: ANN401 (as in ScoreTask)
        assert options == {"grid": False}

        def result() -> None:
            for step in range(steps):
                clock[0] += seconds
                if fails:
                    raise ImageError("image: damaged")
                show("image", "sending", 1, 1)
                show("image", "scoring", step + 1, steps)

        yield planned(1000.0), (), result

    return Speed(scored)


@pytest.mark.parametrize(
    ("steps", "seconds", "expected"),
    [(10, 1.0, (300.0, 3.0)), (4, 0.5, (1000.0, 2.0)), (1, 9.0, (1000.0, 9.0)), (1, 0.2, (3000.0, 0.6))],
    ids=["a large image in part", "a whole image", "one step", "a small image again"],
)
def test_measured_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, seconds: float, expected: tuple[float, float]
) -> None:
    """An image is scored for about two seconds, a small one several times; the prediction follows from its share."""
    clock = [0.0]
    monkeypatch.setattr("fullconv.command.forecast.time.monotonic", lambda: clock[0])
    speed = speed_of(clock, steps, seconds=seconds)
    predicted = speed.predicted_seconds(tmp_path / "image", {}, planned(2000.0))
    assert (speed.multiply_adds, speed.seconds) == pytest.approx(expected)
    assert predicted == pytest.approx(2000 * expected[1] / expected[0])
    assert speed_of(clock, 1, seconds=1, fails=True).predicted_seconds(tmp_path, {}, planned(1.0)) is None
