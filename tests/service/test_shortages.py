"""Shortages of the server: a request that meets one is sent again, and the operator is told."""

import errno
import resource
import urllib.request
from pathlib import Path
from threading import Thread

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import running

from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service.errors import ImageError, ShortageError
from service.images.encoded import open_bytes
from service.shortage import check_resources, shortage_of


def raised(cause: BaseException) -> Exception:
    """Return an error that was raised while another one was handled."""
    error = ImageError("damaged")
    error.__context__ = cause  # as of `raise ... from None` in an except block
    return error


@pytest.mark.parametrize(
    ("cause", "resource_name"),
    [
        (OSError(errno.EMFILE, "too many"), "file descriptors"),
        (OSError(errno.ENOSPC, "full"), "disk space"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
        (ShortageError("memory"), "memory"),
    ],
)
def test_causes_are_shortages(cause: BaseException, resource_name: str) -> None:
    """An error of an image that was caused by a shortage is one, and names the resource."""
    shortage = shortage_of(raised(cause))
    assert shortage is not None
    assert shortage.resource == resource_name
    assert f"expected {resource_name} for this request, got too little; retry later" in str(shortage)


@pytest.mark.parametrize("cause", [OSError(errno.ENOENT, "none"), RuntimeError("other"), ValueError()])
def test_other_causes_are_no_shortages(cause: BaseException) -> None:
    """A missing file or a damaged image remains what it is."""
    assert shortage_of(raised(cause)) is None


def test_errors_of_libvips_are_shortages_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be decoded while no thread can be started is not called damaged."""
    data = png(noise(64, 64, 1))[:200]

    def rows() -> None:
        open_bytes(data, name="i").open_samples(lambda: None).read(0, 64)

    with pytest.raises(ImageError):
        rows()

    def start(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", start)
    with pytest.raises(ShortageError, match="threads"):
        rows()


def test_resources_that_are_there_are_no_shortage() -> None:
    """The check of the resources passes silently."""
    check_resources()


def test_a_server_without_file_descriptors(tmp_path: Path) -> None:
    """A request that gets no descriptor is RESOURCE_EXHAUSTED with RetryInfo and counted; later it succeeds."""
    (tmp_path / "i.png").write_bytes(png(noise(90, 90, 1)))
    request = scoring_pb2.ScoreRequest(model="digits", image=scoring_pb2.Image(path="i.png"))
    with (
        running(ROOT / "models", "--images", str(tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        score = scoring_pb2_grpc.ScoringStub(channel).Score
        expected = score(request, timeout=60)
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (8, limits[1]))
        with pytest.raises(grpc.RpcError) as caught:
            score(request, timeout=60)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        assert score(request, timeout=60).average == expected.average
        status, retry = rpc_status.from_call(caught.value), RetryInfo()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "server: expected file descriptors" in caught.value.details()
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        metrics = f"http://{server.log[0]['metrics']}/metrics"
        with urllib.request.urlopen(metrics, timeout=60) as response:
            assert 'fullconv_shortages_total{resource="file descriptors"} 1.0' in response.read().decode()
