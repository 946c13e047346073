"""The suffixes, in lower case, of the image files that are taken from a folder."""

SLIDES = {".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"}
"""Slides in scanners' own formats, for the extra `slides`."""
RASTERS = {".img", ".jp2", ".ntf"}
"""Rasters in other formats than TIFF, for the extra `rasters`."""
PICTURES = {".jpe", ".jpeg", ".jpg", ".png", ".webp"}
TIFF_FILES = {".btf", ".tf8", ".tif", ".tiff"}
ARRAY_FILES = {".npy"}

IMAGE_SUFFIXES = PICTURES | TIFF_FILES | ARRAY_FILES | SLIDES | RASTERS
