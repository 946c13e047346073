"""The number of threads in which ONNX Runtime computes in a test process.

Several test processes share the CPUs. By default ONNX Runtime starts a thread for every CPU in each of them, and these
threads spin while they wait: two processes on two CPUs would take several times as long.
"""

import onnxruntime as ort
from onnxruntime import SessionOptions
from onnxruntime.capi import onnxruntime_pybind11_state as state


class OneThread(SessionOptions):
    """Options of sessions that compute in the thread that calls them."""

    intra_op_num_threads = property(lambda _: 1, lambda *_: None)  # sessions of this project state a number

    def __init__(self) -> None:
        super().__init__()
        SessionOptions.intra_op_num_threads.fset(self, 1)


def use_one_thread() -> None:
    """Let sessions of ONNX Runtime in this process compute in one thread, whatever their options say."""
    ort.SessionOptions = OneThread
    state.get_default_session_options = OneThread
