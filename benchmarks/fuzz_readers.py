"""Gives damaged checkpoints and networks to the converter's readers, and counts the outcomes.

    python benchmarks/fuzz_readers.py --inputs 100000

A reader must read every input or refuse it with a ConversionError, within LIMIT seconds and MEMORY bytes, and without
output on standard error. `mutations` makes the inputs from files in tests/data; each input depends only on its number
and on --seed. Worker processes try the inputs. Inputs with another outcome are kept in the folder --keep; then the exit
status is 1. To add a format, add its files and mutations to `formats`.
"""

import argparse
import contextlib
import faulthandler
import importlib.util
import io
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from random import Random

import mutations
import numpy as np
import onnx
from mutations import BLIND, Mutation
from safetensors.numpy import save

from converter import convert as conversion
from converter.errors import ConversionError
from converter.sources.checkpoint import read_checkpoint
from converter.sources.read import read_source
from fullconv.protos import caffe_pb2

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
CAFFE = DATA / "caffe" / "alexnet.caffemodel"
LIMIT = 10.0
"""Seconds in which an input must be read or refused."""
MEMORY = 1 << 30
"""Bytes of memory that reading an input may take."""
GOOD = ("read", "refused")
BAD = ("crash", "hang", "memory", "other")
ARCHITECTURE = """
name = "net"
channels = 3
window = [22, 26]
preprocess = "unit"
activation = "softmax"
layers = [
  { op = "conv", key = "a", out = 6, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "conv", key = "b", out = 8, kernel = 3 }, { op = "relu" }, { op = "maxpool", kernel = 2, stride = 2 },
  { op = "flatten" }, { op = "linear", key = "c", out = 16 }, { op = "relu" }, { op = "linear", key = "d" },
]
"""
"""The network whose checkpoints are in tests/data."""

CONFIGS: Sequence[dict[str, object]] = (
    {
        "architecture": "test_resnet",
        "num_classes": 1000,
        "global_pool": "avg",
        "model_args": {"in_chans": 3},
        "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "label_names": ["a", "b"]},
    },
    {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": 3,
        "embedding_size": 4,
        "hidden_sizes": [4, 8],
        "depths": [1, 1],
        "layer_type": "basic",
        "image_size": 32,
        "id2label": {"0": "cat", "1": "dog"},
    },
    {
        "architecture": "net",
        "patch_size_pixels": 24,
        "spacing_um_px": 0.5,
        "class_names": ["a", "b", "c"],
        "transform": [
            {"name": "Resize", "arguments": {"size": 24}},
            {"name": "Normalize", "arguments": {"mean": [0.5] * 3, "std": [0.5] * 3}},
        ],
    },
)
"""A config.json of timm, of transformers and of WSInfer."""
TORCH = importlib.util.find_spec("torch") is not None
"""Whether PyTorch is installed, so that TorchScript is tried too."""
Reader = Callable[[Path], object]


@dataclass(frozen=True)
class Format:
    """Valid files of one format, and the mutations that damage them. A mutation listed twice is used twice as often."""

    suffix: str
    seeds: Sequence[bytes]
    mutations: Sequence[Mutation]


def formats() -> dict[str, Format]:
    """Return the formats that are tried, by name."""
    pth = [path for path in sorted((DATA / "checkpoints").glob("*.pth")) if path.name != "legacy.pth"]
    exports = [path.read_bytes() for path in sorted((DATA / "exports").glob("*.onnx"))]
    oldest = [path.read_bytes() for path in sorted((DATA / "built").glob("*.opset[1-6].onnx"))]
    fields = [mutations.fields_of(onnx.ModelProto)] * 8
    onnx_mutations = [*BLIND, mutations.set_varint, mutations.onnx_outside, *fields]
    caffe = [CAFFE.with_suffix(suffix).read_bytes() for suffix in (".caffemodel", ".prototxt")]
    caffe_mutations = [*BLIND, mutations.set_varint, *[mutations.fields_of(caffe_pb2.NetParameter)] * 6]
    tensors = read_checkpoint(DATA / "checkpoints" / "plain.pth").tensors.items()
    types = (np.float32, np.float16, np.float64)
    return {
        "safetensors": Format(
            ".safetensors",
            [save({key: tensor.astype(kind) for key, tensor in tensors}) for kind in types],
            [*BLIND, *[mutations.safetensors_header] * 6],
        ),
        "torch zip": Format(".pth", [path.read_bytes() for path in pth], [*BLIND, *[mutations.torch_zip] * 6]),
        "torch stream": Format(
            ".pth", [(DATA / "checkpoints" / "legacy.pth").read_bytes()], [*BLIND, *[mutations.torch_stream] * 6]
        ),
        "onnx": Format(".onnx", exports, onnx_mutations),
        "older onnx": Format(".onnx", list(older(exports)), onnx_mutations),
        "oldest onnx": Format(".onnx", oldest, onnx_mutations),
        "caffe": Format(".caffemodel", caffe[:1], caffe_mutations),
        "caffe's text": Format(".prototxt", caffe[1:], BLIND),
        "config.json": Format(
            ".json",
            [json.dumps(config).encode() for config in CONFIGS],
            [mutations.truncate, mutations.set_bytes, *[mutations.json_document] * 8],
        ),
        **({"torchscript": Format(".pt", torchscript(), [*BLIND, *[mutations.torch_zip] * 6])} if TORCH else {}),
    }


