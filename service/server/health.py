"""The health of the server and of every model, and the periodic refresh of the model repository."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from grpc_health.v1 import health, health_pb2

from service import machine
from service.engine.registry import Registry
from service.engine.repository import NAMES
from service.log import log

PATIENCE_SECONDS = 2.0
"""Seconds to wait for the check of a version before the check of the next version starts beside it."""
CHECKS = 4
"""Largest number of checks that run concurrently."""
LOOP_SECONDS = 2.0
"""Seconds within which the event loop must say whether the server serves."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The answers of `grpc.health.v1.Health`: for "", for each service, and for each model "models/NAME"."""

    def __init__(self, registry: Registry) -> None:
        self.servicer = health.aio.HealthServicer()
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._shown: dict[str, int] = {}
        self._warned: set[tuple[str, str, str]] = set()
        self._checking = ThreadPoolExecutor(CHECKS, "check", machine.lower_priority)
        """Checks and loads versions at low priority, so that requests come first."""
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

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
        """Look at the repository, then check every version that is not checked yet, one after another.

        A check that takes longer than `PATIENCE_SECONDS` continues in the background, beside the next check.
        """
        try:
            await asyncio.to_thread(self._registry.look)
            invalid = await asyncio.to_thread(self._registry.invalid_names)
            unlisted = [("not listed", *folder) for folder in self._registry.unlisted.items()]
            self._warn([("not a model", folder, NAMES) for folder in invalid] + unlisted)
            for key in self._registry.unchecked():
                if key not in self._running:
                    self._running[key] = asyncio.create_task(self._check(*key))
                    await asyncio.wait({self._running[key]}, timeout=PATIENCE_SECONDS)
        finally:
            await self.show_models()

    async def show_models(self) -> None:
        """Answer SERVING for models that can be requested, and NOT_SERVING for models that no longer can."""
        models = self._registry.models()
        ready = {name for name, version in models if self._registry.state(name, version)[0]}
        for name in {name for name, _ in models} | set(self._shown):
            status = SERVING if name in ready else NOT_SERVING
            if self._shown.get(name) != status:
                self._shown[name] = status
                await self.servicer.set(f"models/{name}", status)

    def is_serving(self) -> bool:
        """Return, in another thread, whether the server serves; false if the event loop does not answer."""
        answer = asyncio.run_coroutine_threadsafe(
            self.servicer.Check(health_pb2.HealthCheckRequest(), None), self._loop
        )
        try:
            return bool(answer.result(LOOP_SECONDS).status == SERVING)
        except TimeoutError:
            return False

    async def _check(self, name: str, version: str) -> None:
        """Check a version, and show the result."""
        try:
            await self._loop.run_in_executor(self._checking, self._registry.check, name, version)
        except Exception:  # a bug in one check must not end the others
            log.exception("bug")
        finally:
            del self._running[name, version]
            await self.show_models()

    def _warn(self, folders: list[tuple[str, str, str]]) -> None:
        """Log each event with its folder and error once for as long as it lasts."""
        for event, folder, error in folders:
            if (event, folder, error) not in self._warned:
                log.warning(event, extra={"record": {"folder": folder, "error": error}})
        self._warned = set(folders)
