"""Exact scores of overlapping windows of a padded network, with everything shared that windows have in common.

margins.py    which cells of a window's map the window's own padding reaches, layer by layer
parts.py      the maps of all windows, held as nine parts: the dense interior, strips and corners
share.py      a dense network rewritten so that it computes these parts
"""
