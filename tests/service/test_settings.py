"""The settings of the server, from flags, environment variables and a file."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from support.servers import COMMAND

from service import machine
from service.settings import Settings, read_settings
from service.settings_file import ConfigurationError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path for a configuration file."""
    return tmp_path / "fullconv.yaml"


def test_flags_come_before_environment_before_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags take precedence over the environment, and the environment over the file; other settings are defaults."""
    file.write_text("models: here\nslots: 3\nbatch: 5\nmax_waiting: 7\n")
    monkeypatch.setenv("FULLCONV_BATCH", "6")
    monkeypatch.setenv("FULLCONV_MAX_WAITING", "8")
    settings = read_settings(["--config", str(file), "--max-waiting", "9"])
    assert (settings.models, settings.slots, settings.batch, settings.max_waiting) == (Path("here"), 3, 6, 9)
    assert settings.listen == "127.0.0.1:8500"


def test_the_environment_may_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable for --config works like the flag, as containers need it."""
    file.write_text("models: here\ninsecure: true\n")
    monkeypatch.setenv("FULLCONV_CONFIG", str(file))
    monkeypatch.setenv("FULLCONV_METRICS", "null")
    settings = read_settings([])
    assert settings.insecure
    assert settings.metrics is None


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        ("modles: x\n", "modles: expected the name of a setting"),
        ("models: x\nslots: many\n", "slots: .*got 'many'"),
        ("models: x\nslots: 0\n", "slots: .*greater than or equal to 1, got 0"),
        ("models: x\nlisten: 8500\n", "listen: "),
        ("models: x\nlisten: 0.0.0.0:8500\n", "--insecure"),
        ("models: x\nviewer: 0.0.0.0:8502\n", "viewer: expected a loopback address, .*--insecure"),
        ("models: x\nviewer: 127.0.0.1:8500\n", "listen, viewer: expected different addresses"),
        ("models: x\nviewer: 8502\n", "viewer: "),
        ("models: x\ntls_cert: a\n", "expected both or neither"),
        ("models: x\ntls_client_ca: a\n", "tls_client_ca: expected tls_cert"),
        ("slots: 2\n", "models: expected a value, got none; give --models DIR"),
        ("- models\n", "expected settings, 'name: value', got list"),
        ("models: [\n", "expected YAML"),
        ("models: 2001-99-99\n", "expected YAML: month must be in 1..12"),
        ("models: x\nmax_age: .inf\n", "max_age: .*got inf"),
        ("models: x\nslots: 2\nslots: 3\n", "slots: expected once, got 2 times"),
        ("models: x\nmax_waiting: yes\n", "max_waiting: expected a value, got true"),
        ("models: ~\n", "models: expected a path, got None"),
        ("models: ''\n", "models: expected a path, got ''"),
        ("models: x\nconfig: y\n", "config: expected on the command line"),
        ("models: x\nadmin: 127.0.0.1:8500\n", "listen, admin: expected different addresses, got 127.0.0.1:8500 twice"),
        ("\xff", "models"),
    ],
)
def test_wrong_settings_name_themselves(file: Path, text: str, expected_message: str) -> None:
    """The error message names the setting, the expected value and the actual value."""
    file.write_text(text, "latin-1")
    with pytest.raises(ConfigurationError, match=expected_message if text != "\xff" else "expected YAML"):
        read_settings(["--config", str(file)])


def test_the_default_address_of_the_metrics_is_optional() -> None:
    """--listen may name the default address of the metrics, which are optional at this address."""
    assert read_settings(["--models", "x", "--listen", "127.0.0.1:8501"]).listen == "127.0.0.1:8501"


@pytest.mark.parametrize("name", ["IMAGES", "TOKENS", "TLS_CERT", "SPOOL", "CONFIG"])
def test_empty_variables_are_not_directories(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty value is refused, and is not taken for the working directory."""
    monkeypatch.setenv(f"FULLCONV_{name}", "")
    with pytest.raises(ConfigurationError, match=f"{name.lower()}: expected a path, got ''"):
        read_settings(["--models", "x"])


def test_unknown_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable is an error; the variables that Kubernetes sets for a service named fullconv are ignored."""
    monkeypatch.setenv("FULLCONV_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("FULLCONV_PORT_8500_TCP_PORT", "8500")
    assert read_settings(["--models", "x"]).models == Path("x")
    monkeypatch.setenv("FULLCONV_SLOST", "2")
    with pytest.raises(ConfigurationError, match="FULLCONV_SLOST: expected the name of a setting"):
        read_settings(["--models", "x"])


def test_printed_settings_can_be_read_again(file: Path) -> None:
    """--print-config prints all settings in force as YAML; this text as a file gives the same settings."""
    command = [*COMMAND, "--models", "mödels", "--slots", "3", "--print-config"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert yaml.safe_load(printed)["slots"] == 3
    assert set(yaml.safe_load(printed)) == set(Settings.model_fields) - {"config", "print_config"}
    file.write_text(printed, "utf-8")
    again = read_settings(["--config", str(file)])
    assert again.text() == printed


def test_the_memory_of_tiles_follows_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a setting, the batch in one slot gets an eighth of the memory, at most 4 GiB; the text states it."""
    for memory, tile in ((4 << 30, 512), (16 << 30, 2048), (1 << 40, 4096)):
        monkeypatch.setattr(machine, "memory_bytes", lambda found=memory: found)
        settings = read_settings(["--models", "x"])
        assert settings.tuning.tile_bytes == settings.batching.max_activation_bytes == tile << 20
        assert yaml.safe_load(settings.text())["tile_mib"] == tile
    assert read_settings(["--models", "x", "--tile-mib", "100"]).tuning.tile_bytes == 100 << 20


def test_the_version_needs_no_models() -> None:
    """--version prints the version of the installed distribution and ends."""
    printed = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True).stdout
    assert printed == f"fullconv-serve {metadata.version('fullconv')}\n"


def test_help_describes_every_setting() -> None:
    """--help names and describes every setting, with a unit, a place or a list of values, not a type of Python."""
    result = subprocess.run(
        [sys.executable, "-m", "service", "--help"], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in result.stdout
        assert field.description
    assert "--poll SECONDS" in result.stdout
    assert not re.findall(r"--[a-z-]+ (?:int|float|str|bool|Path)\b", result.stdout)
