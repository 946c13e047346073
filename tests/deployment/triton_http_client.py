"""Calls a server with Triton's stock HTTP clients, in a Python environment with the clients; prints JSON."""

import asyncio
import json

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from triton_shared import Answer, address, encoded, model, read, read_same, refusal, windows
from tritonclient.utils import np_to_triton_dtype


def tensor(values: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    """Return an input tensor with some values."""
    given = triton.InferInput("image", list(values.shape), np_to_triton_dtype(values.dtype))
    given.set_data_from_numpy(values, binary_data=binary)
    return given


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
    return read_same(results)


print(json.dumps({"sync": sync(), "aio": asyncio.run(asynchronous())}))
