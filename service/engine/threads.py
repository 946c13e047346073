"""The threads of this process in which networks compute."""

from collections.abc import Callable
from threading import Thread

import onnxruntime as ort

FATAL = 4
"""ONNX Runtime's log level for fatal errors alone."""


def start_compute_threads(count: int, prepare: Callable[[], None] = lambda: None) -> None:
    """Start the threads that all sessions share; `prepare` sets the priority that they inherit."""

    def start() -> None:
        prepare()
        ort.set_global_thread_pool_sizes(count, 1)
        ort.set_default_logger_severity(FATAL)  # its log lines are not JSON

    starter = Thread(target=start)  # the pool's threads inherit the priority of the thread that starts them
    starter.start()
    starter.join()
