"""Mutations of files and messages for fuzz_readers and fuzz_requests.

Some mutations change arbitrary bytes. Others know the format, so that the result can be parsed further before it turns
out to be damaged. A mutation takes the bytes of a file, the bytes of another file of the same format from which it may
take parts, and a random generator; it returns the damaged bytes.
"""

import io
import json
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Mutation = Callable[[bytes, bytes, Random], bytes]

EXTREMES = [
    0, 1, 2, -1, 4, 64, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31),
    (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 60, 1 << 62, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1,
]  # fmt: skip
TEXTS = [
    "", ".", "..", "/", "/etc/passwd", "/dev/zero", "../net.onnx", "net.onnx", "a\nb", "\0", "\udc80", "x" * 5000, "-1",
    "99999999999999999999", "a.weight", "d.bias", "FLOAT", "BF16", "F8_E4M3", "ai.onnx", "Conv", "Reshape", "Gemm",
    "If", "Loop", "Constant", "Cast", "output", "image", "input",
]  # fmt: skip
SNIPPETS = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", b"cargparse\nNamespace\n", b"cnumpy\ndtype\n",
    b"\x81", b"\x82\x01", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94",
    b"\x97", b"\x98", b"h\x00", b"h\x07", b"j\x00\x00\x00\x80", b"r\xff\xff\xff\xff", b"\x95" + b"\xff" * 8,
    b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x96\0\0\0\0\0\x01\0\0", b"\x8b\xff\xff\xff\x7f", b"K\x00",
    b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8a\xff\x8a\xff",
    *(bytes([code]) for code in b")}](RbQ0 2 1 s u e a t N i o . d l"),
]  # fmt: skip
DTYPES = ["F32", "F64", "F16", "BF16", "I64", "U64", "BOOL", "F8_E4M3", "F4", "C64", "X"]


def place(data: bytes, chance: Random) -> int:
    """Return a random position, more often near the beginning, where files describe their structure."""
    reach = chance.choice([64, 1024, len(data), len(data)])
    return chance.randrange(max(1, min(reach, len(data))))


def flip_bits(data: bytes, _other: bytes, chance: Random) -> bytes:
    """Flip up to sixteen bits."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 16)):
        changed[place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def set_bytes(data: bytes, _: bytes, chance: Random) -> bytes:
    """Overwrite a few bytes in a row."""
    at, size = place(data, chance), chance.randint(1, 8)
    return data[:at] + chance.choice([bytes(size), b"\xff" * size, chance.randbytes(size)]) + data[at + size :]


def set_number(data: bytes, _: bytes, chance: Random) -> bytes:
    """Overwrite an integer with an extreme value."""
    at, size = place(data, chance), chance.choice([1, 2, 4, 8])
    number = chance.choice(EXTREMES) % (1 << 8 * size)
    return data[:at] + number.to_bytes(size, chance.choice(["little", "little", "big"])) + data[at + size :]


def truncate(data: bytes, _: bytes, chance: Random) -> bytes:
    """Cut the file off."""
    return data[: place(data, chance)]


def splice(data: bytes, other: bytes, chance: Random) -> bytes:
    """Append the end of another file to the beginning of this one."""
    return data[: place(data, chance)] + other[place(other, chance) :]


def move(data: bytes, other: bytes, chance: Random) -> bytes:
    """Delete or repeat a piece, or replace it by a piece of another file."""
    start, size = place(data, chance), chance.choice([1, 4, 30, 300])
    piece = chance.choice(
        [b"", data[start : start + size] * chance.randint(2, 5), other[place(other, chance) :][:size]]
    )
    return data[:start] + piece + data[start + size :]


def set_varint(data: bytes, _: bytes, chance: Random) -> bytes:
    """Insert a varint, or overwrite bytes with it: a huge length, a huge number, or a varint without an end."""
    at = place(data, chance)
    varint = chance.choice(
        [b"\xff" * 9 + b"\x01", b"\xff\xff\xff\xff\x07", b"\x80" * 11, b"\x80\x80\x01", b"\x00", b"\x7f"]
    )
    return data[:at] + varint + data[at + chance.randint(0, 3) :]


def safetensors_header(data: bytes, _: bytes, chance: Random) -> bytes:
    """Change the description of one tensor; the stated length of the header remains correct."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    key = chance.choice(list(header))
    entry: dict[str, Any] = header[key]
    field = chance.choice([*entry, "extra"])
    value = entry.get(field)
    if isinstance(value, list) and value and chance.random() < 0.8:
        value[chance.randrange(len(value))] = chance.choice([*EXTREMES, chance.randint(0, 5000), 1.5, None])
    else:
        entry[field] = chance.choice([*DTYPES, *EXTREMES, [], [1] * 100, None, {}, chance.choice(TEXTS)])
    if chance.random() < 0.3:
        header[chance.choice(["__metadata__", "copy", key + "x"])] = chance.choice([entry, {}, {"a": 1}, {"a": "b"}, 3])
    if chance.random() < 0.2:
        header.pop(chance.choice(list(header)))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def json_document(data: bytes, _: bytes, chance: Random) -> bytes:
    """Set, delete or rename one to three values anywhere in a JSON document."""
    document = json.loads(data)
    for _time in range(chance.randint(1, 3)):
        inner = chance.choice(_containers(document))
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not places:
            continue
        at = chance.choice(places)
        match chance.randrange(4):
            case 0:
                del inner[at]
            case 1 if isinstance(inner, dict):
                inner[chance.choice([*TEXTS, *places])] = inner.pop(at)
            case _:
                inner[at] = chance.choice([*EXTREMES, *TEXTS, None, True, 1e308, float("nan"), [], {}, [[1] * 9] * 9])
    return json.dumps(document).encode()


