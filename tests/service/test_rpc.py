"""The server as a process, over a real socket."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from support.paths import ROOT
from support.pictures import encode, noise, png
from support.servers import Server, occupied, running, wait_until

from fullconv import Answer, Client, ImageError, RequestError, Scorer, UnavailableError


def fifty_images() -> Iterator[tuple[str, bytes]]:
    """Yield fifty files: every format, 1 to 4 channels, 8 and 16 bits, many sizes."""
    suffixes = [".png", ".jpg", ".webp", ".tif"]
    for number in range(50):
        suffix = suffixes[number % 4]
        channels = [1, 3, 4, 2, 3][number % 5]
        if suffix == ".jpg":
            channels = 1 if channels < 3 else 3
        if suffix == ".webp":
            channels = max(3, channels)
        pixels = noise(70 + 7 * number, 70 + (number * 37) % 211, channels, seed=number)
        deep = number % 3 == 0 and suffix in (".png", ".tif")
        yield f"image {number}{suffix}", encode(pixels.astype(np.uint16) * 257 if deep else pixels, suffix)


def without_times(answer: Answer) -> dict[str, Any]:
    document = answer.document()
    assert document.pop("timing_ms")["total"] > 0
    return document


@pytest.mark.parametrize("model", ["digits", "unpadded", "padded"])
def test_server_and_process_give_equal_answers(client: Client, models: Path, tmp_path: Path, model: str) -> None:
    """For fifty images of all formats, sizes and channels both give equal grids, and equal JSON except for times."""
    local = Scorer(models)
    for name, data in fifty_images():
        path = tmp_path / name
        path.write_bytes(data)
        remote = client.score(path, model=model, grid=True)
        in_process = local.score(path, model=model, grid=True)
        assert without_times(remote) == without_times(in_process)
        np.testing.assert_array_equal(remote.grid, in_process.grid)


def test_a_server_without_models_says_so(tmp_path: Path) -> None:
    """An empty directory, or one that is a model itself, is served, and the log says what was expected."""
    for models in (tmp_path, ROOT / "models" / "digits"):
        with running(models) as server:
            wait_until(partial(server.events, "no models"))
        assert server.events("no models")[0]["expected"] == f"{models}/NAME/VERSION/model.onnx"


def test_commands_give_equal_answers(server: Server, models: Path, tmp_path: Path) -> None:
    """`fullconv-score` with and without --server gives the same JSON except for times, and the same files."""
    page = ROOT / "models" / "digits" / "page.png"
    documents = []
    for where, option in (("on_server", ["--server", server.address]), ("in_process", ["--models", str(models)])):
        (tmp_path / where).mkdir()
        outputs = ["--grid", str(tmp_path / where / "g.npz"), "--heatmap", str(tmp_path / where / "h.png")]
        arguments = [str(page), "--model", "digits", "--json", "--classes", "3,background", *option, *outputs]
        command = [sys.executable, "-c", "from fullconv.command.cli import main; main()", *arguments]
        documents.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
        documents[-1].pop("timing_ms")
    assert documents[0] == documents[1]
    with (
        np.load(tmp_path / "on_server" / "g.npz") as on_server,
        np.load(tmp_path / "in_process" / "g.npz") as in_process,
    ):
        assert set(on_server) == set(in_process)
        for name in on_server:
            np.testing.assert_array_equal(on_server[name], in_process[name])
    assert (tmp_path / "on_server" / "h.png").read_bytes() == (tmp_path / "in_process" / "h.png").read_bytes()


def command(*arguments: object) -> Any:  # noqa: ANN401 (a JSON document)
    """Return the JSON of `fullconv-score --json`, without times."""
    line = [sys.executable, "-m", "fullconv", *map(str, arguments), "--json"]
    result = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    document = json.loads(result.stdout)
    for one in document if isinstance(document, list) else [document]:
        one.pop("timing_ms", None)
        one.get("plan", {}).pop("predicted_seconds", None)
    return document


def test_commands_give_equal_answers_for_many_images(server: Server, tmp_path: Path) -> None:
    """Many images in one call, with arrays and bad images, give the same documents, in the order of the images."""
    images = [tmp_path / f"image{number}.png" for number in range(6)]
    for number, path in enumerate(images):
        path.write_bytes(png(noise(70 + 30 * number, 200 - 20 * number, 1, seed=number)))
    np.save(tmp_path / "pixels.npy", noise(99, 88, 1)[..., 0])
    (tmp_path / "text.png").write_text("no image")
    images[3:3] = [tmp_path / "pixels.npy", tmp_path / "text.png", tmp_path / "gone.png"]
    options = [*images, "--model", "digits", "--stride", 4, "--flip"]
    in_process = command(*options, "--models", ROOT / "models")
    on_server = command(*options, "--server", server.address)
    assert in_process == on_server
    assert [document["image"]["name"] for document in on_server] == [path.name for path in images]
    assert ["error" in document for document in on_server] == [False] * 3 + [False, True, True] + [False] * 3


@pytest.mark.slow
def test_commands_give_equal_plans(server: Server, tmp_path: Path) -> None:
    """--plan prints the same in this process and on a server, also with masks, regions and scales."""
    path, mask = tmp_path / "image.png", tmp_path / "mask.png"
    path.write_bytes(png(noise(400, 500, 3)))
    mask.write_bytes(png(np.pad(np.ones((300, 500), np.uint8), ((50, 50), (0, 0)))))
    for options in (
        ["--model", "padded", "--plan", "--stride", 4],
        ["--model", "padded", "--plan", "--mask", mask, "--grid", tmp_path / "grid.npz"],
        ["--model", "padded", "--plan", "--mask", "otsu", "--heatmap", tmp_path / "heatmap.png"],
        ["--model", "padded", "--mask", mask, "--roi", "10,10,300,300", "--scales", "1x,200"],
        ["--model", "unpadded", "--mode", "crops", "--border", "anchor", "--average", "probabilities"],
    ):
        in_process, on_server = (
            command(path, *options, *where)
            for where in (["--models", server_models(server)], ["--server", server.address])
        )
        assert in_process == on_server
        assert "error" not in in_process


def test_masks_that_are_missing_fail_their_own_image(server: Server, tmp_path: Path) -> None:
    """Of many images with their own masks, only an image with a missing mask fails, in this process and on a server."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png(noise(90, 90, 1)))
        if name != "b":
            (tmp_path / f"{name}-mask.png").write_bytes(png(np.full((90, 90), 255, np.uint8)))
    options = [*(tmp_path / f"{name}.png" for name in "abc"), "--mask", tmp_path / "{stem}-mask.png"]
    in_process = command(*options, "--model", "digits", "--models", ROOT / "models")
    on_server = command(*options, "--model", "digits", "--server", server.address)
    assert in_process == on_server
    assert ["error" in document for document in on_server] == [False, True, False]


