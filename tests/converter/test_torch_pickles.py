"""Pickles of checkpoints, in both of PyTorch's formats: allowed contents, and contents that are refused unexecuted."""

import datetime as dt
import pickle
import tarfile
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.errors import SourceError
from converter.sources.checkpoint import read_checkpoint
from converter.sources.torch_pickle import MAX_PICKLE_BYTES
from converter.sources.torch_stream import MAGIC, PROTOCOL

DATA = Path(__file__).parents[1] / "data" / "checkpoints"
NUMBERS = np.arange(6, dtype=np.float32)
Writer = Callable[[Path, bytes], None]


def code(value: object) -> bytes:
    """Return the pickle instructions that make a value."""
    return pickle.dumps(value, 2)[2:-1]


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage", *view: object) -> bytes:
    """Return a reference to a storage, with a view of it if one is given."""
    views = b"".join(code(part) for part in view)
    return (
        b"(" + code("storage") + f"ctorch\n{kind}\n".encode() + b"".join(map(code, (key, "cpu", count))) + views + b"tQ"
    )


def tensor(
    of: bytes, offset: object = 0, shape: object = (2, 3), strides: object = (3, 1), rebuild: str = "_rebuild_tensor_v2"
) -> bytes:
    """Return instructions that rebuild a tensor from a storage, or from another object."""
    return f"ctorch._utils\n{rebuild}\n(".encode() + of + b"".join(map(code, (offset, shape, strides))) + b"tR"


def call(name: str, *arguments: object) -> bytes:
    """Return a call of a function by its module and name."""
    return f"c{name.replace(' ', chr(10))}\n(".encode() + b"".join(map(code, arguments)) + b"tR"


def state(**entries: bytes) -> bytes:
    """Return a pickle of a dictionary."""
    return b"\x80\x02}" + b"".join(code(key) + value + b"s" for key, value in entries.items()) + b"."


def write_zip(path: Path, pickled: bytes) -> None:
    """Write a checkpoint with a given pickle and one storage of six floats."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", NUMBERS.tobytes())


def write_stream(path: Path, pickled: bytes) -> None:
    """Write the same in the format before 1.6, with the header of a big-endian machine."""
    head = [MAGIC, PROTOCOL, {"little_endian": False, "type_sizes": {"long": 4}}]
    numbers = len(NUMBERS).to_bytes(8, "little") + NUMBERS.tobytes()
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps(["0"], 2) + numbers)


@pytest.fixture(params=[write_zip, write_stream], ids=["zip", "stream"])
def write(request: pytest.FixtureRequest) -> Writer:
    """Save a state_dict in one of PyTorch's formats."""
    way: Writer = request.param
    return way


def refusal(path: Path) -> str:
    """Return the message, of one line, with which a checkpoint is refused."""
    with pytest.raises(SourceError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (tensor(storage()), NUMBERS.reshape(2, 3)),
        (tensor(storage(), rebuild="_rebuild_tensor"), NUMBERS.reshape(2, 3)),
        (tensor(storage(), 0, (3, 2), (1, 3)), NUMBERS.reshape(2, 3).T),
        (tensor(storage(), 2, (2,), (3,)), NUMBERS[2::3]),
        (tensor(storage(), 5, (), ()), NUMBERS[5]),
        (tensor(storage(), 0, (0, 3), (3, 1)), np.zeros((0, 3), np.float32)),
        (tensor(storage("0", 6, "FloatStorage", ("1", 1, 4)), 1, (3,), (1,)), NUMBERS[2:5]),
        (tensor(storage("0", 12, "HalfStorage"), 0, (12,), (1,)), NUMBERS.view(np.float16).astype(np.float32)),
        (tensor(storage("0", 6, "IntStorage"), 0, (6,), (1,)), NUMBERS.view(np.int32)),
    ],
    ids=["v2", "v1", "strided", "offset", "number", "empty", "view", "half", "integers"],
)
def test_tensors_are_views_of_storages(tmp_path: Path, made: bytes, expected: np.ndarray) -> None:
    """A tensor has its storage's elements by offset, shape and strides, for every function that rebuilds it."""
    write_zip(tmp_path / "net.pth", state(a=tensor(storage("0", 6)) if b"FloatStorage" in made else made, b=made))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "net.pth").tensors["b"], expected)


