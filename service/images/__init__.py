"""Pixels from files, bytes and arrays, converted for a model and read from top to bottom.

libvips and tifffile log nothing, since every problem of an image is raised as an error. pyvips would pass each warning
to Python's log, where the garbage collector may free a damaged image; libvips then warns inside of a warning, and ends
the process.
"""

import logging
import os

os.environ.setdefault("VIPS_WARNING", "0")  # libvips reads it when it is loaded; any value silences it

import pyvips

pyvips._remove_log_handler()  # noqa: SLF001 (there is no public way)
logging.getLogger("tifffile").disabled = True
