"""Measures how a server answers ordinary clients while an attacker sends it costly requests of many kinds.

    python benchmarks/siege.py [--minutes 10] [--one-address] [--only NAME] [--side 16000]

Starts a server with tokens. Two ordinary clients with tokens of their own send small images all the time, first alone
and then beside each attack in turn. Prints for each attack the statuses of the attacker's calls, the latencies and the
errors of the ordinary clients, the peak memory of the server and its processes, and the seconds after the attack until
ten requests in a row are as fast as before. With --one-address no tokens are used, so that attacker and clients share
an address. In the end, the server gets SIGTERM during an attack. The exit status is 1 if an ordinary request failed, if
its 95th percentile was more than 100 ms (--one-address: 300 ms) above that of the idle server, if the server took
more memory than `max_held_mib` and 700 MiB, if it recovered later than 2 s after an attack, or if it did not end
within 6 s and with status 0.
"""

import argparse
import hashlib
import io
import os
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import numpy as np
import pyvips
from latency import MODELS, NICE, served
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from support.hostile import SMALL_WEBP, chunk, many_scans, one_bit_png, progressive
from support.http2 import Connection, message_header
from support.servers import SCORE

from fullconv import Client, Security
from fullconv.protos import scoring_pb2, scoring_pb2_grpc

MIB = 1 << 20
HELD_MIB, ROOM_MIB = 4096, 700
"""Setting of the server, and the memory that it may use beside it."""
ALLOWED_MS = {False: 100.0, True: 300.0}
"""Allowed increase of the 95th percentile; True: attacker and clients share one address."""
RECOVERY_SECONDS, END_SECONDS = 2.0, 6.0
ATTACKER, ORDINARY = "attacker", ("anna", "bert")
"""Names of the clients, which are their tokens too."""
DEADLINE = 5.0
"""Seconds that the attacker's calls may take."""
ROW = 10
"""Number of fast requests in a row after which the server has recovered."""

Call = Callable[["Target"], None]