def _containers(document: Any) -> list[Any]:  # noqa: ANN401 (what JSON may hold)
    """Return all lists and objects of a JSON document, the document first."""
    inner = document.values() if isinstance(document, dict) else document
    return [document, *(deeper for each in inner if isinstance(each, dict | list) for deeper in _containers(each))]


def instructions(pickled: bytes) -> list[bytes]:
    """Return the instructions of a pickle."""
    starts = [position for _, _, position in pickletools.genops(pickled) if position is not None]
    return [pickled[start:stop] for start, stop in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]


def change_pickle(pickled: bytes, chance: Random) -> bytes:
    """Change one to four instructions of a pickle: replace, insert, delete, repeat or exchange them."""
    codes = instructions(pickled)
    for _ in range(chance.randint(1, 4)):
        at, other = chance.randrange(1, len(codes)), chance.randrange(1, len(codes))
        match chance.randrange(6):
            case 0:
                codes[at] = chance.choice(SNIPPETS)
            case 1:
                codes.insert(at, b"".join(chance.choices(SNIPPETS, k=chance.randint(1, 5))))
            case 2:
                codes[at], codes[other] = codes[other], codes[at]
            case 3:
                codes[at:other] = codes[at:other] * chance.randint(0, 3)
            case 4:
                numbers = [place for place, code in enumerate(codes) if code[:1] in (b"K", b"M", b"J")] or [at]
                value = chance.choice([*EXTREMES, chance.randint(0, 5000)])
                codes[chance.choice(numbers)] = b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
            case 5:
                codes[at] = pickle.dumps(chance.choice([*TEXTS[:20], (), [], {}, None, 0.5, True]), 2)[2:-1]
    return b"".join(codes)


def torch_stream(data: bytes, _other: bytes, chance: Random) -> bytes:
    """Change one of the pickles in a file of PyTorch's format before 1.6."""
    file, ends = io.BytesIO(data), [0]
    for _ in range(5):
        list(pickletools.genops(file))
        ends.append(file.tell())
    which = chance.choice([0, 1, 2, 3, 3, 3, 3, 4])
    start, end = ends[which], ends[which + 1]
    return data[:start] + change_pickle(data[start:end], chance) + data[end:]


def torch_zip(data: bytes, other: bytes, chance: Random) -> bytes:
    """Change the pickle or the entries of the archive, and write it again with correct checksums."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice([name for name, content in entries.items() if content])
    if chance.random() < 0.7:
        (name,) = (name for name in entries if name.endswith("data.pkl"))
        entries[name] = change_pickle(entries[name], chance)
    elif chance.random() < 0.5:
        entries[name] = chance.choice(BLIND)(entries[name], other, chance)
    else:
        entries[chance.choice([name + "x", "data.pkl", "other/data.pkl", "../x"])] = entries.pop(name)
    packed = io.BytesIO()
    method = chance.choice([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return packed.getvalue()


def is_map(field: FieldDescriptor) -> bool:
    """Return whether a field is a map. A message may also have a field named `values`, as SparseTensorProto has."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def messages(message: Message) -> list[Message]:
    """Return a message and all messages inside it."""
    found = [message]
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = value.values() if is_map(field) else value if field.is_repeated else [value]
            found += [deeper for part in inner for deeper in messages(part)]
    return found


