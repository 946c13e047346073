"""The gRPC client.

with Client("127.0.0.1:8500") as client:
    answer = client.score("page.png", model="digits", grid=True)
    print(answer.top[0].label, answer.grid.shape)
"""

from fullconv.base import BaseScorer
from fullconv.remote.security import Security
from fullconv.remote.servers import RETRIES, Servers
from fullconv.remote.transport import RemoteTransport


class Client(BaseScorer):
    """A connection to one or more servers, `fullconv-serve`; safe to share between threads."""

    def __init__(
        self, server: str, *, timeout: float | None = None, retries: int = RETRIES, security: Security | None = None
    ) -> None:
        """Prepare connections to servers, which are opened at the first call.

        Args:
            server: HOST:PORT, or several addresses separated by commas, which are called in turn. Each IP address of a
                host name counts as a server.
            timeout: Seconds that a call may take, including all tries and waits. Default: no limit.
            retries: Number of times that a call is repeated when servers are busy or gone. Default: 8.
            security: TLS and tokens. Default: a connection without encryption.

        Raises:
            RequestError: An argument is invalid.
        """
        super().__init__(RemoteTransport(Servers(server, security, timeout=timeout, retries=retries)))
