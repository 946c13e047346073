"""Pixels from encoded bytes, files and arrays, as a model wants them."""
