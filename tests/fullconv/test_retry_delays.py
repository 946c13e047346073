"""Delays that a server states for the next try, reasonable or not."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from support.hostile_servers import ChangedServicer, serving
from support.malformed_answers import PIXELS
from support.pictures import png
from support.servers import FailedCall
from typer.testing import CliRunner

from fullconv import Client, UnavailableError
from fullconv.command.cli import app
from fullconv.protos import scoring_pb2
from fullconv.remote.details import RETRY_SECONDS, retry_seconds
from fullconv.remote.retries import Retries

SHORTEST, LONGEST = RETRY_SECONDS
DELAYS = {
    "negative": (Duration(seconds=-5), SHORTEST),
    "very negative": (Duration(seconds=-(2**63), nanos=-(2**31)), SHORTEST),
    "zero": (Duration(), SHORTEST),
    "ordinary": (Duration(seconds=2, nanos=500_000_000), 2.5),
    "years": (Duration(seconds=10**9), LONGEST),
    "very long": (Duration(seconds=2**63 - 1, nanos=2**31 - 1), LONGEST),
}


def busy(delay: Duration) -> Status:
    """The status of a busy server."""
    status = Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="busy")
    status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


class BusyServicer(ChangedServicer):
    """Is busy at the first call of Score, and answers the later calls."""

    def __init__(self, delay: Duration) -> None:
        super().__init__()
        self._delay, self.calls = delay, 0

    def Score(self, request: scoring_pb2.ScoreRequest, context: Any) -> Message:  # noqa: ANN401, N802 (gRPC's)
        """Refuse or answer."""
        self.calls += 1
        if self.calls == 1:
            context.abort_with_status(rpc_status.to_status(busy(self._delay)))
        return super().Score(request, context)


@pytest.mark.parametrize("kind", DELAYS)
def test_delays_are_bounded(kind: str) -> None:
    """A delay is taken within the bounds; the wait is the delay and at most 30 % more."""
    delay, expected = DELAYS[kind]
    trailers = rpc_status.to_status(busy(delay)).trailing_metadata
    error = FailedCall(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", trailers)
    assert retry_seconds(error) == expected
    assert expected <= Retries(1, None).after(error) <= 1.3 * expected


def test_short_delays_are_waited_for(tmp_path: Path) -> None:
    """A negative delay is the shortest delay: the command tries again, and succeeds."""
    path = tmp_path / "image.png"
    path.write_bytes(png(PIXELS))
    servicer = BusyServicer(Duration(seconds=-5))
    with serving(servicer) as address:
        result = CliRunner().invoke(app, [str(path), "--model", "digits", "--server", address, "--json"])
    assert result.exit_code == 0, result.stderr
    assert servicer.calls == 2


def test_long_delays_do_not_outlast_the_timeout() -> None:
    """A call ends at once if the delay would end after its timeout."""
    servicer = BusyServicer(Duration(seconds=10**9))
    said = "RESOURCE_EXHAUSTED: busy"
    with (
        serving(servicer) as address,
        Client(address, timeout=20) as client,
        pytest.raises(UnavailableError, match=said),
    ):
        client.score(PIXELS, model="digits")
    assert servicer.calls == 1
