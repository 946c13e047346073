"""Checks that new releases of the proto files only add fields, and never remove or change one.

`protos/contract.txt` lists every field with its number and type, every enum value and every method. `python
protos/contract.py` adds new entries to the list, and fails if a listed entry is missing or has changed. With `--check`
it writes nothing, and also fails if an entry is not listed yet.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from fullconv.protos import model_pb2, open_inference_pb2, scoring_pb2

CONTRACT = Path(__file__).with_name("contract.txt")
FILES = (model_pb2.DESCRIPTOR, open_inference_pb2.DESCRIPTOR, scoring_pb2.DESCRIPTOR)


def fields(file: FileDescriptor) -> Iterator[str]:
    """Yield one line for each field, enum value and method of a proto file."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        yield from (_field(message, field) for field in message.field)
    for enum in proto.enum_type:
        yield from (f"{enum.name}.{value.name} = {value.number}" for value in enum.value)
    for service in proto.service:
        for method in service.method:
            yield f"{service.name}.{method.name}({method.input_type}) returns ({method.output_type})"


def _field(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type)
    return f"{message.name}.{field.name} = {field.number}: {FieldDescriptorProto.Label.Name(field.label)} {kind}"


def main(*, check: bool) -> int:
    """Compare the generated stubs with the contract. Returns the exit status: 0 if they agree, else 1."""
    now = [line for file in FILES for line in fields(file)]
    then = CONTRACT.read_text("utf-8").splitlines() if CONTRACT.exists() else []
    gone = sorted(set(then) - set(now))
    new = [line for line in now if line not in then]
    if gone:
        sys.stderr.write(
            "protos: expected all entries of contract.txt; removed or changed:\n  " + "\n  ".join(gone) + "\n"
        )
        return 1
    if check and new:
        sys.stderr.write("protos: entries missing in contract.txt; run make proto:\n  " + "\n  ".join(new) + "\n")
        return 1
    if not check:
        CONTRACT.write_text("\n".join(now) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
