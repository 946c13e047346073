"""TorchScript files and pickled modules are read with PyTorch."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.torch_networks import check_scores, randomised

from converter.errors import ConversionError
from converter.sources.read import read_source

if TYPE_CHECKING:
    from torch import nn

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
WINDOW = (20, 24)


@pytest.fixture
def net() -> "nn.Module":
    """Return a network with a branch on its input, which only scripting keeps."""
    from torch import nn

    layers = nn.Conv2d(3, 6, 5, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return randomised(nn.Sequential(*layers))


@pytest.mark.parametrize("kind", ["script", "trace"])
@pytest.mark.parametrize("suffix", ["pt", "pth"])
def test_torchscript(tmp_path: Path, net: "nn.Module", kind: str, suffix: str) -> None:
    """A scripted and a traced network have the scores of the network; the content decides about the reader."""
    import torch

    script = torch.jit.script(net) if kind == "script" else torch.jit.trace(net, torch.zeros(1, 3, *WINDOW))
    script.save(tmp_path / f"net.{suffix}")
    classifier = read_source(tmp_path / f"net.{suffix}", arch=None, window=WINDOW)
    check_scores(classifier, net, tmp_path)
    assert classifier.source.format == "torchscript"
    with pytest.raises(ConversionError, match=r"window: expected the size of the images.*give --window"):
        read_source(tmp_path / f"net.{suffix}", arch=None, window=None)


@pytest.mark.parametrize("channels", [1, 2, 5, 13])
def test_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    """The image has as many channels as the first convolution takes."""
    import torch
    from torch import nn

    layers = nn.Conv2d(channels, 6, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    net = randomised(nn.Sequential(*layers))
    torch.jit.script(net).save(tmp_path / "net.pt")
    check_scores(read_source(tmp_path / "net.pt", arch=None, window=WINDOW), net, tmp_path)


def rewrite(path: Path, code: str) -> None:
    """Put a line into the code of a TorchScript file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if "/code/__torch__/" in name and name.endswith(".py"))
    entries[name] = entries[name].replace(b"    return", f"    {code}\n    return".encode(), 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for each, content in entries.items():
            archive.writestr(each, content)


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('_0 = torch.from_file("touched", True, 5)', "from_file"),
        ('_0 = ops.aten.from_file("touched", True, 5)', "from_file"),
        ('_0 = torch . from_file("touched", True, 5)', "from_file"),
        ("t = torch", "torch"),
        ('torch.save(input, "touched")', "save"),
        ('_0 = ops.evil.run("x")', "ops.evil"),
        ("_0 = torch.classes.evil.Thing()", "torch.classes.evil"),
    ],
)
def test_code_that_opens_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: "nn.Module", code: str, named: str
) -> None:
    """A file whose code opens files, or calls another library, is refused before it is loaded."""
    import torch

    monkeypatch.chdir(tmp_path)
    torch.jit.script(net).save(tmp_path / "net.pt")
    rewrite(tmp_path / "net.pt", code)
    with pytest.raises(ConversionError, match=rf"its code names '{named}', which a classifier does not need"):
        read_source(tmp_path / "net.pt", arch=None, window=WINDOW)
    assert not (tmp_path / "touched").exists()


def test_code_in_capitals_is_checked_too(tmp_path: Path, net: "nn.Module") -> None:
    """PyTorch finds entries of an archive whatever the case of their names, and so does the check."""
    import torch

    torch.jit.script(net).save(tmp_path / "net.pt")
    rewrite(tmp_path / "net.pt", '_0 = torch.from_file("touched", True, 5)')
    with zipfile.ZipFile(tmp_path / "net.pt") as archive:
        entries = {name.replace("/code/", "/CODE/"): archive.read(name) for name in archive.namelist()}
        entries |= {name: archive.read(name) for name in archive.namelist() if name.endswith("debug_pkl")}
    name = next(name for name in entries if "/CODE/" in name)
    entries[name.split("/CODE/")[0] + "/code/other.py"] = b""
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_STORED) as archive:
        for each, content in entries.items():
            archive.writestr(each, content)
    with pytest.raises(ConversionError, match="its code names 'from_file'"):
        read_source(tmp_path / "net.pt", arch=None, window=WINDOW)


def test_code_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: "nn.Module") -> None:
    """Code that runs for ever is ended."""
    import torch

    monkeypatch.setattr("converter.sources.torch_script.EXPORT_SECONDS", 8)
    torch.jit.script(net).save(tmp_path / "net.pt")
    rewrite(tmp_path / "net.pt", "while True:\n      print(1)")
    with pytest.raises(ConversionError, match="expected PyTorch to export it within 8 seconds"):
        read_source(tmp_path / "net.pt", arch=None, window=WINDOW)


def test_damaged_files_are_refused(tmp_path: Path, net: "nn.Module") -> None:
    """A changed byte, a truncated file and a program that cannot be parsed are errors in one line."""
    import torch

    torch.jit.script(net).save(tmp_path / "net.pt")
    whole = (tmp_path / "net.pt").read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "cut": whole[:-30]}.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        with pytest.raises(ConversionError) as caught:
            read_source(tmp_path / f"{name}.pt", arch=None, window=WINDOW)
        assert "\n" not in str(caught.value)
    rewrite(tmp_path / "net.pt", "this is not a program (")
    with pytest.raises(ConversionError, match="cannot be exported to ONNX"):
        read_source(tmp_path / "net.pt", arch=None, window=WINDOW)


class Touches:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:  # noqa: ANN401 (as object defines it)
        return Path.touch, (self.path,)


def test_pickled_modules_need_trust(tmp_path: Path, net: "nn.Module") -> None:
    """A pickled module is loaded with --trust only, and the report says that its code was run."""
    import torch

    net.beside = Touches(tmp_path / "touched")
    torch.save(net, tmp_path / "net.pth")
    with pytest.raises(ConversionError, match=r"requires running code; if you trust the file, add --trust"):
        read_source(tmp_path / "net.pth", arch=None, window=WINDOW)
    assert not (tmp_path / "touched").exists()
    classifier = read_source(tmp_path / "net.pth", arch=None, window=WINDOW, trust=True)
    check_scores(classifier, net, tmp_path)
    assert (tmp_path / "touched").exists()
    assert "code was run" in classifier.notes[0]
    torch.save({"model": net}, tmp_path / "net.pth")
    check_scores(read_source(tmp_path / "net.pth", arch=None, window=WINDOW, trust=True), net, tmp_path)


def test_trust_needs_a_module(tmp_path: Path) -> None:
    """A pickle of something else is refused."""
    import torch

    torch.save([1, 2], tmp_path / "net.pth")
    with pytest.raises(ConversionError, match=r"expected a pickled torch\.nn\.Module, got list; leave --trust out"):
        read_source(tmp_path / "net.pth", arch=None, window=WINDOW, trust=True)
