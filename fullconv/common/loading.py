"""Keeps the garbage collector away from the start of a program.

Loading modules makes hundreds of thousands of objects, and next to no garbage. Meanwhile Python's garbage collector
would look at all of them several times, which is a seventh of the time until `fullconv-score` scores an image. A
program calls `begin_loading` before it loads its modules, and `end_loading` before it works.
"""

import gc


def begin_loading() -> None:
    """Turn the garbage collector off."""
    gc.disable()


def end_loading() -> None:
    """Turn the garbage collector on again, which from now on ignores the objects that exist. Nothing if it is on."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