def test_big_endian_machines_wrote_little_endian_numbers(tmp_path: Path) -> None:
    """The facts about the machine in the stream are ignored, as PyTorch ignores them."""
    write_stream(tmp_path / "net.pth", state(a=tensor(storage())))
    checkpoint = read_checkpoint(tmp_path / "net.pth")
    np.testing.assert_array_equal(checkpoint.tensors["a"], NUMBERS.reshape(2, 3))
    assert checkpoint.source.format == "torch-stream"


@pytest.mark.parametrize(
    "beside",
    [
        Namespace(epochs=3, path=Path("weights")),
        [defaultdict(list, {"a": [1]}), Counter("abc"), deque([1]), {1, 2}, frozenset("a"), bytearray(b"a"), 1j],
        [np.float64(1), np.arange(3), np.dtype("int8"), np.float32],
        {(1, "a"): 2, 3: dt.datetime(2020, 1, 1, tzinfo=dt.UTC), None: slice(3)},
        OrderedDict(a=OrderedDict()),
    ],
    ids=["options", "containers", "numpy", "keys", "ordered"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_of_scripts_beside_tensors_are_ignored(
    tmp_path: Path, write: Writer, beside: object, protocol: int
) -> None:
    """Options, counters, dates and numpy's numbers beside the tensors are ignored, and run no code."""
    pickled = pickle.dumps(beside, protocol)
    frame = 9 if pickled[2:3] == pickle.FRAME else 0
    model = b"U\x05model" + state(a=tensor(storage()))[2:-1] + b"s"
    write(tmp_path / "net.pth", pickled[:2] + b"}U\x04args" + pickled[2 + frame : -1] + b"s" + model + b".")
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "net.pth").tensors["a"], NUMBERS.reshape(2, 3))


def test_objects_of_torch_beside_tensors_are_ignored(tmp_path: Path, write: Writer) -> None:
    """Tensors on other devices, and objects such as types and sizes, are read without harm."""
    beside = b"(" + call("torch device", "cuda", 0) + b"ctorch\nfloat16\n" + call("torch Size", (1, 2)) + b"t"
    write(tmp_path / "net.pth", state(args=beside, model=state(a=tensor(storage()))[2:-1]))
    assert list(read_checkpoint(tmp_path / "net.pth").tensors) == ["a"]


def test_objects_of_any_class_beside_a_state_dict_are_not_made(tmp_path: Path, write: Writer) -> None:
    """What PyTorch Lightning saves beside the state_dict, of whatever class, is ignored, and no code of it runs."""
    touch = call("os system", f"touch {tmp_path / 'touched'}")
    pickled = state(
        callbacks=call("my.package Callback", 1), hyper_parameters=touch, state_dict=state(a=tensor(storage()))[2:-1]
    )
    write(tmp_path / "last.ckpt", pickled)
    assert list(read_checkpoint(tmp_path / "last.ckpt").tensors) == ["a"]
    assert not (tmp_path / "touched").exists()


def test_ordered_dictionaries_of_python_2(tmp_path: Path, write: Writer) -> None:
    """Python 2 pickled an ordered dictionary with its items, its strings without an encoding."""
    items = b"](](U\x01a" + tensor(storage()) + b"ee"
    write(tmp_path / "net.pth", b"\x80\x02ccollections\nOrderedDict\n" + items + b"\x85R}U\x09_metadata}sb.")
    assert list(read_checkpoint(tmp_path / "net.pth").tensors) == ["a"]