@pytest.mark.slow
def test_images_without_an_answer_have_the_servers_error(models: Path, tmp_path: Path) -> None:
    """If a server stops in the middle, the answers so far are printed, and the other images have the error."""
    images = [tmp_path / f"image{number}.png" for number in range(400)]
    for path in images:
        path.write_bytes(png(noise(600, 600, 1)))
    with running(models) as server:
        line = [sys.executable, "-m", "fullconv", *map(str, images), "--model", "digits", "--server", server.address]
        with subprocess.Popen(
            [*line, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        ) as process:
            wait_until(lambda: len(server.events("request")) >= 10)
            server.process.send_signal(signal.SIGTERM)
            documents = json.loads(process.communicate(timeout=60)[0])
    assert process.returncode == 3
    assert len(documents) == len(images)
    failed = [document for document in documents if "error" in document]
    assert 0 < len(failed) < len(images)


def server_models(server: Server) -> str:
    """Return the repository of a server."""
    return str(server.events("listening")[0]["models"])


def test_raw_pixels(client: Client) -> None:
    """An array has the scores of its PNG file, for 8 and 16 bits, grey and RGB; a fourth channel is not alpha."""
    for channels in (1, 3):
        pixels = noise(80, 95, channels)
        expected = client.score(png(pixels), model="unpadded").average
        np.testing.assert_array_equal(expected, client.score(pixels, model="unpadded").average)
        deep = pixels.astype(np.uint16) * 257
        expected = client.score(png(deep), model="unpadded").average
        np.testing.assert_array_equal(expected, client.score(deep, model="unpadded").average)
    four = noise(80, 95, 4)
    with pytest.raises(ImageError, match=r"expected the model's 3 bands, got 4 bands of uint8, .* --bands 1,2,3"):
        client.score(four, model="unpadded")
    chosen = client.score(four, model="unpadded", bands=[1, 2, 3]).average
    np.testing.assert_array_equal(client.score(four[..., :3].copy(), model="unpadded").average, chosen)
    flat = noise(80, 95, 1)[..., 0]
    np.testing.assert_array_equal(
        client.score(flat, model="digits").average, client.score(png(flat), model="digits").average
    )


def test_models_are_described(client: Client) -> None:
    """ListModels names every version; GetModel returns geometry, labels and limits."""
    assert client.models() == [("digits", "1"), ("padded", "1"), ("unpadded", "1")]
    model = client.model("digits")
    assert (model.version, model.window, model.stride) == ("1", (70, 70), (8, 8))
    assert [*"0123456789", "background"] == list(model.labels)
    assert (model.limits.image_pixels, model.limits.message_bytes) == (256_000_000, 64 << 20)


def test_many_clients_at_once(server: Server) -> None:
    """With 32 clients and 1,000 requests, each with its own image, every answer is correct and no answer is lost."""
    images = [noise(70 + 8 * (number % 5), 70 + 8 * (number % 7), 1, seed=number) for number in range(40)]
    with Client(server.address) as client:
        expected = [np.asarray(client.score(image, model="digits", grid=True).grid) for image in images]

    def work(worker: int) -> int:
        with Client(server.address) as client:
            right = 0
            for number in range(worker, 1000, 32):
                grid = np.asarray(client.score(images[number % 40], model="digits", grid=True).grid)
                right += bool(np.array_equal(grid, expected[number % 40]))
            return right

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(work, range(32))) == 1000


