"""The contender that sends crops to a server: the original classifier in ONNX Runtime, behind LitServe."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.contenders import Pixels, Prepared, Setup, prepare_crops
from bench.networks import Network
from bench.windows import windows_of

CALLS = 2
"""Number of requests at the same time, so that one is sent while the other is computed."""
START_SECONDS = 120
"""Seconds in which the server must answer."""
BOUNDARY = "windows-of-an-image"
HEAD = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="windows"; filename="windows"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


class Connections:
    """Connections to a server, one for each thread."""

    def __init__(self, port: int) -> None:
        self._port, self._local = port, threading.local()

    def request(self, method: str, path: str, body: bytes = b"", content_type: str = "text/plain") -> bytes:
        """Return the answer; raises RuntimeError unless the status is 200, and OSError if there is no connection."""
        try:
            return self._request(method, path, body, content_type)
        except (BrokenPipeError, ConnectionResetError, http.client.BadStatusLine):
            return self._request(method, path, body, content_type)  # the server had closed an idle connection

    def _request(self, method: str, path: str, body: bytes, content_type: str) -> bytes:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection: http.client.HTTPConnection = self._local.connection
        try:
            connection.request(method, path, body, {"Content-Type": content_type})
            response = connection.getresponse()
            data = response.read()
        except BaseException:
            connection.close()
            raise
        if response.status != 200:
            raise RuntimeError(f"the server answered {response.status}: {data[:200].decode(errors='replace')}")
        return data

    def score(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the scores of windows, (windows, classes)."""
        body = b"".join([HEAD, windows.tobytes(), TAIL])
        data = self.request("POST", "/predict", body, f"multipart/form-data; boundary={BOUNDARY}")
        return np.frombuffer(data, np.float32).reshape(len(windows), -1)


@contextmanager
def running(network: Network) -> Iterator[Connections]:
    """Run the server for the block; raises RuntimeError with the end of its output if it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    numbers = [",".join(map(str, part)) for part in network.preprocessing.affine(network.channels)]
    sizes = map(str, (port, network.channels, network.window))
    command = [sys.executable, "-m", "bench.crops_server", str(network.original), *sizes]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        process = subprocess.Popen(  # noqa: S603 (a program of this repository)
            [*command, *(f"{part}" for part in numbers)], stdout=log, stderr=log, start_new_session=True
        )
        try:
            connections = Connections(port)
            if not _answers(connections, process):
                log.seek(0)
                raise RuntimeError(f"LitServe did not start: {log.read()[-500:]}")
            yield connections
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # also the processes that it has started
            process.wait()


def _answers(connections: Connections, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; returns whether it does."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            connections.request("GET", "/health")
        except (OSError, RuntimeError, http.client.HTTPException):
            time.sleep(0.2)
        else:
            return True
    return False


class LitServeCrops:
    """The original classifier behind LitServe, over HTTP: the client cuts the windows, and sends batches of uint8."""

    name = "LitServe over HTTP, crops"
    requires = ("litserve",)

    def fits(self, network: Network) -> bool:  # noqa: ARG002 (of every contender)
        """Return whether the network can be scored in this way."""
        return True

    def prepare(self, setup: Setup) -> Prepared:
        """Start the server."""
        network = setup.network
        connections = setup.open("litserve", lambda: running(network))

        def cut(image: Pixels) -> NDArray[np.uint8]:
            return windows_of(np.moveaxis(image, -1, 0), network.window, setup.stride)

        return prepare_crops(setup, self.name, connections.score, cut, CALLS)
