"""Measures how a server answers ordinary clients while an attacker sends it costly requests of many kinds.

    python benchmarks/siege.py [--minutes 10] [--one-address] [--only NAME] [--side 16000]
    python benchmarks/siege.py --server HOST:PORT --metrics HOST:PORT [--viewer HOST:PORT] [--untimed]

Starts a server with tokens. Two ordinary clients with tokens of their own send small images all the time, first alone
and then beside each attack in turn. Prints for each attack the statuses of the attacker's calls, the latencies and the
errors of the ordinary clients, the peak memory of the server and its processes, and the seconds after the attack until
ten requests in a row are as fast as before. With --one-address no tokens are used, so that attacker and clients share
an address. In the end, the server gets SIGTERM during an attack. The exit status is 1 if an ordinary request failed, if
its 95th percentile was more than 100 ms (--one-address: 300 ms) above that of the idle server, if the server took
more memory than `max_held_mib` and 700 MiB, if it recovered later than 2 s after an attack, or if it did not end
within 6 s and with status 0. With --untimed, it is 1 only if an ordinary request failed.

With --server, a server that runs already is attacked without tokens; its memory and its end are not measured.
"""

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import numpy as np
from attacks import ATTACKS, Target
from http_attacks import HTTP_ATTACKS
from latency import MODELS, NICE, served
from numpy.typing import NDArray

from fullconv import Client, Security

MIB = 1 << 20
HELD_MIB, ROOM_MIB = 4096, 700
"""Setting of the server, and the memory that it may use beside it."""
ALLOWED_MS = {False: 100.0, True: 300.0}
"""Allowed increase of the 95th percentile; True: attacker and clients share one address."""
RECOVERY_SECONDS, END_SECONDS = 2.0, 6.0
ATTACKER, ORDINARY = "attacker", ("anna", "bert")
"""Names of the clients, which are their tokens too."""
ALL_ATTACKS = ATTACKS | HTTP_ATTACKS
ROW = 10
"""Number of fast requests in a row after which the server has recovered."""


@dataclass
class Ordinary:
    """Ordinary clients that send small images all the time; `taken` has end and duration of each call in seconds."""

    target: Target
    tokens: tuple[str, ...]
    taken: list[tuple[float, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    stop: Event = field(default_factory=Event)

    def run(self, token: str) -> None:
        """Send images until `stop` is set."""
        image = np.random.default_rng(0).integers(0, 256, (80, 80), np.uint8)
        security = Security(token=token) if token else Security()
        with Client(self.target.address, security=security, timeout=30) as client:
            while not self.stop.is_set():
                start = time.monotonic()
                try:
                    client.score(image, model="digits")
                except Exception as error:
                    self.errors[str(error)[:120]] += 1
                self.taken.append((time.monotonic(), time.monotonic() - start))
                self.stop.wait(0.02)

    def between(self, start: float, end: float) -> NDArray[np.float64]:
        """Return the durations in ms of the calls that ended in a period."""
        return np.array([seconds for at, seconds in list(self.taken) if start <= at <= end]) * 1e3


def ordinary(target: Target, tokens: tuple[str, ...], commands: Any, found: Any) -> None:  # noqa: ANN401
    """Run the ordinary clients, in a process of their own; answers commands with percentiles and errors."""
    clients = Ordinary(target, tokens)
    threads = [Thread(target=clients.run, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    while (command := commands.get()) is not None:
        start, end, limit = command
        taken = clients.between(start, end)
        recovered = next(
            (
                at
                for at in [each for each, _ in list(clients.taken) if each >= end]
                if (np.array([s for t, s in list(clients.taken) if at <= t][:ROW]) * 1e3 < limit).all()
            ),
            np.inf,
        )
        percentiles = np.percentile(taken, [50, 95, 99, 100]) if len(taken) else np.full(4, np.inf)
        found.put((percentiles, len(taken), recovered - end, dict(clients.errors)))
    clients.stop.set()
    for thread in threads:
        thread.join()


def family(process: int) -> list[int]:
    """Return a process and its children, and their children."""
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text("ascii").split()]
    except OSError:  # it has ended
        return []
    return [process, *(each for child in children for each in family(child))]


def resident(process: int) -> int:
    """Return the resident memory of a process in bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def attack(name: str, target: Target, ready: Any, statuses: Any, seconds: float) -> None:  # noqa: ANN401
    """Attack for some seconds, in a process of low priority, as if the attacker had CPUs of its own."""
    os.nice(NICE)
    kind = ALL_ATTACKS[name]
    call, counted = kind.make(target.side), Counter[str]()
    ready.set()
    end = time.monotonic() + seconds

    def repeat(_: int) -> None:
        while time.monotonic() < end:
            try:
                counted[call(target) or "OK"] += 1
            except grpc.RpcError as error:
                counted[error.code().name] += 1
            except OSError as error:
                counted[type(error).__name__] += 1

    with ThreadPoolExecutor(kind.callers) as pool:
        list(pool.map(repeat, range(kind.callers)))
    statuses.put(counted)


class MemoryMeter:
    """Samples the memory of a process and its children in MiB; 0 for None."""

    def __init__(self, process: int | None) -> None:
        self.peak = 0.0
        if process is not None:
            Thread(target=self._run, args=(process,), daemon=True).start()

    def _run(self, process: int) -> None:
        while True:
            self.peak = max(self.peak, sum(map(resident, family(process))) / MIB)
            time.sleep(0.05)

    def take(self) -> float:
        """Return the peak since the last call."""
        peak, self.peak = self.peak, 0.0
        return peak


def main() -> int:
    """Run the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="minutes of all attacks together (default: 10)")
    parser.add_argument("--one-address", action="store_true", help="no tokens: all clients share one address")
    parser.add_argument("--only", choices=list(ALL_ATTACKS), help="one attack alone")
    parser.add_argument("--side", type=int, default=16000, help="side of the attacker's images (default: 16000)")
    parser.add_argument("--server", metavar="HOST:PORT", help="attack this server (default: a new one)")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="its port of metrics; needed with --server")
    parser.add_argument("--viewer", metavar="HOST:PORT", help="its HTTP port (default: not attacked)")
    parser.add_argument("--untimed", action="store_true", help="fail only if an ordinary request fails")
    options = parser.parse_args()
    if (options.server is None) != (options.metrics is None):
        parser.error("expected both --server and --metrics, or neither")
    names = [options.only] if options.only else list(ALL_ATTACKS)
    if options.server:
        options.one_address = True
        names = [name for name in names if options.viewer or name not in HTTP_ATTACKS]
        target = Target(options.server, options.metrics, options.viewer or "", "", options.side)
        return Siege(target, None, options).run(names)
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--max-held-mib", str(HELD_MIB), "--spool", folder, "--viewer", "127.0.0.1:0"]
        if not options.one_address:
            tokens = Path(folder, "tokens")
            hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in (ATTACKER, *ORDINARY)}
            tokens.write_text("".join(f"{name} {each}\n" for name, each in hashes.items()))
            settings += ["--tokens", str(tokens)]
        with served(MODELS, *settings) as server:
            token = "" if options.one_address else ATTACKER
            addresses = server.lines()[0]
            target = Target(server.address, addresses["metrics"], addresses["viewer"], token, options.side)
            return Siege(target, server.process, options).run(names)


