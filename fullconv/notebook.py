"""An answer as HTML, for notebooks."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

THUMBNAIL = 480
"""Largest length of the picture's longer side in pixels."""


def html_of(
    title: str,
    facts: Sequence[str],
    averages: Sequence[tuple[int, str, float]],
    picture: "PIL.Image.Image | None",
) -> str:
    """Return a title, lines of text, a table of (index, label, average) and a picture. All text is escaped."""
    rows = "".join(
        f"<tr><td>{index}</td><td>{escape(label)}</td><td>{score:.4f}</td></tr>" for index, label, score in averages
    )
    table = f"<table><tr><th>class</th><th>label</th><th>average</th></tr>{rows}</table>" if rows else ""
    lines = "".join(f"<br>{escape(fact)}" for fact in facts)
    return f"<div><b>{escape(title)}</b>{lines}{table}{_image_of(picture) if picture else ''}</div>"


def _image_of(picture: "PIL.Image.Image") -> str:
    """Return a thumbnail as an HTML element that holds its own data."""
    small, buffer = picture.copy(), BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "PNG")
    return f'<img alt="heatmap" src="data:image/png;base64,{b64encode(buffer.getvalue()).decode()}">'
