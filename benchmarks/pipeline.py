"""Measures what a request costs beside the network: a large JPEG file, and images of the window's size, over gRPC.

    python benchmarks/pipeline.py [--model digits | vgg16] [--models DIR] [--side 2048] [--clients 64] [--rounds 5]

Whole request: the same server scores a JPEG file of side × side pixels, alternately with another process that runs the
network alone on as many tiles of the same size, with the same provider and precision. Prints the medians of the shares
of decoding, waiting, computing, reducing and the rest, and two ratios to the time of the request as the client sees it:
that of the server's own compute time, and that of the network alone.

Windows: a process makes --clients concurrent calls, alternately to a server of gRPC for Python that answers an empty
message with an empty message, to ServerLive of this server, and to Score with one window of raw pixels. It also sends
such windows in 4 streams of ScoreMany, with as many unanswered together. Prints the rates, and the medians of the
ratios to the rate of empty calls. All processes share the same CPUs. VGG-16 has random weights.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pyvips
from latency import Served, repository, served
from throughput import METHOD, in_a_process, request_of, served_rate

from fullconv import Answer, Client
from fullconv.common.noise import noise_image
from fullconv.protos import scoring_pb2
from service import machine
from service.engine.backend import Backend, Precision, Provider
from service.engine.executables import Threads
from service.engine.repository import ModelRepository
from service.engine.session import Session

QUALITY = 85
"""Quality of the JPEG file."""
LIVE, MANY = "/inference.GRPCInferenceService/ServerLive", "/fullconv.v1.Scoring/ScoreMany"
STREAMS = 4
STAGES = ("decode", "queue", "compute", "reduce")
ALONE_SECONDS = 0.5
"""Seconds after which no further run of the network alone begins in a round. The median counts."""


def jpeg_file(side: int) -> bytes:
    """Return a JPEG file of noise with the spectrum of photographs."""
    pixels = noise_image((side, side), 3, None, np.random.default_rng(0))
    return bytes(pyvips.Image.new_from_array(pixels).jpegsave_buffer(Q=QUALITY))


def network_alone(models: Path, model: str, answer: list[str]) -> float:
    """Return the seconds of the network on the tiles of an answer: provider, precision, file, tiles, height, width."""
    provider, precision, file, tiles, height, width = cast("tuple[Provider, Precision, str, str, str, str]", answer)
    machine.lower_priority()  # as the server's threads that compute
    stored = ModelRepository(models).open(model, "1")
    backend, threads = Backend(provider, precision), Threads(machine.cpus())
    session = Session(stored, stored.files.index(file), backend=backend, threads=threads)
    shape = (int(height), int(width), stored.spec.input.channels)
    tile = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    session.score([tile])
    took = list[float]()
    while sum(took) < ALONE_SECONDS:
        began = time.perf_counter()
        for _ in range(int(tiles)):
            session.score([tile])
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def tiles_of(answer: Answer) -> list[str]:
    """Return the arguments of `network_alone` for an answer."""
    view = answer.plan.views[0]
    return [answer.provider, answer.precision, answer.plan.file, *map(str, (view.tiles, *view.tile))]


def whole_requests(server: Served, models: Path, options: argparse.Namespace) -> None:
    """Measure the large file, and print the result."""
    data, shares, ratios = jpeg_file(options.side), list[list[float]](), list[float]()
    with Client(server.address) as client:
        client.score(data, model=options.model)  # prepares the kernels for this size of tiles
        for _ in range(options.rounds):
            began = time.perf_counter()
            answer = client.score(data, model=options.model)
            took = time.perf_counter() - began
            stages = [getattr(answer.timing, f"{stage}_ms") / took / 1e3 for stage in STAGES]
            shares.append([*stages, 1 - sum(stages), took])
            flags = ["--model", options.model, "--network", str(models), *tiles_of(answer)]
            ratios.append(in_a_process(*flags, program=__file__)[0] / took)
    *medians, took = np.median(shares, axis=0)
    print(
        f"{options.model}, JPEG file of {options.side}² pixels and {len(data) / 1e6:.1f} MB, {answer.provider} "
        f"{answer.precision}: {took * 1e3:.0f} ms, of which "
        + ", ".join(f"{name} {share:.1%}" for name, share in zip((*STAGES, "rest"), medians, strict=True))
    )
    print(f"  compute / request {medians[2]:.3f}; network alone / request {statistics.median(ratios):.3f}", flush=True)


@contextmanager
def empty_server() -> Iterator[str]:
    """Run the server of empty calls in a process of its own; yields its address."""
    command = [sys.executable, __file__, "--empty-server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (this program)
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()


async def serve_empty_calls() -> None:
    """Answer calls of `METHOD` with an empty message; prints the address."""

    async def answer(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        return b""

    service, _, name = METHOD[1:].rpartition("/")
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def streamed_rate(address: str, request: bytes, unanswered: int, seconds: float) -> float:
    """Return the images per second that streams of ScoreMany answer, with some requests unanswered in all streams."""
    score = scoring_pb2.ScoreRequest.FromString(request)
    message = scoring_pb2.ScoreManyRequest(id="window", request=score).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        score_many = channel.stream_stream(MANY, response_deserializer=scoring_pb2.ScoreManyResponse.FromString)

        async def stream(until: float) -> int:
            free, answered = asyncio.Semaphore(unanswered // STREAMS), 0

            async def requests() -> AsyncIterator[bytes]:
                while time.perf_counter() < until:
                    await free.acquire()
                    yield message

            async for answer in score_many(requests()):
                assert not answer.HasField("failure"), answer.failure.message  # noqa: S101 (a benchmark)
                answered += 1
                free.release()
            return answered

        began = time.perf_counter()
        answered = await asyncio.gather(*(stream(began + seconds) for _ in range(STREAMS)))
        return sum(answered) / (time.perf_counter() - began)


async def measured_rate(call: list[str], options: argparse.Namespace) -> float:
    """Return the calls per second, for an address, a method and the repository of models, which empty calls lack."""
    address, method, models = call
    request = request_of(Path(models), options.model, png=False) if models else b""
    if method == MANY:
        return await streamed_rate(address, request, options.clients, options.seconds)
    return (await served_rate(address, request, options.clients, options.seconds, method=method))[0]


def windows(server: Served, models: Path, options: argparse.Namespace) -> None:
    """Measure images of the window's size, and print the result."""
    flags = ["--model", options.model, "--clients", str(options.clients), "--seconds", str(options.seconds)]
    with empty_server() as empty:
        calls = [(empty, METHOD, ""), (server.address, LIVE, "")]
        calls += [(server.address, method, str(models)) for method in (METHOD, MANY)]
        in_a_process(*flags, "--calls", *calls[2], program=__file__)
        rates = [
            [in_a_process(*flags, "--calls", *each, program=__file__)[0] for each in calls]
            for _ in range(options.rounds)
        ]
    medians, ratios = np.median(rates, axis=0), np.median([np.divide(each, each[0]) for each in rates], axis=0)
    print(f"{options.model}, {options.clients} concurrent calls, each second, and relative to empty calls of gRPC:")
    for name, rate, ratio in zip(("empty calls", "ServerLive", "Score", "ScoreMany"), medians, ratios, strict=True):
        print(f"  {name:12} {rate:8.1f} {ratio:8.3f}")


def main() -> None:
    """Measure a model. --network, --calls and --empty-server are for the processes that this program starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("digits", "vgg16"), default="digits", help="model (default: digits)")
    parser.add_argument("--models", type=Path, help="repository of models (default: a new one with the model)")
    parser.add_argument("--side", type=int, default=2048, help="side of the large image in pixels (default: 2048)")
    parser.add_argument("--clients", type=int, default=64, help="number of concurrent calls (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=2, help="seconds of each measurement of calls (default: 2)")
    parser.add_argument("--part", choices=("whole", "windows"), help="measure this part alone")
    parser.add_argument("--network", nargs=7, help=argparse.SUPPRESS)
    parser.add_argument("--calls", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--empty-server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.empty_server:
        asyncio.run(serve_empty_calls())
    elif options.network:
        print(network_alone(Path(options.network[0]), options.model, options.network[1:]))
    elif options.calls:
        print(asyncio.run(measured_rate(options.calls, options)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            models = options.models or repository(options.model, Path(folder))
            with served(models) as server:
                if options.part != "windows":
                    whole_requests(server, models, options)
                if options.part != "whole":
                    windows(server, models, options)


if __name__ == "__main__":
    main()
