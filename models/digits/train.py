"""Trains the example model on rendered digits, and prints its accuracy on held-out digits."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import (
    BACKGROUND,
    CENTRED,
    OFF_CENTRE,
    WINDOW,
    Bytes,
    Digits,
    Ints,
    Layout,
    Sheet,
    draw_sheet,
    load_split,
    random_style,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).parent
SEED = 1
THREADS = 2
SHEET_SHAPE = (384, 384)
SHEETS_PER_STEP = 4
STEPS = 1500
PEAK_RATE = 2.5e-3
WEIGHT_DECAY = 1e-3
RENDERINGS = 8
HELD_OUT_PER_SHEET = 12
FIRST_GAIN = 4
DROPOUT = 0.1
LABEL_SMOOTHING = 0.1
FAST_ON_CPU = torch.channels_last

Sample = tuple[Bytes, int]
Batch = tuple[Tensor, Tensor]


class Model(nn.Module):
    """The network of digits.toml. Its parameters have the names that the file gives them."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        layers: list[dict[str, Any]] = spec["layers"]
        split = [layer["op"] for layer in layers].index("flatten")
        labels = len(spec["labels"])
        self.features, cells = build_features(layers[:split], spec["channels"], spec["window"][0])
        self.classifier = build_classifier(layers[split + 1 :], cells, labels)
        see_contrast(self.features[0])

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of windows (windows, 1, height, width) of values 0 to 1; with dropout only in training."""
        values = functional.dropout(self.features(pixels).flatten(1), DROPOUT, self.training)
        logits: Tensor = self.classifier(values)
        return logits


class Sheets(Dataset[Batch]):
    """Training sheets. Each is drawn with a seed of its own, so that the result does not depend on the order."""

    def __init__(self, digits: Digits, count: int) -> None:
        self.digits = digits
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([SEED, index])
        rows = rng.integers(0, len(self.digits), int(rng.integers(4, 24)))
        sheet = draw_sheet(rng, self.digits, rows, Layout(SHEET_SHAPE, random_style(rng), rng.uniform(44, 80)))
        centred = digit_windows(rng, sheet) + digit_windows(rng, sheet)
        return stack(centred + near_windows(rng, sheet, len(sheet.digits)) + plain_windows(rng, sheet, 4))


def build_features(layers: list[dict[str, Any]], channels: int, side: int) -> tuple[nn.Sequential, int]:
    """Return the layers before the flatten layer, and the number of values that they output for one window."""
    modules: list[nn.Module] = []
    for layer in layers:
        if layer["op"] == "conv":
            modules.append(nn.Conv2d(channels, layer["out"], layer["kernel"]))
            channels, side = layer["out"], side - layer["kernel"] + 1
        elif layer["op"] == "maxpool":
            modules.append(nn.MaxPool2d(layer["kernel"], layer["stride"]))
            side = (side - layer["kernel"]) // layer["stride"] + 1
        else:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules), channels * side * side


def build_classifier(layers: list[dict[str, Any]], inputs: int, labels: int) -> nn.Sequential:
    """Return the fully connected layers. The last one has one output for each label."""
    modules: list[nn.Module] = []
    for layer in layers:
        if layer["op"] == "linear":
            outputs = layer.get("out", labels)
            modules.append(nn.Linear(inputs, outputs))
            inputs = outputs
        else:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)


def see_contrast(first: nn.Module) -> None:
    """Subtract the mean from the first filters, so that they respond to contrast and not to the paper's brightness."""
    with torch.no_grad():
        for name, value in first.named_parameters():
            if name == "weight":
                value.sub_(value.mean((1, 2, 3), keepdim=True)).mul_(FIRST_GAIN)


def digit_windows(rng: np.random.Generator, sheet: Sheet) -> list[Sample]:
    """Return one window for each digit, approximately centred on it."""
    samples = []
    for digit in sheet.digits:
        x, y = digit.centre + rng.uniform(-CENTRED, CENTRED, 2)
        samples.append((sheet.window(x, y), digit.label))
    return samples


def near_windows(rng: np.random.Generator, sheet: Sheet, count: int) -> list[Sample]:
    """Return background windows near digits, which show parts of a digit or the gap between two digits."""
    samples: list[Sample] = []
    for _ in range(count if sheet.digits else 0):
        digit = sheet.digits[rng.integers(len(sheet.digits))]
        offset = rng.uniform(-1, 1, 2)
        offset *= rng.uniform(OFF_CENTRE + 1, 45) / np.abs(offset).max()
        x, y = digit.centre + offset
        if inside(sheet, x, y) and sheet.distance(x, y) > OFF_CENTRE:
            samples.append((sheet.window(x, y), BACKGROUND))
    return samples


