"""Reads checkpoints of networks of torchvision and timm that were recognised by their tensors (`fingerprints`)."""

from collections.abc import Sequence
from dataclasses import replace

from converter.errors import SourceError
from converter.messages import quiet
from converter.sources.checkpoint import Checkpoint
from converter.sources.classifier import Classifier
from converter.sources.frameworks import is_installed
from converter.sources.torch_libraries import PACKAGES, UntrainedModule, make_module
from converter.sources.torch_module import export_trained, image_channels, load_own

SHOWN = 3
"""Number of networks that an error names."""
SAME = 1e-3
"""Largest difference of the scores of two networks that are the same function, relative to the largest score."""


def read_recognised(checkpoint: Checkpoint, names: Sequence[str], window: tuple[int, int] | None) -> Classifier:
    """Load a checkpoint into the network of torchvision or timm that has its tensors; raises ConversionError.

    Several networks may have the same tensors. Then the networks are compared, and must compute the same.
    """
    usable = [name for name in names if is_installed("torch") and is_installed(name.split(":")[0])]
    if not usable:
        listed = " or ".join(names[:SHOWN])
        raise SourceError(
            f"arch: the checkpoint's tensors are those of {listed}, whose code is in PyTorch's libraries: "
            f"{PACKAGES[names[0].split(':')[0]]}, and convert again, or with --arch {names[0]}; or export the network "
            "to ONNX"
        )
    with quiet():
        made = {name: make_module(name, checkpoint.tensors, window) for name in usable}
        for name, module in made.items():
            load_own(checkpoint, module.network, name)
        (name, module), *others = made.items()
        if different := [other for other, its in others if not _compute_the_same(module, its)]:
            choices = " or ".join(f"--arch {each}" for each in (name, *different))
            raise SourceError(
                f"arch: the checkpoint's tensors are those of {' and '.join((name, *different))}, which compute "
                f"different scores; choose {choices}"
            )
        classifier = export_trained(checkpoint, module, name)
    note = f"recognised as {name}; window and preprocessing are those of its library"
    return replace(classifier, notes=(note, *classifier.notes))


def _compute_the_same(one: UntrainedModule, other: UntrainedModule) -> bool:
    """Return whether two modules, which have the same tensors, give the same scores."""
    import torch  # noqa: PLC0415 (optional)

    image = torch.randn(1, image_channels(one.network), *one.window, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, others = (each.network(image) for each in (one, other))
    return bool((scores - others).abs().max() <= SAME * scores.abs().max())
