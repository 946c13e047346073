"""Converts torchvision's classification architectures, and prints a table of the results.

pip install torch torchvision onnxscript
python benchmarks/torchvision_architectures.py --out table.md

Every architecture gets random weights, and its batch normalisation the statistics of a few images. It is exported
by both of PyTorch's exporters, and converted, each time in a new process. Differences are relative in the Euclidean
norm: the native difference is that of the converted network from the source on single windows; the other is that of
dense scores from crops. An architecture that cannot run dense is converted for crops only; the table has the
reason.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

SIZES = {"inception_v3": 299}
WINDOW = 224
IMAGES = 32
"""Number of images from which batch normalisation gets its statistics."""
REASONS = {"mixes a summary of the whole map": "mixed summary", "multiplies two computed values": "attention"}
"""Words of the reasons why a network cannot slide, and what the table has instead."""
EXPORTERS = ("torchscript", "dynamo")


def main() -> None:
    """Print the table, or with --one the cells of a single line as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, help="file to which the table is also written; the lines that it has already are kept"
    )
    parser.add_argument("--only", nargs="*", help="names of architectures (default: all)")
    parser.add_argument(
        "--windows", type=int, default=64, help="windows for the comparison of dense with crops (default: 64)"
    )
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "EXPORTER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.preload:
        importlib.import_module(options.preload)
    if options.one:
        name, exporter = options.one
        print(json.dumps(line(name, exporter, options.windows)))
        return
    rows = [header(options.windows)]
    if options.out and options.out.exists():
        rows = options.out.read_text("utf-8").splitlines()
    print("\n".join(rows), flush=True)
    for name in options.only or architectures():
        for exporter in EXPORTERS:
            if any(known.startswith(f"| {name} | {exporter} |") for known in rows):
                continue
            rows.append(row(name, exporter, options))
            print(rows[-1], flush=True)
            if options.out:
                options.out.write_text("\n".join(rows) + "\n", "utf-8")


def architectures() -> list[str]:
    """Return the names of torchvision's classifiers."""
    import torchvision  # noqa: PLC0415 (after --preload)

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def header(windows: int) -> str:
    """Return the head of the table."""
    return (
        "| architecture | exporter | verdict | stride | native difference | "
        f"dense against crops, {windows} windows |\n|---|---|---|--:|--:|---|"
    )


def row(name: str, exporter: str, options: argparse.Namespace) -> str:
    """Return one line of the table, computed in a new process."""
    command = [sys.executable, __file__, "--one", name, exporter, "--windows", str(options.windows)]
    command += ["--preload", options.preload] if options.preload else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (this program)
    if done.returncode:
        *_, error = ["", *done.stderr.strip().splitlines()]
        return f"| {name} | {exporter} | FAILED with status {done.returncode}: {error} | | | |"
    got = json.loads(done.stdout.splitlines()[-1])
    return f"| {name} | {exporter} | " + " | ".join(got) + " |"


def line(name: str, exporter: str, windows: int) -> list[str]:
    """Export and convert one architecture; returns the cells of its line."""
    from converter import convert as conversion  # noqa: PLC0415 (in the process that needs it)
    from converter.errors import UnsupportedError  # noqa: PLC0415
    from converter.sources.read import read_source  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.onnx"
        export(name, exporter, file)
        silent = conversion.Progress(lambda *_: None, lambda: None)
        request = conversion.Request(Path(folder) / "net" / "1", preprocess="imagenet", windows=windows)
        verdict = "dense"
        try:
            report = conversion.convert(read_source(file, arch=None, window=None), request, silent)
        except UnsupportedError as error:
            reason = str(error).partition(": ")[2]
            verdict = f"crops: {next((short for words, short in REASONS.items() if words in reason), reason)}"
            request = replace(request, crops_only=True)
            report = conversion.convert(read_source(file, arch=None, window=None), request, silent)
    parity, stride = report.spec.parity[0], report.spec.vertical.stride
    seen = parity.overall
    return [
        verdict,
        str(stride) if verdict == "dense" else "",
        f"{parity.native.relative_l2:.1e}",
        f"top class agrees on {seen.top_class_agreement:.0%}, scores differ by {seen.relative_l2:.2g}"
        if verdict == "dense"
        else "",
    ]


def export(name: str, exporter: str, file: Path) -> None:
    """Write an architecture with random weights, and with batch normalisation that fits their activations."""
    import torch  # noqa: PLC0415 (optional)
    import torchvision  # noqa: PLC0415

    from converter.preprocessing import PRESETS  # noqa: PLC0415 (in the process that needs it)
    from converter.verify.images import PixelFormat, sample_images  # noqa: PLC0415

    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **options).eval()
    size = SIZES.get(name, WINDOW)
    pixels = np.stack(list(islice(sample_images((size, size), PixelFormat(3), None, np.random.default_rng(0)), IMAGES)))
    images = torch.from_numpy(np.moveaxis(PRESETS["imagenet"].apply(pixels), -1, 1).copy())
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train().momentum = 1.0
        elif type(module).__name__ == "CNBlock":  # initially its layers have hardly any effect
            torch.nn.init.uniform_(module.layer_scale, 0.1, 1)
        elif type(module).__name__ == "Bottleneck":  # initially rounding errors grow in deep ResNets
            torch.nn.init.uniform_(module.bn3.weight, 0.1, 1)
    for module in net.modules():  # initially the head of vision transformers is zero
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.02)
    with torch.no_grad():
        net(images)
    torch.onnx.export(net.eval(), (images[:1],), str(file), dynamo=exporter == "dynamo", verbose=False)


if __name__ == "__main__":
    main()
