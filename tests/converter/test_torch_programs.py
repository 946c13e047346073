"""PyTorch's exported programs have PyTorch's scores, and code inside them is never run."""

import contextlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose
from support.archives import edit, rewrite
from support.conversion import SILENT

from converter import convert as conversion
from converter.errors import ConversionError
from converter.sources.checkpoint import sha256
from converter.sources.classifier import Classifier
from converter.sources.read import read_source

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
Entries = dict[str, bytes]
Document = dict[str, Any]


def network() -> "nn.Module":
    """Return a classifier of 22×26 pixels with a constant that is not a parameter."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
            self.head, self.scale = nn.Linear(8, 5), torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5])

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            value = nn.functional.max_pool2d(self.norm(self.first(image)).relu(), 2)
            value = nn.functional.gelu(self.second(value), approximate="tanh").mean([2, 3])
            return self.head(nn.functional.dropout(value, training=self.training)) * self.scale

    torch.manual_seed(0)
    net: nn.Module = Net().eval()
    net.norm.running_mean.normal_(0, 0.1)
    return net


SIZES = {"fixed": {}, "batch": {0: "batch"}, "open": {0: "batch", 2: "height", 3: "width"}}


@pytest.fixture(scope="module", params=SIZES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program, with the sizes of its input fixed or left open."""
    return export(tmp_path_factory.mktemp("program"), request.param)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program of a fixed size."""
    return export(tmp_path_factory.mktemp("fixed"), "fixed")


def export(folder: Path, sizes: str) -> Path:
    """Save the network as a program."""
    import torch

    open_sizes = {
        axis: torch.export.Dim(name, min=1 if axis == 0 else 12, max=999) for axis, name in SIZES[sizes].items()
    }
    image = torch.rand(2 if open_sizes else 1, 3, 22, 26)
    path = folder / f"{sizes}.pt2"
    torch.export.save(torch.export.export(network(), (image,), dynamic_shapes=(open_sizes or None,)), path)
    return path


def answer(classifier: Classifier, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the network as it was read, and of the module."""
    import torch

    ir.save(classifier.original, folder / "read.onnx")
    session = ort.InferenceSession(folder / "read.onnx")
    image = np.random.default_rng(0).random((1, 3, 22, 26), np.float32)
    with torch.no_grad():
        expected = network()(torch.from_numpy(image)).numpy()
    return session.run(None, {session.get_inputs()[0].name: image})[0], expected


def test_programs_convert(program: Path, tmp_path: Path) -> None:
    """With fixed or open sizes the scores equal the module's, and every window of a larger image is scored."""
    window = (22, 26) if program.stem == "open" else None
    classifier = read_source(program, arch=None, window=window)
    got, expected = answer(classifier, tmp_path)
    assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    report = conversion.convert(classifier, conversion.Request(tmp_path / "models" / "net" / "1", windows=4), SILENT)
    assert report.spec.parity[0].exact
    assert report.spec.source.format == "pt2"
    assert report.spec.source.sha256 == sha256(program)
    assert report.spec.source.producer.startswith("pytorch 2.")


def test_programs_of_other_devices_are_read(fixed: Path, tmp_path: Path) -> None:
    """A program that was saved on a GPU is read without one."""

    def move(document: Document) -> None:
        text = json.dumps(document).replace('{"type": "cpu", "index": null}', '{"type": "cuda", "index": 0}')
        document.clear()
        document.update(json.loads(text))

    def move_all(entries: Entries) -> None:
        for name in (GRAPH, WEIGHTS, CONSTANTS):
            edit(entries, name, move)

    moved = rewrite(fixed, tmp_path / "net.pt2", move_all)
    assert b'"cuda"' in moved.read_bytes()
    assert_allclose(*answer(read_source(moved, arch=None, window=None), tmp_path), rtol=1e-5, atol=1e-6)


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def saved(bomb: Bomb) -> bytes:
    """Return an object that runs code when it is unpickled, as torch.save writes it."""
    import torch

    buffer = io.BytesIO()
    torch.save(bomb, buffer)
    return buffer.getvalue()


def entry(entries: Entries, ending: str) -> str:
    """Return the name of the only entry with this ending."""
    (name,) = [name for name in entries if name.endswith(ending)]
    return name


def code(marker: Path) -> str:
    """Return Python code that makes a file."""
    return f"__import__('os').mkdir('{marker}')"


def nodes(document: Document) -> list[Any]:
    found: list[Any] = document["graph_module"]["graph"]["nodes"]
    return found


def pickled_weight(entries: Entries, marker: Path) -> None:
    entries[entry(entries, "data/weights/weight_0")] = saved(Bomb(marker))
    edit(entries, WEIGHTS, lambda document: next(iter(document["config"].values())).update(use_pickle=True))


