"""Makes converter/architectures/fingerprints.json: the fingerprints of all classifiers of torchvision and timm.

    pip install torch torchvision timm
    python benchmarks/make_fingerprints.py [--preload MODULE]

Every network is made with two numbers of classes: the tensors whose shapes differ are the head. Networks without a head
are left out. Of torchvision's networks that no architecture file describes, the module of which the head is the last
layer is a head too, if it has several layers: training scripts replace it by one layer. Networks are made on PyTorch's
device "meta", without numbers, if their code allows it.
"""

import argparse
import importlib
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converter.sources.architecture import shipped_name
from converter.sources.fingerprints import FILE, HEAD_SEPARATOR, fingerprint
from converter.sources.heads import Shapes, is_within, parent_of
from converter.sources.torch_libraries import INCEPTIONS, TORCHVISION

if TYPE_CHECKING:
    import torch

CLASSES = (1000, 7)
"""Two numbers of classes."""
Make = Callable[[int], "torch.nn.Module"]


def main() -> None:
    """Write fingerprints.json; standard error says which networks were left out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preload", help="module to import before torchvision, if torchvision needs it")
    if preload := parser.parse_args().preload:
        importlib.import_module(preload)
    warnings.simplefilter("ignore")
    table: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, make in _networks():
        try:
            shapes, others = (_shapes(make, classes) for classes in CLASSES)
        except Exception as error:  # a network may need another library
            sys.stderr.write(f"{name}: left out: {str(error)[:100]}\n")
            continue
        head = sorted(key for key, shape in shapes.items() if others.get(key) != shape)
        if head and shapes.keys() == others.keys():
            for own in (head, _stack(name, head, shapes)):
                if own:
                    table[HEAD_SEPARATOR.join(own)][fingerprint(shapes, own)].append(name)
    text = json.dumps(table, indent=0, sort_keys=True)
    file = Path(__file__).parents[1] / "converter" / "architectures" / FILE
    file.write_text(f"{text}\n", "utf-8")


def _stack(name: str, head: Sequence[str], shapes: Shapes) -> list[str]:
    """Return the keys of the module of several layers whose last layer is the head; [] without such a module."""
    package, _, plain = name.partition(":")
    module = parent_of(parent_of(head[0]))
    if package != TORCHVISION or not module or shipped_name(plain):
        return []
    keys = sorted(key for key in shapes if is_within(key, module))
    return keys if len(keys) > len(head) else []


def _networks() -> Iterator[tuple[str, Make]]:
    """Yield the name of each network, torchvision's first, and a function that makes it with a number of classes."""
    import timm  # noqa: PLC0415 (after --preload)
    from torchvision import models  # noqa: PLC0415

    for name in models.list_models(module=models):
        yield f"torchvision:{name}", _maker(models.get_model, name)
        if name in INCEPTIONS:
            yield f"torchvision:{name}", _maker(models.get_model, name, aux_logits=False, init_weights=False)
    for name in timm.list_models():
        yield f"timm:{name}", _maker(timm.create_model, name)


def _maker(make: Callable[..., "torch.nn.Module"], name: str, **settings: bool) -> Make:
    return lambda classes: make(name, num_classes=classes, **settings)


def _shapes(make: Make, classes: int) -> Shapes:
    """Return the shapes of a network's tensors."""
    import torch  # noqa: PLC0415 (after --preload)

    try:
        with torch.device("meta"):
            network = make(classes)
    except (NotImplementedError, RuntimeError):  # its constructor computes with tensors
        network = make(classes)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


if __name__ == "__main__":
    main()
