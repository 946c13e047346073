"""Calls a server with Triton's stock HTTP clients, in a Python environment with the clients; prints JSON."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Answer = dict[str, Any]

address, model, page = sys.argv[1], sys.argv[2], Path(sys.argv[3])
encoded = np.array([page.read_bytes()], object)
windows = np.random.default_rng(0).integers(0, 256, (3, 90, 110, 1), np.uint8)


def tensor(values: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    """Return an input tensor with some values."""
    given = triton.InferInput("image", list(values.shape), np_to_triton_dtype(values.dtype))
    given.set_data_from_numpy(values, binary_data=binary)
    return given


def read(result: triton.InferResult) -> Answer:
    """Return the contents of an answer."""
    scores, average = result.as_numpy("scores"), result.as_numpy("average")
    return {"shape": list(scores.shape), "sum": float(scores.sum(dtype=np.float64)), "average": average.tolist()}


def refusal(call: Callable[[], object]) -> str:
    """Return the error message of a call that is refused."""
    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    raise AssertionError("expected an error")


def sync() -> Answer:
    """Make the calls of the plain client."""
    as_json = [triton.InferRequestedOutput(name, binary_data=False) for name in ("scores", "average")]
    classes = [triton.InferRequestedOutput("average", class_count=2, binary_data=binary) for binary in (True, False)]
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert not client.is_model_ready("cats")
        return {
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata(model),
            "config": client.get_model_config(model),
            "index": client.get_model_repository_index(),
            "encoded": read(client.infer(model, [tensor(encoded)])),
            "binary": read(client.infer(model, [tensor(windows)], request_id="7", timeout=30_000_000)),
            "json": read(client.infer(model, [tensor(windows, binary=False)], outputs=as_json)),
            "gzip": read(client.infer(model, [tensor(windows)], request_compression_algorithm="gzip")),
            "deflate": read(
                client.infer(
                    model,
                    [tensor(windows)],
                    request_compression_algorithm="deflate",
                    response_compression_algorithm="gzip",
                )
            ),
            "named": [
                [str(word, "utf-8") if isinstance(word, bytes) else word for word in found.as_numpy("average").ravel()]
                for found in [client.infer(model, [tensor(windows)], outputs=[each]) for each in classes]
            ],
            "statistics": client.get_inference_statistics(model),
            "refused": [
                refusal(lambda: client.infer("cats", [tensor(windows)])),
                refusal(lambda: client.infer(model, [tensor(windows[:, :20])])),
                refusal(lambda: client.infer(model, [tensor(windows)], parameters={"nonsense": 1})),
            ],
        }


async def asynchronous() -> Answer:
    """Make concurrent calls of the asyncio client."""
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_model_ready(model)
        results = await asyncio.gather(*(client.infer(model, [tensor(windows[:1])]) for _ in range(32)))
    read_ones = [read(result) for result in results]
    assert all(one == read_ones[0] for one in read_ones)
    return read_ones[0]


print(json.dumps({"sync": sync(), "aio": asyncio.run(asynchronous())}))
