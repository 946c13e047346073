"""Cases of the Open Inference Protocol that its stock clients do not cover: odd requests, and open streams."""

import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from support.paths import ROOT
from support.pictures import noise
from support.servers import Server, infer, running, wait_until

from fullconv import Client
from fullconv.protos import open_inference_pb2 as oip

MODELS = ROOT / "models"
SERVICE = "/inference.GRPCInferenceService/"
WINDOW = noise(72, 72, 1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yield a server of the shipped model, which has answered once."""
    with running(MODELS) as server:
        with Client(server.address) as client:
            client.score(WINDOW, model="digits")
        yield server


def request(pixels: np.ndarray = WINDOW, **parameters: str | int) -> oip.ModelInferRequest:
    """Return a request for the average of some images."""
    message = oip.ModelInferRequest(model_name="digits", raw_input_contents=[pixels.tobytes()])
    message.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    message.outputs.add(name="average")
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(message.parameters[name], field, value)
    return message


@pytest.mark.parametrize(
    "parameters",
    [
        {"region": "1" * 5000 + ",0,72,72"},
        {"region": "0,0,72"},
        {"scales": "nanx"},
        {"scales": "1" * 5000},
        {"bands": "1,x"},
        {"bands": "0"},
        {"bands": "2"},
        {"page": 2},
        {"stride": -1},
        {"stride": 1 << 40},
        {"mode": 1},
        {"priority": "high"},
        {"timeout": -5},
    ],
    ids=lambda parameters: str(parameters)[:30],
)
def test_odd_parameters(server: Server, parameters: dict[str, Any]) -> None:
    """Every invalid parameter is INVALID_ARGUMENT, and the message names the parameter."""
    with pytest.raises(grpc.RpcError) as refused:
        infer(server, request(**parameters))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (name,) = parameters
    assert name in refused.value.details()


def test_bands_are_chosen(server: Server) -> None:
    """One of four bands has the same scores as an image with this band alone."""
    four = np.random.default_rng(0).integers(0, 256, (1, 72, 72, 4), np.uint8)
    (chosen,) = infer(server, request(four, bands="3")).raw_output_contents
    (alone,) = infer(server, request(four[..., 2:3].copy())).raw_output_contents
    assert chosen == alone
    with pytest.raises(grpc.RpcError, match="expected the model's 1 band, got 4 bands of uint8"):
        infer(server, request(four))


def test_long_timeouts_are_allowed(server: Server) -> None:
    """A timeout of two hours, in microseconds, is accepted."""
    assert infer(server, request(timeout=7_200_000_000)).outputs[0].shape == [1, 11]


def test_many_images_in_a_message(server: Server) -> None:
    """A message with more images than the limit of waiting requests is answered, in the order of the images."""
    images = np.random.default_rng(0).integers(0, 256, (200, 72, 72, 1), np.uint8)
    (raw,) = infer(server, request(images)).raw_output_contents
    got = np.frombuffer(raw, "<f4").reshape(200, -1)
    for place in (0, 99, 199):
        (alone,) = infer(server, request(images[place])).raw_output_contents
        np.testing.assert_allclose(got[place], np.frombuffer(alone, "<f4"), rtol=0, atol=1e-5)


def test_tensors_that_are_not_raw_are_bounded(server: Server) -> None:
    """Typed contents of a few numbers are accepted; a million numbers must be sent as raw contents."""
    message = request()
    del message.raw_input_contents[:]
    message.inputs[0].contents.uint_contents.extend(WINDOW.ravel().tolist())
    assert infer(server, message).raw_output_contents == infer(server, request()).raw_output_contents
    message.inputs[0].contents.uint_contents.extend([0] * (1 << 20))
    with pytest.raises(grpc.RpcError, match="expected raw_input_contents"):
        infer(server, message)


def test_long_shapes_are_refused(server: Server) -> None:
    """A shape of a hundred thousand lengths is refused at once, although their product would take a minute."""
    message = request()
    message.inputs[0].datatype = "BYTES"
    del message.inputs[0].shape[:]
    message.inputs[0].shape.extend([1 << 62] * 100_000)
    with pytest.raises(grpc.RpcError, match="expected a shape of at most 8 lengths, got 100000"):
        infer(server, message)


def batches(server: Server) -> float:
    """Return the number of batches that a server has run."""
    with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("fullconv_batch_seconds_count"))


@pytest.mark.slow
def test_crops_do_not_delay_small_requests(server: Server) -> None:
    """While thousands of crops of a small image run, a request for one window is answered long before they end."""
    done: list[str] = []
    with Client(server.address) as client:

        def crops() -> None:
            client.score(noise(250, 250, 1), model="digits", mode="crops", stride=1)
            done.append("crops")

        before = batches(server)
        thread = threading.Thread(target=crops)
        thread.start()
        wait_until(lambda: batches(server) > before)
        for _ in range(10):
            client.score(WINDOW, model="digits")
            done.append("window")
        thread.join()
    assert done[-1] == "crops"


def test_open_streams_do_not_delay_the_shutdown() -> None:
    """A stream on which the client sends nothing ends with UNAVAILABLE when the server stops."""
    proceed = threading.Event()

    def silent() -> Iterator[bytes]:
        yield request().SerializeToString()
        proceed.wait(60)

    with running(MODELS) as server, grpc.insecure_channel(server.address) as channel:
        answers = channel.stream_stream(f"{SERVICE}ModelStreamInfer")(silent())
        assert not oip.ModelStreamInferResponse.FromString(next(answers)).error_message
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(20) == 0
        proceed.set()
