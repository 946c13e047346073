"""Who may call, and who may read along."""

import hashlib
import shutil
import ssl
import subprocess
import time
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
from support.servers import COMMAND, Server, running

from fullconv import Client, RequestError, Security, UnavailableError
from service.rpc.access import TokenFileError, Tokens
from service.server.probe import is_serving

MODELS = ROOT / "models"
IMAGE = noise(80, 80, 1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Signs certificates."""
    return trustme.CA()


@pytest.fixture(scope="module")
def folder(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, a server's and a client's, with their keys."""
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
    """A server that speaks TLS."""
    options = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server-key.pem")]
    with running(MODELS, *options) as server:
        yield server


def test_tls(encrypted: Server, folder: Path) -> None:
    """A client that trusts the authority is answered; one in the clear, and one that does not trust it, is not.

    Probes, which trust nobody, have a port of their own.
    """
    with Client(encrypted.address, security=Security(ca=folder / "ca.pem")) as client:
        assert client.score(IMAGE, model="digits").model == "digits"
    assert is_serving(encrypted.log[0]["metrics"])
    for security in (Security(), Security(tls=True)):
        with Client(encrypted.address, retries=0, security=security) as client, pytest.raises(UnavailableError):
            client.score(IMAGE, model="digits")


def test_what_keeps_a_client_from_a_server_is_said(
    encrypted: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the clear to one that speaks TLS, by another authority, by another name, and TLS to one in the clear.

    Nobody waits for it.
    """
    options = ["--tls-cert", str(folder / "elsewhere.pem"), "--tls-key", str(folder / "elsewhere-key.pem")]
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    with (
        Client(encrypted.address, retries=0) as client,
        pytest.raises(UnavailableError, match="a server with TLS closes connections"),
    ):
        client.models()
    with running(MODELS) as clear, running(MODELS, *options) as elsewhere:
        for address, ca, said in (
            (elsewhere.address, "ca.pem", "is for another name"),
            (encrypted.address, "other.pem", "not signed by a trusted authority"),
            (clear.address, "ca.pem", "does not speak TLS"),
        ):
            with monkeypatch.context() as hurried, Client(address, security=Security(ca=folder / ca)) as client:
                hurried.setattr("fullconv.remote.transport.time.sleep", None)
                with pytest.raises(UnavailableError, match=said):
                    client.models()


def test_one_wrong_server_of_several_keeps_nobody_from_the_others(encrypted: Server, folder: Path) -> None:
    """Whoever's turn it is, the one that can be trusted answers."""
    with running(MODELS) as clear:
        servers = f"{clear.address},{encrypted.address}"
        with Client(servers, security=Security(ca=folder / "ca.pem")) as client:
            for _ in range(4):
                assert client.models()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ca": 5}, "ca: expected a Path, got 5"),
        ({"cert": "a", "key": "b"}, "cert: expected a Path, got 'a'"),
        ({"token": 5}, "token: expected printable ASCII"),
    ],
    ids=str,
)
def test_security_that_is_none(wrong: dict[str, Any], said: str) -> None:
    """It is refused before anything is read."""
    with pytest.raises(RequestError, match=said):
        Security(**wrong)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"ca": "server-key.pem"}, "ca: expected certificates, PEM, got none in"),
        ({"cert": "client.pem", "key": "server-key.pem"}, "cert, key: expected a certificate and its own key"),
        ({"ca": "none.pem"}, "none.pem: cannot be read"),
    ],
    ids=["no authority", "another key", "no file"],
)
def test_files_of_a_client_that_are_none(folder: Path, files: dict[str, str], said: str) -> None:
    """They are named before anything is sent."""
    paths: dict[str, Any] = {name: folder / file for name, file in files.items()}
    with pytest.raises(RequestError, match=said):
        Client("localhost:1", security=Security(**paths))


