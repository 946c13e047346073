"""Checks the answers and the resources of a server under the load of many clients.

    python benchmarks/soak.py [--minutes 10] [--clients 64]

The clients send images of 64² to 4096² pixels in random order: encoded and raw, dense and crops, with several strides,
grids, masks, flips and scales, by Score, ScoreMany, ScoreLarge and the Open Inference Protocol. Except for the last of
these, every answer is compared with that of this process. The server may refuse a request because it is busy. For any
other difference or error the exit status is 1. Prints the server's memory, threads and open files after the first
minute and at the end, each time after all clients have paused.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pyvips

from fullconv import Client, ImageError, Security, UnavailableError
from fullconv.encode import image_message, options_message
from fullconv.images import source_of
from fullconv.options import Options
from fullconv.protos import open_inference_pb2 as oip
from fullconv.protos import scoring_pb2
from service import decode
from service.errors import ServiceError
from service.scoring.execution import Execution
from service.scoring.scorer import Scorer

MODELS = Path(__file__).parent.parent / "models"
MODEL = "digits"
SIDES = (64, 70, 96, 200, 333, 512, 1000, 2048, 4096)
TOLERANCE = 1e-4
"""Tolerance of averages: batches of other sizes add their values in another order."""
QUIET_SECONDS, QUIET_TICKS = 12.0, 10
"""Seconds without work after which an idle server has returned free memory; and the largest CPU time, in hundredths of
a second for each half second, that counts as no work."""
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Case:
    """An image, its options, and the averages that this process computes; None: this process refuses it."""

    image: bytes | np.ndarray
    path: Path
    options: Options
    expected: np.ndarray | None


def cases(folder: Path) -> list[Case]:
    """Return images of all sizes, each with several options; large images only with options that are fast."""
    scorer, source = Scorer(MODELS), np.random.default_rng(0)
    made: list[Case] = []
    for side in SIDES:
        pixels = source.integers(0, 256, (side, side + side % 7), np.uint8)
        picture = pyvips.Image.new_from_memory(pixels.tobytes(), pixels.shape[1], side, 1, "uchar")
        path = folder / f"{side}.tif"
        path.write_bytes(picture.write_to_buffer(".tif", tile=True, compression="deflate"))
        ways: list[Options] = [
            {},
            {"stride": 16, "flip": side < 1000},
            {"average": "probabilities", "border": "anchor"},
        ]
        if side <= 1000:
            ways += [{"grid": True}, {"stride": 4}, {"mask": "otsu"}]
        if 96 <= side <= 512:
            ways += [{"mode": "crops", "stride": 24}, {"scales": ["1x", "0.8x"]}]
        for options in ways:
            image = path.read_bytes() if len(made) % 2 else pixels
            request = scoring_pb2.ScoreRequest(
                model=MODEL, options=options_message(options), image=image_message(source_of(image))
            )
            try:
                expected = score_message(scorer, request)
            except ServiceError:
                expected = None
            made.append(Case(image, path, options, expected))
    return made


def score_message(scorer: Scorer, message: scoring_pb2.ScoreRequest) -> np.ndarray:
    """Score the image of a message in this process; returns its averages."""
    request = decode.scoring_request(message)
    open_picture = partial(decode.open_image, message.image, request.options.selection)
    execution = Execution(scorer.plan_whole(open_picture, request))
    deque(execution.rows(), maxlen=0)
    return execution.result().average


def by_score(client: Client, case: Case) -> np.ndarray:
    """Score the image with Score."""
    return np.asarray(client.score(case.image, model=MODEL, **case.options).average)


def by_many(client: Client, case: Case) -> np.ndarray:
    """Score the image twice with ScoreMany."""
    answers = [
        answer for _, answer in client.score_many([("a", case.image), ("b", case.image)], model=MODEL, **case.options)
    ]
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return np.asarray(answers[0].average)  # type: ignore[union-attr]


def by_large(client: Client, case: Case) -> np.ndarray:
    """Score the image with ScoreLarge; in one of ten cases end the call early."""
    with client.score_large(case.path, model=MODEL, **case.options) as run:
        if random.random() < 0.1:  # noqa: S311 (no secret)
            next(run.rows(), None)
            return np.asarray(case.expected)
        return np.asarray(run.result().average)


class Tally:
    """Counts of answers, and descriptions of wrong ones."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def send_and_compare(self, client: Client, way: Callable[[Client, Case], np.ndarray], case: Case) -> None:
        """Send one request, and compare its answer with the expected one."""
        name = f"{way.__name__[3:]} {case.path.stem}² {dict(case.options)}"
        try:
            got = way(client, case)
        except ImageError as error:
            if case.expected is not None:
                self.wrong.append(f"{name}: {error}")
            self.counts["refused"] += 1
            return
        except UnavailableError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                self.wrong.append(f"{name}: {error}")
            self.counts["busy"] += 1
            return
        except Exception as error:  # every other exception is wrong
            self.wrong.append(f"{name}: {type(error).__name__}: {error}")
            return
        if case.expected is None or not np.allclose(got, case.expected, rtol=0, atol=TOLERANCE):
            self.wrong.append(f"{name}: the answer differs")
        self.counts[way.__name__[3:]] += 1


