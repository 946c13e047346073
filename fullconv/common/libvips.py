"""libvips, which reads and writes JPEG, PNG, WebP and TIFF files here: imported and set up in this module alone.

    from fullconv.common.libvips import pyvips

The settings apply to the whole process, and are made before any file is opened:

- Loaders. Only the loaders of JPEG, PNG, WebP and TIFF are allowed. All others are blocked, because many of them are
  rarely tested with damaged files.
- Cache. libvips keeps no result of an operation, so that a file is read again when it has changed.
- Messages. libvips and pyvips log nothing. pyvips would pass each warning to Python's log, where the garbage collector
  may free a damaged image; libvips then warns inside of a warning, and ends the process. Errors are exceptions, which
  the caller reports.
"""

import os

os.environ.setdefault("VIPS_WARNING", "0")  # libvips reads it as it is loaded; any value silences it

import pyvips

__all__ = ["FORMATS", "pyvips", "reason_of"]

FORMATS = ("Jpeg", "Png", "Webp", "Tiff")
"""Formats that may be read, as libvips names its loaders."""
CAUSE = "system error: "
"""Begins the line of an error of libvips that states the operating system's reason."""

pyvips._remove_log_handler()  # noqa: SLF001 (there is no public way)
pyvips.block_untrusted_set(True)
pyvips.operation_block_set("VipsForeignLoad", True)
for _format in FORMATS:
    pyvips.operation_block_set(f"VipsForeignLoad{_format}", False)
pyvips.cache_set_max(0)


def reason_of(error: pyvips.Error) -> str:
    """Return the operating system's reason for an error of libvips, or the first line of the error."""
    lines = [line.strip() for line in str(error.detail).splitlines()]
    causes = [line.removeprefix(CAUSE) for line in lines if line.startswith(CAUSE)]
    return next((cause for cause in causes if "Unknown" not in cause), (lines or ["unknown error"])[0])
