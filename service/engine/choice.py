"""Chooses the backend of an ONNX file by measurement: the fastest whose scores agree with those of fp32 on the CPU.

    noise with the spectrum of photographs → scores of every backend → check against fp32 → alternating timed runs

A backend passes the check if the relative error of its scores is at most 2 % (in fp32: that of rounding) and it has the
top class of fp32 on at least 99 % of the windows. Windows are left out whose two highest scores are closer than that
error: for them the top class is a matter of rounding.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fullconv.common.difference import difference
from fullconv.common.noise import noise_image
from fullconv.common.probabilities import PROBABILITIES, RAW
from fullconv.common.text import shortened_message
from service.dense.arrays import Pixels
from service.engine import choice_cache
from service.engine.backend import REFERENCE, ROUNDING, Backend
from service.engine.choice_cache import KeptChoice
from service.engine.repository import StoredModel
from service.engine.session import Session
from service.engine.version_files import model_path
from service.errors import ModelError
from service.log import log

MIN_AGREEMENT, MAX_RELATIVE_ERRORS = 0.99, {"fp32": ROUNDING, "bf16": 0.02, "fp16": 0.02}
"""Least share of windows with the top class of fp32, and largest Euclidean norm of the differences, relative to that of
the scores of fp32, in each precision."""
MIN_GAIN = 1.05
"""Times as fast as fp32 that another backend must be to be chosen."""
SAMPLE_SECONDS = 0.5
"""Predicted seconds of fp32 on the sample."""
MIN_CELLS, MAX_CELLS, MIN_WINDOWS, MAX_WINDOWS = 4, 32, 8, 64
"""Fewest and most cells along an axis of the sample, if it is a tile, and windows, if the network cannot slide."""
MAX_ROUNDS, TIMING_SECONDS = 10, 1.0
"""Most timed runs of a backend, and the seconds after which no further run begins. The fastest run counts, because any
run may have waited for a processor."""
MAX_SAMPLE_BYTES = 1 << 30
"""Most bytes of activations of the sample, if it is a tile."""
ON_CPU = {"cpu", "openvino"}
"""The providers whose choice is kept: the processor and the releases, which a kept choice names, decide about it."""
SEED = 1

Load = Callable[[Backend], Session]


def choose(model: StoredModel, position: int, backends: Sequence[Backend], load: Load, *, threads: int = 1) -> Session:
    """Return a session of the fastest backend that passes the check; `load` loads the session of a backend.

    If no backend passes, the result is the first backend of precision fp32, or else the first backend. The choice is
    kept for the same files, processor, number of `threads`, backends and releases; choices among GPUs, and those that a
    backend failed, are not kept. Raises ModelError if no backend can run the file at `position` of `model.files`.
    """
    backends = suitable_backends(model, backends)
    key = choice_cache.key(model, position, backends, threads)
    kept = choice_cache.read(key)
    if kept is not None and kept.backend in backends:
        with suppress(ModelError):
            session = load(kept.backend)
            session.difference = kept.difference
            return session
    trials, failures = _tried(backends, load)
    allowed = [trial for trial in trials if trial.session.backend in backends]
    if not allowed:
        raise ModelError(f"{model_path(model.folder)}: {'; '.join(failures)}; use --provider cpu")
    session = _best(allowed).session
    if not failures and {backend.provider for backend in backends} <= ON_CPU:
        choice_cache.write(key, KeptChoice(session.backend, session.difference))
    reason = "; ".join([*failures, *(trial.remark(trials[0]) for trial in trials[1:])])
    record = {"model": model.name, "version": model.version, "file": model.files[position]}
    log.info("backend", extra={"record": {**record, "backend": str(session.backend), "reason": reason}})
    return session


def suitable_backends(model: StoredModel, backends: Sequence[Backend]) -> Sequence[Backend]:
    """Return the backends that suit a model. If the user has requested only backends that do not, return these.

    In bf16, OpenVINO would compute the layers of an int8 network that are not quantized in bf16, and convert between
    both formats, which takes longer than fp32.
    """
    in_fp32 = [backend for backend in backends if backend.precision == REFERENCE.precision]
    return in_fp32 if model.spec.precision == "int8" and in_fp32 else backends


def _tried(backends: Sequence[Backend], load: Load) -> tuple[list["_Trial"], list[str]]:
    """Return the trials, the reference first, and the failures in words; raises ModelError without the reference.

    The backends of a provider come in the order of their speed: after the first that passes, no other is tried.
    """
    reference = load(REFERENCE)
    reference.warm()
    sample = _sample(reference)
    trials, failures = [_Trial(reference, reference.score(sample))], list[str]()
    for backend in backends:
        if any(trial.session.backend.provider == backend.provider and not trial.fault for trial in trials):
            continue
        try:
            trial = _Trial(session := load(backend), session.score(sample))
            trial.compare(trials[0])
            _time([trials[0], trial], sample)
        except Exception as error:  # runtimes raise errors of many classes
            failures.append(f"{backend} cannot run it: {shortened_message(str(error))}")
        else:
            trials.append(trial)
    return trials, failures


def _best(trials: Sequence["_Trial"]) -> "_Trial":
    """Return the fastest trial that passes; fp32, if it passes, unless another one is `MIN_GAIN` times as fast."""
    fallback = next((trial for trial in trials if trial.session.backend.precision == "fp32"), trials[0])
    best = min((trial for trial in trials if not trial.fault), key=lambda trial: trial.seconds, default=fallback)
    return fallback if not fallback.fault and best.seconds * MIN_GAIN > fallback.seconds else best


class _Trial:
    """One backend on the sample."""

    def __init__(self, session: Session, scores: NDArray[np.float32]) -> None:
        self.session, self.seconds = session, math.inf
        self.fault = ""
        """What is wrong with the scores; empty if they pass."""
        classes = session.model.spec.output.classes
        self._kind = session.model.spec.output.kind
        self.scores = scores.reshape(-1, scores.shape[-1])[:, :classes]

    def compare(self, reference: "_Trial") -> None:
        """Set the session's difference from the reference, and the fault."""
        decisions = (reference._decisions(), self._decisions()) if self._kind != RAW else None  # noqa: SLF001
        found = self.session.difference = difference(reference.scores, self.scores, decisions)
        limit = MAX_RELATIVE_ERRORS[self.session.backend.precision]
        if not found.relative_l2 <= limit:
            self.fault = f"its scores differ by {found.relative_l2:.2%}, more than {limit:.2%}"
        elif decisions is not None:
            agreement = _agreement(*decisions, reference._margins() > limit)  # noqa: SLF001
            if agreement < MIN_AGREEMENT:
                self.fault = (
                    f"it has the top class of fp32 on {agreement:.1%} of the windows, less than {MIN_AGREEMENT:.0%}"
                )

    def remark(self, reference: "_Trial") -> str:
        """Return the result in words."""
        speed = f"is {reference.seconds / self.seconds:.2f} times as fast as {REFERENCE}"
        found = f"and its scores differ by {self.session.difference.relative_l2:.1e}"
        return f"{self.session.backend} {speed}, {f'but {self.fault}' if self.fault else found}"

    def _decisions(self) -> NDArray[np.int64]:
        """Return each window's top class; for a single class, whether it is present."""
        if self.scores.shape[1] > 1:
            top: NDArray[np.int64] = self.scores.argmax(1)
            return top
        present: NDArray[np.int64] = (self.scores[:, 0] > self._threshold).astype(np.int64)
        return present

    @property
    def _threshold(self) -> float:
        return 0.5 if self._kind == PROBABILITIES else 0.0

    def _margins(self) -> NDArray[np.float32]:
        """Return the distance of each window's decision from a tie, relative to the root mean square of the scores."""
        if self.scores.shape[1] == 1:
            distances = np.abs(self.scores[:, 0] - self._threshold)
        else:
            second, first = np.partition(self.scores, -2, axis=1)[:, -2:].T
            distances = first - second
        relative: NDArray[np.float32] = distances / (np.sqrt(np.mean(np.square(self.scores))) or 1.0)
        return relative


