"""Networks of PyTorch with random weights whose scores of different windows differ. Import it in tests marked torch."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.testing import assert_allclose

from converter.sources.classifier import Classifier

if TYPE_CHECKING:
    from torch import nn

Network = TypeVar("Network", bound="nn.Module")


def randomised(net: Network) -> Network:
    """Give a network random statistics of batch normalisation, and weights that tell windows apart; for eval()."""
    import torch

    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 2)
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    net.eval()
    return net


def check_scores(classifier: Classifier, net: "nn.Module", folder: Path) -> None:
    """Check that a network that was read has the scores of PyTorch's for three windows, to 1e-4 of the largest."""
    import torch

    ir.save(classifier.original, folder / "read.onnx")
    session = ort.InferenceSession(folder / "read.onnx")
    _, channels, *_ = (image := session.get_inputs()[0]).shape
    for window in np.random.default_rng(0).normal(size=(3, 1, channels, *classifier.window)).astype(np.float32):
        (got,) = session.run(None, {image.name: window})
        with torch.no_grad():
            scores = net(torch.from_numpy(window))
        expected = getattr(scores, "logits", scores).numpy()
        assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
