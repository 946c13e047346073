"""The unchanged stock clients of Triton and KServe, and Triton's load generator, with a server of this project."""

import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT
from support.scoring import plan_message
from support.servers import Server, running

from fullconv.encode import image_message, options_message
from fullconv.images import source_of
from fullconv.protos import scoring_pb2
from service.scoring.scorer import Scorer

pytestmark = pytest.mark.clients

MODELS = ROOT / "models"
PAGE = MODELS / "digits" / "page.png"
PERF = ROOT / "build" / "perf"
PYTHON = ROOT / "build" / "clients" / "bin" / "python"
WINDOWS = np.random.default_rng(0).integers(0, 256, (3, 90, 110, 1), np.uint8)


def run(script: str, *arguments: str) -> dict[str, Any]:
    """Return the output of a script in the clients' own Python environment."""
    command: list[str | Path] = [PYTHON, ROOT / "tests" / "deployment" / script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    printed: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return printed


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model."""
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        yield server


@pytest.fixture(scope="module")
def triton(server: Server) -> dict[str, Any]:
    """Return the answers that Triton's client received."""
    return run("triton_client.py", server.address, "digits", str(PAGE))


def expected(image: np.ndarray | Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (classes, rows, cols) and the average (classes,) of this process."""
    requested: Any = {"grid": True, **options}
    request = scoring_pb2.ScoreRequest(
        model="digits", options=options_message(requested), image=image_message(source_of(image))
    )
    answer = plan_message(Scorer(MODELS), request).complete()
    scores = np.frombuffer(answer.scores, "<f4").reshape(answer.grid.rows, answer.grid.cols, -1)
    return np.moveaxis(scores, -1, 0), np.array(answer.average.values)


def check(got: dict[str, Any], images: list[np.ndarray | Path]) -> None:
    """Check that an answer equals that of this process for every image."""
    scores, averages = (np.stack(each) for each in zip(*(expected(image) for image in images), strict=True))
    assert got["shape"] == list(scores.shape)
    np.testing.assert_allclose(got["average"], averages, rtol=0, atol=1e-5)
    assert got["sum"] == pytest.approx(scores.sum(dtype=np.float64), rel=1e-5)


def test_images_are_scored_alike(triton: dict[str, Any]) -> None:
    """Encoded images and tensors of any size have the scores of this process, with both of Triton's clients."""
    check(triton["sync"]["encoded"], [PAGE])
    check(triton["sync"]["windows"], list(WINDOWS))
    check(triton["aio"], [WINDOWS[0]])


def test_parameters_and_classification(triton: dict[str, Any]) -> None:
    """Options are parameters; the answer has the highest averages with their labels."""
    words = triton["sync"]["named"]
    assert len(words) == 2 * len(WINDOWS)
    for place, window in enumerate(WINDOWS):
        _, average = expected(window, stride=16)
        for position, word in zip(np.argsort(-average)[:2], words[2 * place : 2 * place + 2], strict=True):
            score, index, label = word.split(":")
            assert float(score) == pytest.approx(average[position], abs=1e-5)
            assert int(index) == position
            assert label in ("background", str(position))


def test_streams(triton: dict[str, Any]) -> None:
    """A stream answers every request; a request that fails gets its own error, which is its final answer."""
    errors, numbers, final = triton["stream"]
    assert numbers == ["0", "1", "2", "3", "4", "6", "7"]
    assert len(errors) == 1
    assert "expected at least the model's window" in errors[0]
    assert final == [True]


def test_metadata(triton: dict[str, Any]) -> None:
    """Metadata describe the tensors and the repository, and the statistics count the requests."""
    sync = triton["sync"]
    assert sync["metadata"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "-1", "-1", "1"]}]
    assert [tensor["name"] for tensor in sync["metadata"]["outputs"]] == ["scores", "average"]
    assert sync["config"]["config"]["output"][1]["dims"] == ["-1", "11"]
    assert sync["index"] == {"models": [{"name": "digits", "version": "1", "state": "READY"}]}
    (statistics,) = sync["statistics"]["model_stats"]
    assert int(statistics["inference_count"]) == 7
    assert int(statistics["inference_stats"]["success"]["count"]) == 7
    assert 0 < int(statistics["execution_count"]) <= 7


