"""Requests and command lines that a server refuses, with the status and message of each refusal."""

import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
import pyvips
from grpc_status import rpc_status
from support.paths import ROOT
from support.pictures import bomb, encode, noise, png
from support.servers import COMMAND, SCORE, Server, call

from fullconv import Client, ImageError
from fullconv.protos import scoring_pb2, scoring_pb2_grpc

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
Refused = dict[str, tuple[scoring_pb2.ScoreRequest, grpc.StatusCode, str]]
"""Requests that are refused, with their status and a part of its message."""


def encoded(data: bytes, **options: Any) -> scoring_pb2.ScoreRequest:
    """Return a request for an encoded image."""
    return scoring_pb2.ScoreRequest(
        model="digits",
        image=scoring_pb2.Image(name="i", encoded=data),
        options=scoring_pb2.ScoreOptions(**options),
    )


def raw(**fields: Any) -> scoring_pb2.ScoreRequest:
    """Return a request for 80×80 raw pixels, with some fields changed."""
    usual: dict[str, Any] = {"height": 80, "width": 80, "channels": 1, "dtype": "uint8", "data": bytes(6400)}
    image = scoring_pb2.Image(name="i", raw=scoring_pb2.RawImage(**(usual | fields)))
    return scoring_pb2.ScoreRequest(model="digits", image=image)


def bad_names() -> Refused:
    """Return requests with wrong names, and with a value that is not in the enum."""
    good = png(noise(80, 80, 1))
    return {
        "no-model": (scoring_pb2.ScoreRequest(), MISSING, "model: no model ''"),
        "unknown-model": (scoring_pb2.ScoreRequest(model="../digits"), MISSING, "available: digits, padded, unpadded"),
        "unknown-version": (scoring_pb2.ScoreRequest(model="digits", version="9"), MISSING, "available: 1"),
        "unknown-class": (encoded(good, classes=["cat"]), MISSING, "got 'cat'"),
        "long-model": (scoring_pb2.ScoreRequest(model="m" * 200), MISSING, "model: no model 'mmm"),
        "longer-model": (scoring_pb2.ScoreRequest(model="m" * 9000), INVALID, "expected at most 255 letters, got 9000"),
        "long-class": (encoded(good, classes=["é" * 4000]), INVALID, "expected at most 255 letters, got 4000"),
        "many-classes": (encoded(good, classes=["0"] * 70_000), INVALID, "at most 65536 names, got 70000"),
        "odd-average": (encoded(good, average=7), INVALID, "average: expected a value of AverageOf, got 7"),
    }


def bad_images() -> Refused:
    """Requests with wrong images."""
    jpeg = encode(noise(200, 200, 3), ".jpg")
    return {
        "no-image": (
            scoring_pb2.ScoreRequest(model="digits"),
            INVALID,
            "expected encoded or raw pixels, or a path, got none",
        ),
        "empty": (encoded(b""), INVALID, "i: expected a JPEG, PNG, WebP or TIFF image, got an empty file"),
        "text": (encoded(b"not an image"), INVALID, "got text that begins with 'not an image'"),
        "truncated": (encoded(jpeg[:-2000]), INVALID, "i: expected a complete"),
        "small": (encoded(png(noise(69, 80, 1))), INVALID, "window of 70×70 pixels (height×width), got 69×80"),
        "bomb": (
            encoded(bomb()),
            INVALID,
            "60000×60000 pixels (height×width) are 3600 megapixels, expected at most 256",
        ),
        "large-answer": (
            encoded(pyvips.Image.black(12_000, 12_000).write_to_buffer(".png"), grid=True),
            INVALID,
            "grid: expected at most 64 MiB, got 93.42 MiB for 1492×1492 cells of 11 classes; name fewer",
        ),
        "raw-dtype": (
            raw(dtype="float64"),
            INVALID,
            "image.raw.dtype: expected uint8, uint16, int16, float32, got 'float64'",
        ),
        "raw-data": (raw(data=bytes(6399)), INVALID, "image.raw.data: expected 6400 bytes, got 6399"),
        "raw-nothing": (raw(height=0, data=b""), INVALID, "image.raw.height: expected 1 to"),
        "raw-huge": (raw(height=4_000_000_000, width=4_000_000_000), INVALID, "image.raw.height: expected 1 to"),
        "raw-bands": (raw(channels=7, data=bytes(44800)), INVALID, "expected the model's 1 band, got 7 bands of uint8"),
    }


@cache
def bad_requests() -> Refused:
    """Return all requests that are refused."""
    return bad_names() | bad_images()


@pytest.mark.parametrize("kind", bad_requests())
def test_bad_requests(server: Server, client: Client, kind: str) -> None:
    """Each request gets its status and one line that names the field; the server scores correctly afterwards."""
    request, code, expected_message = bad_requests()[kind]
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        scoring_pb2_grpc.ScoringStub(channel).Score(request)
    assert caught.value.code() is code
    assert expected_message in caught.value.details()
    assert "\n" not in caught.value.details()
    assert "/" not in caught.value.details().replace("../digits", "")
    assert len(client.score(noise(80, 80, 1), model="digits").y) == 2


