"""What each operator becomes when it is lifted: a file a family."""

from converter.graph.handlers import joining, linear, movement, normalisation, pointwise, pooling
from converter.graph.lift import Handler

HANDLERS: dict[str, Handler] = {
    **joining.HANDLERS,
    **linear.HANDLERS,
    **movement.HANDLERS,
    **normalisation.HANDLERS,
    **pointwise.HANDLERS,
    **pooling.HANDLERS,
}