def usage(process: int) -> tuple[float, int, int]:
    """Return a process's memory in MB, its number of threads and its number of open files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    files = len(list(Path(f"/proc/{process}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]) / 1e3, int(status["Threads"]), files


def infer(channel: grpc.Channel, case: Case) -> None:
    """Score the image by the Open Inference Protocol. Raises grpc.RpcError; the answer is not compared."""
    tensor = oip.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(case.path.read_bytes())
    request = oip.ModelInferRequest(model_name=MODEL, inputs=[tensor])
    request.outputs.add(name="average")
    channel.unary_unary(INFER)(request.SerializeToString(), timeout=300)


def at_rest(process: int) -> tuple[float, int, int]:
    """Wait until a process has done no work for QUIET_SECONDS; returns its usage."""
    while idle(process) < QUIET_SECONDS:
        pass
    return usage(process)


def idle(process: int) -> float:
    """Return for how many seconds a process does no work, at most QUIET_SECONDS."""
    began, before = time.monotonic(), ticks(process)
    while time.monotonic() - began < QUIET_SECONDS:
        time.sleep(0.5)
        now = ticks(process)
        if now - before > QUIET_TICKS:
            break
        before = now
    return time.monotonic() - began


def ticks(process: int) -> int:
    """Return a process's CPU time in hundredths of a second."""
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))


def work(address: str, every: list[Case], tally: Tally, end: Event, proceed: Event, seed: int) -> None:
    """Send random cases as one client, until `end` is set; pause while `proceed` is not set."""
    chance = random.Random(seed)  # noqa: S311 (no secret)
    with Client(address, security=Security()) as client, grpc.insecure_channel(address) as channel:
        while proceed.wait() and not end.is_set():
            case = chance.choice(every)
            way = chance.choice([by_score, by_score, by_many, by_large, None])
            if way is not None:
                tally.send_and_compare(client, way, case)
            elif case.expected is not None:
                try:
                    infer(channel, case)
                    tally.counts["infer"] += 1
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        tally.wrong.append(f"infer {case.path.stem}: {error.code().name}: {error.details()}")


def main() -> None:
    """Start the server, run the clients, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="minutes of load (default: 10)")
    parser.add_argument("--clients", type=int, default=64, help="number of concurrent clients (default: 64)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        every = cases(Path(folder))
        command = [sys.executable, "-m", "service", "--models", str(MODELS), "--listen", "127.0.0.1:0"]
        with (
            Path(folder, "log").open("w+") as log,
            subprocess.Popen(  # noqa: S603 (this repository's server)
                [*command, "--metrics", "127.0.0.1:0", "--spool", folder], stderr=log
            ) as server,
        ):
            while not Path(folder, "log").read_text():
                time.sleep(0.1)
            address = json.loads(Path(folder, "log").read_text().splitlines()[0])["address"]
            tally, samples = soak(address, server.pid, every, arguments)
            server.terminate()
            server.wait(120)
            codes = Counter(json.loads(line).get("code") for line in Path(folder, "log").read_text().splitlines())
    report(tally, samples, codes)
    sys.exit(1 if tally.wrong or server.returncode or codes["INTERNAL"] else 0)


def soak(
    address: str, server: int, every: list[Case], arguments: argparse.Namespace
) -> tuple[Tally, list[tuple[float, int, int]]]:
    """Run all clients; returns the counts, and the server's usage after a minute and at the end."""
    tally, end, proceed, samples = Tally(), Event(), Event(), []
    proceed.set()
    with ThreadPoolExecutor(arguments.clients) as pool:
        for seed in range(arguments.clients):
            pool.submit(work, address, every, tally, end, proceed, seed)
        for seconds in (60.0, max(1.0, arguments.minutes * 60 - 60)):
            time.sleep(seconds)
            print(f"under load: {dict(tally.counts)}, {usage(server)}, {len(tally.wrong)} wrong", flush=True)
            proceed.clear()
            samples.append(at_rest(server))
            proceed.set()
        end.set()
    return tally, samples


def report(tally: Tally, samples: list[tuple[float, int, int]], codes: Counter[str]) -> None:
    """Print the counts, the server's usage and the wrong answers."""
    print(f"answers: {dict(tally.counts)}; statuses in the log: {dict(codes)}")
    for name, (memory, threads, files) in zip(("after the first minute", "at the end"), samples, strict=True):
        print(f"{name}: {memory:.0f} MB, {threads} threads, {files} open files")
    print(f"memory at the end: {samples[1][0] / samples[0][0]:.3f} times that after the first minute")
    print(f"wrong: {len(tally.wrong)}")
    for line in tally.wrong[:20]:
        print(f"  {line}")


if __name__ == "__main__":
    main()
