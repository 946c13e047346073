"""The pure core: lattices, tile plans, costs and reductions, in numpy alone."""
