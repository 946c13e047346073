"""Rows of .csv files."""

import csv
from collections.abc import Iterable
from io import TextIOWrapper
from typing import BinaryIO


def write_rows(file: BinaryIO, rows: Iterable[Iterable[object]]) -> None:
    """Write rows to an open .csv file, in UTF-8; None becomes an empty field. The file stays open."""
    text = TextIOWrapper(file, "utf-8", newline="")
    csv.writer(text).writerows(rows)
    text.detach()  # writes what the text still holds
