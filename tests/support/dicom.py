"""Whole-slide images in DICOM: a file of tiles for each level, as Supplement 145 of the standard defines them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from support.slides import MICRONS, Pixels

TILE = 64
"""Height and width of a tile in pixels."""
MAGNIFICATION = 40
MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""


def write_dicom(folder: Path, levels: list[Pixels], *, quality: int | None = None) -> Path:
    """Write levels, each half as large as the one before; returns the file of the first level.

    `quality`: that of JPEG. Default: None, uncompressed.
    """
    from pydicom.uid import generate_uid  # noqa: PLC0415 (in no lock file)

    folder.mkdir()
    series = generate_uid()
    for number, level in enumerate(levels):
        dataset = _described(number, level, series)
        _add_tiles(dataset, level, quality)
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder / "0.dcm"


def _described(number: int, level: Pixels, series: str) -> Any:  # noqa: ANN401 (of a package that is not installed)
    """Return the description of a level."""
    from pydicom.dataset import Dataset, FileMetaDataset  # noqa: PLC0415
    from pydicom.uid import generate_uid  # noqa: PLC0415

    measures, groups, path, dataset = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [MICRONS / 1e3 * 2**number] * 2, 0.001
    groups.PixelMeasuresSequence = [measures]
    path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", MAGNIFICATION
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MICROSCOPY
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = dataset.StudyInstanceUID = series
    dataset.Modality = "SM"
    kind = ("DERIVED", "RESAMPLED") if number else ("ORIGINAL", "NONE")
    dataset.ImageType = [kind[0], "PRIMARY", "VOLUME", kind[1]]
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = level.shape[:2]
    dataset.TotalPixelMatrixFocalPlanes = 1
    dataset.SharedFunctionalGroupsSequence, dataset.OpticalPathSequence = [groups], [path]
    return dataset


def _add_tiles(dataset: Any, level: Pixels, quality: int | None) -> None:  # noqa: ANN401
    """Add the pixels, row by row of tiles; those at the right and the bottom are filled with white."""
    from pydicom.encaps import encapsulate  # noqa: PLC0415
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit  # noqa: PLC0415

    height, width = level.shape[:2]
    rows, cols = -(-height // TILE), -(-width // TILE)
    padded = np.pad(level, ((0, rows * TILE - height), (0, cols * TILE - width), (0, 0)), constant_values=255)
    tiles = padded.reshape(rows, TILE, cols, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    dataset.Rows = dataset.Columns = TILE
    dataset.NumberOfFrames = len(tiles)
    dataset.SamplesPerPixel, dataset.PlanarConfiguration, dataset.PixelRepresentation = 3, 0, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    if quality is None:
        dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation = ExplicitVRLittleEndian, "RGB"
        dataset.PixelData = tiles.tobytes()
    else:  # OpenSlide takes YCbCr by this name alone; without subsampling, the pixels stay close to the originals
        dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation = JPEGBaseline8Bit, "YBR_FULL_422"
        files = [pyvips.Image.new_from_array(tile).jpegsave_buffer(Q=quality, subsample_mode="off") for tile in tiles]
        dataset.PixelData = encapsulate(files)
    dataset["PixelData"].VR = "OB"
