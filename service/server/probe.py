"""A health check by HTTP: `python -m service.server.probe 127.0.0.1:8501`, with the address of a server's metrics.

Exit status 0: the server serves; 1: it does not serve, or does not answer.
"""

import sys
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

SECONDS, HEALTH = 3, "/health"


def is_serving(address: str) -> bool:
    """Return whether the server whose metrics are at HOST:PORT answers that it serves."""
    try:
        with closing(HTTPConnection(address, timeout=SECONDS)) as connection:
            connection.request("GET", HEALTH)
            return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_serving(sys.argv[1]) else 1)
