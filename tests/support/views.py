"""Networks and grids for tests of strides, modes, borders, regions, masks, flips and scales."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from support.conversion import convert_into
from support.networks import PADDED, UNPADDED, Network, make_network
from support.pictures import noise, png
from support.scoring import Scoring, plan_image

from fullconv.protos import scoring_pb2
from service.engine.session import Session
from service.images.encoded import open_bytes
from service.limits import Tuning
from service.scoring.scorer import Scorer

ROUNDING: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
IMAGE = noise(121, 147, 3)
MODES = {
    "dense": scoring_pb2.MODE_DENSE,
    "shared": scoring_pb2.MODE_SHARED,
    "crops": scoring_pb2.MODE_CROPS,
    "auto": scoring_pb2.MODE_AUTO,
    "exact": scoring_pb2.MODE_EXACT,
}


@dataclass(frozen=True)
class Models:
    """Converted networks, with the originals."""

    folder: Path
    networks: dict[str, Network]

    def run(self, name: str, image: np.ndarray = IMAGE, *, budget: int = 2 << 30, **options: Any) -> Scoring:
        """Plan an image; `budget` is the number of bytes for a tile's activations."""
        request = scoring_pb2.ScoreRequest(model=name, options=scoring_pb2.ScoreOptions(**{"grid": True} | options))
        scorer = Scorer(self.folder, tuning=Tuning(tile_bytes=budget))
        return plan_image(scorer, open_bytes(png(image), name="i"), request)

    def grid(self, name: str, image: np.ndarray = IMAGE, **options: Any) -> np.ndarray:
        """Return the grid (rows, cols, classes)."""
        return stitched(self.run(name, image, **options))

    def plain(self, name: str, image: np.ndarray) -> np.ndarray:
        """Return the scores of one run of the native file over pixels: (rows, cols, classes)."""
        scores: np.ndarray = Session(Scorer(self.folder).model(name)).score([image])[0]
        return scores

    def crops(self, name: str, tops: list[int], lefts: list[int], image: np.ndarray = IMAGE) -> np.ndarray:
        """Return the scores of every window by itself, by the native file: (rows, cols, classes)."""
        model = Scorer(self.folder).model(name)
        height, width, session = model.vertical.window, model.horizontal.window, Session(model)
        windows = [image[top : top + height, left : left + width] for top, left in product(tops, lefts)]
        return np.stack([session.score([window])[0, 0, 0] for window in windows]).reshape(len(tops), len(lefts), -1)


def make_models(folder: Path) -> Models:
    """Convert an unpadded and a padded network, each with a file of half its native stride beside the native one."""
    networks = {}
    for toml, stride in ((UNPADDED, 2), (PADDED, 4)):
        network = make_network(folder, toml)
        convert_into(folder / "models", network, strides=(stride,))
        networks[network.architecture.name] = network
    return Models(folder / "models", networks)


def stitched(run: Scoring) -> np.ndarray:
    """Return all rows in one array, after checking that they are consecutive."""
    bands = list(run.rows())
    assert [band.first for band in bands] == [0, *np.cumsum([len(band.scores) for band in bands])[:-1]]
    return np.concatenate([band.scores for band in bands])


def starts(extent: int, window: int, stride: int) -> list[int]:
    """Return where the windows of an axis start."""
    return list(range(0, extent - window + 1, stride))


def inside(mask: np.ndarray, tops: list[int], lefts: list[int], window: tuple[int, int]) -> np.ndarray:
    """Return which windows lie wholly inside a mask, computed window by window."""
    inside_mask = [mask[top : top + window[0], left : left + window[1]].all() for top, left in product(tops, lefts)]
    return np.array(inside_mask).reshape(len(tops), len(lefts))
