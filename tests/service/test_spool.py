"""Files in the spool disappear with the server, however it ends."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

import grpc
import pytest
from support.paths import ROOT
from support.servers import running, wait_until

from fullconv.protos import scoring_pb2, scoring_pb2_grpc


def test_a_killed_server_leaves_no_spooled_file(tmp_path: Path) -> None:
    """A file that is in the spool while the server is killed needs no disk afterwards."""
    first = scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(model="digits"))
    part = scoring_pb2.ScoreLargeRequest(data=bytes(1 << 20))
    ended = Event()

    def parts() -> Iterator[scoring_pb2.ScoreLargeRequest]:
        yield from (first, part)
        ended.wait()

    with (
        running(ROOT / "models", "--spool", str(tmp_path), status=-signal.SIGKILL) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        answers = scoring_pb2_grpc.ScoringStub(channel).ScoreLarge(parts())
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        wait_until(lambda: _spooled_bytes(descriptors, tmp_path) >= 1 << 20)
        server.process.kill()
        server.process.wait()
        ended.set()
        with pytest.raises(grpc.RpcError):
            list(answers)
    assert not list(tmp_path.iterdir())


def _spooled_bytes(descriptors: Path, spool: Path) -> int:
    """Bytes of the files of a process, by its open descriptors, that are in a spool."""
    files = list[Path]()
    for each in descriptors.iterdir():
        with suppress(FileNotFoundError):  # it was closed since
            files += [each] if str(spool) in str(each.readlink()) else []
    return sum(file.stat().st_size for file in files)
