"""What each operator becomes when it is lifted: a file a family."""

from converter.graph.convolutionalizer import Handler
from converter.graph.handlers import joining, linear, movement, normalisation, pointwise, pooling

HANDLERS: dict[str, Handler] = {
    **joining.HANDLERS,
    **linear.HANDLERS,
    **movement.HANDLERS,
    **normalisation.HANDLERS,
    **pointwise.HANDLERS,
    **pooling.HANDLERS,
}