@pytest.mark.parametrize(
    ("pickled", "expected_message"),
    [
        (state(a=tensor(tensor(storage()))), "expected a tensor of a storage, got one of Tensor"),
        (state(a=tensor(storage(), 0, (2, 4))), "is outside its storage of 6 elements"),
        (state(a=tensor(storage(), 1, (2, 3))), "is outside its storage of 6 elements"),
        (state(a=tensor(storage(), 0, (2,), (6,))), "is outside its storage of 6 elements"),
        (state(a=tensor(storage(), 0, (7,), (0,))), "is outside its storage of 6 elements"),
        (state(a=tensor(storage(), 0, (5,), (1 << 62,))), "to be counts"),
        (state(a=tensor(storage(), 0, (1,), (1 << 61,))), "to be counts"),
        (state(a=tensor(storage(), 0, (0, 1 << 30, 1 << 30), (1, 1, 1))), "got one that numpy cannot have"),
        (state(a=tensor(storage(), 3, (2,), (-1,))), "to be counts"),
        (state(a=tensor(storage(), -1)), "to be counts"),
        (state(a=tensor(storage(), 0, (-2, -3))), "to be counts"),
        (state(a=tensor(storage(), 0, (2.0, 3))), "to be counts"),
        (state(a=tensor(storage(), 0, [2, 3])), "expected a tensor's shape and strides"),
        (state(a=tensor(storage(), 0, (1,) * 9, (1,) * 9)), "at most 8 numbers"),
        (state(a=tensor(storage("0", 6, "FloatStorage", ("1", 4, 3)))), "a view of a storage is outside it"),
        (state(a=tensor(storage("0", -6))), "expected a reference to a storage"),
        (state(a=code(("module", 1, 2, 3)) + b"Q"), "expected a reference to a storage"),
        (state(a=tensor(storage()), b=tensor(storage("0", 6, "IntStorage"))), "storage '0' has two types or sizes"),
        (state(a=call("os system", "true"), b=tensor(storage())), "got os.system, which requires running code"),
        (state(a=call("builtins eval", "1"), b=tensor(storage())), "got builtins.eval"),
        (state(a=call("torch.nn.modules.linear Linear"), b=tensor(storage())), "got torch.nn.modules.linear.Linear"),
        (b"\x80\x02" + storage() + b"0" + code("a") + b"r\xff\xff\xff\x7f.", "expected a state_dict, got str"),
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".", "truncated checkpoint"),
        (b"\x80\x02i", "an instruction that no checkpoint has"),
        (b"\x80\x02" + code([0] * 17) + b"ccollections\nOrderedDict\nq\x00h\x00R.", "expected a call with at most"),
        (b"\x80\x02" + b"}" * MAX_PICKLE_BYTES, "4 MiB"),
        (state(a=storage()), "expected a state_dict, got the entries a; save the state_dict alone"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_hostile_pickles(tmp_path: Path, write: Writer, pickled: bytes, expected_message: str) -> None:
    """No name outside the allow-list is called, no tensor reads beyond its storage, and claims take no memory."""
    write(tmp_path / "evil.pth", pickled)
    assert expected_message in refusal(tmp_path / "evil.pth")


NUMPY = call("numpy._core.multiarray _reconstruct", 1)
UNTYPED = b"(" + code("storage") + b"ctorch.storage\nUntypedStorage\n" + b"".join(map(code, ("0", "cpu", 6))) + b"tQ"
FLOAT8 = b"ctorch._utils\n_rebuild_tensor_v3\n(" + UNTYPED + code(0) * 5 + b"ctorch\nfloat8_e4m3fn\ntR"
QUANTISED = tensor(storage("0", 6, "QInt8Storage"), rebuild="_rebuild_qtensor")
READ = "expected float64, float32, float16 or bfloat16, got"


@pytest.mark.parametrize(
    ("made", "expected_message"),
    [
        (tensor(storage("0", 6, "ComplexFloatStorage")), f"w: {READ} complex64; convert it with .float() and save"),
        (FLOAT8, f"w: {READ} float8_e4m3fn; convert it with .float() and save again"),
        (QUANTISED, f"w: {READ} qint8; convert it with .dequantize() and save again"),
        (NUMPY, "net.pth: w is a numpy array; save tensors of PyTorch"),
    ],
    ids=["complex", "float8", "quantised", "numpy"],
)
def test_types_that_are_not_read(tmp_path: Path, made: bytes, expected_message: str) -> None:
    """A weight of a type that is not read is refused by its name, with the call that converts it."""
    write_zip(tmp_path / "net.pth", state(w=made))
    assert expected_message in refusal(tmp_path / "net.pth")


def nested(**entries: bytes) -> bytes:
    """Return instructions that make a dictionary inside of another one."""
    return state(**entries)[2:-1]


SAVED = nested(a=tensor(storage()))
EMA = "taken from the entry 'model'; the entry 'model_ema' holds tensors too and was left out"
INNER = "taken from the entry 'run.state_dict'; the entry 'run.optimizer' holds tensors too and was left out"
ENTRIES: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "usual": ({"model": SAVED, "epoch": code(1)}, ()),
    "averaged": ({"model": SAVED, "model_ema": SAVED}, (EMA,)),
    "only": ({"encoder": SAVED, "epoch": code(1)}, ("taken from the entry 'encoder'",)),
    "inner": ({"checkpoint": nested(state_dict=SAVED)}, ("taken from the entry 'checkpoint.state_dict'",)),
    "named": ({"run": nested(optimizer=SAVED, state_dict=SAVED)}, (INNER,)),
}


@pytest.mark.parametrize(("entries", "expected_notes"), ENTRIES.values(), ids=ENTRIES)
def test_the_state_dict_may_be_an_entry(
    tmp_path: Path, write: Writer, entries: dict[str, bytes], expected_notes: tuple[str, ...]
) -> None:
    """The state_dict is found below unusual names and in inner dictionaries; a note names entries left out."""
    write(tmp_path / "net.pth", state(**entries))
    checkpoint = read_checkpoint(tmp_path / "net.pth")
    np.testing.assert_array_equal(checkpoint.tensors["a"], NUMBERS.reshape(2, 3))
    assert checkpoint.notes == expected_notes


@pytest.mark.parametrize(
    ("entries", "expected_message"),
    [
        ({"encoder": SAVED, "decoder": SAVED}, "got several state_dicts, the entries encoder, decoder; save the state"),
        ({"model": call("my.package Net"), "criterion": SAVED}, "got my.package.Net, which requires running code"),
        ({"epoch": code(1), "used": storage()}, "expected a state_dict, got the entries epoch, used; save the state"),
    ],
    ids=["several", "module", "none"],
)
def test_entries_that_are_no_state_dict(
    tmp_path: Path, write: Writer, entries: dict[str, bytes], expected_message: str
) -> None:
    """An object with several state_dicts of unknown names, or with none, is refused by the names of its entries."""
    write(tmp_path / "net.pth", state(**entries))
    assert expected_message in refusal(tmp_path / "net.pth")


def test_states_change_nothing(tmp_path: Path, write: Writer) -> None:
    """The state of an object is dropped, because it could make a tensor larger than was checked."""
    enlarge = code({"count": 1 << 40, "shape": (1 << 40,)}) + b"b"
    write(tmp_path / "net.pth", state(a=tensor(storage() + enlarge) + enlarge))
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "net.pth").tensors["a"], NUMBERS.reshape(2, 3))


