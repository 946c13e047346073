"""Requests for loaded models are answered while other models are loading."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import pytest
from support.paths import ROOT
from support.pictures import noise

from fullconv.protos import scoring_pb2
from service.dispatch.admission import Admission
from service.dispatch.call import Call
from service.dispatch.dispatcher import QUICK_THREADS, Dispatcher
from service.engine.registry import Registry
from service.engine.repository import StoredModel
from service.engine.scheduler import Scheduler
from service.engine.session import Session
from service.engine.session_cache import SessionKey
from service.engine.version import ServedVersion
from service.images.allowed_directory import AllowedDirectory
from service.limits import Limits
from service.metrics import Metrics
from service.rpc.access import Access
from service.rpc.calls import Calls
from service.rpc.servicer import ScoringServicer
from service.rpc.spool import Spool
from service.scoring.scorer import Scorer

PIXELS = noise(80, 80, 1)
SLOW = [f"slow{number}" for number in range(QUICK_THREADS + 1)]


class Slow(Registry):
    """Loads sessions of slow models only after `proceed`; `all_requested` is set once all sessions are requested."""

    def __init__(self, root: Path, weights_bytes: int | None) -> None:
        self.requested: list[str] = []
        self.all_requested, self.proceed = Event(), Event()
        super().__init__(root, weights_bytes=weights_bytes, warm=True)

    def session(self, served: ServedVersion, model: StoredModel, position: int, *, reference: bool = False) -> Session:
        """Return a session; for a slow model only after `proceed`."""
        if served.name in SLOW and SessionKey(served, position) not in self._sessions:
            self.requested.append(served.name)
            if len(self.requested) == len(SLOW):
                self.all_requested.set()
            assert self.proceed.wait(60)
        return super().session(served, model, position, reference=reference)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a repository with the shipped model under its own name and under the names of slow models."""
    for name in ("digits", *SLOW):
        shutil.copytree(ROOT / "models" / "digits" / "1", tmp_path / "models" / name / "1")
    return tmp_path / "models"


@asynccontextmanager
async def served(registry: Slow, folder: Path) -> AsyncIterator[ScoringServicer]:
    """Yield a servicer; at the end of the block slow loads proceed."""
    limits, scheduler, metrics = Limits(large=2), Scheduler(slots=2), Metrics()
    admission = Admission(limits)
    dispatcher = Dispatcher(Scorer(registry, limits), scheduler, admission, metrics)
    calls = Calls(Access(None), metrics, limits)
    try:
        yield ScoringServicer(dispatcher, calls, Spool(folder, admission), AllowedDirectory())
    finally:
        registry.proceed.set()
        scheduler.close()


async def described(servicer: ScoringServicer, model: str) -> str:
    """Call GetModel and return the name of the described model."""
    response = await servicer.get_model(scoring_pb2.GetModelRequest(model=model), Call("GetModel", model))
    return response.spec.name


async def scored(servicer: ScoringServicer, model: str) -> str:
    """Call ScoreLarge with raw rows and return the name of the model that answers."""
    answers: list[scoring_pb2.ScoreLargeResponse] = []

    async def parts() -> AsyncIterator[scoring_pb2.ScoreLargeRequest]:
        raw = scoring_pb2.RawImage(height=80, width=80, channels=1, dtype="uint8")
        yield scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(model=model, raw=raw))
        yield scoring_pb2.ScoreLargeRequest(data=PIXELS.tobytes())

    async def send(answer: scoring_pb2.ScoreLargeResponse) -> None:
        answers.append(answer)

    await servicer.score_large(parts(), send, Call("ScoreLarge", model))  # type: ignore[arg-type]
    return answers[-1].summary.model


@pytest.mark.parametrize("request_model", [described, scored], ids=["GetModel", "ScoreLarge"])
def test_slow_loads_do_not_delay_loaded_models(
    models: Path, tmp_path: Path, request_model: Callable[..., Awaitable[str]]
) -> None:
    """While more models are loading than there are quick threads, a loaded model is described and scored."""

    async def main() -> list[str]:
        registry = Slow(models, None)
        async with served(registry, tmp_path) as servicer:
            assert await described(servicer, "digits") == "digits"
            slow = [asyncio.ensure_future(request_model(servicer, name)) for name in SLOW]
            assert await asyncio.to_thread(registry.all_requested.wait, 30)
            async with asyncio.timeout(30):
                assert await described(servicer, "digits") == "digits"
                assert await scored(servicer, "digits") == "digits"
            assert not any(task.done() for task in slow)
            registry.proceed.set()
            return await asyncio.gather(*slow)

    assert asyncio.run(main()) == (SLOW if request_model is scored else ["digits"] * len(SLOW))


def test_forgotten_sessions_do_not_delay_loaded_models(models: Path, tmp_path: Path) -> None:
    """A checked model whose session was forgotten is described at once, and its loading blocks no large image."""

    async def main() -> list[str]:
        registry = Slow(models, weights_bytes=1)
        registry.proceed.set()
        async with served(registry, tmp_path) as servicer:
            for name in (*SLOW, "digits"):
                await described(servicer, name)
            registry.proceed.clear()
            registry.requested.clear()
            registry.all_requested.clear()
            slow = [asyncio.create_task(scored(servicer, name)) for name in SLOW]
            assert await asyncio.to_thread(registry.all_requested.wait, 30)
            async with asyncio.timeout(30):
                assert await described(servicer, SLOW[0]) == "digits"
                assert await scored(servicer, "digits") == "digits"
            assert not any(task.done() for task in slow)
            registry.proceed.set()
            return await asyncio.gather(*slow)

    assert asyncio.run(main()) == SLOW
