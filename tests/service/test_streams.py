"""ScoreLarge and ScoreMany over a real socket: parts, rows, answers and errors."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pyvips
from numpy.testing import assert_array_equal
from support.pictures import encode, noise, png
from support.servers import Server, running, wait_until

from fullconv import Answer, Client, ImageError, RequestError, ScoreStream, UnavailableError
from fullconv.protos import scoring_pb2, scoring_pb2_grpc

Parts = list[scoring_pb2.ScoreLargeRequest]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@contextmanager
def stub_of(server: Server) -> Iterator[scoring_pb2_grpc.ScoringStub]:
    """Yield the generated calls of a server, for messages that the client does not send."""
    with grpc.insecure_channel(server.address) as channel:
        yield scoring_pb2_grpc.ScoringStub(channel)


def taken(run: ScoreStream) -> tuple[np.ndarray, Answer]:
    """Return all rows in one array, after checking that they are consecutive, and the answer."""
    rows = list(run.bands())
    assert [first for first, _ in rows] == [0, *np.cumsum([len(scores) for _, scores in rows])[:-1]]
    return np.concatenate([scores for _, scores in rows]), run.result()


def start(**fields: Any) -> scoring_pb2.ScoreLargeRequest:
    return scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(**{"model": "digits", "name": "i"} | fields))


def data(content: bytes) -> scoring_pb2.ScoreLargeRequest:
    return scoring_pb2.ScoreLargeRequest(data=content)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_files_in_parts(client: Client, tmp_path: Path, suffix: str) -> None:
    """A file that is sent in parts has bitwise the same scores as a file in one message."""
    path = tmp_path / f"Bild{suffix}"
    path.write_bytes(encode(noise(1000, 1100, 3), suffix))
    expected = client.score(path, model="unpadded", grid=True, flip=True, scales=["1x", 300])
    with client.score_large(path, model="unpadded", grid=True, flip=True, scales=["1x", 300]) as run:
        assert run.planned.plan.views[1].image[0] == 300
        grid, answer = taken(run)
    assert_array_equal(expected.grid, grid)
    assert_array_equal(expected.average, answer.average)
    assert answer.image.name == f"Bild{suffix}"
    assert answer.timing.total_ms > 0


@pytest.mark.parametrize("dtype", [np.uint8, pytest.param(np.uint16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_rows_in_parts(client: Client, dtype: type, channels: int) -> None:
    """Rows of pixels have the same scores as the whole array, also with regions, borders and masks."""
    pixels: np.ndarray = noise(3000, 900, channels).astype(dtype) * (257 if dtype is np.uint16 else 1)
    mask = np.zeros((3000, 900), np.uint8)
    mask[500:2500] = 1
    for options in ({}, {"border": "anchor", "stride": 2}, {"roi": (100, 2000, 400, 900)}, {"mask": mask}):
        expected = client.score(pixels, model="unpadded", grid=True, **options)
        with client.score_large(pixels, model="unpadded", grid=True, **options) as run:
            grid, answer = taken(run)
        assert_array_equal(expected.grid, grid)
        assert_array_equal(expected.average, answer.average)


def test_grids_of_the_highest(client: Client) -> None:
    """Rows of the highest scores have their classes; float16 scores have this type."""
    pixels = noise(400, 300, 3)
    expected = client.score(pixels, model="unpadded", grid="top", grid_top=2)
    with client.score_large(pixels, model="unpadded", grid="top", grid_top=2) as run:
        rows = list(run.rows())
    assert_array_equal(expected.grid, np.concatenate([part.scores for part in rows]))
    assert_array_equal(expected.winners, np.concatenate([part.positions for part in rows]))
    with client.score_large(pixels, model="unpadded", grid="float16") as run:
        assert next(run.bands())[1].dtype == np.float16


@pytest.mark.slow
def test_progress_and_plan(server: Server, client: Client) -> None:
    """The plan comes first; progress reaches all tiles; a plan alone decodes nothing."""
    watched: list[tuple[str, int, int]] = []
    pixels = np.zeros((6000, 5000), np.uint8)
    run = client.score_large(pixels, model="digits", progress=lambda *what: watched.append(what))
    tiles = sum(view.tiles for view in run.planned.plan.views)
    assert tiles > 20
    run.result()
    assert watched[-1] == ("scoring", tiles, tiles)
    raw = scoring_pb2.RawImage(height=1 << 20, width=1 << 20, channels=1, dtype="uint8")
    options = scoring_pb2.ScoreOptions(plan_only=True)
    with stub_of(server) as stub:
        (planned,) = stub.ScoreLarge(iter([start(options=options, raw=raw)]))
    assert planned.start.plan.multiply_adds > 1e15
    assert planned.start.grid.rows == ((1 << 20) - 70) // 8 + 1


def bad_rows() -> dict[str, tuple[Parts, grpc.StatusCode, str]]:
    """Calls of raw rows that are refused, with their status and a part of its message."""
    raw = scoring_pb2.RawImage(height=200, width=100, channels=1, dtype="uint8")
    rows = data(bytes(100 * 100))
    options = scoring_pb2.ScoreOptions
    return {
        "nothing": ([], INVALID, "part: expected start first, got nothing"),
        "no-start": ([rows], INVALID, "part: expected start first, got data"),
        "two-starts": ([start(raw=raw), start(raw=raw)], INVALID, "part: expected data after start, got start"),
        "empty-part": ([start(raw=raw), scoring_pb2.ScoreLargeRequest()], INVALID, "expected data after start"),
        "no-model": ([start(model="none", raw=raw)], grpc.StatusCode.NOT_FOUND, "model: no model 'none'"),
        "no-stride": (
            [start(model="padded", raw=raw, options=options(stride=3))],
            grpc.StatusCode.FAILED_PRECONDITION,
            "stride: expected a divisor or a multiple of 8 pixels",
        ),
        "no-rows": ([start(raw=raw)], INVALID, "i: data: expected 200 rows, got 0: the stream ended"),
        "few-rows": ([start(raw=raw), rows], INVALID, "i: data: expected 200 rows, got 100: the stream ended"),
        "many-rows": ([start(raw=raw), rows, rows, data(bytes(100))], INVALID, "data: expected 200 rows, got more"),
        "half-row": ([start(raw=raw), data(bytes(150))], INVALID, "expected whole rows of 100 bytes"),
        "wrong-width": ([start(raw=raw), data(bytes(99 * 101))], INVALID, "expected whole rows of 100 bytes"),
        "empty-rows": ([start(raw=raw), data(b"")], INVALID, "expected whole rows of 100 bytes"),
        "dtype": ([start(raw=scoring_pb2.RawImage(height=99, width=99, channels=1, dtype="f8"))], INVALID, "i: dtype"),
        "size": (
            [start(raw=scoring_pb2.RawImage(height=99, channels=1, dtype="uint8"))],
            INVALID,
            "i: width: expected",
        ),
        "bands": (
            [start(raw=scoring_pb2.RawImage(height=99, width=99, channels=7, dtype="uint8"))],
            INVALID,
            "7 bands",
        ),
        "small": ([start(raw=scoring_pb2.RawImage(height=69, width=99, channels=1, dtype="uint8"))], INVALID, "69×99"),
        "scales": (
            [start(raw=raw, options=options(scales=[scoring_pb2.Scale(factor=1)] * 2))],
            INVALID,
            "scales: expected none with raw rows",
        ),
        "otsu": ([start(raw=raw, options=options(mask_otsu=True))], INVALID, "mask_otsu: expected none with raw rows"),
        "mask": (
            [start(raw=raw, options=options(mask_image=scoring_pb2.Image(encoded=png(noise(200, 90, 1)))))],
            INVALID,
            "mask: expected the image's size, 200×100 pixels (height×width), or another size",
        ),
    }


def bad_files() -> dict[str, tuple[Parts, grpc.StatusCode, str]]:
    """Calls of encoded files that are refused, with their status and a part of its message."""
    tiled = pyvips.Image.new_from_array(noise(900, 900, 1)).write_to_buffer(".tif", tile=True)
    return {
        "no-file": ([start()], INVALID, "TIFF image, got an empty file"),
        "text": ([start(), data(b"not an image")], INVALID, "got text that begins with 'not an image'"),
        "truncated": ([start(), data(tiled[: len(tiled) // 2])], INVALID, "TIFF file, got a truncated file"),
        "last-tile": ([start(), data(tiled[: len(tiled) - 70_000])], INVALID, "before its directory at byte 1048584"),
    }


def bad_streams() -> dict[str, tuple[Parts, grpc.StatusCode, str]]:
    """Return all calls that are refused."""
    return bad_rows() | bad_files()


@pytest.mark.parametrize("kind", bad_streams())
def test_bad_streams(server: Server, client: Client, kind: str) -> None:
    """Each call gets its status and one line that names the field; the server scores correctly afterwards."""
    parts, code, expected_message = bad_streams()[kind]
    with stub_of(server) as stub, pytest.raises(grpc.RpcError) as caught:
        list(stub.ScoreLarge(iter(parts), timeout=60))
    assert caught.value.code() is code
    assert expected_message in caught.value.details()
    assert "\n" not in caught.value.details()
    with client.score_large(noise(80, 80, 1), model="digits", grid=True) as run:
        assert taken(run)[0].shape == (2, 2, 11)


@pytest.mark.slow
def test_clients_that_vanish_free_the_server(models: Path) -> None:
    """If a client vanishes while it sends or before it reads rows, its resources are freed for the next large image."""
    raw = scoring_pb2.RawImage(height=100_000, width=2000, channels=1, dtype="uint8")

    def stalling() -> Iterator[scoring_pb2.ScoreLargeRequest]:
        yield start(raw=raw)
        yield data(bytes(2000 * 1500))
        time.sleep(1)

    with running(models) as server, Client(server.address) as client, stub_of(server) as stub:
        call = stub.ScoreLarge(stalling())
        assert next(call).HasField("start")
        call.cancel()
        slow = client.score_large(np.zeros((20_000, 4000), np.uint8), model="digits", grid=True)
        next(slow.bands())
        slow.close()
        with client.score_large(noise(80, 80, 1), model="digits", grid=True) as run:
            assert taken(run)[0].shape == (2, 2, 11)
        wait_until(lambda: len(server.events("request")) >= 3)
        assert sorted(line["code"] for line in server.events("request")) == ["CANCELLED", "CANCELLED", "OK"]


@pytest.mark.slow
def test_slow_readers_pause_the_server(models: Path) -> None:
    """If a client does not read rows, the server pauses, and holds no more rows than gRPC's buffers."""
    with running(models) as server, Client(server.address) as client:
        process = Path(f"/proc/{server.process.pid}/statm")

        def memory() -> int:
            return int(process.read_text().split()[1]) * 4096 >> 20

        client.score(noise(1000, 1000, 1), model="digits")
        before = memory()
        pixels = np.broadcast_to(np.zeros((1, 8000), np.uint8), (32_000, 8000))
        with client.score_large(pixels, model="digits", grid=True) as run:
            rows = run.bands()
            next(rows)
            time.sleep(3)
            assert memory() - before < 260  # the grid is 176 MB, the image 256
            assert sum(len(scores) for _, scores in rows) > 1000


