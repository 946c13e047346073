"""The machine and the versions of a measurement."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from service.machine import cpus, memory_bytes

FLAGS = (
    "avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
"""Instructions that matter for networks, by the names of Linux."""
PACKAGES = (
    "fullconv", "onnxruntime", "openvino", "numpy", "torch", "torchvision", "monai", "litserve",
)  # fmt: skip


def machine() -> dict[str, str | int | float | list[str]]:
    """Return what is known about the machine: CPU, its instructions, cores, memory, GPU and system."""
    known = _cpuinfo()
    model = known.get("model name") or platform.processor() or platform.machine()
    family = [known[name] for name in ("cpu family", "model") if name in known]
    flags = (known.get("flags") or known.get("Features") or "").split()
    return {
        "cpu": f"{model} (family {family[0]}, model {family[1]})" if len(family) == 2 else model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cpus": cpus(),
        "memory_gib": round(memory_bytes() / (1 << 30), 1),
        "gpu": _gpu(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Return the version of Python and of each package that matters; "not installed" for those that are missing."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpuinfo() -> dict[str, str]:
    """Return what Linux says about the first CPU; empty on other systems."""
    if sys.platform != "linux":
        return {}
    first, _, _ = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpu() -> str:
    """Return the names of NVIDIA's GPUs; "none" on a machine without them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "none"
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (NVIDIA's program)
    names = done.stdout.split("\n") if done.returncode == 0 else []
    return ", ".join(filter(None, map(str.strip, names))) or "none"
