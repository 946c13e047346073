"""Calls a server with Triton's stock client, in a Python environment with the client; prints the answers as JSON.

The client registers messages with the same names as this project, and therefore needs a process of its own.
"""

import asyncio
import json
from queue import Queue
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from triton_shared import Answer, address, encoded, model, read, read_same, refusal, windows
from tritonclient.utils import np_to_triton_dtype


def tensor(values: np.ndarray, kind: type = triton.InferInput) -> triton.InferInput:
    """Return an input tensor with some values."""
    given = kind("image", list(values.shape), np_to_triton_dtype(values.dtype))
    given.set_data_from_numpy(values)
    return given


def sync() -> Answer:
    """Make the calls of the plain client."""
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready("cats")
        answers = {
            "metadata": client.get_model_metadata(model, as_json=True),
            "config": client.get_model_config(model, as_json=True),
            "server": client.get_server_metadata(as_json=True),
            "index": client.get_model_repository_index(as_json=True),
            "encoded": read(client.infer(model, [tensor(encoded)])),
            "windows": read(client.infer(model, [tensor(windows)], request_id="7", client_timeout=30)),
        }
        wanted = [triton.InferRequestedOutput("average", class_count=2)]
        named = client.infer(model, [tensor(windows)], outputs=wanted, parameters={"stride": 16, "average": "scores"})
        answers["named"] = [word.decode() for word in named.as_numpy("average").ravel()]
        answers["statistics"] = client.get_inference_statistics(model, as_json=True)
        answers["memory"] = client.get_system_shared_memory_status(as_json=True)
        client.unregister_system_shared_memory()
        answers["refused"] = [
            refusal(lambda: client.register_system_shared_memory("a", "/a", 1)),
            refusal(lambda: client.load_model(model)),
            refusal(lambda: client.load_model(model, config="{}", files={"file:1/model.onnx": b"x"})),
            refusal(lambda: client.infer("cats", [tensor(windows)])),
            refusal(lambda: client.infer(model, [tensor(windows.astype(np.float32))])),
            refusal(lambda: client.infer(model, [tensor(windows[:, :20])])),
            refusal(lambda: client.infer(model, [tensor(windows)], parameters={"nonsense": 1})),
        ]
    return answers


async def asynchronous() -> Answer:
    """Make many concurrent calls of the asyncio client."""
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_model_ready(model)
        results = await asyncio.gather(
            *(client.infer(model, [tensor(windows[:1], triton_aio.InferInput)]) for _ in range(32))
        )
    return read_same(results)


def stream() -> list[list[Any]]:
    """Send a stream of requests, one of which fails."""
    answers: Queue[tuple[Any, Any]] = Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for number in range(8):
            values = windows[:1, :20] if number == 5 else windows[:1]
            client.async_stream_infer(model, [tensor(values)], request_id=str(number), enable_empty_final_response=True)
        got = [answers.get(timeout=60) for _ in range(8)]
        client.stop_stream()
    errors = [str(error) for _, error in got if error is not None]
    final = {result.get_response().parameters["triton_final_response"].bool_param for result, error in got if not error}
    numbers = sorted(result.get_response().id for result, error in got if not error)
    return [errors, numbers, sorted(final)]


print(json.dumps({"sync": sync(), "aio": asyncio.run(asynchronous()), "stream": stream()}))
