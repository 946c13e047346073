"""Reads PyTorch's format before 1.6, without PyTorch and without running code.

    magic number · protocol version · facts about the machine · the object · the storages' keys · the storages

All parts but the storages are pickles, one after the other. A storage is its number of elements (int64) and the
elements. Numbers are little-endian on every machine, so that the facts about the machine are ignored. Refused: storages
to which the object does not refer, or whose sizes differ from those that it states. Bytes after the last storage are
not read.
"""

import io
from pathlib import Path

from converter.errors import SourceError
from converter.sources.mmap_file import mmap_file
from converter.sources.torch_pickle import MAX_PICKLE_BYTES, unpickle

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_torch_stream(path: Path) -> object:
    """Return the unpickled checkpoint, its tensors as `torch_pickle.Tensor`; raises SourceError."""
    data = mmap_file(path)
    file = io.BytesIO(data[:MAX_PICKLE_BYTES].data)
    magic, _ = unpickle(file, path)
    if magic != MAGIC:
        raise SourceError(f"{path}: expected a checkpoint of torch.save, got another pickle; save only tensors")
    protocol, _ = unpickle(file, path)
    if protocol != PROTOCOL:
        raise SourceError(f"{path}: damaged checkpoint: expected protocol {PROTOCOL}, got another one")
    unpickle(file, path)
    loaded, storages = unpickle(file, path)
    keys, _ = unpickle(file, path)
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(storages):
        raise SourceError(f"{path}: damaged checkpoint: its storages do not match its tensors")
    position = file.tell()
    for key in keys:
        storage, start = storages[key], position + 8
        count, position = int.from_bytes(data[position:start], "little", signed=True), start + storage.nbytes
        storage.content = data[start:position]
        if count != storage.count or len(storage.content) != storage.nbytes:
            raise SourceError(
                f"{path}: damaged or truncated checkpoint: expected {storage.nbytes} bytes of {key[:40]!r}"
            )
    return loaded