def test_spooled_files_have_a_quota(models: Path, tmp_path: Path) -> None:
    """A file over the quota is refused while it arrives, and no part of it stays in the spool."""
    spool = tmp_path / "spool"
    spool.mkdir()
    large = tmp_path / "large.tif"
    large.write_bytes(encode(noise(1200, 1200, 1), ".tif"))
    options = ["--spool", str(spool), "--spool-mib", "1", "--client-share", "1"]
    with running(models, *options) as server, Client(server.address) as client:
        with pytest.raises(ImageError, match="expected a file of at most 1 MiB, the size of the spool"):
            client.score_large(large, model="digits")
        small = tmp_path / "small.png"
        small.write_bytes(png(noise(90, 90, 1)))
        with client.score_large(small, model="digits") as run:
            assert len(run.result().y) == 3
        wait_until(lambda: not list(spool.iterdir()))


def test_rows_larger_than_a_message_are_refused(models: Path) -> None:
    """A grid of which not even one row fits a message is refused before anything is computed."""
    with running(models, "--max-message-mib", "1") as server, Client(server.address) as client:
        pixels = np.broadcast_to(np.zeros((1, 120_000), np.uint8), (100, 120_000))
        with pytest.raises(ImageError, match=r"grid: expected rows of at most 1 MiB, got 1\.258 MiB"):
            client.score_large(pixels, model="digits", grid=True, stride=4)


