"""Logs, once for each version of a model, that mode dense does not give the classifier's own scores."""

import logging
from threading import Lock
from weakref import WeakSet

from service.dispatch.call import Call
from service.log import log
from service.scoring.exactness import remarks_on
from service.scoring.planned import PlannedImage


class Notices:
    """Logs a notice with the first request that is answered by inexact dense scores of a model."""

    def __init__(self) -> None:
        self._noted: WeakSet[object] = WeakSet()
        """The models whose notice is logged."""
        self._lock = Lock()

    def note(self, planned: PlannedImage, call: Call) -> None:
        """Log once how far the model's dense scores are exact; as a warning if callers must be warned."""
        model = planned.model
        if model in self._noted or planned.plan.mode.name != "dense":
            return
        remarks, warnings = remarks_on(planned)
        if not remarks and not warnings:
            return
        with self._lock:
            if model in self._noted:
                return
            self._noted.add(model)
        text = {"warning": warnings[0]} if warnings else {"remark": "; ".join([planned.plan.reason, *remarks])}
        record = {"id": call.record.get("id", ""), "model": model.name, "version": model.version, **text}
        log.log(logging.WARNING if warnings else logging.INFO, "not exact", extra={"record": record})
