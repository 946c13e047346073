"""The viewer's page and its requests: the page's policy, models, the stream of a score, refusals, the end of work."""

import hashlib
import re
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from support.conversion import convert_into
from support.networks import UNPADDED, make_network
from support.paths import ROOT
from support.pictures import encode, noise, png
from support.rest import ask
from support.servers import Server, running, wait_until
from support.viewer import lines_of, path_of, score, unpacked

from fullconv import Client
from fullconv.common.probabilities import probabilities
from fullconv.protos import scoring_pb2
from service.rest import shown_rows
from service.rest.shown_rows import NO_CLASS, ShownRows

MODELS = ROOT / "models"
PAGE = (MODELS / "digits" / "page.png").read_bytes()
SECRET = "a token"  # noqa: S105 (of a test)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server of the shipped model and of a model without probabilities, with an HTTP port."""
    folder = tmp_path_factory.mktemp("repository")
    text = UNPADDED.replace('"unpadded"', '"raw"').replace('"softmax"', '"none"')
    convert_into(folder / "models", make_network(folder, text))
    (folder / "models" / "digits").symlink_to(MODELS / "digits")
    with running(folder / "models", "--viewer", "127.0.0.1:0") as server:
        yield server


def test_the_page_allows_only_its_own_scripts(server: Server) -> None:
    """The page's policy has the hashes of its scripts and of its style, and no other source of either."""
    reply = ask(server, "/")
    policy, html = reply.headers["content-security-policy"], reply.body.decode()
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    for name, expected in (
        ("default-src", "'none'"),
        ("connect-src", "'self'"),
        ("img-src", "'self' data: blob:"),
        ("frame-ancestors", "'none'"),
        ("form-action", "'none'"),
        ("base-uri", "'none'"),
    ):
        assert directives[name] == expected
    for name, pattern in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style[^>]*>(.*?)</style>")):
        texts = re.findall(pattern, html, re.DOTALL)
        hashes = {f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts}
        assert set(directives[name].split()) == hashes
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r'(src|href)="(?!data:,")', html.partition("<script>")[0])


def test_links_of_other_sites(server: Server) -> None:
    """A link on a page of another site opens the page; such a page gets neither the page in a frame nor an answer."""
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert ask(server, "/", None, visit).status == 200
    for path, headers in (("/", visit | {"Sec-Fetch-Dest": "iframe"}), ("/viewer/models", visit)):
        assert ask(server, path, None, headers).status == 403


def test_models_and_limits(server: Server) -> None:
    """The models, their descriptions and the limits are those of the server."""
    known = ask(server, "/viewer/models").document
    assert [(each["name"], each["version"], each["error"]) for each in known["models"]] == [
        ("digits", "1", ""),
        ("raw", "1", ""),
    ]
    described = ask(server, "/viewer/models/digits?version=1").document
    with Client(server.address) as client:
        model = client.model("digits")
    assert described["labels"] == list(model.labels)
    assert described["spec"]["output"]["kind"] == model.output.kind
    assert known["limits"]["image_pixels"] == model.limits.image_pixels == described["limits"]["image_pixels"]
    assert known["limits"]["file_bytes"] == 8 << 30
    assert ask(server, "/viewer/models/nothing").status == 404


