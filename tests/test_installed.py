"""The installed wheel, used from a directory that has other packages with the names of our packages."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from support.paths import ROOT
from support.servers import running

from fullconv.protos import caffe_pb2, model_pb2, onnx_file_pb2, open_inference_pb2, scoring_pb2

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"
FOREIGN = ("client", "protos", "service", "converter", "models", "tests")
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with the wheel; the dependencies come from the running environment."""
    folder = tmp_path_factory.mktemp("installed")
    build: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("fullconv-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(install, check=True, env=ALONE)
    script = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = Path(subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip())
    dependencies = {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    return python


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Return a directory with packages and a module with our names; importing any of them fails."""
    for name in FOREIGN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} of somebody else was imported')")
    (tmp_path / "client.py").write_text("raise RuntimeError('client.py of somebody else was imported')")
    return tmp_path


def run(python: Path, folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a directory, whose modules Python finds first."""
    return subprocess.run([python, "-c", script], cwd=folder, env=ALONE, capture_output=True, text=True, check=False)


def test_the_client_works_beside_packages_of_our_names(python: Path, foreign: Path) -> None:
    """`import fullconv` and scoring on a server import none of these packages."""
    with running(MODELS) as server:
        script = (
            "import fullconv, pathlib\n"
            "assert pathlib.Path(fullconv.__file__).is_relative_to(pathlib.Path(__import__('sys').prefix))\n"
            f"with fullconv.Client({server.address!r}) as client:\n"
            f"    print(client.score({str(PAGE)!r}, model='digits').top[0].label)\n"
        )
        result = run(python, foreign, script)
    assert (result.stdout, result.stderr) == ("background\n", "")


@pytest.mark.parametrize(
    ("call", "program"),
    [(f"Scorer({str(MODELS)!r})", "service"), ("convert('a.pth', 'models/a/1')", "converter")],
    ids=["Scorer", "convert"],
)
def test_a_program_that_is_hidden_is_named(python: Path, foreign: Path, call: str, program: str) -> None:
    """The error names the expected package, the package that Python finds first, and the remedies."""
    script = (
        "import fullconv\n"
        "try:\n"
        f"    fullconv.{call}\n"
        "except fullconv.MisplacedProgramError as error:\n"
        "    print(error)\n"
    )
    result = run(python, foreign, script)
    assert result.stderr == ""
    assert f"{program}: expected the package of fullconv in {python.parents[1]}" in result.stdout
    assert f"got {foreign / program}, which Python finds first; run from another directory" in result.stdout


def test_the_command_works_beside_packages_of_our_names(python: Path, foreign: Path) -> None:
    """The installed command scores, because Python does not search the working directory for a command."""
    command: list[str | Path] = [
        python.with_name("fullconv-score"),
        PAGE,
        "--models",
        MODELS,
        "--model",
        "digits",
        "--top",
        "1",
    ]
    result = subprocess.run(command, cwd=foreign, env=ALONE, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "background" in result.stdout


def test_the_scorer_works_in_a_clean_directory(python: Path, tmp_path: Path) -> None:
    """The wheel has everything that scoring in this process needs."""
    script = (
        "import fullconv\n"
        f"answer = fullconv.Scorer({str(MODELS)!r}).score({str(PAGE)!r}, model='digits', grid=True)\n"
        "print(answer.grid.shape, answer.top[0].label)\n"
    )
    result = run(python, tmp_path, script)
    assert (result.stdout, result.stderr) == ("(88, 120, 11) background\n", "")


def test_pages_are_written_in_a_clean_directory(python: Path, tmp_path: Path) -> None:
    """The wheel has what pages run in the browser."""
    script = (
        "import fullconv\n"
        f"answer = fullconv.Scorer({str(MODELS)!r}).score({str(PAGE)!r}, model='digits', grid=True)\n"
        "answer.save('page.html')\n"
    )
    result = run(python, tmp_path, script)
    assert (result.stdout, result.stderr) == ("", "")
    assert "openseadragon 6.1.1" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize("stub", [caffe_pb2, model_pb2, onnx_file_pb2, open_inference_pb2, scoring_pb2])
def test_names_in_the_descriptor_pool_are_ours(stub: ModuleType) -> None:
    """The names of our files in protobuf's pool, which all libraries share, begin with fullconv/."""
    descriptor = stub.DESCRIPTOR
    assert descriptor.name.startswith("fullconv/")
    assert all(other.name.startswith(("fullconv/", "google/")) for other in descriptor.dependencies)
