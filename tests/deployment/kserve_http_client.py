"""Calls a server with KServe's stock REST client, in a Python environment with the client; prints JSON."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

address, model = sys.argv[1:3]
windows = np.random.default_rng(0).integers(0, 256, (3, 90, 110, 1), np.uint8)


async def score(client: InferenceRESTClient, *, binary: bool) -> dict[str, Any]:
    """Score some images, which are sent and received as binary data or as JSON."""
    given = InferInput("image", list(windows.shape), "UINT8")
    given.set_data_from_numpy(windows, binary_data=binary)
    request = InferRequest(model, [given], parameters={"binary_data_output": binary})
    response = await client.infer(f"http://{address}", request, model_name=model)
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    scores = outputs["scores"]
    return {
        "shape": list(scores.shape),
        "sum": float(scores.sum(dtype=np.float64)),
        "average": outputs["average"].tolist(),
    }


async def main() -> dict[str, Any]:
    """Call the health methods, and score some images."""
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(f"http://{address}")
        assert await client.is_server_ready(f"http://{address}")
        assert await client.is_model_ready(f"http://{address}", model)
        assert not await client.is_model_ready(f"http://{address}", "cats")
        return {"binary": await score(client, binary=True), "json": await score(client, binary=False)}


print(json.dumps(asyncio.run(main())))