def pickled_constant(entries: Entries, marker: Path) -> None:
    entries[entry(entries, "archive_format").replace("archive_format", "data/constants/opaque_obj_0")] = pickle.dumps(
        Bomb(marker)
    )
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    edit(entries, CONSTANTS, lambda document: document["config"].update(added=payload))


def pickled_samples(entries: Entries, marker: Path) -> None:
    entries[entry(entries, "sample_inputs/model.pt")] = saved(Bomb(marker))


def guard(entries: Entries, marker: Path) -> None:
    edit(entries, GRAPH, lambda document: document.update(guards_code=[f"{code(marker)} is None"]))


def size(entries: Entries, marker: Path) -> None:
    expression = {"as_expr": {"expr_str": code(marker), "hint": None}}
    edit(
        entries,
        GRAPH,
        lambda document: document["graph_module"]["graph"]["tensor_values"]["image"]["sizes"].append(expression),
    )


def name(entries: Entries, marker: Path) -> None:
    def rename(document: Document) -> None:
        text = json.dumps(document).replace('"image"', json.dumps(f"image={code(marker)}"))
        document.clear()
        document.update(json.loads(text))

    edit(entries, GRAPH, rename)


def operator(target: str, *arguments: object) -> Callable[[Entries, Path], None]:
    """Return a function that replaces the third node by a node of this operator with these arguments."""

    def change(entries: Entries, marker: Path) -> None:
        filled = [{"as_string": str(marker)} if argument is Path else argument for argument in arguments]
        inputs = [{"name": "", "arg": argument, "kind": 1} for argument in filled]
        edit(entries, GRAPH, lambda document: nodes(document)[2].update(target=target, inputs=inputs))

    return change


def argument(kind: str, value: Document) -> Callable[[Entries, Path], None]:
    """Return a function that gives the first node an argument of this kind."""
    return lambda entries, _: edit(
        entries, GRAPH, lambda document: nodes(document)[0]["inputs"][0].update(arg={kind: value})
    )


def tree(entries: Entries, _: Path) -> None:
    context = json.dumps({"default_factory_module": "os", "default_factory_name": "mkdir", "dict_context": ["a"]})
    leaf: Document = {"type": None, "context": None, "children_spec": []}
    spec = [1, {"type": "collections.defaultdict", "context": context, "children_spec": [leaf]}]
    edit(
        entries,
        GRAPH,
        lambda document: document["graph_module"]["module_call_graph"][0]["signature"].update(
            out_spec=json.dumps(spec)
        ),
    )


def compiled(entries: Entries, _: Path) -> None:
    root = entry(entries, "archive_format").removesuffix("archive_format")
    entries[f"{root}data/aotinductor/model/model.so"] = b"\x7fELF"


REFUSED = {
    "pickled-weight": (pickled_weight, "expected tensors as plain bytes, got 'weight_0', which is pickled"),
    "pickled-constant": (pickled_constant, "expected tensors as plain bytes, got 'opaque_obj_0', which is pickled"),
    "size": (size, "expected a size computed from symbols by sums and products, got \"__import__('os')"),
    "name": (name, 'expected names of letters, digits, dots and underscores, got "image=__import__'),
    "function": (
        operator("torch.os.mkdir", Path),
        "expected an operator of aten that opens no file, got 'torch.os.mkdir'",
    ),
    "file": (
        operator("torch.ops.aten.from_file.default", Path, {"as_bool": True}, {"as_int": 9}),
        "aten.from_file.default'",
    ),
    "save": (operator("torch.ops.aten.save.default", {"as_int": 1}, Path), "got 'torch.ops.aten.save.default'"),
    "library": (operator("torch.ops.torchvision.nms.default"), "got 'torch.ops.torchvision.nms.default'"),
    "attribute": (operator("torch.ops.aten.relu.__class__"), "got 'torch.ops.aten.relu.__class__'"),
    "inner-graph": (
        argument("as_graph", {"name": "g", "graph": {}}),
        "expected operators on tensors and numbers, got as_graph",
    ),
    "object": (argument("as_custom_obj", {"name": "g", "class_fqn": "f"}), "got as_custom_obj"),
    "tree": (tree, "expected results in tuples, lists and dictionaries, got"),
}


@pytest.mark.parametrize(("change", "expected_message"), REFUSED.values(), ids=REFUSED)
def test_possible_code_is_refused(
    fixed: Path, change: Callable[..., None], expected_message: str, tmp_path: Path
) -> None:
    """Pickles, Python in sizes, names that would become code, functions and files are refused, and never run."""
    marker = tmp_path / "marker"
    malicious = rewrite(fixed, tmp_path / "net.pt2", lambda entries: change(entries, marker))
    message = refused(malicious)
    assert "not a program that can be trusted: " in message
    assert expected_message in message
    assert not marker.exists()