@pytest.mark.slow
def test_busy_servers_state_the_delay_of_a_retry(models: Path) -> None:
    """If one request may wait, a second request immediately gets RESOURCE_EXHAUSTED with RetryInfo."""
    with running(models, "--max-waiting", "1") as server, occupied(server.address, png(noise(3000, 3000, 1))) as found:
        error = found[1]
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    reason, delay = rpc_status.from_call(error).details
    info, retry = ErrorInfo(), RetryInfo()
    assert reason.Unpack(info)
    assert (info.domain, info.reason) == ("fullconv", "BUSY")
    assert delay.Unpack(retry)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 10


def test_servers_work_after_missed_deadlines(server: Server, client: Client) -> None:
    """Requests that have missed or would miss their deadlines are refused; other requests are answered as before."""
    large = noise(4000, 4000, 1)
    with Client(server.address, timeout=0.3) as hasty:
        for _ in range(6):
            with pytest.raises(UnavailableError, match=r"does not answer \(timed out\)|RESOURCE_EXHAUSTED: deadline"):
                hasty.score(large, model="digits")
    assert len(client.score(noise(80, 80, 1), model="digits").y) == 2


@pytest.mark.slow
def test_waiting_bytes_are_bounded(models: Path) -> None:
    """If the waiting messages have the largest allowed total size, another message is refused until there is room."""
    large = noise(1200, 1200, 1)
    with (
        running(models, "--slots", "1", "--max-waiting-mib", "2") as server,
        Client(server.address) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        answers = list(pool.map(lambda _: client.score(large, model="digits").average, range(3)))
    for average in answers:
        np.testing.assert_array_equal(answers[0], average)
    assert "RESOURCE_EXHAUSTED" in {line["code"] for line in server.events("request")}


def test_reflection(server: Server) -> None:
    """Server reflection returns the services and their messages."""
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"fullconv.v1.Scoring", "grpc.health.v1.Health"} <= set(database.get_services())


@pytest.mark.parametrize("side", [80, 400], ids=["small", "larger"])
def test_times_add_up(client: Client, side: int) -> None:
    """The times of an image's stages are measured in every thread, and their sum is at most the total time."""
    timing = client.score(noise(side, side, 1), model="digits").timing
    assert timing.compute_ms > 0
    assert timing.queue_ms + timing.decode_ms + timing.compute_ms + timing.reduce_ms <= timing.total_ms


def test_requests_are_logged(server: Server, client: Client) -> None:
    """Each request has one JSON line in the log, with its id, code, model, size and times."""
    client.score(noise(80, 90, 1), model="digits")
    with pytest.raises(RequestError):
        client.score(noise(80, 90, 1), model="cats")
    wait_until(lambda: any(line.get("model") == "cats" for line in server.events("request")))
    good = [line for line in server.events("request") if line["code"] == "OK" and line["method"] == "Score"][-1]
    bad = [line for line in server.events("request") if line.get("model") == "cats"][-1]
    assert (good["model"], good["width"], good["height"]) == ("digits", 90, 80)
    assert bad["code"] == "NOT_FOUND"
    assert good["id"] != bad["id"]
    assert {"ms", "queue_ms", "bytes", "time", "level"} <= set(good)


def test_the_log_counts_the_parts_of_an_image(server: Server, client: Client, tmp_path: Path) -> None:
    """The line of an image that arrived in parts has the bytes of all parts."""
    np.save(tmp_path / "tall.npy", noise(1100, 900, 1))
    with client.score_large(tmp_path / "tall.npy", model="digits") as stream:
        stream.result()
    pixels = 1100 * 900
    wait_until(lambda: [line for line in server.events("request") if pixels < line.get("bytes", 0) < pixels + 1000])
