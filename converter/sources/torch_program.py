"""Reads PyTorch's exported programs: `.pt2`, as torch.export.save writes them.

torch.export.load is not safe for untrusted files: it unpickles objects, evaluates sizes and guards as Python, accepts
any name within torch as an operator, and compiles code that contains the graph's names. Therefore it loads a sanitized
copy, which holds only parts that were checked: calls of aten's operators with tensors and numbers, names of letters,
digits, dots and underscores, sums and products of sizes, and the tensors' bytes. Sample inputs, guards, metadata and
devices are left out. Refused: pickled tensors, custom objects, inner graphs, operators of other libraries, operators
that take file names, and compiled code. PyTorch's own handling of tensors and numbers of any size is trusted.
"""

import ast
import json
import math
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import first_cause, one_line, quiet
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.frameworks import PYTORCH, framework
from converter.sources.json_part import parse_json
from converter.sources.mmap_file import MAX_EXPANSION, mmap_file
from converter.sources.torch_export import export
from converter.sources.torch_zip import stored_bytes
from fullconv.protos import model_pb2

GRAPH = "models/model.json"
TENSORS = {"data/weights/": "model_weights_config.json", "data/constants/": "model_constants_config.json"}
SAMPLES = "data/sample_inputs/model.pt"
MAX_JSON_BYTES = 1 << 26

NAME = re.compile(r"[\w.]*", re.ASCII)
PAYLOAD = re.compile(r"(weight|tensor)_\d+", re.ASCII)
ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
ARITHMETIC = {
    f"_operator.{name}" for name in ("add", "eq", "floordiv", "ge", "gt", "le", "lt", "mod", "mul", "ne", "sub")
}
SIZE_FUNCTIONS = {"Add", "FloorDiv", "Integer", "Max", "Min", "Mod", "Mul", "Symbol"}
SIZE_NODES = (ast.Expression, ast.Call, ast.keyword, ast.Load, ast.UnaryOp, ast.USub)
SYMBOL = re.compile(r"[su]\d{1,9}", re.ASCII)
MAX_SIZE_LENGTH = 1000
TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
TREE_CONTEXT = re.compile(r'null|\[\]|\["[\w.]+"(, "[\w.]+")*\]', re.ASCII)

CPU = {"type": "cpu", "index": None}
REPLACED = {
    "as_device": CPU,
    "device": CPU,
    "guards_code": [],
    "metadata": {},
    "torch_version": "",
    "treespec_namedtuple_fields": {},
}
"""Fields of the graph, and the contents by which the copy replaces their own."""
REFUSED = {"as_custom_obj", "as_graph", "as_operator", "class_fqn", "custom_obj"}

DAMAGE = (
    zipfile.BadZipFile, struct.error, EOFError, RuntimeError, SyntaxError, ValueError,
    AttributeError, LookupError, TypeError,
)  # fmt: skip
"""The classes of errors for a damaged archive, and for JSON that does not have the form of a graph."""

Parts = dict[str, bytes | NDArray[np.uint8]]
"""The entries of an archive, by name."""


def read_program(path: Path, window: tuple[int, int] | None) -> Classifier:
    """Read an exported program; `window` (height, width) in pixels is needed if the program leaves the size open.

    Raises ConversionError and OSError.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        torch = framework("torch", PYTORCH, f"{path}")
        archives = framework("torch.export.pt2_archive", PYTORCH, f"{path}")
        saved, parts = _read_archive(path)
        copy = Path(folder) / "network.pt2"
        try:
            _write_archive(archives, copy, parts)
            program = torch.export.load(copy)
        except Exception as error:  # PyTorch may raise any error
            raise SourceError(
                f"{path}: saved by PyTorch {saved}, and PyTorch {torch.__version__} cannot load it: "
                f"{first_cause(error)}; export it again"
            ) from None
        classifier = export(program, (), f"{path}", window)
    source = model_pb2.Source(format="pt2", sha256=sha256(path), producer=f"pytorch {saved}")
    return replace(classifier, source=source)


def _write_archive(archives: ModuleType, copy: Path, parts: Parts) -> None:
    """Write the entries of a sanitized copy."""
    with archives.PT2ArchiveWriter(str(copy)) as writer:
        for name, part in parts.items():
            writer.write_bytes(name, bytes(part))


def _read_archive(path: Path) -> tuple[str, Parts]:
    """Return the PyTorch version that saved a program, and the entries of its sanitized copy; raises SourceError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _parts(archive, mmap_file(path))
    except DAMAGE as error:
        raise SourceError(f"{path}: damaged, or not a program that can be trusted: {one_line(error)}") from None