def plain_windows(rng: np.random.Generator, sheet: Sheet, count: int) -> list[Sample]:
    """Return background windows at random positions. On a sheet with few digits most of them show only paper."""
    height, width = sheet.pixels.shape
    points = rng.uniform(WINDOW / 2, (width - WINDOW / 2, height - WINDOW / 2), (count, 2))
    return [(sheet.window(x, y), BACKGROUND) for x, y in points if sheet.distance(x, y) > OFF_CENTRE]


def inside(sheet: Sheet, x: float, y: float) -> bool:
    """Return whether the window centred on a point lies inside the sheet."""
    height, width = sheet.pixels.shape
    half = WINDOW / 2
    return bool(half <= x <= width - half and half <= y <= height - half)


def stack(samples: list[Sample]) -> Batch:
    """Return windows as a tensor of bytes, and their classes."""
    pixels = torch.from_numpy(np.stack([window for window, _ in samples])[:, None])
    return pixels, torch.tensor([label for _, label in samples])


def join(batches: list[Batch]) -> Batch:
    """Return the windows of several sheets as one batch."""
    return torch.cat([pixels for pixels, _ in batches]), torch.cat([labels for _, labels in batches])


def unit(pixels: Tensor) -> Tensor:
    """Return bytes as numbers from 0 to 1."""
    return (pixels.float() / 255).contiguous(memory_format=FAST_ON_CPU)


def train(model: Model, digits: Digits) -> None:
    """Train for STEPS steps, each on newly drawn sheets."""
    loader = DataLoader(Sheets(digits, STEPS * SHEETS_PER_STEP), SHEETS_PER_STEP, collate_fn=join, num_workers=2)
    optimiser = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=STEPS, pct_start=0.15)
    loss_function = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    for step, (pixels, labels) in enumerate(loader, 1):
        loss = loss_function(model(unit(pixels)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{STEPS}  loss {loss.item():.4f}", flush=True)


def held_out_windows(digits: Digits) -> Batch:
    """Return windows of every held-out digit in several renderings, and background windows of the same sheets."""
    rng = np.random.default_rng([SEED + 1, 0])
    samples: list[Sample] = []
    for _ in range(RENDERINGS):
        for rows in np.array_split(rng.permutation(len(digits)), len(digits) // HELD_OUT_PER_SHEET):
            samples += held_out_sheet(rng, digits, rows)
    return stack(samples)


def held_out_sheet(rng: np.random.Generator, digits: Digits, rows: Ints) -> list[Sample]:
    """Draw a sheet; return one window for each digit, and a few background windows."""
    sheet = draw_sheet(rng, digits, rows, Layout(SHEET_SHAPE, random_style(rng), 62))
    if len(sheet.digits) < len(rows):
        raise ValueError(f"expected a free position for each of {len(rows)} held-out digits, got {len(sheet.digits)}")
    return digit_windows(rng, sheet) + near_windows(rng, sheet, 2) + plain_windows(rng, sheet, 1)


def report(model: Model, pixels: Tensor, labels: Tensor, names: list[str]) -> None:
    """Print the share of held-out windows that are classified correctly, for each class and in total."""
    model.eval()
    with torch.no_grad():
        right = model(unit(pixels)).argmax(1) == labels
    for index, name in enumerate(names):
        of_class = right[labels == index]
        print(f"{name:>10}  {int(of_class.sum())}/{len(of_class)}  {of_class.float().mean():.4f}")
    print(f"{'overall':>10}  {int(right.sum())}/{len(right)}  {right.float().mean():.4f}")


def main() -> None:
    """Train, write digits.safetensors into the directory of this program, and print the accuracy on held-out digits."""
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    spec = tomllib.loads((HERE / "digits.toml").read_text(encoding="utf-8"))
    training, held_out = load_split()
    model = Model(spec)
    convert_conv2d_weight_memory_format(model, FAST_ON_CPU)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(training)} digits, {len(held_out)} held out")
    train(model, training)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, HERE / "digits.safetensors")
    report(model, *held_out_windows(held_out), spec["labels"])


if __name__ == "__main__":
    main()
