"""Pixels from files, bytes and arrays, converted for a model and read from top to bottom.

tifffile logs nothing, since every problem of an image is raised as an error.
"""

import logging

logging.getLogger("tifffile").disabled = True
