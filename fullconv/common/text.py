"""Text that can be sent and printed safely: names of files, and messages that quote what a caller gave.

A file's name may hold bytes that are not UTF-8, and control characters that would steer a terminal.
"""

MAX_MESSAGE_LETTERS, MAX_MESSAGE_BYTES = 1000, 1500
"""Largest length of an error message in characters, and in bytes of UTF-8. A gRPC status holds the message twice, once
with three bytes for every byte that is not ASCII, and gRPC refuses trailers of more than 8 KiB."""


def encodable(text: str) -> str:
    """Replace characters that UTF-8 cannot encode, such as undecodable bytes of a file's name, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def printable(text: str) -> str:
    """Replace all characters that are not printable by question marks; the result is one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 class" and "2 classes"; nouns have a regular plural."""
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def apart(stride: tuple[int, int]) -> str:
    """Return the pixels between windows, vertical before horizontal: "8 apart", or "8×16 apart" if they differ."""
    down, across = stride
    return f"{down} apart" if down == across else f"{down}×{across} apart"


def shortened_message(text: str) -> str:
    """Make an error message printable, and cut it to the length that a gRPC status can carry."""
    line = printable(text)
    short = line[:MAX_MESSAGE_LETTERS].encode()[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    return line if short == line else f"{short}…"
