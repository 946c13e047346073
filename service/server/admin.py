"""The admin port, which only this machine reaches: loading and unloading of models."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from service.rpc.inference import InferenceServicer
from service.server.listening import bind


@asynccontextmanager
async def administered(address: str, servicer: InferenceServicer) -> AsyncIterator[str]:
    """Serve the Open Inference Protocol with model control on HOST:PORT during the block; yields the address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([servicer.handlers()])
    bound = bind(server, "admin", address)
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)
