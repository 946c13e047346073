"""The interruption of `fullconv-score`, in a module that loads quickly: signals are handled before others load."""

from fullconv.common.interruption import Interruption

interruption = Interruption("fullconv-score")