def test_small_requests_overtake_large_requests(server: Server, client: Client) -> None:
    """While a large image waits for its rows, other requests are answered."""
    raw = scoring_pb2.RawImage(height=100_000, width=2000, channels=1, dtype="uint8")

    def stalling() -> Iterator[scoring_pb2.ScoreLargeRequest]:
        yield start(raw=raw)
        time.sleep(3)

    with stub_of(server) as stub:
        call = stub.ScoreLarge(stalling())
        assert next(call).HasField("start")
        for _ in range(5):
            assert len(client.score(noise(80, 80, 1), model="digits").y) == 2
        call.cancel()


@pytest.mark.slow
def test_abandoned_streams_are_not_bugs(models: Path) -> None:
    """Calls that are closed while the server writes end as CANCELLED; the server's log has no bug."""
    with running(models) as server, Client(server.address) as client:
        for _ in range(5):
            answers = client.score_many(((str(n), noise(300, 300, 1)) for n in range(50)), model="digits", grid=True)
            assert isinstance(answers, Generator)
            next(answers)
            answers.close()
            with client.score_large(np.zeros((3000, 3000), np.uint8), model="digits", grid=True, stride=2) as run:
                next(run.bands())
        assert len(client.score(noise(80, 80, 1), model="digits").y) == 2
        wait_until(lambda: len(server.events("request")) > 10)
        assert {line["code"] for line in server.events("request")} <= {"OK", "CANCELLED"}


