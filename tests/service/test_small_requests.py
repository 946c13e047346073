"""What small requests leave behind."""

import asyncio
import gc
import weakref

from support.paths import ROOT
from support.pictures import noise
from support.servers import wait_until

from service.dispatch.admission import Admission
from service.dispatch.call import Call
from service.dispatch.dispatcher import Dispatcher
from service.encode import outcome_response
from service.engine.scheduler import Scheduler
from service.images.arrays import open_raw
from service.images.picture import Picture, UnopenedPicture
from service.limits import Limits
from service.metrics import Metrics
from service.scoring.scorer import Scorer, ScoringRequest


def test_an_answered_request_is_freed_without_the_garbage_collector() -> None:
    """The pixels of a small request are freed when it is answered, although no garbage is collected."""
    scheduler = Scheduler(slots=1)
    dispatcher = Dispatcher(Scorer(ROOT / "models"), scheduler, Admission(Limits()), Metrics())
    opened: list[weakref.ref[Picture]] = []

    def open_picture() -> Picture:
        picture = open_raw((70, 70, 1), "uint8", noise(70, 70, 1).tobytes(), name="window")
        opened.append(weakref.ref(picture))
        return picture

    async def score() -> None:
        call = Call("Score", "client")
        with dispatcher.admitted(call) as claim:
            image = UnopenedPicture(open_picture, is_quick=True)
            await dispatcher.score(ScoringRequest("digits"), image, outcome_response, call, claim)

    try:
        asyncio.run(score())  # loads the model, which is not the work of the thread for small requests
        gc.disable()
        asyncio.run(score())
        wait_until(lambda: opened[1]() is None)
    finally:
        gc.enable()
        scheduler.close()
