"""The names of the classes: one line per class."""

from pathlib import Path

from converter.errors import SourceError


def load_labels(file: Path | None, default: tuple[str, ...], classes: int) -> tuple[str, ...]:
    """Return the labels in a UTF-8 file, one per line; without a file the default, which may be empty.

    Raises SourceError unless there are as many labels as classes, each printable and not empty.
    """
    labels, origin = (_lines(file), str(file)) if file else (default, "the architecture's")
    if labels and len(labels) != classes:
        raise SourceError(
            f"labels: {origin}: expected {classes}, one for each class, got {len(labels)}; choose other --labels"
        )
    for label in labels:
        if not label.strip() or not label.isprintable():
            raise SourceError(f"labels: {origin}: expected printable text on one line, got {label!r}")
    return labels


def _lines(file: Path) -> tuple[str, ...]:
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"labels: {file}: expected a UTF-8 text file with one label per line: {error}") from None
    return tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
