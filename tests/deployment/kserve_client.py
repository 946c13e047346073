"""Calls a server with KServe's stock client, in a Python environment with the client; prints the answers as JSON."""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

address, model = sys.argv[1:3]
windows = np.random.default_rng(0).integers(0, 256, (3, 90, 110, 1), np.uint8)


async def main() -> dict[str, Any]:
    """Call the health methods, and score some images."""
    client = InferenceGRPCClient(address)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(model)
    given = InferInput("image", list(windows.shape), "UINT8")
    given.set_data_from_numpy(windows, binary_data=True)
    response = await client.infer(InferRequest(model, [given]))
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    await client.close()
    scores = outputs["scores"]
    return {
        "shape": list(scores.shape),
        "sum": float(scores.sum(dtype=np.float64)),
        "average": outputs["average"].tolist(),
    }


print(json.dumps(asyncio.run(main())))
