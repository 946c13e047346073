"""Reads checkpoints of networks of torchvision and timm that were recognised by their tensors (`fingerprints`)."""

from collections.abc import Sequence
from dataclasses import replace

from converter.errors import SourceError
from converter.messages import quiet
from converter.sources.checkpoint import Checkpoint
from converter.sources.classifier import Classifier
from converter.sources.fingerprints import SHOWN
from converter.sources.frameworks import is_installed
from converter.sources.torch_libraries import PACKAGES, UntrainedModule, make_module
from converter.sources.torch_module import export_loaded, image_channels, load_own

SAME = 1e-3
"""Largest difference of the scores of two networks that are the same function, relative to the largest score."""


def read_recognised(checkpoint: Checkpoint, names: Sequence[str], window: tuple[int, int] | None) -> Classifier:
    """Load a checkpoint into the network of torchvision or timm that has its tensors; raises ConversionError.

    Several networks may have the same tensors. Then the networks are compared, and must compute the same from the same
    pixels.
    """
    usable = [name for name in names if is_installed("torch") and is_installed(name.split(":")[0])]
    if not usable:
        raise SourceError(
            f"arch: expected PyTorch, because the checkpoint has the tensors of {' or '.join(names[:SHOWN])}, got no "
            f"installation: {PACKAGES[names[0].split(':')[0]]}, then convert again or with --arch {names[0]}; or "
            "export the network to ONNX"
        )
    with quiet():
        made = _made(usable, checkpoint, window)
        (name, (module, notes)), *others = made.items()
        if different := [other for other, (its, _) in others if not _is_same(module, its)]:
            choices = " or ".join(f"--arch {each}" for each in (name, *different))
            raise SourceError(
                f"arch: the checkpoint has the tensors of {' and '.join((name, *different))}, which compute different "
                f"scores or expect other pixels; choose {choices}"
            )
        classifier = export_loaded(checkpoint, module, name, notes)
    note = f"recognised as {name} by its tensors"
    if unseen := [each for each in names if each not in made]:
        note += f"; not compared with {', '.join(unseen[:SHOWN])}, which cannot be made here"
    return replace(
        classifier,
        notes=(note, *classifier.notes),
        assumed=(*(["window"] if window is None else []), "preprocess"),
        assumed_from=name.split(":")[0],
    )


def _made(
    names: Sequence[str], checkpoint: Checkpoint, window: tuple[int, int] | None
) -> dict[str, tuple[UntrainedModule, tuple[str, ...]]]:
    """Return the networks that the installed libraries can make, with the checkpoint's tensors, and notes on each.

    Raises SourceError if they can make none of them.
    """
    made, errors = dict[str, tuple[UntrainedModule, tuple[str, ...]]](), list[SourceError]()
    for name in names:
        try:
            module = make_module(name, checkpoint.tensors, window)
            made[name] = module, load_own(checkpoint, module.network, name)
        except SourceError as error:  # another release of the library may lack it
            errors.append(error)
    if not made:
        raise errors[0]
    return made


def _is_same(one: UntrainedModule, other: UntrainedModule) -> bool:
    """Return whether two modules, which have the same tensors, give the same scores for the same pixels."""
    import torch  # noqa: PLC0415 (optional)

    if (one.window, one.preprocess) != (other.window, other.preprocess):
        return False
    image = torch.randn(1, image_channels(one.network), *one.window, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            scores, others = (each.network(image) for each in (one, other))
    except Exception:  # a network may raise any error for images of another size
        return False
    return bool((scores - others).abs().max() <= SAME * scores.abs().max())
