"""Authentication and encryption: TLS, client certificates and tokens."""

import hashlib
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.paths import ROOT
from support.pictures import noise
from support.servers import COMMAND, Server, running, wait_until

from fullconv import Client, RequestError, Security, UnavailableError
from service.rpc.access import TokenFileError, Tokens
from service.server.probe import is_serving

MODELS = ROOT / "models"
IMAGE = noise(80, 80, 1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return a certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates of the authority, a server and a client, with keys; returns their folder."""
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, certificate in (
        ("server", authority.issue_cert("localhost", "127.0.0.1")),
        ("elsewhere", authority.issue_cert("example.org")),
        ("client", authority.issue_cert("someone@example.org", common_name="someone")),
    ):
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        certificate.private_key_pem.write_to_path(folder / f"{name}-key.pem")
    return folder


@pytest.fixture(scope="module")
def encrypted(folder: Path) -> Iterator[Server]:
    """Yield a server that speaks TLS."""
    options = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server-key.pem")]
    with running(MODELS, *options) as server:
        yield server


def test_tls(encrypted: Server, folder: Path) -> None:
    """A client that trusts the authority is answered; clients without TLS or without that trust are not.

    Probes, which do not use TLS, have a port of their own.
    """
    with Client(encrypted.address, security=Security(ca=folder / "ca.pem")) as client:
        assert client.score(IMAGE, model="digits").model == "digits"
    assert is_serving(encrypted.log[0]["metrics"])
    for security in (Security(), Security(tls=True)):
        with Client(encrypted.address, retries=0, security=security) as client, pytest.raises(UnavailableError):
            client.score(IMAGE, model="digits")


def test_tls_errors_are_explained(encrypted: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors name a missing encryption, a foreign authority, another name, and a server without TLS.

    They are not retried.
    """
    options = ["--tls-cert", str(folder / "elsewhere.pem"), "--tls-key", str(folder / "elsewhere-key.pem")]
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    with (
        Client(encrypted.address, retries=0) as client,
        pytest.raises(UnavailableError, match="a server with TLS closes connections"),
    ):
        client.models()
    with running(MODELS) as clear, running(MODELS, *options) as elsewhere:
        for address, ca, expected_message in (
            (elsewhere.address, "ca.pem", "is for another name"),
            (encrypted.address, "other.pem", "not signed by a trusted authority"),
            (clear.address, "ca.pem", "does not speak TLS"),
        ):
            with monkeypatch.context() as patch, Client(address, security=Security(ca=folder / ca)) as client:
                patch.setattr("fullconv.remote.transport.time.sleep", None)
                with pytest.raises(UnavailableError, match=expected_message):
                    client.models()


def test_an_untrusted_server_does_not_block_the_others(encrypted: Server, folder: Path) -> None:
    """Of two servers of which one is trusted, the trusted server answers every call."""
    with running(MODELS) as clear:
        servers = f"{clear.address},{encrypted.address}"
        with Client(servers, security=Security(ca=folder / "ca.pem")) as client:
            for _ in range(4):
                assert client.models()


@pytest.mark.parametrize(
    ("wrong", "expected_message"),
    [
        ({"ca": 5}, "ca: expected a Path, got 5"),
        ({"cert": "a", "key": "b"}, "cert: expected a Path, got 'a'"),
        ({"token": 5}, "token: expected printable ASCII"),
    ],
    ids=str,
)
def test_invalid_security_is_refused(wrong: dict[str, Any], expected_message: str) -> None:
    """Invalid arguments of Security are refused before a file is read."""
    with pytest.raises(RequestError, match=expected_message):
        Security(**wrong)


@pytest.mark.parametrize(
    ("files", "expected_message"),
    [
        ({"ca": "server-key.pem"}, "ca: expected certificates, PEM, got none in"),
        ({"cert": "client.pem", "key": "server-key.pem"}, "cert, key: expected a certificate and its own key"),
        ({"ca": "none.pem"}, "none.pem: cannot be read"),
    ],
    ids=["no authority", "another key", "no file"],
)
def test_invalid_files_of_a_client(folder: Path, files: dict[str, str], expected_message: str) -> None:
    """Invalid or missing files are named in the error before anything is sent."""
    paths: dict[str, Any] = {name: folder / file for name, file in files.items()}
    with pytest.raises(RequestError, match=expected_message):
        Client("localhost:1", security=Security(**paths))


def test_client_certificates(folder: Path) -> None:
    """If a server requires client certificates, it refuses a client without one, and logs the name in a valid one."""
    options = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server-key.pem")]
    with running(MODELS, *options, "--tls-client-ca", str(folder / "ca.pem")) as server:
        ca = folder / "ca.pem"
        with Client(server.address, retries=0, security=Security(ca=ca)) as client, pytest.raises(UnavailableError):
            client.models()
        own = Security(ca=ca, cert=folder / "client.pem", key=folder / "client-key.pem")
        with Client(server.address, security=own) as client:
            client.score(IMAGE, model="digits")
        wait_until(lambda: server.events("request"))
        assert server.events("request")[-1]["client"] == "someone"


@pytest.mark.parametrize(
    ("wrong", "expected_message"),
    [
        ({"--tls-key": "client-key.pem"}, "tls_cert, tls_key: expected a certificate and its own key"),
        ({"--tls-cert": "server-key.pem"}, "tls_cert, tls_key: expected a certificate and its own key"),
        ({"--tls-client-ca": "server-key.pem"}, "tls_client_ca: expected certificates"),
        ({"--tls-client-ca": "broken.pem"}, "tls_client_ca: expected certificates"),
        ({"--tls-key": "none.pem"}, "none.pem"),
    ],
    ids=["another key", "no certificate", "no authority", "broken authority", "no file"],
)
def test_invalid_certificates_of_a_server(folder: Path, wrong: dict[str, str], expected_message: str) -> None:
    """The server does not start, and the error names the invalid file."""
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    files = {"--tls-cert": "server.pem", "--tls-key": "server-key.pem"} | wrong
    options = [word for flag, name in files.items() for word in (flag, str(folder / name))]
    command = [*COMMAND, "--models", str(MODELS), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 3
    assert expected_message in ended.stderr


@pytest.mark.slow
def test_renewed_certificates(authority: trustme.CA, folder: Path, tmp_path: Path) -> None:
    """The next connection gets renewed certificates; an invalid pair changes nothing, as log and metrics report.

    If the old files are restored, the metrics report no error.
    """
    cert, key = tmp_path / "server.pem", tmp_path / "server-key.pem"
    shutil.copy(folder / "server.pem", cert)
    shutil.copy(folder / "server-key.pem", key)
    with running(MODELS, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        host, _, port = server.address.rpartition(":")

        def served_certificate() -> str:
            return ssl.get_server_certificate((host, int(port)))

        def wait_for_events(times: int) -> None:
            wait_until(lambda: len(server.events("certificates")) >= times)

        def stale() -> bool:
            with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=10) as response:
                return "fullconv_stale_files 1.0" in response.read().decode()

        before = served_certificate()
        assert before == cert.read_text()
        new = authority.issue_cert("localhost", "127.0.0.1")
        cert.rename(tmp_path / "kept.pem")
        new.cert_chain_pems[0].write_to_path(cert)
        wait_for_events(1)
        assert "the previous certificates remain in use: tls_cert, tls_key" in server.events("certificates")[0]["error"]
        assert served_certificate() == before
        assert stale()
        (tmp_path / "kept.pem").replace(cert)
        wait_until(lambda: not stale())
        new.cert_chain_pems[0].write_to_path(cert)
        wait_for_events(2)
        new.private_key_pem.write_to_path(key)
        wait_for_events(3)
        assert served_certificate() == cert.read_text() != before
        assert not stale()
        with Client(server.address, security=Security(ca=folder / "ca.pem")) as client:
            assert client.score(IMAGE, model="digits").model == "digits"
        assert len(server.events("certificates")) == 3


def line(name: str, token: str) -> str:
    """Return a line of a token file."""
    return f"{name} {hashlib.sha256(token.encode()).hexdigest()}\n"


@pytest.mark.slow
def test_tokens(tmp_path: Path) -> None:
    """Calls need a token of the current file; health checks need no token; the log has names and no tokens."""
    file = tmp_path / "tokens"
    file.write_text("# people\n" + line("anna", "first") + line("bert", "second"))
    with running(MODELS, "--tokens", str(file)) as server:

        def score_with(token: str | None) -> None:
            with Client(server.address, retries=0, security=Security(token=token)) as client:
                client.score(IMAGE, model="digits")

        score_with("first")
        score_with("second")
        for token in (None, "third", line("anna", "first").split()[1]):
            with pytest.raises(RequestError, match="authorization: expected 'Bearer TOKEN'"):
                score_with(token)
        with grpc.insecure_channel(server.address) as channel:
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        file.write_text(line("carl", "third"))
        wait_until(lambda: server.events("tokens"))
        score_with("third")
        with pytest.raises(RequestError):
            score_with("first")
        file.write_text("nonsense")
        wait_until(lambda: len(server.events("tokens")) >= 2)
        score_with("third")
    lines = server.events("request")
    assert [line["client"] for line in lines if line["code"] == "OK"] == ["anna", "bert", "carl", "carl"]
    assert {line["code"] for line in lines} == {"OK", "UNAUTHENTICATED"}
    assert not [line for line in server.log if "third" in str(line)]


def test_restored_tokens_are_not_stale(tmp_path: Path) -> None:
    """A token file that was missing for a while and is restored unchanged is not stale."""
    file = tmp_path / "tokens"
    file.write_text(line("anna", "first"))
    tokens = Tokens(file)
    file.rename(tmp_path / "away")
    tokens.refresh()
    assert tokens.stale
    (tmp_path / "away").rename(file)
    tokens.refresh()
    assert not tokens.stale


@pytest.mark.parametrize("method", ["Score", "ScoreLarge", "ScoreMany", "ListModels", "GetModel"])
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ", "Basic abc", "bearer x", "Bearer \u00e4"], ids=str)
def test_no_call_passes_without_a_token(guarded: Server, method: str, header: str | None) -> None:
    """Each call without a valid token is UNAUTHENTICATED, even if its message is invalid too."""
    metadata = [] if header is None else [("authorization", header)]
    with grpc.insecure_channel(guarded.address) as channel:
        call = channel.stream_stream(f"/fullconv.v1.Scoring/{method}")
        if header is not None and not header.isascii():
            return
        with pytest.raises(grpc.RpcError) as refused:
            list(call(iter([b"\xff"]), metadata=metadata, timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server that requires tokens."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(line("anna", "first"))
    with running(MODELS, "--tokens", str(file)) as server:
        yield server


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        ("", "at least one line"),
        ("anna secret", "line 1: expected NAME"),
        (f"a b {'0' * 64}", "line 1"),
        ("#\n\nx", "3"),
    ],
    ids=["empty", "not hashed", "three words", "later line"],
)
def test_invalid_token_files(tmp_path: Path, text: str, expected_message: str) -> None:
    """An invalid token file is refused; the error names the line without its contents."""
    file = tmp_path / "tokens"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TokenFileError, match=expected_message) as refused:
        Tokens(file)
    assert "secret" not in str(refused.value)
