"""From an image's values to the input that a network was trained on: (x · scale − mean) / std for each channel.

`--preprocess` names a preset or a JSON file {"scale", "mean", "std", "order", "dtype"}. `mean` and `std` hold one
number per channel, in `order` ("RGB", "BGR" or "GRAY"). `dtype` states what x is: "uint8" (the default) stands for
pixels from 0 to 255, "uint16" and "float32" stand for the image's own values, unscaled. "none" leaves pixels unchanged.
"""

from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from converter.errors import SourceError
from converter.messages import first_problem
from fullconv.protos import model_pb2

LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1}
"""The largest value of each type for which preprocessing must stay finite."""


class Preprocessing(BaseModel):
    """(x · scale − mean) / std; an empty `mean` stands for zeros, an empty `std` for ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    order: Literal["RGB", "BGR", "GRAY"] | None = None
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale == 0 or min(self.std, default=1.0) <= 0:
            raise ValueError(f"expected a scale other than 0 and std above 0, got {self.scale:g} and {self.std}")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"expected mean and std of one length, got {len(self.mean)} and {len(self.std)}")
        with np.errstate(all="ignore"):
            reach = [part * LARGEST[self.dtype] for part in self.affine(max(len(self.mean), len(self.std), 1))]
        if not np.isfinite(reach).all():
            raise ValueError("expected numbers that float32 holds, got infinities")
        return self

    def check_channels(self, channels: int) -> None:
        """Raise SourceError unless the numbers and the order fit a network of `channels` input channels."""
        ordered = {None: 0, "GRAY": 1}.get(self.order, 3)
        for field, got in (("mean", len(self.mean)), ("std", len(self.std)), ("order", ordered)):
            if got not in (0, channels):
                raise SourceError(
                    f"preprocess: expected {field} for {channels} channels, got {got}; "
                    "choose another --preprocess or write a FILE.json"
                )

    def message(self) -> model_pb2.Preprocessing:
        """Return the preprocessing as the message of a ModelSpec."""
        return model_pb2.Preprocessing(
            scale=self.scale, mean=self.mean, std=self.std, order=self.order or "", dtype=self.dtype
        )

    def affine(self, channels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return factor and offset, each (channels,) float32; x · factor + offset is the network's input."""
        mean = np.asarray(self.mean or [0.0] * channels)
        std = np.asarray(self.std or [1.0] * channels)
        return (self.scale / std).astype(np.float32), (-mean / std).astype(np.float32)

    def apply(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return an RGB or grey image (N, height, width, channels) of `dtype` as the network's float32 input."""
        ordered = pixels[..., ::-1] if self.order == "BGR" else pixels
        mean, std = np.asarray(self.mean or 0.0), np.asarray(self.std or 1.0)
        prepared: NDArray[np.float32] = ((ordered.astype(np.float64) * self.scale - mean) / std).astype(np.float32)
        return prepared


PRESETS = {
    "imagenet": Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), order="RGB"),
    "caffe": Preprocessing(mean=(103.939, 116.779, 123.68), order="BGR"),
    "unit": Preprocessing(scale=1 / 255),
}
NONE = "none"


def load_preprocessing(choice: str | Preprocessing) -> Preprocessing | None:
    """Return the preprocessing of a preset or a JSON file, None for "none"; raises SourceError."""
    if isinstance(choice, Preprocessing):
        return choice
    if choice == NONE:
        return None
    if choice in PRESETS:
        return PRESETS[choice]
    try:
        return Preprocessing.model_validate_json(Path(choice).read_text("utf-8-sig"), strict=True)
    except OSError as error:
        known = ", ".join([*PRESETS, NONE])
        raise SourceError(f"preprocess: expected {known} or a JSON file, got {choice!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"preprocess: {choice}: expected JSON in UTF-8, got other bytes; save it as UTF-8") from None
    except ValidationError as error:
        raise SourceError(f"preprocess: {choice}: {first_problem(error, Preprocessing.model_fields)}") from None
