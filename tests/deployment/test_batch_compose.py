"""The container image for jobs, run with the shipped compose file by the `docker compose` on the PATH."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.jobs import batch, make_images, rows, written
from support.paths import ROOT

pytestmark = pytest.mark.compose

PROJECT = "fullconv-batch-test"
USER, GROUP = 23456, 34567


def compose(
    folder: Path, *arguments: str, options: str = "", images: str = "images"
) -> subprocess.CompletedProcess[str]:
    """Run docker compose on the shipped file, with the folders and the user of the job."""
    environment = {
        "BATCH_IMAGES": str(folder / images),
        "BATCH_RESULTS": str(folder / "results"),
        "BATCH_USER": f"{USER}:{GROUP}",
        "BATCH_OPTIONS": options,
    }
    command = ["docker", "compose", "--project-name", PROJECT, "--profile", "batch", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=900
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Build the image; yields the current directory, with images, and a folder for results of the job's user."""
    monkeypatch.chdir(tmp_path)
    make_images(Path("images"), 5)
    Path("images/broken.jpg").write_bytes(b"not an image")
    Path("results").mkdir()
    os.chown("results", USER, GROUP)
    built = compose(tmp_path, "build", "batch")
    assert built.returncode == 0, built.stderr
    yield tmp_path
    compose(tmp_path, "down", "--volumes")


def run(folder: Path) -> dict[str, Any]:
    """Run the job; returns its summary."""
    result = compose(folder, "run", "--rm", "--no-TTY", "batch", options="--grids npz --json")
    assert result.returncode == 3, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def test_a_folder_is_scored_in_a_container(folder: Path) -> None:
    """The profile gives the rows and grids of this process; they belong to the user; a second run keeps them."""
    assert run(folder)["images"] == {"total": 6, "kept": 0, "processed": 6, "failed": 1}
    assert batch("images", "--grids", "npz").exit_code == 3
    assert rows(Path("results")) == rows()
    got, expected = written(Path("results")), written()
    assert got.keys() == expected.keys()
    for name in expected:
        if name.startswith("grids/"):  # releases of Python write other headers of ZIP files
            with np.load(Path("results") / name) as grid, np.load(Path("out") / name) as expected_grid:
                assert_array_equal(grid["scores"], expected_grid["scores"])
        elif name == "job.json":  # states the folder to which paths are relative
            assert json.loads(got[name]) | {"folder": ""} == json.loads(expected[name]) | {"folder": ""}
        else:
            assert got[name] == expected[name]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in Path("results").rglob("*")} == {(USER, GROUP)}
    assert run(folder)["images"] == {"total": 6, "kept": 6, "processed": 0, "failed": 1}


def test_the_job_is_locked_down(folder: Path) -> None:
    """The container has a read-only root and images, no capabilities, and what jobs need: S3 and Zarr."""
    config = json.loads(compose(folder, "config", "--format", "json").stdout)["services"]["batch"]
    assert (config["read_only"], config["cap_drop"]) == (True, ["ALL"])
    assert config["security_opt"] == ["no-new-privileges:true"]
    writable = [volume["target"] for volume in config["volumes"] if not volume.get("read_only")]
    assert writable == ["/data/results"]
    script = "import os, s3fs, zarr, importlib.util as u; print(os.getuid(), u.find_spec('matplotlib'))"
    result = compose(folder, "run", "--rm", "--no-TTY", "--entrypoint", "python", "batch", "-c", script)
    assert result.stdout.split() == [str(USER), "None"], result.stderr


def test_missing_folders_are_an_error(folder: Path) -> None:
    """A folder of images that does not exist is refused, and is not made."""
    result = compose(folder, "run", "--rm", "--no-TTY", "batch", images="nowhere")
    assert result.returncode != 0
    assert "bind source path does not exist" in result.stderr
    assert not Path("nowhere").exists()
