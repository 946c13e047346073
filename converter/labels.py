"""The names and colours of the classes, one line per class, and the model's card."""

import re
from pathlib import Path

from converter.errors import SourceError

COLOUR = re.compile(r"(?P<label>.+?)\s+(?P<colour>#[0-9A-Fa-f]{6})")
"""A line of a file of labels with a colour."""
MAX_CARD_CHARACTERS = 1 << 16
"""Limit on the characters of a card."""

Labels = tuple[str, ...]


def load_labels(given: Path | Labels | None, default: Labels, classes: int) -> tuple[Labels, Labels]:
    """Return labels, and their colours as "#rrggbb": from a UTF-8 file, one per line, or given themselves.

    Without labels, those of the source are returned, which may be none. The colours are empty if no label has one.
    Raises SourceError unless there are as many labels as classes, each printable and not empty.
    """
    if isinstance(given, Path):
        lines, origin = _lines(given), str(given)
    else:
        lines, origin = (default, "the source's labels") if given is None else (given, "the given names")
    matches = [COLOUR.fullmatch(line) for line in lines]
    labels = tuple(match["label"] if match else line for match, line in zip(matches, lines, strict=True))
    colours = tuple(match["colour"].lower() if match else "" for match in matches)
    if labels and len(labels) != classes:
        raise SourceError(
            f"labels: {origin}: expected {classes}, one for each class, got {len(labels)}; choose other --labels"
        )
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise SourceError(f"labels: {origin}: expected printable text on one line, got {label!r}")
    return labels, colours if any(colours) else ()


def read_card(file: Path) -> str:
    """Return the text of a model's card, a UTF-8 file; raises SourceError."""
    text = _text(file, "card")
    if len(text) > MAX_CARD_CHARACTERS:
        raise SourceError(
            f"card: {file}: expected at most {MAX_CARD_CHARACTERS} characters, got {len(text)}; shorten it"
        )
    return text


def _lines(file: Path) -> Labels:
    return tuple(line.strip() for line in _text(file, "labels").removesuffix("\n").split("\n"))


def _text(file: Path, option: str) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{option}: {file}: expected a UTF-8 text file: {error}") from None
