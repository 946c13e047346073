"""Pixels from encoded bytes, files and arrays, as a model wants them.

What libvips and tifffile say of damaged files is left out: whoever asks for an image gets its errors. pyvips would hand
each warning to Python's log, where the garbage collector may free a damaged image; libvips then warns inside of a
warning, and ends the process.
"""

import logging
import os

os.environ.setdefault("VIPS_WARNING", "0")  # libvips reads it as it is loaded; any value silences it

import pyvips

pyvips._remove_log_handler()  # noqa: SLF001 (there is no other way to have none)
logging.getLogger("tifffile").disabled = True
