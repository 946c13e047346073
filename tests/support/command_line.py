"""The command `fullconv-score`, as a process of its own."""

import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

COMMAND = [sys.executable, "-c", "from fullconv.command.cli import main; main()"]
MODELS = ["--models", str(ROOT / "models"), "--model", "digits"]
"""Options for the shipped model."""


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd)


def score(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command with the shipped model."""
    return run(*arguments, *MODELS)
