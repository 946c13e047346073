"""Checks the external data of an ONNX file: the tensors whose values are in another file."""

from collections.abc import Iterator

from google.protobuf.message import Message

from fullconv.common.model_files import WEIGHTS
from fullconv.protos import onnx_file_pb2
from service.errors import ModelError


def check_external_data(file: str, model: onnx_file_pb2.ModelProto) -> None:
    """Raise ModelError, which names `file`, if a tensor has its data in another file than the version's weights.data.

    Only this file has a hash. A location such as "../other/weights.data" or "/dev/zero" leads out of the version.
    """
    for tensor in _tensors(model):
        locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if tensor.data_location == onnx_file_pb2.TensorProto.EXTERNAL and locations != [WEIGHTS]:
            raise ModelError(
                f"{file}: external data of {tensor.name[:100]!r}: expected the location {WEIGHTS!r}, got "
                f"{', '.join(locations)[:100]!r}; convert the model again"
            )


def _tensors(message: Message) -> Iterator[onnx_file_pb2.TensorProto]:
    """Yield every tensor in a message: in the graph, in its nodes and their graphs, and in functions."""
    if isinstance(message, onnx_file_pb2.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _tensors(part)
