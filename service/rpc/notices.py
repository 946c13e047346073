"""What the log says once of a model: that dense does not give its classifier's own scores."""

import logging
from threading import Lock
from weakref import WeakSet

from service.engine.repository import StoredModel
from service.log import log
from service.rpc.calls import Call
from service.run import Run

_lock = Lock()
_known: WeakSet[StoredModel] = WeakSet()


def note(run: Run, call: Call) -> None:
    """Log what dense means for a model, if this is the first request that is answered so; a warning if that is one."""
    response, model = run.response, run.model
    if response.mode != "dense" or response.parity.exact:
        return
    with _lock:
        if model in _known:
            return
        _known.add(model)
    warnings = run.described.warnings
    said = {"warning": warnings[0]} if warnings else {"remark": response.mode_reason}
    record = {"id": call.record.get("id", ""), "model": model.name, "version": model.version, **said}
    log.log(logging.WARNING if warnings else logging.INFO, "not exact", extra={"record": record})
