"""An SFTP server on this machine: OpenSSH's, whose only user is the one that runs the tests."""

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.servers import wait_until

CONFIGURATION = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class SftpServer:
    """A server at 127.0.0.1."""

    variables: dict[str, str]
    """The variables of the environment by which fsspec reaches it."""
    process: int

    def end_connections(self) -> None:
        """End the connections of all clients: each is a process of the server."""
        subprocess.run(["pkill", "--parent", str(self.process)], check=True)


@contextmanager
def sftp_server(folder: Path) -> Iterator[SftpServer]:
    """Run a server with its keys in a folder."""
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(CONFIGURATION.format(port=port, folder=folder), "utf-8")
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd requires it of root
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert sshd is not None, "expected OpenSSH's server, got no sshd; install openssh-server"
    with subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _answers(port))
            variables = {
                "FSSPEC_SFTP_PORT": str(port),
                "FSSPEC_SFTP_USERNAME": getpass.getuser(),
                "FSSPEC_SFTP_KEY_FILENAME": str(folder / "user"),
            }
            yield SftpServer(variables, server.pid)
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
