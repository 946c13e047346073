"""What programs import: only what they use, so that they start quickly."""

import subprocess
import sys

import pytest
from support.paths import ROOT

PAGE = [str(ROOT / "models" / "digits" / "page.png"), "--model", "digits", "--models", str(ROOT / "models")]
SCORE, CONVERT = "from fullconv.command.cli import main", "from converter.cli import main"
SERVE, BATCH = "from service.cli import main", "from service.batch.cli import main"
FOR_MODELS = {"onnxruntime", "onnx", "onnx_ir", "service.engine.registry", "converter.convert"}
FOR_IMAGES = {"pyvips", "PIL", "tifffile"}
FOR_FILES = {"matplotlib", "contourpy", "pyarrow", "rich", "zarr", "shapely", "fsspec"}
FOR_CONNECTIONS = {"grpc", "ssl", "asyncio"}
ELSEWHERE = {"scipy", "skimage", "sympy", "networkx", "pandas", "torch"}


def imported(program: str, *arguments: str) -> set[str]:
    """Run a program in a process of its own; returns the modules that it has imported at its end."""
    script = (
        f"import sys\nsys.argv[1:] = {list(arguments)!r}\n{program}\n"
        "try:\n    'main' in globals() and main()\n"
        "except SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "print('\\n', *sys.modules)"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return set(output.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("program", "arguments", "absent"),
    [
        ("import fullconv", [], {"numpy", "google.protobuf", "typer", *FOR_MODELS, *FOR_IMAGES}),
        (SCORE, ["--help"], FOR_MODELS | FOR_IMAGES | FOR_FILES | FOR_CONNECTIONS),
        (CONVERT, ["--help"], {"numpy", *FOR_MODELS, *FOR_IMAGES, *FOR_FILES, *FOR_CONNECTIONS}),
        (SERVE, ["--help"], {"onnx", "grpc", "typer", *FOR_IMAGES, *FOR_FILES}),
        (BATCH, ["--help"], FOR_MODELS | FOR_IMAGES | FOR_FILES | FOR_CONNECTIONS),
        (SCORE, [*PAGE, "--json"], {"onnx", *(FOR_IMAGES - {"pyvips"}), *FOR_FILES, *FOR_CONNECTIONS}),
        ("import service.program", [], {"onnx", "typer", "starlette", "uvicorn", *FOR_FILES}),
        ("import service.engine.check_process", [], {"onnx", *FOR_IMAGES, *FOR_FILES, *FOR_CONNECTIONS}),
        ("import service.images.decode_file", [], {*FOR_MODELS, *FOR_FILES, *FOR_CONNECTIONS}),
    ],
    ids=["library", "score", "convert", "serve", "batch", "page", "server", "check", "decoder"],
)
def test_programs_import_what_they_use(program: str, arguments: list[str], absent: set[str]) -> None:
    """A program imports neither the packages of other tasks nor packages that only tests use."""
    assert imported(program, *arguments) & (absent | ELSEWHERE) == set()
