"""Rewrites each operator when a network is convolutionalized: one file per family of operators."""

from converter.graph.convolutionalizer import Handler
from converter.graph.handlers import joining, linear, movement, normalisation, pointwise, pooling, reductions, resizing

HANDLERS: dict[str, Handler] = {
    **joining.HANDLERS,
    **linear.HANDLERS,
    **movement.HANDLERS,
    **normalisation.HANDLERS,
    **pointwise.HANDLERS,
    **pooling.HANDLERS,
    **reductions.HANDLERS,
    **resizing.HANDLERS,
}
