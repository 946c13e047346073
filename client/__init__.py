"""The command `fullconv-score`: scores images, and writes grids and heatmaps."""
