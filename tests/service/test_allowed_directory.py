"""Requests may name image files in the server's allowed directory, and no other files."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise, png
from support.servers import Server, running

from fullconv import Client
from fullconv.protos import scoring_pb2, scoring_pb2_grpc
from service.errors import NotFoundError
from service.images.allowed_directory import AllowedDirectory

PIXELS = noise(90, 100, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of images that contains links and pipes, and an image outside of the directory."""
    folder = tmp_path_factory.mktemp("outside")
    root = folder / "root"
    (root / "sub dir").mkdir(parents=True)
    for path in (folder / "secret.png", root / "a.png", root / "sub dir" / "ü%2e.png"):
        path.write_bytes(png(PIXELS))
    (root / "link.png").symlink_to(folder / "secret.png")
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "up").symlink_to(folder, target_is_directory=True)
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("path", ["a.png", "sub dir/ü%2e.png"])
def test_files_are_opened_by_their_paths(root: Path, path: str) -> None:
    """A path opens its image, whose file stays open as long as the picture exists."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    picture = AllowedDirectory(root).picture(path)
    assert (picture.height, picture.width, picture.name) == (90, 100, path.rpartition("/")[2])
    del picture
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "sub dir/../../secret.png", "/etc/passwd", "a.png/", "./a.png", "sub dir//a.png", "..", "",
     "\0", "a.png\0", "link.png", "inside.png", "up/secret.png", "%2e%2e/secret.png", "..%2fsecret.png", "pipe",
     "..\\secret.png", "sub dir", "file:///etc/passwd", "~/a.png", "a" * 300, "a/" * 3000, "\ud800"],
)  # fmt: skip
def test_no_path_leads_out(root: Path, path: str) -> None:
    """Paths with dots, links, encoded characters or pipes, and absolute paths, are refused without waiting."""
    with pytest.raises(NotFoundError, match="path: "):
        AllowedDirectory(root).picture(path)


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """Yield a server with this allowed directory."""
    with running(ROOT / "models", "--images", str(root)) as server:
        yield server


def test_a_server_scores_its_own_files(server: Server) -> None:
    """Score and ScoreLarge give the same scores for a path as for the pixels."""
    with Client(server.address) as client, grpc.insecure_channel(server.address) as channel:
        expected = client.score(PIXELS, model="digits").average
        stub, image = scoring_pb2_grpc.ScoringStub(channel), scoring_pb2.Image(path="sub dir/ü%2e.png")
        response = stub.Score(scoring_pb2.ScoreRequest(model="digits", image=image))
        start = scoring_pb2.LargeImage(model="digits", path="a.png")
        *_, last = stub.ScoreLarge(iter([scoring_pb2.ScoreLargeRequest(start=start)]))
        for answer in (response, last.summary):
            np.testing.assert_array_equal(np.array(answer.average.values, np.float32), np.float32(expected))
        with pytest.raises(grpc.RpcError) as missing:
            stub.Score(scoring_pb2.ScoreRequest(model="digits", image=scoring_pb2.Image(path="../secret.png")))
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND


def test_servers_without_files_say_so() -> None:
    """Without an allowed directory every path is refused."""
    with pytest.raises(NotFoundError, match="without --images"):
        AllowedDirectory().picture("a.png")
