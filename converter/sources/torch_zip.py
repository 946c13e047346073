"""Reads PyTorch's zip format (since 1.6), without PyTorch and without running code.

The archive holds `NAME/data.pkl`, a pickle of the object with tensors as references to storages, and one entry
`NAME/data/KEY` per storage, uncompressed, so that its numbers can be used without a copy. Refused: compressed or
encrypted entries, wrong sizes and checksums, storages of more bytes than the file, big-endian numbers.
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.errors import SourceError
from converter.messages import one_line
from converter.sources.mmap_file import mmap_file
from converter.sources.torch_pickle import MAX_PICKLE_BYTES, unpickle

LOCAL_HEADER = 30
"""Bytes before an entry's name. The last four are the lengths of the name and of the extra field that follows it."""


def read_torch_zip(path: Path) -> object:
    """Return the unpickled checkpoint, its tensors as `torch_pickle.Tensor`; raises SourceError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, mmap_file(path), path)
    except (zipfile.BadZipFile, struct.error, EOFError, LookupError, OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"{path}: damaged or truncated checkpoint: {one_line(error)}") from None


def _read(archive: zipfile.ZipFile, data: NDArray[np.uint8], path: Path) -> object:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(names) != 1:
        raise SourceError(f"{path}: expected one data.pkl in the archive, got {len(names)}; not a PyTorch checkpoint")
    prefix = names[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in archive.namelist():
        order = stored_bytes(archive, data, f"{prefix}byteorder")[:10].tobytes()
        if order != b"little":
            raise SourceError(
                f"{path}: expected little-endian tensors, got {order!r}; save it on a little-endian machine"
            )
    pickled = stored_bytes(archive, data, names[0])
    if len(pickled) > MAX_PICKLE_BYTES:
        raise SourceError(
            f"{path}: expected data.pkl of at most {MAX_PICKLE_BYTES >> 20} MiB; save tensors of PyTorch instead of "
            "numpy arrays"
        )
    loaded, storages = unpickle(io.BytesIO(pickled.data), path)
    if sum(storage.nbytes for storage in storages.values()) > len(data):
        raise ValueError("its storages have more bytes than the file")
    for key, storage in storages.items():
        storage.content = stored_bytes(archive, data, f"{prefix}data/{key}")
        if len(storage.content) != storage.nbytes:
            raise ValueError(f"storage {key[:40]!r}: expected {storage.nbytes} bytes, got {len(storage.content)}")
    return loaded


def stored_bytes(archive: zipfile.ZipFile, data: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return an entry's bytes as a view of the file; raises BadZipFile unless it is stored uncompressed and whole."""
    entry = archive.getinfo(name)
    archive.open(entry).close()  # compares the entry's header with the archive's directory
    lengths = data[entry.header_offset + LOCAL_HEADER - 4 :][:4]
    start = entry.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", lengths.tobytes()))
    content = data[start:][: entry.file_size]
    if entry.compress_type != zipfile.ZIP_STORED or len(content) != entry.file_size:
        raise zipfile.BadZipFile(f"{name[:100]!r} is compressed or incomplete")
    unchecked = entry.CRC == 0  # written after torch.serialization.set_crc32_options(False)
    if not unchecked and zlib.crc32(content.data) != entry.CRC:
        raise zipfile.BadZipFile(f"{name[:100]!r} does not match its checksum")
    return content