@dataclass(frozen=True)
class Target:
    """The server, as the attacker sees it."""

    address: str
    metrics: str
    token: str
    side: int
    """Height and width of the attacker's images in pixels."""

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """Metadata of a call."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def score(self, data: bytes, options: scoring_pb2.ScoreOptions | None = None, **call: Any) -> None:
        """Send an encoded image to Score."""
        request = scoring_pb2.ScoreRequest(model="digits", options=options, image=scoring_pb2.Image(encoded=data))
        with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = scoring_pb2_grpc.ScoringStub(channel)
            stub.Score(request, metadata=self.metadata, **{"timeout": DEADLINE, **call})


@dataclass(frozen=True)
class Attack:
    """What the attacker does again and again, in so many threads."""

    callers: int
    make: Callable[[int], Callable[[Target], None]]
    """Takes the side of images in pixels, and returns a function that makes one call."""


def scoring(data: bytes, options: scoring_pb2.ScoreOptions | None = None, **call: Any) -> Callable[[Target], None]:
    """Return a function that sends an image."""
    return lambda target: target.score(data, options, **call)


def vanishing(data: bytes) -> Callable[[Target], None]:
    """Return a function that sends an image and leaves soon."""
    return lambda target: target.score(data, timeout=0.3)


def interlaced(side: int) -> bytes:
    """Return a black interlaced PNG of three bands."""
    image = pyvips.Image.black(side, side, bands=3).copy(interpretation="srgb")
    data: bytes = image.write_to_buffer(".png", interlace=True, compression=9)
    return data


def photograph(side: int) -> bytes:
    """Return an ordinary progressive JPEG."""
    coarse = pyvips.Image.gaussnoise(side // 16, side // 16, mean=128, sigma=40)
    fine = coarse.resize(16, kernel="cubic") + pyvips.Image.gaussnoise(
        side // 16 * 16, side // 16 * 16, sigma=2, mean=0
    )
    data: bytes = fine.bandjoin([fine, fine]).cast("uchar").write_to_buffer(".jpg", interlace=True, Q=75)
    return data


def sixteen_scales() -> scoring_pb2.ScoreOptions:
    """Return options with as many scales as are allowed."""
    factors = np.linspace(0.5, 1, 16)
    return scoring_pb2.ScoreOptions(scales=[scoring_pb2.Scale(factor=factor) for factor in factors])


def last_rows(side: int) -> scoring_pb2.ScoreOptions:
    """Return options with a region at the bottom of the image."""
    return scoring_pb2.ScoreOptions(region=scoring_pb2.Region(x=0, y=side - 100, width=100, height=100))


def many_directories() -> bytes:
    """Return a TIFF file with very many directories."""
    count, size = 300_000, 2 + 12 + 4
    file = io.BytesIO()
    file.write(b"II*\0" + (8).to_bytes(4, "little"))
    for number in range(count):
        following = 8 + (number + 1) * size if number + 1 < count else 0
        entry = (254).to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + bytes(4)
        file.write((1).to_bytes(2, "little") + entry + following.to_bytes(4, "little"))
    return file.getvalue()


def slow_upload(target: Target) -> None:
    """Open ScoreLarge, and send a few bytes now and then."""

    def messages() -> Iterator[scoring_pb2.ScoreLargeRequest]:
        yield scoring_pb2.ScoreLargeRequest(start=scoring_pb2.LargeImage(model="digits"))
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            time.sleep(1)
            yield scoring_pb2.ScoreLargeRequest(data=bytes(48))

    with grpc.insecure_channel(target.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = scoring_pb2_grpc.ScoringStub(channel)
        deque(stub.ScoreLarge(messages(), metadata=target.metadata, timeout=DEADLINE), maxlen=0)


def half_sent(target: Target) -> None:
    """Send halves of large messages on one connection, and keep them open."""
    half = message_header(60 * MIB) + bytes(30 * MIB)
    with Connection(target.address) as connection:
        headers = {"authorization": f"Bearer {target.token}"} if target.token else {}
        for _ in range(10):
            connection.send(connection.open(SCORE, **headers), half, seconds=0.2)
        time.sleep(2)


def half_request_for_metrics(target: Target) -> None:
    """Begin a request to the metrics port, and do not end it."""
    import socket  # noqa: PLC0415

    host, _, port = target.metrics.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nAccept: ")
        time.sleep(2)


ATTACKS: dict[str, Attack] = {
    "WebP of 34 bytes": Attack(8, lambda _: scoring(SMALL_WEBP)),
    "progressive JPEG": Attack(8, lambda side: scoring(progressive(side, side, 20))),
    "interlaced PNG": Attack(8, lambda side: scoring(interlaced(side))),
    "40 photographs": Attack(40, lambda side: scoring(photograph(side // 4))),
    "16 scales": Attack(60, lambda side: scoring(one_bit_png(side, side), sixteen_scales())),
    "bottom region": Attack(16, lambda side: scoring(one_bit_png(side, side), last_rows(side))),
    "many scans": Attack(60, lambda _: scoring(many_scans(255 << 10))),
    "compressed text": Attack(16, lambda _: scoring(one_bit_png(64, 64, chunks=text_bomb()))),
    "clients that leave": Attack(16, lambda _: vanishing(SMALL_WEBP)),
    "TIFF directories": Attack(8, lambda _: scoring(many_directories(), scoring_pb2.ScoreOptions(plan_only=True))),
    "compressed messages": Attack(16, lambda _: scoring(bytes(50 * MIB), compression=grpc.Compression.Gzip)),
    "half-sent messages": Attack(4, lambda _: half_sent),
    "slow uploads": Attack(40, lambda _: slow_upload),
    "half requests for metrics": Attack(40, lambda _: half_request_for_metrics),
}


def text_bomb() -> bytes:
    """Return chunks of a PNG file with text that is a thousand times as large as in the file."""
    import zlib  # noqa: PLC0415

    text = zlib.compress(bytes(20 * MIB), 9)
    return b"".join(chunk(b"zTXt", b"key%d\0\0" % number + text) for number in range(9))


def attack(name: str, target: Target, ready: Any, statuses: Any, seconds: float) -> None:  # noqa: ANN401
    """Attack for some seconds, in a process of low priority, as if the attacker had CPUs of its own."""
    os.nice(NICE)
    kind = ATTACKS[name]
    call, counted = kind.make(target.side), Counter[str]()
    ready.set()
    end = time.monotonic() + seconds

    def repeat(_: int) -> None:
        while time.monotonic() < end:
            try:
                call(target)
                counted["OK"] += 1
            except grpc.RpcError as error:
                counted[error.code().name] += 1
            except OSError as error:
                counted[type(error).__name__] += 1

    with ThreadPoolExecutor(kind.callers) as pool:
        list(pool.map(repeat, range(kind.callers)))
    statuses.put(counted)


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


class MemoryMeter:
    """Samples the memory of a process and its children in MiB."""

    def __init__(self, process: int) -> None:
        self._process, self.peak = process, 0.0
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(resident, family(self._process))) / MIB)
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
    parser.add_argument("--only", choices=list(ATTACKS), help="one attack alone")
    parser.add_argument("--side", type=int, default=16000, help="side of the attacker's images (default: 16000)")
    options = parser.parse_args()
    names = [options.only] if options.only else list(ATTACKS)
    with tempfile.TemporaryDirectory() as folder:
        settings = ["--max-held-mib", str(HELD_MIB), "--spool", folder]
        if not options.one_address:
            tokens = Path(folder, "tokens")
            hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in (ATTACKER, *ORDINARY)}
            tokens.write_text("".join(f"{name} {each}\n" for name, each in hashes.items()))
            settings += ["--tokens", str(tokens)]
        with served(MODELS, *settings) as server:
            return Siege(server, options).run(names)


class Siege:
    """One run of all attacks."""

    def __init__(self, server: Any, options: argparse.Namespace) -> None:  # noqa: ANN401
        self._server, self._options = server, options
        self._context = get_context("spawn")
        token = "" if options.one_address else ATTACKER
        metrics = server.lines()[0]["metrics"]
        self._target = Target(server.address, metrics, token, options.side)
        self._memory = MemoryMeter(server.process)
        self._failed = False

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
        self._end(names[0])
        return int(self._failed)

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
        self._failed |= bool(errors) or taken[1] > limit or too_much or recovery > RECOVERY_SECONDS

    def _end(self, name: str) -> None:
        """Send SIGTERM during an attack, and wait for the end of the server."""
        ready, statuses = self._context.Event(), self._context.Queue()
        attacker = self._context.Process(target=attack, args=(name, self._target, ready, statuses, 3.0))
        attacker.start()
        ready.wait()
        time.sleep(2)
        os.kill(self._server.process, signal.SIGTERM)
        start = time.monotonic()
        _, status = os.waitpid(self._server.process, 0)
        seconds, code = time.monotonic() - start, os.waitstatus_to_exitcode(status)
        attacker.kill()
        print(f"SIGTERM during an attack: ended within {seconds:.1f} s with status {code}")
        self._failed |= seconds > END_SECONDS or code != 0

    @staticmethod
    def _row(percentiles: NDArray[np.float64]) -> str:
        return " ".join(f"{value:7.1f}" for value in percentiles)


if __name__ == "__main__":
    sys.exit(main())