def test_refusals_have_reasons(triton: dict[str, Any]) -> None:
    """Shared memory, loading, uploads, wrong tensors and unknown parameters are refused with the reason."""
    memory, load, upload, unknown, wrong_type, small, parameter = triton["sync"]["refused"]
    assert "shared memory is not supported" in memory
    assert "UNIMPLEMENTED" in load
    assert "models cannot be sent with a request" in upload
    assert "NOT_FOUND" in unknown
    assert "image: expected unsigned values of 8 or 16 bits, got 1 band of float32" in wrong_type
    assert "expected at least the model's window of 70×70 pixels (height×width), got 20×110" in small
    assert "parameters: expected stride" in parameter


@pytest.mark.parametrize("options", [["--sync"], ["--async"], ["--async", "--streaming"]], ids=lambda words: words[-1])
def test_perf_analyzer(server: Server, options: list[str]) -> None:
    """Triton's load generator can measure the server, and its figures agree with the server's."""
    environment = {"LD_LIBRARY_PATH": str(PERF / "nvidia" / "cuda_runtime" / "lib")}
    load = ["--shape", "image:1,256,200,1", "--concurrency-range", "2", *options]
    once = ["--measurement-mode", "count_windows", "--measurement-request-count", "50", "--stability-percentage", "999"]
    program: list[str | Path] = [PERF / "bin" / "perf_analyzer"]
    command = [*program, "-m", "digits", "-i", "grpc", "-u", server.address, *load, *once]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    times = re.search(r"Successful request count: (\d+).*compute infer (\d+) usec", result.stdout, re.DOTALL)
    assert times is not None, result.stdout
    assert all(int(number) > 0 for number in times.groups())


def test_kserve(server: Server) -> None:
    """KServe's client gets the scores of this process."""
    check(run("kserve_client.py", server.address, "digits"), list(WINDOWS))


def test_triton_over_http(server: Server) -> None:
    """Triton's HTTP clients get the scores of this process: as binary data, as JSON, and with compressed requests."""
    answers = run("triton_http_client.py", server.log[0]["viewer"], "digits", str(PAGE))
    sync = answers["sync"]
    check(sync["encoded"], [PAGE])
    for form in ("binary", "json", "gzip", "deflate"):
        check(sync[form], list(WINDOWS))
    check(answers["aio"], [WINDOWS[0]])
    assert sync["metadata"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 1]}]
    assert sync["config"]["output"][1]["dims"] == [-1, 11]
    assert sync["index"] == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]
    assert sync["statistics"]["model_stats"][0]["inference_stats"]["success"]["count"] > 0
    assert sync["named"][0] == sync["named"][1]
    assert [word.count(":") for word in sync["named"][0]] == [2] * 6
    unknown, small, parameter = sync["refused"]
    assert unknown.startswith("404: model: no model 'cats'")
    assert "expected at least the model's window of 70×70 pixels (height×width), got 20×110" in small
    assert "400: parameters: expected stride" in parameter


def test_perf_analyzer_over_http(server: Server) -> None:
    """Triton's load generator can measure the HTTP port."""
    environment = {"LD_LIBRARY_PATH": str(PERF / "nvidia" / "cuda_runtime" / "lib")}
    load = ["--shape", "image:1,256,200,1", "--concurrency-range", "2", "--measurement-mode", "count_windows"]
    once = ["--measurement-request-count", "50", "--stability-percentage", "999"]
    program: list[str | Path] = [PERF / "bin" / "perf_analyzer", "-m", "digits", "-i", "http"]
    command = [*program, "-u", server.log[0]["viewer"], *load, *once]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    times = re.search(r"Successful request count: (\d+).*compute infer (\d+) usec", result.stdout, re.DOTALL)
    assert times is not None, result.stdout
    assert all(int(number) > 0 for number in times.groups())


def test_kserve_over_http(server: Server) -> None:
    """KServe's REST client gets the scores of this process, as binary data and as JSON."""
    answers = run("kserve_http_client.py", server.log[0]["viewer"], "digits")
    for form in ("binary", "json"):
        check(answers[form], list(WINDOWS))


def test_curl(server: Server, tmp_path: Path) -> None:
    """curl, with an image as base64 in JSON, gets the average of this process."""
    document = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [b64encode(PAGE.read_bytes()).decode()]}
    (tmp_path / "request.json").write_text(json.dumps({"inputs": [document], "outputs": [{"name": "average"}]}))
    url = f"http://{server.log[0]['viewer']}/v2/models/digits/infer"
    sent = ["--data-binary", f"@{tmp_path / 'request.json'}", "--header", "Content-Type: application/json"]
    output = subprocess.run(["curl", "--silent", "--fail", *sent, url], capture_output=True, check=True).stdout
    (average,) = json.loads(output)["outputs"]
    np.testing.assert_array_equal(np.float32(average["data"]), np.float32(expected(PAGE)[1]))
