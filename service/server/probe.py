"""Exit status 0 if a server serves, asked on its metrics port: `python -m service.server.probe 127.0.0.1:8501`."""

import sys
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

SECONDS, HEALTH = 3, "/health"


def is_serving(address: str) -> bool:
    """Whether a server with its metrics at HOST:PORT answers, and says that it serves."""
    try:
        with closing(HTTPConnection(address, timeout=SECONDS)) as connection:
            connection.request("GET", HEALTH)
            return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1]) else 1)
