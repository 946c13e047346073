"""The YAML file of settings, and the errors of settings."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource


class ConfigurationError(Exception):
    """A setting cannot be used. The message names the setting, the expected value and the actual value."""


def message(error: dict[str, Any]) -> str:
    """Return one of pydantic's errors as a message that names the setting."""
    name = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "extra_forbidden":
            return f"{name}: expected the name of a setting; --help lists all settings"
        case "missing":
            return f"{name}: expected a value, got none; give --{name} DIR"
    text = error["msg"].removeprefix("Value error, ")
    return f"{name}: {text}, got {error['input']!r}" if name else text


class SettingsFile(PydanticBaseSettingsSource):
    """The YAML file that the setting `config` names, as a source of settings; empty if it names none."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 (abstract)
        """Return no value: `__call__` returns the values of all fields."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values in the file; raises ConfigurationError."""
        path = self.current_state.get("config")
        if path is None:
            return {}
        if not str(path):
            raise ConfigurationError("config: expected a path, got ''")
        try:
            text = Path(path).read_text("utf-8")
            values, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        except OSError as error:
            raise ConfigurationError(f"config: {path}: cannot be read: {error.strerror}") from None
        except (ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or an invalid date
            raise ConfigurationError(f"config: {path}: expected YAML: {' '.join(str(error).split())}") from None
        if values is None or node is None:
            return {}
        if not isinstance(values, dict):
            raise ConfigurationError(f"config: {path}: expected settings, 'name: value', got {type(values).__name__}")
        for name, times in Counter(str(key.value) for key, _ in node.value).items():
            if times > 1:
                raise ConfigurationError(f"config: {path}: {name}: expected once, got {times} times")
        for name in {"config", "print_config"} & set(values):
            raise ConfigurationError(f"config: {path}: {name}: expected on the command line, or in the environment")
        return {str(name): value for name, value in values.items()}
