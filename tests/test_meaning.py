"""The labels with colours, the size of a pixel and the card of a model go from the conversion to its clients."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.networks import UNPADDED, Network, make_network
from support.servers import running
from typer.testing import CliRunner, Result

import fullconv
from converter.cli import app as convert
from fullconv import Client, Scorer
from fullconv.command.cli import app as score

LABELS = "benign #10A040\ntumour\t#c01040\nC# minor\nno tissue\n5 µm   #000000\n"
CARD = "# Tumours\n\nFor research.\n\n| data | slides |\n|---|---|\n| Größe | 12 |\n"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """Return a checkpoint of five classes."""
    return make_network(tmp_path_factory.mktemp("network"), UNPADDED)


def run(network: Network, target: Path, *options: str) -> Result:
    arguments = [str(network.checkpoint), "-o", str(target), "--arch", str(network.toml), "--verify", "4", *options]
    return CliRunner().invoke(convert, arguments)


@pytest.fixture(scope="module")
def models(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yield a repository of a model with colours, the size of a pixel, and a card."""
    folder = tmp_path_factory.mktemp("meaning")
    (folder / "labels.txt").write_text(LABELS, "utf-8")
    (folder / "card.md").write_text(CARD, "utf-8")
    options = ["--labels", str(folder / "labels.txt"), "--card", str(folder / "card.md"), "--mpp", "0.5"]
    result = run(network, folder / "models" / "net" / "1", *options)
    assert result.exit_code == 0, result.output
    return folder / "models"


def test_a_client_sees_what_the_converter_was_told(models: Path) -> None:
    """A server and the service in this process describe the model alike."""
    with running(models) as server, Client(server.address) as client:
        described = [client.model("net"), Scorer(models).model("net")]
    for model in described:
        assert model.labels == ("benign", "tumour", "C# minor", "no tissue", "5 µm")
        assert model.colours == ("#10a040", "#c01040", "", "", "#000000")
        assert model.microns_per_pixel == 0.5
        assert model.card == CARD
    assert (models / "net" / "1" / "labels.txt").read_text("utf-8").split("\n")[1] == "tumour"


def describe(models: Path, *options: str) -> Result:
    return CliRunner().invoke(score, ["--describe", "--model", "net", "--models", str(models), *options])


def test_describe_prints_a_table_and_the_card(models: Path) -> None:
    """The properties come first, then the card; nothing is scored."""
    result = describe(models)
    assert result.exit_code == 0, result.output
    assert "22×26 pixels (height×width)" in result.output
    assert "tumour #c01040" in result.output
    assert "0.5 micrometres" in result.output
    assert "dense scores are the classifier's own" in result.output
    assert result.output.index("Tumours") > result.output.index("micrometres")
    assert "For research." in result.output


def test_describe_prints_json(models: Path) -> None:
    """--json prints the same as one document."""
    document = json.loads(describe(models, "--json").output)
    assert document["model"] == "net"
    assert document["version"] == "1"
    assert document["window"] == [22, 26]
    assert document["colours"][1] == "#c01040"
    assert document["microns_per_pixel"] == 0.5
    assert document["card"] == CARD
    assert [parity["exact"] for parity in document["parity"]] == [True]


def test_a_model_without_meaning(network: Network, tmp_path: Path) -> None:
    """Nothing is invented for a model that was converted without these options."""
    assert run(network, tmp_path / "net" / "1").exit_code == 0
    model = Scorer(tmp_path).model("net")
    assert (model.colours, model.microns_per_pixel, model.card) == ((), None, "")
    assert "micrometres" not in describe(tmp_path).output


REFUSED: list[tuple[list[str], int, str]] = [
    (["--mpp", "0"], 2, "expected micrometres per pixel above 0"),
    (["--mpp", "nan"], 2, "expected micrometres per pixel above 0"),
    (["--card", "none.md"], 3, "card: none.md: expected a UTF-8 text file"),
    (["--card", "long.md"], 3, "expected at most 65536 characters, got 65537; shorten it"),
    (["--card", "binary.md"], 3, "card: binary.md: expected a UTF-8 text file"),
]


@pytest.mark.parametrize(("options", "status", "expected"), REFUSED)
def test_wrong_values_are_refused(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], status: int, expected: str
) -> None:
    """A wrong size of a pixel and a card that cannot be read are refused, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("long.md").write_text("x" * 65537)
    Path("binary.md").write_bytes(b"\xff\xfe\x00")
    result = run(network, tmp_path / "net" / "1", *options)
    assert result.exit_code == status
    assert expected in " ".join(result.output.split()).replace("│ ", "")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("arguments", [["page.png", "--describe"], []], ids=["both", "neither"])
def test_an_image_or_a_description(arguments: list[str]) -> None:
    """--describe takes no images; without it, there must be one."""
    result = CliRunner().invoke(score, [*arguments, "--model", "net"])
    assert result.exit_code == 2
    assert "--describe" in result.output


def test_labels_may_be_given_in_python(network: Network, tmp_path: Path) -> None:
    """`fullconv.convert` takes the names themselves."""
    options: dict[str, Any] = {"arch": network.toml, "verify": 4}
    fullconv.convert(network.checkpoint, tmp_path / "net" / "1", labels=["a", "b", "c", "d", "e #ff0000"], **options)
    model = Scorer(tmp_path).model("net")
    assert model.labels == ("a", "b", "c", "d", "e")
    assert model.colours[4] == "#ff0000"
