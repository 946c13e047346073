"""Errors that the command prints name options as the command line does."""

import pytest

from fullconv.command.console import print_error


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("region: expected pixels inside the image", "roi: expected pixels inside the image"),
        ("a b.png: region: horizontally, expected a region", "a b.png: roi: horizontally, expected a region"),
        ("a.png: grid_as: expected scores", "a.png: grid-as: expected scores"),
        ("region: cannot be read: No such file", "region: cannot be read: No such file"),
        ("my_region: expected a JPEG file", "my_region: expected a JPEG file"),
        ("classes: expected labels", "classes: expected labels"),
    ],
    ids=["region", "image", "underscore", "a file", "another file", "same name"],
)
def test_fields_have_the_names_of_options(message: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A field of the service or of Python has the option's name, and names of files stay."""
    print_error(message)
    assert capsys.readouterr().err == f"fullconv-score: {expected}\n"
