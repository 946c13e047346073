"""Sends malformed messages to a server, and checks its statuses, its log and its scores afterwards.

    python benchmarks/fuzz_requests.py [--messages 1000000] [--seed 0]

Takes valid requests of every method that scores or describes a model, with images in every format and many options, and
damages each at random: its bytes, its fields, or the file in it. No answer may have the status INTERNAL, UNKNOWN,
DATA_LOSS or UNAVAILABLE; the server's log must have no bug, no warning and no line that is not JSON; and afterwards the
server must give the same scores as before. Otherwise the exit status is 1. Also prints the server's memory.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pyvips
from google.protobuf.message import DecodeError, Message
from latency import MODELS, served
from mutations import fields_of, flip_bits, move, set_bytes, set_number, set_varint, splice, truncate
from soak import at_rest

from fullconv import Client
from fullconv.encode import image_message, options_message
from fullconv.images import source_of
from fullconv.protos import open_inference_pb2 as oip
from fullconv.protos import scoring_pb2
from fullconv.remote.retries import STATUS_LOST

if TYPE_CHECKING:
    from fullconv.options import Options

SCORING, INFERENCE = "/fullconv.v1.Scoring/", "/inference.GRPCInferenceService/"
BLIND = [flip_bits, set_bytes, set_number, truncate, splice, move, set_varint]
BAD = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}
SERVERS_BAD = {code.name for code in BAD}
TOGETHER = 64
"""Number of concurrent calls."""
SECONDS = 60
"""Deadline of each call in seconds."""
PIXELS = np.random.default_rng(0).integers(0, 256, (72, 75), np.uint8)


def files() -> list[bytes]:
    """Return the same picture in every format that the server reads."""
    image = pyvips.Image.new_from_array(PIXELS)
    return [image.write_to_buffer(suffix) for suffix in (".png", ".jpg", ".webp", ".tif", ".tif[tile,compression=lzw]")]


def requests() -> list[tuple[str, type[Message], list[bytes]]]:
    """Return (method, type of its messages, messages of one valid call)."""
    ways: list[Options] = [
        {},
        {"grid": True, "stride": 4, "border": "anchor"},
        {"mode": "crops", "flip": True, "top": 3, "classes": ["1", "background"]},
        {"scales": ["1x", 80], "average": "probabilities", "grid": "top"},
        {"roi": (0, 0, 72, 72), "mask": np.full_like(PIXELS, 255), "grid": "float16"},
        {"mask": "otsu", "grid": "argmax"},
    ]
    images = [image_message(source_of(PIXELS)), *(image_message(source_of(file)) for file in files())]
    scores = [
        scoring_pb2.ScoreRequest(model="digits", version="1", options=options_message(options), image=image)
        for options in ways
        for image in images
    ]
    many = [scoring_pb2.ScoreManyRequest(id="a", request=score) for score in scores]
    raw = scoring_pb2.RawImage(height=72, width=75, channels=1, dtype="uint8")
    large = []
    for options in ways[:3]:
        start = scoring_pb2.LargeImage(model="digits", options=options_message(options))
        large += [
            [scoring_pb2.ScoreLargeRequest(start=start), scoring_pb2.ScoreLargeRequest(data=file)] for file in files()
        ]
        start.raw.CopyFrom(raw)
        large.append(
            [scoring_pb2.ScoreLargeRequest(start=start), scoring_pb2.ScoreLargeRequest(data=PIXELS[:40].tobytes()),
             scoring_pb2.ScoreLargeRequest(data=PIXELS[40:].tobytes())]
        )  # fmt: skip
    return [
        *((f"{SCORING}Score", scoring_pb2.ScoreRequest, [score.SerializeToString()]) for score in scores),
        *((f"{SCORING}ScoreMany", scoring_pb2.ScoreManyRequest, [one.SerializeToString()]) for one in many),
        *(
            (f"{SCORING}ScoreLarge", scoring_pb2.ScoreLargeRequest, [part.SerializeToString() for part in parts])
            for parts in large
        ),
        *((f"{INFERENCE}ModelInfer", oip.ModelInferRequest, [one.SerializeToString()]) for one in infers()),
        *((f"{INFERENCE}ModelStreamInfer", oip.ModelInferRequest, [one.SerializeToString()]) for one in infers()),
        (
            f"{SCORING}GetModel",
            scoring_pb2.GetModelRequest,
            [scoring_pb2.GetModelRequest(model="digits").SerializeToString()],
        ),
        (
            f"{INFERENCE}ModelMetadata",
            oip.ModelMetadataRequest,
            [oip.ModelMetadataRequest(name="digits").SerializeToString()],
        ),
    ]


def infers() -> Iterator[oip.ModelInferRequest]:
    """Yield requests of the Open Inference Protocol with pixels and with files, in both forms of contents."""
    for shape in ([72, 75], [72, 75, 1], [1, 72, 75, 1]):
        request = oip.ModelInferRequest(model_name="digits", raw_input_contents=[PIXELS.tobytes()])
        request.inputs.add(name="image", datatype="UINT8", shape=shape)
        request.parameters["stride"].int64_param = 4
        request.parameters["scales"].string_param = "1x,80"
        request.parameters["region"].string_param = "0,0,72,72"
        request.outputs.add(name="average").parameters["classification"].int64_param = 3
        yield request
    for file in files():
        request = oip.ModelInferRequest(
            model_name="digits", raw_input_contents=[len(file).to_bytes(4, "little") + file]
        )
        request.inputs.add(name="image", datatype="BYTES", shape=[1])
        request.parameters["timeout"].int64_param = 30_000_000
        yield request
        del request.raw_input_contents[:]
        request.inputs[0].contents.bytes_contents.append(file)
        yield request


def changed(data: bytes, kind: type[Message], donor: bytes, chance: Random) -> bytes:
    """Return a message with one or two mutations."""
    for _ in range(chance.choice([1, 1, 2])):
        way = chance.choice([*BLIND, fields_of(kind), fields_of(kind), fields_of(kind)])
        try:
            data = way(data, donor, chance)
        except (DecodeError, ValueError, IndexError, TypeError, AttributeError):  # the message can no longer be parsed
            data = flip_bits(data, donor, chance) if data else donor
    return data


async def send(channel: grpc.aio.Channel, method: str, parts: list[bytes]) -> str:
    """Make one call; returns the name of its status."""
    call = channel.stream_stream(method)(timeout=SECONDS)
    try:
        for part in parts:
            await call.write(part)
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        pass  # the call has ended already
    try:
        async for _ in call:
            pass
    except (grpc.RpcError, asyncio.CancelledError):
        pass  # the status is read below
    code: grpc.StatusCode = await call.code()
    return (
        STATUS_LOST if STATUS_LOST in (await call.details() or "") else str(code.name)
    )  # then the server's log has the status


async def storm(address: str, messages: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Send damaged messages; returns the number of calls for each status, and the calls with a bad status."""
    chance, every = Random(seed), requests()  # noqa: S311 (no secret)
    ended: Counter[str] = Counter()
    bad: list[str] = []
    left = iter(range(messages))
    async with grpc.aio.insecure_channel(address) as channel:

        async def caller() -> None:
            for number in left:
                method, kind, parts = chance.choice(every)
                donor = chance.choice(chance.choice([other for _, like, other in every if like is kind]))
                sent, at = list(parts), chance.randrange(len(parts))
                sent[at] = changed(sent[at], kind, donor, chance)
                code = await send(channel, method, sent)
                ended[code] += 1
                if code in SERVERS_BAD:
                    bad.append(f"{method} {code} {[part.hex() for part in sent]}")
                if number % max(1, messages // 20) == 0:
                    print(f"{number}: {dict(ended)}", flush=True)

        await asyncio.gather(*(caller() for _ in range(TOGETHER)))
    return ended, bad


def main() -> None:
    """Start the server, send the messages, check the results, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000, help="number of calls (default: 1000000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the messages (default: 0)")
    options = parser.parse_args()
    limits = ["--max-megapixels", "0.05", "--max-idle", "5", "--client-share", "1", "--max-streams", "128"]
    with served(MODELS, *limits) as server, Client(server.address) as client:
        before = client.score(PIXELS, model="digits").average
        asyncio.run(storm(server.address, options.messages // 20, options.seed + 1))
        first = at_rest(server.process)
        began = time.monotonic()
        ended, bad = asyncio.run(storm(server.address, options.messages, options.seed))
        rate = options.messages / (time.monotonic() - began)
        last = at_rest(server.process)
        after = client.score(PIXELS, model="digits").average
        bad += [
            str(line)
            for line in server.lines()
            if line["event"] in ("bug", "stray") or "logger" in line or line.get("code") in SERVERS_BAD
        ]
    print(f"{options.messages} calls, {rate:.0f} per second: {dict(ended)}")
    print(f"memory when idle: {first[0]:.0f} MB after {options.messages // 20} calls, {last[0]:.0f} MB at the end")
    print(f"bad statuses and log lines: {len(bad)}", *bad[:5], sep="\n  ")
    same = np.allclose(np.asarray(before), np.asarray(after), rtol=0, atol=1e-6)
    print(f"the same scores as before: {same}")
    sys.exit(1 if bad or not same else 0)


if __name__ == "__main__":
    main()
