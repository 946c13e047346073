"""The health of the server and of every model, and the periodic refresh of the model repository."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from grpc_health.v1 import health, health_pb2

from service import machine
from service.engine.registry import Registry
from service.engine.repository import NAMES
from service.log import log

LOOP_SECONDS = 2.0
"""Seconds within which the event loop must say whether the server serves."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The answers of `grpc.health.v1.Health`: for "", for each service, and for each model "models/NAME"."""

    def __init__(self, registry: Registry) -> None:
        self.servicer = health.aio.HealthServicer()
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._shown: set[str] = set()
        self._warned: set[str] = set()
        self._checking = ThreadPoolExecutor(1, "check", machine.lower_priority)
        """Hashes model files at low priority, so that requests come first."""

    async def set_starting(self) -> None:
        """Answer NOT_SERVING until `set_serving`."""
        await self.servicer.set("", NOT_SERVING)

    async def set_serving(self, services: tuple[str, ...]) -> None:
        """Answer SERVING for the server and its services."""
        for name in ("", *services):
            await self.servicer.set(name, SERVING)
        await self.show_models()

    async def drain(self) -> None:
        """Answer NOT_SERVING for everything from now on."""
        await self.servicer.enter_graceful_shutdown()

    async def look(self) -> None:
        """Refresh the registry, then check the files of every version that is not checked yet, one after another."""
        try:
            await asyncio.to_thread(self._registry.refresh)
            self._warn(await asyncio.to_thread(self._registry.invalid_names))
            for name, version in self._registry.models():
                await self._loop.run_in_executor(self._checking, self._registry.check, name, version)
        finally:
            await self.show_models()

    async def show_models(self) -> None:
        """Answer SERVING for models that can be requested, and NOT_SERVING for models that no longer can."""
        ready = {name for name, version in self._registry.models() if self._registry.state(name, version)[0]}
        self._shown |= {name for name, _ in self._registry.models()}
        for name in self._shown:
            await self.servicer.set(f"models/{name}", SERVING if name in ready else NOT_SERVING)

    def is_serving(self) -> bool:
        """Return, in another thread, whether the server serves; false if the event loop does not answer."""
        answer = asyncio.run_coroutine_threadsafe(
            self.servicer.Check(health_pb2.HealthCheckRequest(), None), self._loop
        )
        try:
            return bool(answer.result(LOOP_SECONDS).status == SERVING)
        except TimeoutError:
            return False

    def _warn(self, folders: list[str]) -> None:
        """Log once for each folder of a model whose name is invalid, so that it cannot be requested."""
        for folder in folders:
            if folder not in self._warned:
                log.warning("not a model", extra={"record": {"folder": folder, "error": NAMES}})
        self._warned = set(folders)
