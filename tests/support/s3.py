"""A bucket on this machine: the server of moto behind faults that tests inject.

moto keeps the objects in the memory of the tests' process, so that they outlive a job that is killed.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from socket import SHUT_RDWR
from threading import Lock, Thread
from typing import Any

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


@dataclass
class Faults:
    """A WSGI application that answers some requests of another one wrongly. Shares are from 0 to 1."""

    application: Application
    refused: float = 0.0
    """Share of the requests that are answered with 500 and with 503 SlowDown, in turn."""
    cut_off: float = 0.0
    """Share of the requests whose body, sent or received, ends half-way; the connection is closed."""
    lost: float = 0.0
    """Share of the requests that are carried out and answered with 500."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that pass in the middle of an object's body when it is read next, by the end of its name."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of requests by method and path, and of faults by kind."""
    _random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 (no secret)
    _lock: Lock = field(default_factory=Lock)

    def reset(self) -> None:
        """End all faults."""
        self.refused = self.cut_off = self.lost = 0.0
        self.seconds.clear()
        self.counts.clear()

    def has_written(self, folder: str, number: int) -> bool:
        """Return whether a number of objects were sent to a folder."""
        beginning = f"PUT /{BUCKET}/{folder}/"
        return sum(count for name, count in [*self.counts.items()] if name.startswith(beginning)) >= number

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        with self._lock:
            self.counts[f"{environ['REQUEST_METHOD']} {path}"] += 1
            fault = self._fault(environ)
            self.counts[fault] += 1
        if fault in ("500", "503"):
            return _refused(environ, start_response, fault)
        if fault == "cut off" and environ["REQUEST_METHOD"] == "PUT":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            environ["werkzeug.socket"].shutdown(SHUT_RDWR)  # otherwise the server would wait for another request on it
            raise ConnectionResetError
        environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        if fault == "lost":
            list(self.application(environ, lambda *_: lambda _: None))
            return _refused(environ, start_response, "500")
        body = b"".join(self.application(environ, start_response))
        if environ["REQUEST_METHOD"] == "GET" and fault == "cut off":
            return [body[: len(body) // 2]]  # the server closes the connection: the header states the whole size
        slow = [end for end in self.seconds if environ["REQUEST_METHOD"] == "GET" and path.endswith(end)]
        return _slowly(body, self.seconds.pop(slow[0])) if slow else [body]

    def _fault(self, environ: Environ) -> str:
        """Return what shall happen to a request."""
        drawn = self._random.random()
        if drawn < self.refused:
            return "500" if self._random.random() < 0.5 else "503"
        drawn -= self.refused
        if drawn < self.cut_off:
            return "cut off"
        drawn -= self.cut_off
        return "lost" if drawn < self.lost and environ["REQUEST_METHOD"] != "GET" else "none"


def _refused(environ: Environ, start_response: Callable[..., Any], status: str) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    text = INTERNAL if status == "500" else SLOW_DOWN
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    start_response("500 Internal Server Error" if status == "500" else "503 Slow Down", headers)
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text]


def _slowly(body: bytes, seconds: float) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    time.sleep(seconds)
    yield body[len(body) // 2 :]


@dataclass(frozen=True)
class Bucket:
    """A bucket of a running server."""

    address: str
    """The URL of the server."""
    faults: Faults
    client: Any
    """A client of boto3 that reaches the server without its faults."""

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects of a folder, with the folder."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=folder)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def objects(self, folder: str) -> dict[str, bytes]:
        """Return the objects of a folder by their name below it, without the times of a job and markers of folders."""
        return {
            name.removeprefix(f"{folder}/"): self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            for name in self.names(f"{folder}/")
            if not name.startswith(f"{folder}/timing/") and not name.endswith("/")
        }

    def remove(self, folder: str = "") -> None:
        """Remove the objects of a folder. Default: all objects."""
        for name in self.names(folder):
            self.client.delete_object(Bucket=BUCKET, Key=name)


@contextmanager
def s3_bucket() -> Iterator[Bucket]:
    """Run a server with an empty bucket on a free port of the loopback address."""
    import boto3  # noqa: PLC0415 (comes with moto, which not every environment of the tests has)
    from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it logs every request
    application = DomainDispatcherApplication(create_backend_app)
    faults = Faults(application)
    servers = [make_server("127.0.0.1", 0, each, threaded=True) for each in (faults, application)]
    threads = [Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    addresses = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    session = boto3.Session(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    client = session.client("s3", endpoint_url=addresses[1], region_name=CREDENTIALS["AWS_DEFAULT_REGION"])
    try:
        client.create_bucket(Bucket=BUCKET)
        yield Bucket(addresses[0], faults, client)
    finally:
        client.close()
        for server in servers:
            server.shutdown()
        for thread in threads:
            thread.join()
