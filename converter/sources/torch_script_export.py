"""A program that loads a TorchScript file with PyTorch, and exports it to ONNX for images of one size.

    python -P torch_script_export.py SOURCE TARGET HEIGHT WIDTH

It imports nothing of this package. Linux ends it with its parent. Of a TorchScript file the graph is already known, so
that PyTorch's older exporter serves, which the new exporter has replaced for modules.
"""

import ctypes
import signal
import sys
import warnings

IMAGE_CHANNELS, COLOUR = (1, 3, 4), 3
"""Channels that the first weights of four axes may show, and the channels of other networks."""
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Export the file."""
    source, target, *size = sys.argv[1:]
    getattr(ctypes.CDLL(None), "prctl", lambda *_: None)(PR_SET_PDEATHSIG, signal.SIGKILL)
    warnings.simplefilter("ignore")
    import torch  # noqa: PLC0415 (optional)

    network = torch.jit.load(source, map_location="cpu").float().eval()
    kernels = [value.shape[1] for value in network.state_dict().values() if value.dim() == 4]
    channels = kernels[0] if kernels and kernels[0] in IMAGE_CHANNELS else COLOUR
    image = torch.zeros(1, channels, *map(int, size))
    torch.onnx.export(network, (image,), target, dynamo=False, verbose=False)


if __name__ == "__main__":
    main()