@pytest.mark.slow
def test_rows_of_every_region_and_phase(models: Path) -> None:
    """Rows of pixels are read in order for every region and stride, with the smallest tiles."""
    pixels = noise(120, 96, 3)
    with running(models, "--tile-mib", "1") as server, Client(server.address) as client:
        for stride in (1, 2, 4):
            for top in range(0, 80, 19):
                options: Any = {"stride": stride, "mode": "dense", "roi": (0, top, 96, 40), "flip": True}
                expected = client.score(pixels, model="padded", grid=True, **options)
                with client.score_large(pixels, model="padded", grid=True, **options) as run:
                    assert_array_equal(expected.grid, taken(run)[0])


def test_errors_of_the_callers_iterable_are_raised(client: Client) -> None:
    """The loop raises the error of the caller's own iterable instead of an error of the call."""

    def images() -> Iterator[tuple[str, np.ndarray]]:
        yield "a", noise(80, 80, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(client.score_many(images(), model="digits"))
    with pytest.raises(ImageError, match="of uint8, uint16, int16, float32, got"):
        client.score_large(np.zeros(9, np.uint8), model="digits")


def test_many_images(client: Client, tmp_path: Path) -> None:
    """Every image gets its own answer under its own id, in any order; bad images get their own errors."""
    images = {f"n{number}": noise(70 + 9 * number, 300 - 7 * number, 1, seed=number) for number in range(30)}
    text = tmp_path / "text.png"
    text.write_text("no image")
    bad: dict[str, Path | np.ndarray] = {"text": text, "small": noise(20, 20, 1), "gone": tmp_path / "gone.png"}
    expected = {name: client.score(image, model="digits", grid=True) for name, image in images.items()}
    answers = dict(client.score_many([*images.items(), *bad.items()], model="digits", grid=True))
    assert set(answers) == {*images, *bad}
    for name, answer in expected.items():
        got = answers[name]
        assert isinstance(got, Answer)
        assert_array_equal(answer.grid, got.grid)
        assert_array_equal(answer.average, got.average)
    expected_message = {"text": "got text that begins with", "small": "window of 70×70", "gone": "cannot be read"}
    for name, message in expected_message.items():
        assert isinstance(answers[name], ImageError)
        assert message in str(answers[name])


def test_errors_of_every_image(client: Client) -> None:
    """An error of the request is reported for each image."""
    answers = dict(client.score_many([("a", noise(80, 80, 1)), ("b", noise(80, 80, 1))], model="none"))
    assert all(isinstance(answer, RequestError) and "no model 'none'" in str(answer) for answer in answers.values())
    assert len(answers) == 2


@pytest.mark.slow
def test_images_are_read_as_there_is_room(client: Client) -> None:
    """The server does not read hundreds of images before it has answered the first image."""
    sent = 0

    def images() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal sent
        for number in range(200):
            sent += 1
            yield str(number), noise(500, 500, 1)

    answers = client.score_many(images(), model="digits", mode="crops", stride=16)
    next(answers)
    assert sent < 100
    assert len(list(answers)) == 199


def test_streams_end_with_the_server(models: Path) -> None:
    """A server that stops answers the images that it has read, and ends the stream with an error for the others."""
    with running(models) as server, Client(server.address, retries=0) as client:

        def images() -> Iterator[tuple[str, np.ndarray]]:
            for number in range(10_000):
                yield str(number), noise(200, 200, 1, seed=number % 5)

        answers, got = client.score_many(images(), model="digits"), 0
        next(answers)
        server.process.terminate()
        try:
            for _, answer in answers:
                assert isinstance(answer, Answer)
                got += 1
        except UnavailableError as error:
            assert "shutting down" in str(error)  # noqa: PT017 (how many came before it counts)
        wait_until(lambda: server.process.poll() is not None)
        scored = [line for line in server.events("request") if line["method"] == "ScoreMany" and "width" in line]
        assert all(line["code"] == "OK" for line in scored)
        assert len(scored) == got + 1 < 10_000


def test_malformed_parts(server: Server) -> None:
    """Bytes that are not a message are INVALID_ARGUMENT, also in a stream."""
    for method in ("ScoreLarge", "ScoreMany"):
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(f"/fullconv.v1.Scoring/{method}")(iter([b"\xff" * 9]), timeout=30))
        assert caught.value.code() is INVALID
        assert f"expected fullconv.v1.{method}Request, got 9 bytes of another kind" in caught.value.details()
    with suppress(grpc.RpcError), grpc.insecure_channel(server.address) as channel:
        list(channel.stream_stream("/fullconv.v1.Scoring/ScoreMany")(iter([]), timeout=30))