@pytest.mark.parametrize("options", [{}, {"stride": 16, "mode": "crops"}, {"mode": "exact"}], ids=str)
def test_the_values_are_those_of_grpc(server: Server, options: dict[str, Any]) -> None:
    """The plan comes first and the averages last; between them, the rows have the probabilities of the grid."""
    lines = lines_of(score(server, PAGE, name="page.png", **options))
    assert [next(iter(line)) for line in (lines[0], lines[-1])] == ["plan", "summary"]
    with Client(server.address) as client:
        answer = client.score(PAGE, model="digits", grid=True, **options)
    plan, summary = lines[0]["plan"], lines[-1]["summary"]
    assert (plan["image"]["name"], plan["mode"], plan["mode_reason"]) == ("page.png", answer.mode, answer.mode_reason)
    assert plan["plan"]["multiply_adds"] == answer.plan.multiply_adds > 0
    assert [line["progress"] for line in lines if "progress" in line]
    assert_array_equal(summary["average"]["values"], answer.average)
    assert answer.grid is not None
    top, values = unpacked([line["rows"] for line in lines if "rows" in line], answer.grid.shape[1])
    expected = probabilities(np.asarray(answer.grid), "logits-softmax")
    assert_array_equal(top, expected.argmax(-1))
    assert_allclose(values[0], expected.max(-1), atol=0.51 / 0xFFFF)
    assert_allclose(values[1:], np.moveaxis(expected, -1, 0), atol=0.51 / 0xFFFF)


def test_scores_without_probabilities(server: Server) -> None:
    """The values of a model without probabilities are its scores, in the range of each part; planes can be chosen."""
    file = png(noise(60, 70, 3))
    lines = lines_of(score(server, file, model="raw", plane=[2, 0]))
    with Client(server.address) as client:
        answer = client.score(file, model="raw", grid=True)
    assert answer.grid is not None
    scores = np.asarray(answer.grid)
    assert lines[0]["shown"] == {"kind": "raw", "step": 1, "planes": [2, 0]}
    rows = [line["rows"] for line in lines if "rows" in line]
    top, values = unpacked(rows, scores.shape[1])
    tolerance = 0.51 * (scores.max() - scores.min()) / 0xFFFF
    assert_array_equal(top, scores.argmax(-1))
    for plane, expected in zip(values, (scores.max(-1), scores[..., 2], scores[..., 0]), strict=True):
        assert_allclose(plane, expected, atol=tolerance, rtol=1e-6)


def grid_rows(scores: NDArray[np.float32], first: int, count: int) -> scoring_pb2.GridRows:
    """Return some rows of a grid as a message."""
    return scoring_pb2.GridRows(first=first, count=count, scores=scores[first : first + count].tobytes())


