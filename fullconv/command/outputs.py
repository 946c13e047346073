"""The files that `fullconv-score` writes: their names, and their paths for each image."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fullconv.common.files import RASTER_SUFFIX, check_folder_of, make_folder_of, names_file
from fullconv.file_options import FileOptions
from fullconv.objects.rule import ObjectOptions
from fullconv.style import DEFAULT_STYLE, HeatmapStyle

STEM = "{stem}"
"""Stands for an image's name without its suffix in the names of outputs and masks."""


@dataclass(frozen=True)
class Outputs:
    """Names of files, which contain STEM if there are several images, and what the files hold."""

    grids: tuple[str, ...] = ()
    files: FileOptions = field(default_factory=FileOptions)
    """What the files of grids hold."""
    heatmaps: tuple[str, ...] = ()
    heatmap_class: str | None = None
    """The class that heatmaps show. Default: the choice of `shown_classes`."""
    style: HeatmapStyle = DEFAULT_STYLE
    """What heatmaps draw, and their colours."""
    boxes: tuple[str, ...] = ()
    """Files of objects."""
    object_options: ObjectOptions = field(default_factory=ObjectOptions)
    pages: tuple[str, ...] = ()
    """Pages for a browser."""
    table: str | None = None
    """The file with a row for each image."""
    output_dir: Path | None = None
    """Where outputs go whose names have no folder, each in the folder of its image. None: the current directory."""
    folders: Mapping[Path, Path] = field(default_factory=dict)
    """The folder of each image that was found in a folder or by a pattern (`Inputs.folders`)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files of each image."""
        return (*self.grids, *self.heatmaps, *self.boxes, *self.pages)

    def all_paths(self, images: list[Path]) -> Iterator[tuple[Path, str]]:
        """Yield every file that will be written, and the name of its image or option."""
        if self.table is not None:
            yield self.path(self.table), "--table"
        for name in self.names:
            for image in images:
                yield self.path_for(name, image), str(image)
        for name in self.grids:
            if Path(name).suffix.lower() == RASTER_SUFFIX:
                yield from ((names_file(self.path_for(name, image)), str(image)) for image in images)

    def paths_for(self, names: tuple[str, ...], image: Path) -> list[Path]:
        """Return the paths of some outputs of an image."""
        return [self.path_for(name, image) for name in names]

    def path_for(self, name: str, image: Path) -> Path:
        """Return the path of an image's output."""
        return self.path(name.replace(STEM, image.stem), self.folders.get(image, Path()))

    def path(self, name: str, folder: Path = Path()) -> Path:
        """Return the path of an output: a name without a folder lies in the folder of outputs, if there is one."""
        return Path(name) if self.output_dir is None or "/" in name else self.output_dir / folder / name

    def check_folders(self, *paths: Path) -> None:
        """Raise OutputError for outputs whose folder is missing, unless it lies in the folder of outputs."""
        for path in paths:
            if self.output_dir is None or not path.is_relative_to(self.output_dir):
                check_folder_of(path)

    def make_folders(self, *paths: Path) -> None:
        """Make the folders of outputs that lie in the folder of outputs; raises OutputError."""
        for path in paths:
            if self.output_dir is not None and path.is_relative_to(self.output_dir):
                make_folder_of(path)


def mask_path(name: str, image: Path) -> Path:
    """Return the path of an image's mask."""
    return Path(name.replace(STEM, image.stem))
