"""No program of this project reports anything to the makers of the libraries that it uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

SCORE = "from fullconv import Scorer; Scorer({models!r}, provider='cpu').score({page!r}, model='digits')"
CONVERT = "from fullconv import convert; convert({onnx!r}, {target!r}, window=70, crops_only=True, verify=2)"


@pytest.mark.parametrize("program", [SCORE, CONVERT], ids=["score", "convert"])
def test_no_telemetry_is_kept(program: str, tmp_path: Path) -> None:
    """The cache directory, in which ONNX Runtime keeps what it has not sent yet, stays without its files.

    Its telemetry is off in the environments of continuous integration, whose variables are therefore removed.
    """
    digits = ROOT / "models" / "digits"
    names = {"models": str(digits.parent), "page": str(digits / "page.png"), "onnx": str(digits / "1" / "model.onnx")}
    code = program.format(**names, target=str(tmp_path / "model" / "1"))
    kept = ("ORT_DISABLE_TELEMETRY", "CI", "GITHUB_ACTIONS", "TF_BUILD", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in kept}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.glob("cache/**/*onnxruntime*"))


def test_the_user_decides() -> None:
    """A variable that is set stays as it is."""
    code = "import os, service, converter; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        others = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=others | given, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == expected