def torchscript() -> list[bytes]:
    """Return a network as PyTorch saves it in TorchScript, scripted and traced."""
    import torch  # noqa: PLC0415 (optional)

    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 22 * 22, 3)
    net = torch.nn.Sequential(*layers).eval()
    files = [io.BytesIO(), io.BytesIO()]
    for file, script in zip(
        files, (torch.jit.script(net), torch.jit.trace(net, torch.zeros(1, 3, 24, 24))), strict=True
    ):
        torch.jit.save(script, file)
    return [file.getvalue() for file in files]


def older(exports: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the networks that are valid in older operator sets too, declared as such."""
    for export, opset in itertools.product(exports, (7, 9, 11, 13, 17)):
        model = onnx.ModelProto.FromString(export)
        model.opset_import[0].version = opset
        with contextlib.suppress(onnx.checker.ValidationError):
            onnx.checker.check_model(model)
            yield model.SerializeToString()


@dataclass(frozen=True)
class Inputs:
    """All inputs, each computed from its number and the seed."""

    kinds: dict[str, Format]
    seed: int

    def kind(self, number: int) -> str:
        """Return the format of an input; the formats alternate."""
        return list(self.kinds)[number % len(self.kinds)]

    def __getitem__(self, number: int) -> bytes:
        """Return the bytes of a damaged file."""
        chance, kind = Random(f"{self.seed}:{number}"), self.kinds[self.kind(number)]  # noqa: S311 (must be repeatable)
        return chance.choice(kind.mutations)(chance.choice(kind.seeds), chance.choice(kind.seeds), chance)


@dataclass
class Tally:
    """The outcomes of the inputs of one format, and their total and longest time in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, outcome: str, seconds: float) -> None:
        """Count an input."""
        self.outcomes[outcome] += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)


def attempt(reader: Reader, path: Path) -> tuple[str, str]:
    """Read one input; returns the outcome, and the reason or traceback."""
    try:
        reader(path)
    except ConversionError as error:
        return "refused", str(error)
    except MemoryError:
        return "memory", traceback.format_exc()
    except Exception:
        return "other", traceback.format_exc()
    return "read", ""