class Siege:
    """One run of all attacks. `process` is the server's, None if neither memory nor end is measured."""

    def __init__(self, target: Target, process: int | None, options: argparse.Namespace) -> None:
        self._target, self._process, self._options = target, process, options
        self._context = get_context("spawn")
        self._memory = MemoryMeter(process)
        self._errors = self._slow = False

    def run(self, names: list[str]) -> int:
        """Measure the idle server, all attacks, and the end."""
        seconds = self._options.minutes * 60 / len(names)
        commands, found = self._context.Queue(), self._context.Queue()
        tokens = ("", "") if self._options.one_address else ORDINARY
        clients = self._context.Process(target=ordinary, args=(self._target, tokens, commands, found))
        clients.start()
        time.sleep(3)
        start = time.monotonic()
        time.sleep(5)
        commands.put((start, time.monotonic(), 0.0))
        idle, count, _, _ = found.get()
        print(f"{'':28} {'p50':>7} {'p95':>7} {'p99':>7} {'most':>7} ms  calls {'memory':>7} MiB  recovery s")
        print(f"{'idle':28} {self._row(idle)} {count:6} {self._memory.take():7.0f}", flush=True)
        limit = idle[1] + ALLOWED_MS[self._options.one_address]
        for name in names:
            self._attack(name, seconds, limit, commands, found)
        commands.put(None)
        clients.join()
        if self._process is not None:
            self._end(names[0], self._process)
        return int(self._errors or (self._slow and not self._options.untimed))

    def _attack(self, name: str, seconds: float, limit: float, commands: Any, found: Any) -> None:  # noqa: ANN401
        ready, statuses = self._context.Event(), self._context.Queue()
        attacker = self._context.Process(target=attack, args=(name, self._target, ready, statuses, seconds))
        attacker.start()
        ready.wait()
        self._memory.take()
        start = time.monotonic()
        counted = statuses.get()
        end = time.monotonic()
        attacker.join()
        after = time.monotonic()
        time.sleep(RECOVERY_SECONDS + 2)
        commands.put((start, end, limit))
        taken, count, _, errors = found.get()
        commands.put((start, after, limit))
        _, _, recovery, _ = found.get()
        memory = self._memory.take()
        print(
            f"{name:28} {self._row(taken)} {count:6} {memory:7.0f} {max(0.0, recovery):8.1f}  "
            f"{', '.join(f'{each} {code}' for code, each in counted.most_common())}"
            f"{f'; ERRORS {errors}' if errors else ''}",
            flush=True,
        )
        too_much = memory > HELD_MIB + ROOM_MIB
        self._errors |= bool(errors)
        self._slow |= taken[1] > limit or too_much or recovery > RECOVERY_SECONDS

    def _end(self, name: str, process: int) -> None:
        """Send SIGTERM during an attack, and wait for the end of the server."""
        ready, statuses = self._context.Event(), self._context.Queue()
        attacker = self._context.Process(target=attack, args=(name, self._target, ready, statuses, 3.0))
        attacker.start()
        ready.wait()
        time.sleep(2)
        os.kill(process, signal.SIGTERM)
        start = time.monotonic()
        _, status = os.waitpid(process, 0)
        seconds, code = time.monotonic() - start, os.waitstatus_to_exitcode(status)
        attacker.kill()
        print(f"SIGTERM during an attack: ended within {seconds:.1f} s with status {code}")
        self._slow |= seconds > END_SECONDS or code != 0

    @staticmethod
    def _row(percentiles: NDArray[np.float64]) -> str:
        return " ".join(f"{value:7.1f}" for value in percentiles)


if __name__ == "__main__":
    sys.exit(main())