def test_client_certificates(folder: Path) -> None:
    """Where they are asked for, a client without one is not answered; one with is known by its name."""
    options = ["--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server-key.pem")]
    with running(MODELS, *options, "--tls-client-ca", str(folder / "ca.pem")) as server:
        ca = folder / "ca.pem"
        with Client(server.address, retries=0, security=Security(ca=ca)) as client, pytest.raises(UnavailableError):
            client.models()
        own = Security(ca=ca, cert=folder / "client.pem", key=folder / "client-key.pem")
        with Client(server.address, security=own) as client:
            client.score(IMAGE, model="digits")
        while not server.events("request"):
            time.sleep(0.01)
        assert server.events("request")[-1]["client"] == "someone"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"--tls-key": "client-key.pem"}, "tls_cert, tls_key: expected a certificate and its own key"),
        ({"--tls-cert": "server-key.pem"}, "tls_cert, tls_key: expected a certificate and its own key"),
        ({"--tls-client-ca": "server-key.pem"}, "tls_client_ca: expected certificates"),
        ({"--tls-client-ca": "broken.pem"}, "tls_client_ca: expected certificates"),
        ({"--tls-key": "none.pem"}, "none.pem"),
    ],
    ids=["another key", "no certificate", "no authority", "broken authority", "no file"],
)
def test_certificates_that_are_none(folder: Path, wrong: dict[str, str], said: str) -> None:
    """The server does not start, and says which file is not what it must be."""
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    files = {"--tls-cert": "server.pem", "--tls-key": "server-key.pem"} | wrong
    options = [word for flag, name in files.items() for word in (flag, str(folder / name))]
    command = [*COMMAND, "--models", str(MODELS), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 3
    assert said in ended.stderr


@pytest.mark.slow
def test_certificates_that_are_renewed(authority: trustme.CA, folder: Path, tmp_path: Path) -> None:
    """The next connection gets them; a pair that does not fit changes nothing, as the log says and the metrics.

    Where the files are again what they were, all is well.
    """
    cert, key = tmp_path / "server.pem", tmp_path / "server-key.pem"
    shutil.copy(folder / "server.pem", cert)
    shutil.copy(folder / "server-key.pem", key)
    with running(MODELS, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        host, _, port = server.address.rpartition(":")

        def shown() -> str:
            return ssl.get_server_certificate((host, int(port)))

        def told(times: int) -> None:
            while len(server.events("certificates")) < times:
                time.sleep(0.05)

        def stale() -> bool:
            with urllib.request.urlopen(f"http://{server.log[0]['metrics']}/metrics", timeout=10) as response:
                return "fullconv_stale_files 1.0" in response.read().decode()

        before = shown()
        assert before == cert.read_text()
        new = authority.issue_cert("localhost", "127.0.0.1")
        cert.rename(tmp_path / "kept.pem")
        new.cert_chain_pems[0].write_to_path(cert)
        told(1)
        assert "the previous certificates remain in use: tls_cert, tls_key" in server.events("certificates")[0]["error"]
        assert shown() == before
        assert stale()
        (tmp_path / "kept.pem").replace(cert)
        while stale():
            time.sleep(0.05)
        new.cert_chain_pems[0].write_to_path(cert)
        told(2)
        new.private_key_pem.write_to_path(key)
        told(3)
        assert shown() == cert.read_text() != before
        assert not stale()
        with Client(server.address, security=Security(ca=folder / "ca.pem")) as client:
            assert client.score(IMAGE, model="digits").model == "digits"
        assert len(server.events("certificates")) == 3


def line(name: str, token: str) -> str:
    """A line of a token file."""
    return f"{name} {hashlib.sha256(token.encode()).hexdigest()}\n"


@pytest.mark.slow
def test_tokens(tmp_path: Path) -> None:
    """Calls need a token of the file, as it is now; health needs none; the log knows whose it was, and no token."""
    file = tmp_path / "tokens"
    file.write_text("# people\n" + line("anna", "first") + line("bert", "second"))
    with running(MODELS, "--tokens", str(file)) as server:

        def ask(token: str | None) -> None:
            with Client(server.address, retries=0, security=Security(token=token)) as client:
                client.score(IMAGE, model="digits")

        ask("first")
        ask("second")
        for token in (None, "third", line("anna", "first").split()[1]):
            with pytest.raises(RequestError, match="authorization: expected 'Bearer TOKEN'"):
                ask(token)
        with grpc.insecure_channel(server.address) as channel:
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        file.write_text(line("carl", "third"))
        while not server.events("tokens"):
            time.sleep(0.05)
        ask("third")
        with pytest.raises(RequestError):
            ask("first")
        file.write_text("nonsense")
        while len(server.events("tokens")) < 2:
            time.sleep(0.05)
        ask("third")
    lines = server.events("request")
    assert [line["client"] for line in lines if line["code"] == "OK"] == ["anna", "bert", "carl", "carl"]
    assert {line["code"] for line in lines} == {"OK", "UNAUTHENTICATED"}
    assert not [line for line in server.log if "third" in str(line)]


def test_tokens_that_are_back_are_not_stale(tmp_path: Path) -> None:
    """A file that was away for a while is what it was."""
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
    """Each call is UNAUTHENTICATED, whatever else is wrong with it."""
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
    """A server that wants tokens."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(line("anna", "first"))
    with running(MODELS, "--tokens", str(file)) as server:
        yield server


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one line"),
        ("anna secret", "line 1: expected NAME"),
        (f"a b {'0' * 64}", "line 1"),
        ("#\n\nx", "3"),
    ],
    ids=["empty", "not hashed", "three words", "later line"],
)
def test_token_files_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    """They are refused, naming the line and not what is in it."""
    file = tmp_path / "tokens"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TokenFileError, match=said) as refused:
        Tokens(file)
    assert "secret" not in str(refused.value)