def test_keys_are_never_hashed(tmp_path: Path, write: Writer) -> None:
    """A dictionary key that would take for ever to hash is dropped without being hashed."""
    doubled = b")" + b"".join(bytes((ord("q"), n)) + b"0h%ch%c\x86" % (n, n) for n in range(100))
    write(tmp_path / "net.pth", state(a=tensor(storage()), b=b"}" + doubled + b"K\x00s"))
    assert list(read_checkpoint(tmp_path / "net.pth").tensors) == ["a"]


def test_one_list_does_not_fill_many_dictionaries(tmp_path: Path, write: Writer) -> None:
    """A long list of entries that serves a thousand dictionaries is refused."""
    entries = code([("a", 1)] * 100_000) + b"\x85q\x01"
    write(tmp_path / "evil.pth", state(a=entries + b"0ccollections\nOrderedDict\nq\x00" + b"h\x00h\x01R0" * 1000))
    assert "more entries than fit into the file" in refusal(tmp_path / "evil.pth")


def swap(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace bytes that must occur exactly once."""
    assert data.count(old) == 1
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("damage", "expected_message"),
    [
        (lambda data: data[:-1], "damaged or truncated checkpoint: expected 24 bytes of '0'"),
        (lambda data: data[:-30], "damaged or truncated checkpoint: expected 24 bytes of '0'"),
        (lambda data: swap(data, (6).to_bytes(8, "little"), (7).to_bytes(8, "little")), "expected 24 bytes of '0'"),
        (lambda data: swap(data, pickle.dumps(["0"], 2), pickle.dumps(["1"], 2)), "do not match its tensors"),
        (lambda data: swap(data, pickle.dumps(["0"], 2), pickle.dumps(["0", "0"], 2)), "do not match its tensors"),
        (lambda data: swap(data, pickle.dumps(["0"], 2), pickle.dumps([0], 2)), "do not match its tensors"),
        (lambda data: swap(data, pickle.dumps(MAGIC, 2), pickle.dumps(MAGIC + 1, 2)), "got another pickle"),
        (lambda data: swap(data, pickle.dumps(PROTOCOL, 2), pickle.dumps(1002, 2)), "expected protocol 1001"),
    ],
    ids=["short", "no-storage", "count", "other-key", "twice", "no-text", "magic", "protocol"],
)
def test_damaged_streams(tmp_path: Path, damage: Callable[[bytes], bytes], expected_message: str) -> None:
    """Storages that are missing, or of another size than the object states, are refused."""
    path = tmp_path / "net.pth"
    write_stream(path, state(a=tensor(storage())))
    path.write_bytes(damage(path.read_bytes()))
    assert expected_message in refusal(path)


@pytest.mark.parametrize(
    ("name", "content", "method", "expected_message"),
    [
        ("archive/data/0", NUMBERS.tobytes(), zipfile.ZIP_DEFLATED, "'archive/data/0' is compressed or incomplete"),
        ("archive/data/0", bytes(20), zipfile.ZIP_STORED, "storage '0': expected 24 bytes, got 20"),
        ("archive/data/1", bytes(24), zipfile.ZIP_STORED, "no item named 'archive/data/0'"),
        ("archive/data.pkl", b"", zipfile.ZIP_STORED, "expected one data.pkl in the archive, got 2"),
        ("archive/byteorder", b"big", zipfile.ZIP_STORED, "expected little-endian tensors, got b'big'"),
    ],
    ids=["deflated", "size", "missing", "two-pickles", "byte-order"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_archives(tmp_path: Path, name: str, content: bytes, method: int, expected_message: str) -> None:
    """Storages that are compressed or incomplete are refused, because they are used in place."""
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("archive/data.pkl", state(a=tensor(storage())))
        archive.writestr(name, content, method)
    assert expected_message in refusal(tmp_path / "net.pth")


def test_checksums_are_compared(tmp_path: Path) -> None:
    """A storage with a wrong checksum is refused; 0 stands for a checksum that PyTorch did not compute."""
    path = tmp_path / "net.pth"
    write_zip(path, state(a=tensor(storage())))
    whole = path.read_bytes()
    checksum = zipfile.ZipFile(path).getinfo("archive/data/0").CRC.to_bytes(4, "little")
    changed = swap(whole, NUMBERS.tobytes(), NUMBERS[::-1].tobytes())
    path.write_bytes(changed)
    assert "does not match its checksum" in refusal(path)
    path.write_bytes(changed.replace(checksum, bytes(4)))
    np.testing.assert_array_equal(read_checkpoint(path).tensors["a"], NUMBERS[::-1].reshape(2, 3))


def test_storages_of_more_bytes_than_the_file(tmp_path: Path) -> None:
    """Storages that claim more bytes than the file has are refused."""
    write_zip(tmp_path / "evil.pth", state(a=tensor(storage("0", 1 << 40), 0, (6,), (1,))))
    assert "its storages have more bytes than the file" in refusal(tmp_path / "evil.pth")


def test_pickled_modules_are_refused() -> None:
    """A pickled module is refused with the name of its class and a way out."""
    message = refusal(DATA / "module.pth")
    assert "got torch.nn.modules.linear.Linear, which requires running code" in message
    assert "torch.save(model.state_dict()" in message


def test_tar_archives_are_refused(tmp_path: Path) -> None:
    """Checkpoints of PyTorch's first releases are refused as such, with a way out."""
    with tarfile.open(tmp_path / "net.pth", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "of PyTorch's first releases and you trust it, load it with PyTorch" in refusal(tmp_path / "net.pth")


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    """A pickle that torch.save did not write is refused."""
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"a": 1}, 2))
    assert "expected a checkpoint of torch.save, got another pickle" in refusal(tmp_path / "net.pth")
