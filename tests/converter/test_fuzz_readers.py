"""The fuzzing program for the readers: it detects every kind of failure, and a short run finds none."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

PROGRAM = ROOT / "benchmarks" / "fuzz_readers.py"
MISBEHAVING = """
import json, os, sys, time
from pathlib import Path
from fuzz_readers import Format, Inputs, Run
from converter.errors import SourceError

def refuse(): raise SourceError("damaged")
def fail(): raise ValueError("unforeseen")
DEEDS = [lambda: None, refuse, os.abort, lambda: time.sleep(60), lambda: bytearray(3 << 30), fail,
         lambda: print("noise", file=sys.stderr)]

def reader(path): DEEDS[path.read_bytes()[0]]()

mutation = lambda data, other, chance: bytes([chance.randrange(len(DEEDS))])
inputs = Inputs({"deed": Format(".bin", [b"\\0"], [mutation])}, seed=0)
run = Run(reader, inputs, Path(sys.argv[1]), limit=0.5)
run(40, 2, 60)
print(json.dumps([run.tallies["deed"].outcomes, [inputs[number][0] for number in range(40)]]))
"""


def run(*arguments: str) -> str:
    """Run a program in a new process, and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_failures_are_counted_and_kept(tmp_path: Path) -> None:
    """A crash, a hang, too much memory, an unexpected exception and output on standard error are counted and kept."""
    counted, deeds = json.loads(run("-c", MISBEHAVING, str(tmp_path)))
    outcomes = ["read", "refused", "crash", "hang", "memory", "other", "other"]
    expected = [outcomes[deed] for deed in deeds]
    assert set(deeds) == set(range(7))
    assert counted == {outcome: expected.count(outcome) for outcome in set(expected)}
    kept = {path.name: path.read_bytes()[0] for path in tmp_path.glob("*.bin")}
    assert kept == {f"deed-{n}-{expected[n]}.bin": deed for n, deed in enumerate(deeds) if deed > 1}


def test_readers_withstand_damaged_files(tmp_path: Path) -> None:
    """Five hundred damaged checkpoints and networks: each is read or refused in one clear line."""
    printed = run(str(PROGRAM), "--inputs", "500", "--seed", "7", "--keep", str(tmp_path / "kept"))
    assert "500 inputs in" in printed
    assert not (tmp_path / "kept").exists()