def _parts(archive: zipfile.ZipFile, data: NDArray[np.uint8]) -> tuple[str, Parts]:
    roots = [name.removesuffix(GRAPH) for name in archive.namelist() if name.endswith(f"/{GRAPH}")]
    if len(roots) != 1:
        raise ValueError(f"expected one {GRAPH} in the archive, as torch.export.save writes it, got {len(roots)}")
    (root,) = roots
    graph = parse_json(stored_bytes(archive, data, root + GRAPH), MAX_JSON_BYTES, "a graph")
    saved = str(graph["torch_version"])[:30]
    parts: Parts = {GRAPH: _sanitized(graph), SAMPLES: b""}
    claimed = 0
    for folder, name in TENSORS.items():
        if f"{root}{folder}{name}" not in archive.namelist():
            raise ValueError(f"expected {name} in the archive; save it with a newer PyTorch than {saved}")
        tensors = parse_json(stored_bytes(archive, data, f"{root}{folder}{name}"), MAX_JSON_BYTES, "a graph")
        for entry in tensors["config"].values():
            if entry["use_pickle"] is not False or not PAYLOAD.fullmatch(entry["path_name"]):
                raise ValueError(f"expected tensors as plain bytes, got {entry['path_name'][:80]!r}, which is pickled")
            parts[folder + entry["path_name"]] = stored_bytes(archive, data, f"{root}{folder}{entry['path_name']}")
            claimed += math.prod(max(0, size["as_int"]) for size in entry["tensor_meta"]["sizes"])
        parts[folder + name] = _sanitized(tensors)
    if claimed > MAX_EXPANSION * len(data):
        raise ValueError(f"its tensors have {claimed} numbers, more than fit into the file")
    return saved, parts


def _sanitized(document: object) -> bytes:
    """Return a JSON document whose fields in REPLACED are replaced; raises ValueError for text that may be code."""
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += _sanitize_fields(value)
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str) and not NAME.fullmatch(value):
            raise ValueError(f"expected names of letters, digits, dots and underscores, got {value[:80]!r}")
    return json.dumps(document).encode()


def _sanitize_fields(fields: dict[str, Any]) -> list[object]:
    """Replace and check the fields of an object, in place; returns the keys and values that remain to be checked."""
    if refused := REFUSED & fields.keys():
        raise ValueError(f"expected operators on tensors and numbers, got {min(refused)}")
    fields.update({key: REPLACED[key] for key in REPLACED.keys() & fields.keys()})
    pending = list[object]()
    for key, item in fields.items():
        if key not in CHECKS:
            pending += [key, item]
        elif not CHECKS[key](item):
            raise ValueError(f"expected {EXPECTED[key]}, got {str(item)[:80]!r}")
    return pending


def _is_operator(target: object) -> bool:
    """Return whether a target is arithmetic on sizes, or an operator of aten that takes no file name."""
    import torch  # noqa: PLC0415 (optional)

    if target in ARITHMETIC:
        return True
    match = ATEN.fullmatch(str(target))
    operator = match and getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(operator, torch._ops.OpOverload):  # noqa: SLF001 (the class has no public name)
        return False
    return all(argument.name != "filename" for argument in operator._schema.arguments)  # noqa: SLF001


def _is_size(text: object) -> bool:
    """Return whether a text combines only symbols and integers: "Mul(Integer(2), Symbol('s0', integer=True))"."""
    if not isinstance(text, str) or len(text) > MAX_SIZE_LENGTH:
        return False
    for node in ast.walk(ast.parse(text, mode="eval")):
        match node:
            case ast.Name():
                known = node.id in SIZE_FUNCTIONS
            case ast.Constant():
                known = isinstance(node.value, int) or SYMBOL.fullmatch(str(node.value)) is not None
            case _:
                known = isinstance(node, SIZE_NODES)
        if not known:
            return False
    return True


def _is_tree(text: object) -> bool:
    """Return whether a text describes arguments or results nested in tuples, lists and dictionaries."""
    _, *pending = json.loads(str(text))
    while pending:
        node = pending.pop()
        if node["type"] not in TREE_TYPES or not TREE_CONTEXT.fullmatch(str(node["context"] or "null")):
            return False
        pending += node["children_spec"]
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) or value in ("Infinity", "-Infinity")


CHECKS: Mapping[str, Callable[[object], bool]] = {
    "as_float": _is_number,
    "expr_str": _is_size,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
    "target": _is_operator,
}
EXPECTED = {
    "as_float": "a number",
    "expr_str": "a size computed from symbols by sums and products",
    "in_spec": "arguments in tuples, lists and dictionaries",
    "out_spec": "results in tuples, lists and dictionaries",
    "target": "an operator of aten that opens no file",
}