def work(reader: Reader, inputs: Inputs, numbers: range, folder: Path, pipe: connection.Connection) -> None:
    """Try inputs one after the other, in a worker process, and send (outcome, reason, seconds) of each."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(log, 2)
    faulthandler.enable(2)
    warnings.simplefilter("error")
    for kind in inputs.kinds.values():
        whole = folder / f"input{kind.suffix}"
        whole.write_bytes(kind.seeds[0])
        attempt(reader, whole)  # imports and caches must not count for an input
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        path = folder / f"input{inputs.kinds[inputs.kind(number)].suffix}"
        path.write_bytes(inputs[number])
        start = time.monotonic()
        outcome, reason = attempt(reader, path)
        if os.fstat(log).st_size:
            outcome, reason = (
                "other",
                f"{outcome}, with output on standard error: {(folder / 'log').read_text('utf-8', 'replace')}",
            )
            os.ftruncate(log, 0)
        pipe.send((outcome, reason, time.monotonic() - start))


@dataclass
class Worker:
    """A worker process, the inputs that it has left, and when it began the first of them."""

    process: multiprocessing.process.BaseProcess
    pipe: connection.Connection
    numbers: range
    folder: Path
    since: float


class Run:
    """Runs the workers, replaces those that crash or hang, and counts the outcomes."""

    def __init__(self, reader: Reader, inputs: Inputs, keep: Path, *, limit: float = LIMIT) -> None:
        self.tallies = {kind: Tally() for kind in inputs.kinds}
        self._reader, self._inputs, self._keep, self._limit = reader, inputs, keep, limit

    def __call__(self, count: int, workers: int, seconds: float) -> None:
        """Try inputs 0 to `count` - 1, for at most some seconds."""
        end = time.monotonic() + seconds
        with tempfile.TemporaryDirectory() as folder:
            active = [self._start(range(at, count, workers), Path(folder) / str(at)) for at in range(workers)]
            while active and time.monotonic() < end:
                connection.wait([worker.pipe for worker in active], timeout=0.2)
                active = [following for worker in active for following in self._follow(worker)]
            for worker in active:
                worker.process.kill()
                worker.process.join()

    def _start(self, numbers: range, folder: Path) -> Worker:
        folder.mkdir(exist_ok=True)
        context = multiprocessing.get_context("fork")
        pipe, end = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(self._reader, self._inputs, numbers, folder, end), daemon=True)
        process.start()
        end.close()
        return Worker(process, pipe, numbers, folder, time.monotonic())

    def _follow(self, worker: Worker) -> Iterator[Worker]:
        """Count the outcomes that a worker sent; yields the worker, or a new one if it crashed or hangs."""
        try:
            while worker.numbers and worker.pipe.poll():
                self._count(worker, *worker.pipe.recv())
        except EOFError:
            worker.process.join()
            self._count(worker, "crash", f"exit status {worker.process.exitcode}", 0.0)
            yield self._start(worker.numbers, worker.folder)
            return
        if worker.numbers and time.monotonic() - worker.since > self._limit:
            worker.process.kill()
            worker.process.join()
            self._count(worker, "hang", "", self._limit)
            yield self._start(worker.numbers, worker.folder)
        elif worker.numbers:
            yield worker

    def _count(self, worker: Worker, outcome: str, reason: str, seconds: float) -> None:
        number, worker.numbers, worker.since = worker.numbers[0], worker.numbers[1:], time.monotonic()
        kind = self._inputs.kind(number)
        self.tallies[kind].add(outcome, seconds)
        if outcome in BAD:
            name = f"{''.join(letter if letter.isalnum() else '-' for letter in kind)}-{number}-{outcome}"
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / f"{name}{self._inputs.kinds[kind].suffix}").write_bytes(self._inputs[number])
            (self._keep / f"{name}.txt").write_text(reason or (worker.folder / "log").read_text("utf-8", "replace"))
            print(f"{name}: {' '.join(reason.split())[-200:]}", file=sys.stderr)


def table(tallies: dict[str, Tally], seconds: float) -> str:
    """Return the counts as a table with one line for each format."""
    columns = (*GOOD, *BAD)
    lines = [f"{'':14}{'inputs':>9}{''.join(f'{column:>9}' for column in columns)}{'mean ms':>9}{'max s':>9}"]
    for kind, tally in tallies.items():
        counts = "".join(f"{tally.outcomes[column]:9}" for column in columns)
        total = tally.outcomes.total()
        lines.append(f"{kind:14}{total:9}{counts}{1000 * tally.seconds / max(1, total):9.1f}{tally.slowest:9.2f}")
    total = sum(tally.outcomes.total() for tally in tallies.values())
    return "\n".join([*lines, f"{total} inputs in {seconds:.0f} s, {total / max(seconds, 1e-9):.0f} per second"])


def _model_folder(config: Path) -> Path:
    """Return a folder with a config.json, and with the weights of a timm network and a TorchScript file."""
    folder = config.parent / "folder"
    if not folder.exists():
        folder.mkdir()
        shapes = json.loads((DATA / "shapes_of_timm_test_resnet.json").read_text("utf-8"))
        tensors = {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
        (folder / "model.safetensors").write_bytes(save(tensors))
        if TORCH:
            (folder / "torchscript_model.pt").write_bytes(torchscript()[0])
    shutil.copy(config, folder / "config.json")
    return folder


def reader(architecture: Path, *, convert: bool) -> Reader:
    """Return the function that reads one input and, if `convert`, also converts it."""
    known = {".onnx": None, ".caffemodel": str(CAFFE.with_suffix(".prototxt"))}

    def read(path: Path) -> None:
        if path.suffix == ".pt":
            classifier = read_source(path, arch=None, window=(24, 24))
        elif path.suffix == ".prototxt":
            classifier = read_source(CAFFE, arch=str(path), window=None)
        elif path.suffix == ".json":
            classifier = read_source(_model_folder(path), arch=None, window=None)
        else:
            classifier = read_source(path, arch=known.get(path.suffix, str(architecture)), window=None)
        if convert:
            target = path.parent / "net" / "1"
            silent = conversion.Progress(step=lambda *_: None, advance=lambda: None)
            conversion.convert(classifier, conversion.Request(target, force=True, windows=2), silent)
            shutil.rmtree(target)

    return read


def main() -> None:
    """Try the inputs, print the table; exit status 1 if an outcome was neither "read" nor "refused"."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="stop after this time (default: 86400)")
    parser.add_argument("--workers", type=int, default=2, help="number of worker processes (default: 2)")
    parser.add_argument(
        "--keep",
        type=Path,
        default=ROOT / "build" / "fuzz",
        help="folder for inputs with a bad outcome (default: build/fuzz)",
    )
    parser.add_argument("--convert", action="store_true", help="also convert the inputs that can be read")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        architecture = Path(folder) / "net.toml"
        architecture.write_text(ARCHITECTURE, "utf-8")
        inputs = Inputs(formats(), arguments.seed)
        run = Run(reader(architecture, convert=arguments.convert), inputs, arguments.keep)
        start = time.monotonic()
        run(arguments.inputs, arguments.workers, arguments.seconds)
    print(table(run.tallies, time.monotonic() - start))
    sys.exit(any(tally.outcomes[outcome] for tally in run.tallies.values() for outcome in BAD))


if __name__ == "__main__":
    main()
