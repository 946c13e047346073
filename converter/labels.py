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
    if any(COLOUR.fullmatch(line) for line in lines):
        _check_colours(lines, origin)
    matches = [COLOUR.fullmatch(line) for line in lines]
    labels = tuple(match["label"] if match else line for match, line in zip(matches, lines, strict=True))
    colours = tuple(match["colour"].lower() if match else "" for match in matches)
    if len(labels) != classes and (labels or isinstance(given, Path)):
        raise SourceError(
            f"labels: {origin}: expected {classes}, one for each class, got {len(labels)}; choose other --labels"
        )
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise SourceError(f"labels: {origin}: expected printable text on one line, got {label!r}")
    return labels, colours if any(colours) else ()


def _check_colours(lines: Labels, origin: str) -> None:
    """Raise SourceError if a line of a file with colours ends in a wrong colour, or has no label."""
    for line in lines:
        if not COLOUR.fullmatch(line) and line.split()[-1:] and line.split()[-1].startswith("#"):
            raise SourceError(
                f"labels: {origin}: expected a label and a colour like #c01040, got {line[:60]!r}; correct the line"
            )


def read_card(file: Path) -> str:
    """Return the text of a model's card, a UTF-8 file; raises SourceError."""
    text = _text(file, "card")
    if len(text) > MAX_CARD_CHARACTERS:
        raise SourceError(
            f"card: {file}: expected at most {MAX_CARD_CHARACTERS} characters, got {len(text)}; shorten it"
        )
    return text


def check_labels(file: Path) -> None:
    """Raise SourceError unless a file of labels can be read."""
    _lines(file)


def _lines(file: Path) -> Labels:
    text = _text(file, "labels")
    return tuple(line.strip() for line in text.removesuffix("\n").split("\n")) if text else ()


def _text(file: Path, option: str) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{option}: {file}: expected a UTF-8 text file: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{option}: {file}: expected a UTF-8 text file, got other bytes; save it as UTF-8") from None