def scalar(field: FieldDescriptor, old: object, chance: Random) -> object:
    """Return another value for a field that is not a message."""
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return chance.choice([text for text in TEXTS if text.isprintable()])
        case FieldDescriptor.TYPE_BYTES:
            return chance.choice(BLIND)(old if isinstance(old, bytes) and old else bytes(8), bytes(8), chance)
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return chance.choice([0.0, -1.0, 1e38, float("nan"), float("inf")])
        case FieldDescriptor.TYPE_ENUM:
            return chance.choice([entry.number for entry in field.enum_type.values] if field.enum_type else [0])
    bits = {FieldDescriptor.TYPE_INT32: 31, FieldDescriptor.TYPE_UINT32: 32}.get(field.type, 63)
    unsigned = field.type in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)
    least = 0 if unsigned else -(1 << bits)
    return chance.choice([*(number for number in EXTREMES if least <= number < 1 << bits), chance.randint(0, 20)])


def change_repeated(field: FieldDescriptor, values: Any, donors: Sequence[Message], chance: Random) -> None:  # noqa: ANN401 (protobuf's containers have no common type)
    """Delete, repeat, replace or change entries of a repeated field."""
    match chance.randrange(4):
        case 0 if values:
            del values[chance.randrange(len(values))]
        case 1 if values:
            values.extend([values[chance.randrange(len(values))]] * chance.randint(1, 3))
        case 2 if len(values) > 1 and field.type == FieldDescriptor.TYPE_MESSAGE:
            values[0].CopyFrom(values[chance.randrange(len(values))])
        case _ if field.type == FieldDescriptor.TYPE_MESSAGE:
            alike = [donor for donor in donors if donor.DESCRIPTOR is field.message_type]
            values.add().CopyFrom(chance.choice(alike)) if alike else values.add()
        case _ if values:
            values[chance.randrange(len(values))] = scalar(field, values[0], chance)
        case _:
            values.append(scalar(field, None, chance))


def change_message(message: Message, donors: Sequence[Message], chance: Random) -> None:
    """Change one field, in most cases a field that is set."""
    present = [described for described, _ in message.ListFields()]
    everything: Sequence[Any] = message.DESCRIPTOR.fields
    field = chance.choice(present if present and chance.random() < 0.8 else everything)
    if is_map(field) and (value := getattr(message, field.name)):
        del value[chance.choice(list(value))]
    elif field.is_repeated and not is_map(field):
        change_repeated(field, getattr(message, field.name), donors, chance)
    elif chance.random() < 0.1:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        alike = [donor for donor in donors if donor.DESCRIPTOR is field.message_type]
        getattr(message, field.name).CopyFrom(chance.choice(alike)) if alike else message.ClearField(field.name)
    else:
        setattr(message, field.name, scalar(field, getattr(message, field.name), chance))


def fields_of(kind: type[Message]) -> Mutation:
    """Return a mutation that changes one to four fields anywhere in a message of this type."""

    def change(data: bytes, other: bytes, chance: Random) -> bytes:
        message, donors = kind.FromString(data), messages(kind.FromString(other))
        for _ in range(chance.randint(1, 4)):
            change_message(chance.choice(messages(message)), donors, chance)
        return message.SerializeToString()

    return change


def onnx_outside(data: bytes, _: bytes, chance: Random) -> bytes:
    """Declare that weights are stored in another file: the model itself, or a file that must not be read."""
    model = onnx.ModelProto.FromString(data)
    for tensor in chance.sample(list(model.graph.initializer), k=min(2, len(model.graph.initializer))):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        location = chance.choice([*(text for text in TEXTS if text.isprintable()), *["input.onnx"] * 30])
        tensor.external_data.add(key="location", value=location)
        for key in ("offset", "length"):
            if chance.random() < 0.5:
                tensor.external_data.add(key=key, value=str(chance.choice([*EXTREMES, *range(0, 4000, 4)])))
    return model.SerializeToString()


BLIND: Sequence[Mutation] = (flip_bits, set_bytes, set_number, truncate, splice, move)
