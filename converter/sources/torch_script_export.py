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
MOST_CHANNELS, COLOUR = 16, 3
"""Largest number of channels of an image that is taken from the first weights of rank 4, and the usual number."""
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
    likely = [count for count in kernels[:1] if count <= MOST_CHANNELS]
    images = [torch.zeros(1, count, *map(int, size)) for count in dict.fromkeys([*likely, COLOUR])]
    with torch.no_grad():
        image = next((image for image in images if runs(network, image)), images[0])
    torch.onnx.export(network, (image,), target, dynamo=False, verbose=False)


def runs(network: Any, image: Any) -> bool:  # noqa: ANN401 (of PyTorch)
    """Return whether a network takes an image; its first weights may be those of another layer."""
    try:
        network(image)
    except Exception:  # the code of a file may raise any error
        return False
    return True


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
