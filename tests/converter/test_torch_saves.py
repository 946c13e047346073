"""Files of torch.save, in both of its formats and with every protocol, are read as PyTorch itself reads them."""

from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.sources.checkpoint import read_checkpoint

pytestmark = pytest.mark.torch

TYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def random_tensor(rng: np.random.Generator, pool: list[Any]) -> Any:  # noqa: ANN401 (torch may not be installed)
    """Return a tensor of any type, shape and layout, perhaps a view of an earlier one."""
    import torch

    if pool and rng.random() < 0.3:
        tensor = pool[rng.integers(len(pool))]
    else:
        shape = rng.integers(1, 5, rng.integers(0, 5)) * (rng.random() > 0.1)
        tensor = torch.from_numpy(np.array(rng.normal(0, 50, shape))).to(getattr(torch, rng.choice(TYPES)))
    match rng.integers(5):
        case 0 if tensor.ndim > 1:
            tensor = tensor.transpose(0, tensor.ndim - 1)
        case 1 if tensor.ndim and len(tensor):
            tensor = tensor[int(rng.integers(len(tensor))) :: 2]
        case 2 if tensor.ndim:
            tensor = tensor.narrow(0, 0, len(tensor) // 2)
        case 3 if tensor.is_floating_point():
            tensor = torch.nn.Parameter(tensor)
    pool.append(tensor)
    return tensor


def random_checkpoint(rng: np.random.Generator) -> tuple[dict[str, Any], object]:
    """Return tensors, and the object to save: the tensors alone, or one level below, beside objects of scripts."""
    import torch

    pool: list[Any] = []
    tensors = OrderedDict((f"layer{n}.weight", random_tensor(rng, pool)) for n in range(1 + rng.integers(8)))
    if rng.random() < 0.3:
        return tensors, tensors
    beside = {
        "args": Namespace(lr=0.1, folder=Path("runs")),
        "loss": np.float64(0.5),
        "curve": np.arange(5),
        "history": defaultdict(list, epoch=[1, 2]),
        "device": torch.device("cpu"),
        "size": torch.Size((1, 2)),
        "dtype": torch.float16,
        "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1, momentum=0.9).state_dict(),
    }
    kept = {key: value for key, value in beside.items() if rng.random() < 0.5}
    return tensors, {**kept, rng.choice(["state_dict", "model_state_dict", "model"]).item(): tensors}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, zipped: bool, protocol: int) -> None:  # noqa: FBT001
    """A hundred random checkpoints have the same names, shapes and numbers; floating-point numbers become float32."""
    import torch

    path = tmp_path / "net.pth"
    for seed in range(100):
        tensors, saved = random_checkpoint(np.random.default_rng(seed))
        torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        loaded = torch.load(path, weights_only=False)
        expected = next((loaded[key] for key in ("state_dict", "model_state_dict", "model") if key in loaded), loaded)
        got = read_checkpoint(path).tensors
        assert list(got) == list(expected) == list(tensors)
        for key, tensor in expected.items():
            plain = tensor.detach()
            plain = (plain.float() if plain.is_floating_point() else plain).numpy()
            np.testing.assert_array_equal(got[key], plain, strict=True)
