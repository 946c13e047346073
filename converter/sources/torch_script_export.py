"""A program that loads a TorchScript file with PyTorch, and exports it to ONNX for images of one size.

    python -P torch_script_export.py SOURCE TARGET HEIGHT WIDTH

It imports nothing from this package. On Linux it is killed if its parent ends. It uses PyTorch's older exporter: a
TorchScript file already states its graph, so that no path through the network can be missed.
"""

import ctypes
import re
import signal
import sys
import warnings
from typing import Any

FORBIDDEN = re.compile(
    r"\b(?:from_file|save|load|fork|wait|awaitable\w*|rpc_\w*)\b|\b(?:torch|ops)\b(?!\s*\.)"
    r"|\bops\s*\.\s*(?!aten\b|prim\b|quantized\b)\w+|\btorch\s*\.\s*classes\s*\.\s*(?!quantized\b)\w+"
)
"""Matches names that the code of a classifier does not need: files, threads, other libraries, `torch` as a value."""
IMAGE_CHANNELS, COLOUR = (1, 3, 4), 3
"""Numbers of channels that are recognised in the first weights of rank 4, and the number for other networks."""
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Export the file."""
    source, target, *size = sys.argv[1:]
    getattr(ctypes.CDLL(None), "prctl", lambda *_: None)(PR_SET_PDEATHSIG, signal.SIGKILL)
    warnings.simplefilter("ignore")
    import torch  # noqa: PLC0415 (optional)

    check_code(torch._C.PyTorchFileReader(source))  # noqa: SLF001 (the reader that torch.jit.load uses)
    network = torch.jit.load(source, map_location="cpu").float().eval()
    kernels = [value.shape[1] for value in network.state_dict().values() if value.dim() == 4]
    channels = kernels[0] if kernels and kernels[0] in IMAGE_CHANNELS else COLOUR
    image = torch.zeros(1, channels, *map(int, size))
    torch.onnx.export(network, (image,), target, dynamo=False, verbose=False)


def check_code(reader: Any) -> None:  # noqa: ANN401 (of PyTorch)
    """End the program if the code or a pickle of a file names what a classifier does not need."""
    for name in reader.get_all_records():
        text = reader.get_record(name).decode("utf-8", "replace") if not name.startswith("data/") else ""
        if name.lower().startswith("code/") and name.lower().endswith(".py"):
            match = FORBIDDEN.search(text)
        else:
            match = re.search(r"torch\.classes\.\w+", text)
        if match:
            sys.exit(f"its code names {match[0]!r}, which a classifier does not need")


if __name__ == "__main__":
    main()