def _sample(session: Session) -> list[Pixels]:
    """Return noise for a session that has measured its rate: one tile, or windows for a network that cannot slide."""
    spec, rng = session.model.spec, np.random.default_rng(SEED)
    preprocessing = spec.input.preprocessing if spec.input.HasField("preprocessing") else None
    size, count = (spec.window.height, spec.window.width), 1
    if session.slides:
        size = _largest_tile(session, size)
    else:
        count = max(MIN_WINDOWS, min(int(SAMPLE_SECONDS / session.predict_tile_seconds(*size)), MAX_WINDOWS))
    noise = (noise_image(size, spec.input.channels, preprocessing, rng) for _ in range(count))
    return [cast("Pixels", image.astype(spec.input.dtype, copy=False)) for image in noise]


def _largest_tile(session: Session, window: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the largest tile that runs for SAMPLE_SECONDS at the most, within the bounds of its cells."""
    for cells in range(MAX_CELLS, MIN_CELLS - 1, -1):
        height, width = (side + (cells - 1) * step for side, step in zip(window, session.step, strict=True))
        is_small = height * width * session.bytes_per_pixel <= MAX_SAMPLE_BYTES
        if is_small and session.predict_tile_seconds(height, width) <= SAMPLE_SECONDS:
            break
    return height, width


def _agreement(one: NDArray[np.int64], other: NDArray[np.int64], clear: NDArray[np.bool_]) -> float:
    """Return the share of the windows that are `clear` on which the decisions agree; 1 if all are ties."""
    return float((one == other)[clear].mean()) if clear.any() else 1.0


def _time(trials: Sequence[_Trial], sample: list[Pixels]) -> None:
    """Set the seconds of each trial: the shortest of several runs, in which the backends alternate."""
    began, rounds = time.monotonic(), 0
    while not rounds or (rounds < MAX_ROUNDS and time.monotonic() - began < TIMING_SECONDS):
        for trial in trials:
            started = time.monotonic()
            trial.session.score(sample)
            trial.seconds = min(trial.seconds, time.monotonic() - started)
        rounds += 1
