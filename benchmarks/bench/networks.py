"""The networks of the comparison: the original classifier, its conversion, and the same network in PyTorch.

VGG-16 and ResNet-50 have random weights, since only the time of a network matters and not what it has learnt.
EfficientNet-Lite0 has its ImageNet weights, and digits is the shipped model.
"""

import runpy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from random_networks import random_checkpoint, random_network

from bench.windows import Sample
from converter.convert import convert_checkpoint
from converter.preprocessing import Preprocessing, load_preprocessing
from converter.sources.architecture import load_architecture
from converter.sources.read import read_source
from converter.verify.given_images import given_images
from converter.verify.images import PixelFormat, sample_images
from fullconv.protos import model_pb2

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "models" / "digits"
REAL = runpy.run_path(str(ROOT / "models" / "real" / "convert.py"))
"""The functions that find the weights of EfficientNet-Lite0, and photographs, in the packages that contain them."""
DIVISORS = (1, 2, 4)
"""Native, half and quarter stride."""
VERIFIED = 4
"""Number of windows that each conversion compares; the table has the agreement of every contender anyway."""
IDENTITY = Preprocessing()


@dataclass(frozen=True)
class Recipe:
    """How a network is made."""

    title: str
    weights: Callable[[Path], Path]
    """Returns a file of weights, which it may write into a folder."""
    module: Callable[[], "nn.Module"]
    """Builds the network in PyTorch; `Network.module` loads the weights."""
    quick: Sample
    """The windows of an image that stand for it when crops are timed in a quick run."""
    full: Sample
    window: int = 224
    """Height and width of the windows in pixels."""
    stride: int = 32
    """The native stride in pixels."""
    arch: str | None = None
    """The architecture of the weights. None: the converter recognises them."""
    photographic: bool = True
    """Whether the images are photographs; otherwise, they are the shipped page."""


@dataclass(frozen=True)
class Network:
    """A network that is ready to be measured. Lengths are in pixels."""

    name: str
    recipe: Recipe
    models: Path
    """The repository with the converted model."""
    original: Path
    """The classifier as it was read: an ONNX file that takes float32 (N, channels, window, window)."""
    weights: Path
    preprocessing: Preprocessing
    spec: model_pb2.ModelSpec
    batches: dict[str, int] = field(default_factory=dict)
    """The fastest number of windows in a batch, by contender."""

    @property
    def window(self) -> int:
        """Height and width of the windows."""
        return self.recipe.window

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.spec.input.channels

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what the original classifier takes: (height, width, channels) → (channels, height, width)."""
        factor, offset = (part[:, None, None] for part in self.preprocessing.affine(self.channels))
        prepared = np.ascontiguousarray(np.moveaxis(image, -1, 0)).astype(np.float32)
        prepared *= factor
        prepared += offset
        return prepared

    def module(self) -> "nn.Module":
        """Return the network in PyTorch, in evaluation mode."""
        import torch  # noqa: PLC0415 (optional)
        from safetensors.torch import load_file  # noqa: PLC0415 (imports PyTorch)

        with warnings.catch_warnings(action="ignore"):
            module = self.recipe.module()
        tensors = (
            load_file(self.weights)
            if self.weights.suffix == ".safetensors"
            else torch.load(self.weights, weights_only=True)
        )
        module.load_state_dict(tensors)
        return module.eval()


def make(name: str, folder: Path, divisors: Iterable[int] = DIVISORS) -> Network:
    """Make a network in a folder, for its native stride and this stride divided by each of `divisors`.

    Raises ImportError if a package is missing.
    """
    recipe = NETWORKS[name]
    weights = recipe.weights(folder)
    classifier = read_source(weights, arch=recipe.arch, window=None)
    strides = [recipe.stride // divisor for divisor in sorted(divisors) if divisor > 1]
    target = folder / "models" / name / "1"
    spec = convert_checkpoint(weights, target, arch=recipe.arch, verify=VERIFIED, strides=strides).spec
    original = folder / f"{name}.onnx"
    ir.save(classifier.original, original)
    preprocessing = load_preprocessing(classifier.preprocess) or IDENTITY
    return Network(name, recipe, folder / "models", original, weights, preprocessing, spec)


def picture(network: Network, side: int, folder: Path) -> NDArray[np.uint8]:
    """Return a square image: a part of a photograph or of the shipped page, which its mirror image continues."""
    images = REAL["copy_photographs"](folder / "photographs") if network.recipe.photographic else DIGITS
    pixels = PixelFormat(network.channels)
    given = given_images(images, pixels, (1, 1)).readable if any(images.iterdir()) else None
    found = sample_images((side, side), pixels, given, np.random.default_rng(0))
    (image,) = islice(found, 1)
    return image.astype(np.uint8, copy=False)


def _random_vgg16(folder: Path) -> Path:
    path = folder / "vgg16.safetensors"
    random_checkpoint(load_architecture("vgg16"), path)
    return path


def _random_resnet50(folder: Path) -> Path:
    from safetensors.torch import save_file  # noqa: PLC0415 (imports PyTorch)

    path = folder / "resnet50.safetensors"
    save_file(random_network("resnet50").state_dict(), path)
    return path


def _torchvision(name: str) -> Callable[[], Any]:
    def build() -> Any:  # noqa: ANN401 (a module of PyTorch)
        import torchvision  # noqa: PLC0415 (optional)

        return torchvision.models.get_model(name, weights=None)

    return build


def _lite0() -> "nn.Module":
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 (optional)

    module: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return module


def _digits() -> "nn.Module":
    from torch import nn  # noqa: PLC0415 (optional)

    features = [
        layer
        for channels in pairwise((1, 16, 32, 48))
        for layer in (nn.Conv2d(*channels, 3), nn.ReLU(), nn.MaxPool2d(2))
    ]
    head = [nn.Linear(48 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 11)]
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(*features), flatten=nn.Flatten(), classifier=nn.Sequential(*head))
    )


NETWORKS = {
    "digits": Recipe(
        "digits",
        lambda _: DIGITS / "digits.safetensors",
        _digits,
        Sample(32, 32, 1),
        Sample(32, 32, 4),
        window=70,
        stride=8,
        arch=str(DIGITS / "digits.toml"),
        photographic=False,
    ),
    "vgg16": Recipe("VGG-16", _random_vgg16, _torchvision("vgg16"), Sample(2, 4, 1), Sample(4, 8, 1), arch="vgg16"),
    "resnet50": Recipe("ResNet-50", _random_resnet50, _torchvision("resnet50"), Sample(4, 4, 1), Sample(4, 8, 2)),
    "efficientnet-lite0": Recipe(
        "EfficientNet-Lite0", lambda _: REAL["efficientnet"](), _lite0, Sample(4, 4, 2), Sample(4, 8, 4)
    ),
}
"""The networks, by the name of their model."""
