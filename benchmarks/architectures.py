"""Tables with lines for several architectures of torchvision, which other programs of this folder measure."""

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from random_networks import random_network

from converter.convert import convert_checkpoint
from service.engine.session import Session

NETWORKS = (
    "alexnet", "vgg11", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "googlenet", "inception_v3",
    "mobilenet_v2", "mnasnet1_0", "shufflenet_v2_x1_0", "regnet_x_400mf", "squeezenet1_1", "convnext_tiny",
)  # fmt: skip
WINDOW, OTHER_WINDOWS = 224, {"inception_v3": 299}
"""Height and width of the window in pixels, and those of networks with another window."""


def make_parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of the options that the programs share, with a default number of rounds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=NETWORKS, help="names of architectures (default: fifteen)")
    parser.add_argument("--crops", type=int, default=32, help="windows that are timed as crops (default: 32)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each line (default: {rounds})")
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    parser.add_argument("--out", type=Path, help="file to which the table is also written")
    return parser


def print_table(
    header: str, measured: Callable[[str, argparse.Namespace], Iterable[str]], options: argparse.Namespace
) -> None:
    """Print the header and the lines that `measured` yields for each architecture."""
    if options.preload:
        importlib.import_module(options.preload)
    rows = [header]
    print(header, flush=True)
    for name in options.only:
        for row in measured(name, options):
            rows.append(row)
            print(row, flush=True)
    if options.out:
        options.out.write_text("\n".join(rows) + "\n", "utf-8")


@contextmanager
def converted(name: str) -> Iterator[Path]:
    """Convert an architecture with random weights; yields a directory of models in which it is `net`."""
    with tempfile.TemporaryDirectory() as folder:
        target, window = Path(folder, "net", "1"), OTHER_WINDOWS.get(name, WINDOW)
        convert_checkpoint(random_network(name), target, window=window, preprocess="imagenet", verify=4)
        yield Path(folder)


def time_of(session: Session, crops: Sequence[np.ndarray], batch: int) -> float:
    """Return the seconds of one window in batches of a size."""
    used = crops[: len(crops) // batch * batch] or crops
    start = time.perf_counter()
    for at in range(0, len(used), batch):
        session.score(used[at : at + batch])
    return (time.perf_counter() - start) / len(used)