@pytest.mark.parametrize("parts", [[11], [1] * 11, [2, 3, 1, 5], [4, 4, 3]], ids=str)
def test_blocks_of_large_grids(parts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However the rows arrive, blocks have the highest value of each class, and cells without scores have no class."""
    monkeypatch.setattr(shown_rows, "MAX_VALUES", 3 * 4 * 4)
    scores = np.random.default_rng(5).normal(size=(11, 8, 3)).astype(np.float32)
    scores[:3, 3:6] = scores[9:, 7] = np.nan
    shown = ShownRows(scoring_pb2.GridInfo(rows=11, cols=8), "raw", [0, 1, 2])
    assert shown.step == 3
    firsts = np.cumsum([0, *parts])
    found = [shown.add(grid_rows(scores, int(first), count)) for first, count in zip(firsts, parts, strict=False)]
    top, values = unpacked([each for each in found if each is not None], 3)
    padded = np.pad(scores, ((0, 1), (0, 1), (0, 0)), constant_values=np.nan).reshape(4, 3, 3, 3, 3)
    expected = np.fmax.reduce(padded, axis=(1, 3))
    is_known = ~np.isnan(expected).all(axis=-1)
    assert_array_equal(is_known.sum(), 11)
    known = np.where(is_known[..., None], expected, 0)
    assert_array_equal(top, np.where(is_known, known.argmax(-1), NO_CLASS))
    for plane, wanted in zip(values, [known.max(-1), *np.moveaxis(known, -1, 0)], strict=True):
        assert_allclose(plane[is_known], wanted[is_known], atol=1e-4)


def test_rows_without_scores() -> None:
    """Rows of which no cell was scored have no range."""
    scores = np.full((2, 3, 4), np.nan, np.float32)
    rows = ShownRows(scoring_pb2.GridInfo(rows=2, cols=3), "logits-softmax", []).add(grid_rows(scores, 0, 2))
    assert rows is not None
    assert (rows["low"], rows["high"]) == (None, None)
    assert set(np.frombuffer(b64decode(rows["top"]), "<u4")) == {NO_CLASS}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], int, str]] = {
    "content type": ({}, {"Content-Type": "image/png"}, 415, "content-type: expected application/octet-stream, got"),
    "encoding": ({}, {"Content-Encoding": "gzip"}, 415, "content-encoding: expected none"),
    "option": ({"border": "anchor"}, {}, 400, "plan_only, plane, got 'border'"),
    "flip": ({"flip": "1"}, {}, 400, "flip: expected false or true, got '1'"),
    "region": ({"region": "0,0,10"}, {}, 400, "region: expected x,y,width,height in pixels, got '0,0,10'"),
    "scales": ({"scales": "1x,half"}, {}, 400, "scales: expected pixels, 384, or a factor, 0.5x; got 'half'"),
    "mpp": ({"mpp": "x"}, {}, 400, "mpp: expected a number, got 'x'"),
    "mpp of zero": ({"mpp": "0"}, {}, 400, "mpp: expected a number from 1e-07"),
    "mpp that is not known": ({"mpp": "0.5"}, {}, 400, "mpp"),
    "mask": ({"mask": "page"}, {}, 400, "mask: expected otsu or areas or image, got 'page'"),
    "mask without size": ({"mask": "areas"}, {}, 400, "mask_bytes: expected the size of the mask with mask=areas"),
    "size without mask": ({"mask_bytes": "7"}, {}, 400, "mask_bytes: expected the size of the mask with mask=areas"),
    "large mask": ({"mask": "image", "mask_bytes": "99999999"}, {}, 413, "mask: expected at most 67108864 bytes"),
    "mask beyond the body": ({"mask": "image", "mask_bytes": "9999999"}, {}, 400, "body: expected a mask of 9999999"),
    "mask that is an image": ({"mask": "areas", "mask_bytes": "8"}, {}, 400, "JSON: expected GeoJSON, got"),
    "mode": ({"mode": "fast"}, {}, 400, "mode: expected auto or dense or shared or crops or exact, got 'fast'"),
    "stride": ({"stride": "x"}, {}, 400, "stride: expected a number, got 'x'"),
    "stride of zero": ({"stride": "0"}, {}, 400, "stride: expected a number of pixels from 1, got 0"),
    "long stride": ({"stride": "9" * 5000}, {}, 400, "stride: expected a number"),
    "no such stride": ({"stride": "3", "mode": "dense"}, {}, 412, "stride"),
    "plane": ({"plane": "11"}, {}, 400, "plane: expected a class from 0 to 10, got 11"),
    "many planes": ({"plane": ["1"] * 33}, {}, 400, "plane: expected at most 32 classes, got 33"),
    "model": ({"model": "nothing"}, {}, 404, "nothing"),
    "long model": ({"model": "m" * 10_000}, {}, 400, ""),
    "foreign page": ({}, {"Origin": "https://example.org"}, 403, "origin: expected a page of"),
    "foreign host": ({}, {"Host": "example.org"}, 421, "host: expected localhost"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(server: Server, case: str) -> None:
    """An invalid request is refused with a status and one line."""
    query, headers, status, message = REFUSED[case]
    reply = score(server, PAGE, headers, **query)
    assert reply.status == status, reply.body
    assert message in reply.document["error"]
    assert "\n" not in reply.document["error"]


def test_other_methods_and_no_image(server: Server) -> None:
    """A score needs POST, and bytes that are an image."""
    assert ask(server, "/viewer/score").status == 405
    for file in (b"", b"no image"):
        reply = score(server, file, name="x.png")
        assert (reply.status, reply.document["reason"]) == (400, "IMAGE_INVALID")
        assert reply.document["error"].startswith("x.png: ")


def test_an_error_after_the_plan(server: Server) -> None:
    """If the image turns out to be damaged after the plan, the last line is the error."""
    file = encode(noise(900, 900, 1), ".tif", tile=True, compression="deflate")
    quarter = len(file) // 4  # its directory is at the end
    lines = lines_of(score(server, file[:quarter] + bytes(quarter) + file[2 * quarter :]))
    assert "plan" in lines[0]
    assert lines[-1]["reason"] == "IMAGE_INVALID"


def test_files_that_are_too_large() -> None:
    """A file beyond the spool is refused while it arrives, and an image of too many pixels before the plan."""
    options = ("--spool-mib", "2", "--max-megapixels", "0.5")
    with running(MODELS, "--viewer", "127.0.0.1:0", *options) as server:
        assert ask(server, "/viewer/models").document["limits"]["file_bytes"] == 1 << 20
        large = score(server, iter([bytes(1 << 16)] * 17))
        assert (large.status, large.document["reason"]) == (413, "LIMIT_EXCEEDED")
        assert "expected a file of at most 1 MiB" in large.document["error"]
        wide = score(server, PAGE)
        assert (wide.status, wide.document["reason"]) == (413, "LIMIT_EXCEEDED")
        assert lines_of(score(server, png(noise(90, 90, 1))))


def test_tokens(tmp_path: Path) -> None:
    """The page needs no token, so that it can ask for one; its requests do, and the log has the name."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"anna {hashlib.sha256(SECRET.encode()).hexdigest()}\n")
    with running(MODELS, "--viewer", "127.0.0.1:0", "--tokens", str(tokens)) as server:
        assert ask(server, "/").status == 200
        for path in ("/viewer/models", "/viewer/models/digits"):
            assert ask(server, path).status == 401
        refused = score(server, PAGE)
        assert (refused.status, refused.document["reason"]) == (401, "ACCESS_DENIED")
        known = {"Authorization": f"Bearer {SECRET}"}
        assert ask(server, "/viewer/models", None, known).status == 200
        assert "summary" in lines_of(score(server, PAGE, known))[-1]
        wait_until(lambda: len(server.events("request")) == 5)
        assert {"method": "ScoreLarge", "client": "anna", "code": "OK"}.items() <= server.events("request")[-1].items()


def connection_with(server: Server, file: bytes, **query: Any) -> socket.socket:
    """Send a request and return its connection."""
    host, _, port = server.log[0]["viewer"].rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST {path_of(**query)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
    connection.sendall(f"{head}Content-Length: {len(file)}\r\n\r\n".encode() + file)
    return connection


def test_a_client_that_leaves_ends_its_work() -> None:
    """If the page cancels after the plan, the work ends long before the answer would be ready."""
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        with connection_with(server, png(noise(3000, 3000, 1)), mode="crops") as leaving:
            received = b""
            while b'"progress"' not in received:
                received += leaving.recv(1 << 16)
            assert b'{"plan":' in received
            assert b'\n{"rows"' not in received
        wait_until(lambda: server.events("request"), 20)
        (record,) = server.events("request")
        assert (record["method"], record["code"]) == ("ScoreLarge", "CANCELLED")
        assert lines_of(score(server, PAGE))


def test_a_client_that_leaves_while_it_sends() -> None:
    """If the connection ends within the file, so does the request."""
    with running(MODELS, "--viewer", "127.0.0.1:0") as server:
        host, _, port = server.log[0]["viewer"].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as leaving:
            head = f"POST {path_of()} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
            leaving.sendall(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode() + bytes(1 << 20))
        wait_until(lambda: server.events("request"), 20)
        assert server.events("request")[0]["code"] == "CANCELLED"


@pytest.mark.slow
def test_a_client_that_does_not_read() -> None:
    """A client that takes no lines for `--max-idle` seconds is given up, and its work ends."""
    with running(MODELS, "--viewer", "127.0.0.1:0", "--max-idle", "1") as server:
        with connection_with(server, png(noise(2400, 2400, 1)), stride=2):
            wait_until(lambda: server.events("request"))
        (record,) = server.events("request")
        assert (record["code"], "to take the answer" in record["error"]) == ("DEADLINE_EXCEEDED", True)