def test_malformed_messages(server: Server) -> None:
    """Bytes that are not a message are refused by every method."""
    for method in ("Score", "GetModel", "ListModels"):
        error = call(server.address, f"/fullconv.v1.Scoring/{method}", b"\xff" * 9)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"message: expected fullconv.v1.{method}Request, got 9 bytes of another kind" == error.details()


def test_unknown_methods(server: Server) -> None:
    """A call of an unknown method ends with UNIMPLEMENTED."""
    assert call(server.address, "/fullconv.v1.Scoring/Paint", b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_messages_over_the_limit(server: Server, client: Client) -> None:
    """Beyond the transport's limit the status is RESOURCE_EXHAUSTED without RetryInfo; the client names the image."""
    error = call(server.address, SCORE, bytes((64 << 20) + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert rpc_status.from_call(error) is None
    with pytest.raises(ImageError, match="got a larger message"):
        client.score(bytes(65 << 20), model="digits")


def test_messages_do_not_mix(server: Server) -> None:
    """With many concurrent clients and kinds of bad files, each client gets the message for its own file."""
    files = {
        "text": b"not an image",
        "jpeg": encode(noise(200, 200, 3), ".jpg")[:-2000],
        "png": png(noise(200, 200, 3))[:-2000],
        "tiff": encode(noise(200, 200, 3), ".tif")[:-2000],
    }

    def work(number: int) -> tuple[str, str]:
        name = list(files)[number % 4]
        request = scoring_pb2.ScoreRequest(model="digits", image=scoring_pb2.Image(name=name, encoded=files[name]))
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            scoring_pb2_grpc.ScoringStub(channel).Score(request)
        return name, caught.value.details()

    with ThreadPoolExecutor(12) as pool:
        got = set(pool.map(work, range(200)))
    begin = {
        "text": "text: expected a JPEG, PNG, WebP or TIFF image, got text that begins with 'not an image'",
        "jpeg": f"jpeg: expected a complete JPEG file, got a truncated file: it ends after {len(files['jpeg'])} bytes",
        "png": f"png: expected a complete PNG file, got a truncated file: it ends after {len(files['png'])} bytes",
        "tiff": f"tiff: expected a complete TIFF file, got a truncated file: it ends after {len(files['tiff'])} bytes",
    }
    assert begin == {name: message[: len(begin[name])] for name, message in got}
    assert len(got) == len(begin)


@pytest.mark.parametrize(
    ("options", "status", "expected_message"),
    [
        (["--listen", "0.0.0.0:0"], 2, "--insecure"),
        (["--listen", "8500"], 2, "expected HOST:PORT"),
        (["--listen", "::1:8500"], 2, "[IPV6]:PORT"),
        (["--listen", "127.0.0.1:²"], 2, "expected HOST:PORT"),
        (["--listen", "localhost:99999"], 2, "expected HOST:PORT"),
        (["--models", "/nowhere"], 3, "expected a directory, got /nowhere"),
        (["--tls-cert", "x"], 2, "expected both or neither"),
        (["--nonsense", "x"], 2, "--nonsense"),
        (["--slots", "0"], 2, "slots: "),
        (["--config", "/nowhere"], 2, "config: /nowhere: cannot be read"),
        (["--tokens", "/nowhere"], 3, "/nowhere"),
        (["--provider", "cuda"], 3, "install onnxruntime-gpu"),
        (["--provider", "gpu"], 2, "provider: "),
        (["--admin", "0.0.0.0:0"], 2, "admin: expected a loopback address"),
    ],
)
def test_invalid_command_lines(models: Path, options: list[str], status: int, expected_message: str) -> None:
    """A server does not start without encryption on a public address, nor without models."""
    command = [*COMMAND, "--models", str(models), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == status
    assert expected_message in result.stderr


def test_ports_in_use_are_reported(server: Server, models: Path) -> None:
    """A second server on the same port ends with status 1 and an error that names the reason."""
    command = [*COMMAND, "--models", str(models), "--listen", server.address]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert f"cannot listen on {server.address}" in result.stderr


@pytest.mark.slow
def test_unreachable_servers_are_exit_1() -> None:
    """If no server listens, the command reports it on one line, with status 1."""
    command = [sys.executable, "-c", "from fullconv.command.cli import main; main()"]
    arguments = [str(ROOT / "models" / "digits" / "page.png"), "--model", "digits", "--server", "127.0.0.1:1"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1
    assert "server 127.0.0.1:1 does not answer (connection refused); start fullconv-serve there" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_unknown_names_become_no_labels(server: Server) -> None:
    """Names of models that do not exist, odd characters included, appear in no metric."""
    names = [f"\u202eno-such-{number}" for number in range(20)]
    for name in names:
        request = scoring_pb2.GetModelRequest(model=name)
        error = call(server.address, "/fullconv.v1.Scoring/GetModel", request.SerializeToString())
        assert error.code() is MISSING
        assert str(error.details()).isprintable()
    with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=10) as response:
        text = response.read().decode()
    assert "no-such" not in text
    assert 'fullconv_requests_total{code="NOT_FOUND",method="GetModel",model="",version=""}' in text
