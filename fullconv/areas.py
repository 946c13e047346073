"""Areas of an image as GeoJSON, as QuPath exports annotations; `fullconv.common.geojson` describes what is read."""

import json
from pathlib import Path
from typing import Any

from fullconv.common.geojson import GeoJsonError, areas_of
from fullconv.errors import ImageError
from fullconv.protos import scoring_pb2

SUFFIXES = (".geojson", ".json")
"""Suffixes of files of areas."""
MAX_BYTES = 256 << 20
"""Size of the largest file."""


def is_areas(mask: object) -> bool:
    """Return whether a mask is given as areas: a GeoJSON file or document, or a geometry of another library."""
    if isinstance(mask, (str, Path)):
        return Path(mask).suffix.lower() in SUFFIXES
    return isinstance(mask, dict) or hasattr(mask, "__geo_interface__")


def areas_message(mask: Any) -> scoring_pb2.Areas:  # noqa: ANN401 (whatever the caller gives)
    """Make the message of areas; raises ImageError for a file that cannot be read, or for other geometries."""
    if isinstance(mask, (str, Path)):
        document = _read(Path(mask))
    else:
        document = mask if isinstance(mask, dict) else mask.__geo_interface__
    try:
        return areas_of(document)
    except GeoJsonError as error:
        raise ImageError(str(error)) from None


def _read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"mask: {path}: expected at most {MAX_BYTES >> 20} MiB of GeoJSON, got more")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ImageError(f"mask: {path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ImageError(f"mask: {path}: expected GeoJSON, got a file that is damaged or of another format") from None
