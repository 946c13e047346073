"""The server's own reading of ONNX files: the part of the format that protos/onnx_file.proto lists."""

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
from support.hostile_models import DIGITS

from fullconv.protos import onnx_file_pb2

OURS, ONNX = onnx_file_pb2.ModelProto.DESCRIPTOR, onnx.ModelProto.DESCRIPTOR


def messages(root: Any) -> dict[str, Any]:  # noqa: ANN401 (descriptors of both implementations of protobuf)
    """Return the descriptors of a message and of all messages that it can hold, by name."""
    found, waiting = {root.name: root}, [root]
    while waiting:
        for field in waiting.pop().fields:
            inner = field.message_type
            if inner is not None and inner.name not in found:
                found[inner.name] = inner
                waiting.append(inner)
    return found


def tensor_fields(root: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield every field of a message, and of the messages that it can hold, through which it can hold a tensor."""
    for message in messages(root).values():
        for field in message.fields if message.name != "TensorProto" else ():
            if field.message_type is not None and "TensorProto" in messages(field.message_type):
                yield field


def lines(fields: Iterable[Any]) -> list[str]:
    """Return the message, the name, the number and the type of each field, sorted."""
    return sorted(
        f"{field.containing_type.name}.{field.name} = {field.number}: {'repeated ' if field.is_repeated else ''}"
        f"{field.message_type.name if field.message_type else field.type}"
        for field in fields
    )


def test_every_field_that_can_hold_a_tensor_is_known() -> None:
    """The fields through which a file can hold a tensor are those of the installed release of ONNX."""
    assert lines(tensor_fields(OURS)) == lines(tensor_fields(ONNX))


def test_known_fields_are_those_of_onnx() -> None:
    """Each field has the number and the type that it has in ONNX."""
    ours, theirs = [field for message in messages(OURS).values() for field in message.fields], messages(ONNX)
    assert lines(ours) == lines(theirs[field.containing_type.name].fields_by_name[field.name] for field in ours)
    assert onnx_file_pb2.TensorProto.DataLocation.items() == onnx.TensorProto.DataLocation.items()


def test_a_file_is_read_alike() -> None:
    """The metadata and the external data of the shipped model are those that ONNX reads."""
    data = (DIGITS / "model.onnx").read_bytes()
    ours, theirs = onnx_file_pb2.ModelProto.FromString(data), onnx.ModelProto.FromString(data)
    assert str(ours.metadata_props) == str(theirs.metadata_props)
    assert [(tensor.name, str(tensor.external_data)) for tensor in ours.graph.initializer] == [
        (tensor.name, str(tensor.external_data)) for tensor in theirs.graph.initializer
    ]
