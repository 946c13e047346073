"""Rewritten layers, as the report lists them."""

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Rewrite:
    """One rewritten layer: node "fc6" was "Gemm 25088→4096" and is now "Conv 7×7, 512→4096"."""

    node: str
    was: str
    now: str


@dataclass
class RewriteResult(ir.passes.PassResult):
    """The result of a pass that reports the layers it has rewritten."""

    rewrites: Sequence[Rewrite]