@pytest.mark.parametrize("change", [pickled_samples, guard, compiled], ids=["samples", "guard", "compiled"])
def test_unneeded_parts_are_left_out(fixed: Path, change: Callable[..., None], tmp_path: Path) -> None:
    """Sample inputs, guards and compiled code in the archive are not read."""
    marker = tmp_path / "marker"
    malicious = rewrite(fixed, tmp_path / "net.pt2", lambda entries: change(entries, marker))
    assert_allclose(*answer(read_source(malicious, arch=None, window=None), tmp_path), rtol=1e-5, atol=1e-6)
    assert not marker.exists()


@pytest.mark.parametrize("change", [pickled_samples, guard, size], ids=["samples", "guard", "size"])
def test_the_bombs_are_live(fixed: Path, change: Callable[..., None], tmp_path: Path) -> None:
    """PyTorch itself runs the code of the previous tests."""
    import torch

    marker = tmp_path / "marker"
    malicious = rewrite(fixed, tmp_path / "net.pt2", lambda entries: change(entries, marker))
    with contextlib.suppress(Exception):
        torch.export.load(malicious).module()(torch.zeros(1, 3, 22, 26))
    assert marker.exists()


def refused(path: Path, window: tuple[int, int] | None = None) -> str:
    """Return the message of a refusal, which is one line and names the file."""
    with pytest.raises(ConversionError) as caught:
        read_source(path, arch=None, window=window)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def first_weight(document: Document) -> Document:
    described: Document = next(iter(document["config"].values()))["tensor_meta"]
    return described


def weight(**changes: object) -> Callable[[Entries], None]:
    """Return a function that changes claims about the first weight."""
    return lambda entries: edit(entries, WEIGHTS, lambda document: first_weight(document).update(changes))


def graph(**changes: object) -> Callable[[Entries], None]:
    """Return a function that changes claims about the program."""
    return lambda entries: edit(entries, GRAPH, lambda document: document.update(changes))


def content(text: bytes) -> Callable[[Entries], None]:
    """Return a function that replaces the graph by another text."""
    return lambda entries: entries.update({entry(entries, GRAPH): text})


def state_dict(entries: Entries) -> None:
    """Make it an archive of a state_dict."""
    entries.clear()
    entries.update({"a/data.pkl": b""})


DAMAGES: dict[str, tuple[Callable[[Entries], object], str]] = {
    "huge": (weight(sizes=[{"as_int": 1 << 50}], strides=[{"as_int": 0}]), "more than fit into the file"),
    "beyond": (weight(storage_offset={"as_int": 99}), "cannot load it"),
    "version": (
        graph(schema_version={"major": 99, "minor": 0}, torch_version="9.9"),
        "saved by PyTorch 9.9, and PyTorch",
    ),
    "older": (
        lambda entries: entries.pop(entry(entries, WEIGHTS)),
        "expected model_weights_config.json in the archive",
    ),
    "two": (lambda entries: entries.update({f"other/{GRAPH}": b"{}"}), "expected one models/model.json in the archive"),
    "form": (content(b"[1, 2]"), "not a program that can be trusted"),
    "deep": (content(b"[" * 100_000), "not a program that can be trusted"),
    "state-dict": (state_dict, "expected one models/model"),
}


@pytest.mark.parametrize(("damage", "expected_message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_programs_are_refused(
    fixed: Path, damage: Callable[[Entries], object], expected_message: str, tmp_path: Path
) -> None:
    """Inconsistent sizes are refused before memory is allocated for them."""
    damaged = rewrite(fixed, tmp_path / "net.pt2", damage)
    message = refused(damaged)
    assert expected_message in message
    assert message.startswith(str(damaged))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_programs_are_refused(fixed: Path, share: float, tmp_path: Path) -> None:
    """A truncated program is refused."""
    content = fixed.read_bytes()
    (tmp_path / "net.pt2").write_bytes(content[: int(share * len(content))])
    assert "damaged, or not a program" in refused(tmp_path / "net.pt2")


def test_wrong_windows_are_refused(fixed: Path) -> None:
    """--window that contradicts a program of fixed size is refused, and the fixed size is named."""
    assert "the file's height is 22, got 30" in refused(fixed, (30, 30))


def test_open_windows_must_be_given(tmp_path: Path) -> None:
    """A program of open size is refused without --window."""
    assert "give --window HEIGHTxWIDTH" in refused(export(tmp_path, "open"))
