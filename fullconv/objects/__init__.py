"""Objects: windows with a high probability of a class that no better window of the same class overlaps.

1. Candidates are windows whose probability of a class is at least a threshold, and is the highest among the eight
   neighbours in the grid (`maxima`).
2. The box of a candidate is its window, or what the network's offsets make of it (`boxes`).
3. A candidate is an object unless its box overlaps the box of a better object of its class, or of any class if that
   is requested (`suppression`).

Candidates of several grids, such as those of one image at several scales, are compared with each other (`finder`).
"""
