"""Finds faces with the cascade MTCNN: P-Net scans the image, R-Net and O-Net look again at the boxes that are left.

    python models/real/convert.py build/models --network pnet --network rnet --network onet
    python models/real/cascade.py build/photographs/astronaut.png

P-Net scores every window of 12×12 pixels at several scales. Each box that it finds is cut out as a square and scored by
R-Net at 24×24 pixels, and each box that R-Net keeps by O-Net at 48×48 pixels. Each network moves the boxes. Prints the
number of boxes after each network, then the probability, left, top, right and bottom of each face.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fullconv import Answer, Scorer
from fullconv.objects.boxes import moved_boxes
from fullconv.objects.suppression import suppress

MODELS = Path("build/models")
LEAST_FACE, FACTOR = 40, 0.7
"""Side of the smallest face in pixels, and the factor between neighbouring scales."""


class Stage(NamedTuple):
    """A network of the cascade."""

    model: str
    side: int
    """Side of the window in pixels."""
    least: float
    """Smallest probability of a face."""
    box: str
    """The output that holds boxes, as PyTorch's exporter calls it."""


P_NET = Stage("pnet", 12, 0.6, "conv2d_4")
LATER = Stage("rnet", 24, 0.7, "linear_2"), Stage("onet", 48, 0.9, "linear_2")
OVERLAP = 0.5
"""Largest intersection over union of two boxes that are kept."""


def main(path: str) -> None:
    """Find the faces of an image, and print them."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    with Scorer(MODELS) as scorer:
        boxes = scanned(scorer, image)
        print(f"boxes after {P_NET.model}: {len(boxes)}")
        for stage in LATER:
            boxes, probabilities = refined(scorer, stage, image, boxes)
            print(f"boxes after {stage.model}: {len(boxes)}")
    for probability, (x, y, width, height) in zip(probabilities, boxes, strict=True):
        print(f"{probability:.3f}", *np.rint([x, y, x + width, y + height]).astype(int))


def scanned(scorer: Scorer, image: Image.Image) -> NDArray[np.float64]:
    """Return the boxes that P-Net finds at all scales, x, y, width and height: (boxes, 4)."""
    scale, answers = P_NET.side / LEAST_FACE, list[Answer]()
    while scale * min(image.size) >= P_NET.side:
        answers.append(scorer.score(image, model=P_NET.model, grid=True, scales=[f"{scale:.4f}x"]))
        scale *= FACTOR
    if not answers:
        sys.exit(f"expected sides of at least {LEAST_FACE} pixels, got {image.width}×{image.height} (width×height)")
    first, *others = answers
    found = first.objects(*others, threshold=P_NET.least, overlap=OVERLAP, box_output=P_NET.box)
    return found.boxes.astype(np.float64)


def refined(
    scorer: Scorer, stage: Stage, image: Image.Image, boxes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Score the square around each box; returns the boxes of the faces, moved by the network, and the probabilities."""
    squares = squares_around(boxes)
    faces, offsets = np.zeros(len(squares), np.float32), np.zeros((len(squares), 4), np.float32)
    crops = ((str(number), cut_out(image, square, stage.side)) for number, square in enumerate(squares))
    for number, answer in scorer.score_many(crops, model=stage.model, mode="crops", grid=True):
        if not isinstance(answer, Answer):
            raise answer
        faces[int(number)] = np.asarray(answer.grid)[0, 0, 1]
        offsets[int(number)] = answer.further[stage.box][0, 0]
    found = np.flatnonzero(faces >= stage.least)
    moved = moved_boxes(squares[found], offsets[found])
    kept = suppress(moved, faces[found], OVERLAP)
    return moved[kept], faces[found][kept]


def cut_out(image: Image.Image, square: NDArray[np.int64], side: int) -> Image.Image:
    """Return a part of the image, black outside of it, as a window with sides of `side` pixels."""
    x, y, width, height = square.tolist()
    return image.crop((x, y, x + width, y + height)).resize((side, side), Image.Resampling.BILINEAR)


def squares_around(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return squares with the boxes' centres and their longer sides, in whole pixels, as x, y, width and height."""
    sides = boxes[:, 2:].max(axis=1, keepdims=True)
    squares = np.concatenate([boxes[:, :2] + (boxes[:, 2:] - sides) / 2, sides, sides], axis=1)
    return np.asarray(np.rint(squares), np.int64)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python models/real/cascade.py IMAGE")
    main(sys.argv[1])
