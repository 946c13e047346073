"""The flags of the settings, which pydantic-settings makes; the help names units and places, not types of Python."""

import re
from argparse import ArgumentParser
from typing import Any

from pydantic_settings import BaseSettings, CliSettingsSource

PLACEHOLDERS = {
    "config|tls-.*|tokens": "FILE",
    "models|images|spool": "DIR",
    "listen|metrics|viewer|admin": "HOST:PORT",
    ".*seconds|poll|max-(age|receive|idle|upload)": "SECONDS",
    ".*-ms": "MS",
    ".*-mib": "MIB",
    ".*-kib": "KIB",
    "max-megapixels": "MEGAPIXELS",
    "slots|threads|batch|max-(waiting|streams|large)": "N",
    "client-share": "SHARE",
}
"""What stands for the value in the help, by patterns of the flags; other flags list their values."""


def flags(settings: type[BaseSettings], arguments: list[str]) -> CliSettingsSource[Any]:
    """Return the source of the settings that the arguments name; raises SettingsError."""
    return CliSettingsSource(settings, cli_parse_args=arguments, add_argument_method=_add_argument)


def _add_argument(parser: ArgumentParser, *names: str, **options: Any) -> None:
    """Add a flag to the parser."""
    for pattern, placeholder in PLACEHOLDERS.items():
        if "metavar" in options and re.fullmatch(f"--({pattern})", names[-1]):
            options["metavar"] = placeholder
    parser.add_argument(*names, **options)
