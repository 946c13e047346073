"""Finds faces with O-Net alone: every window at several scales, with its offsets of the box and its landmarks.

    python models/real/convert.py build/models --network onet
    python models/real/faces.py build/photographs/astronaut.png build/faces.jpg

Prints the probability and the box (left, top, right, bottom) of each face, in pixels of the image, and draws them.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from fullconv import Answer, Scorer

MODELS = Path("build/models")
WINDOW = 48
"""Side of O-Net's window in pixels."""
SCALES = [0.7 * 2 ** (-step / 2) for step in range(6)]
"""Faces have 48 pixels, the window of O-Net, at one of these factors."""
LEAST, OVERLAP = 0.95, 0.3
"""Smallest probability of a face, and largest intersection over union of two boxes that are kept."""
BOX, LANDMARKS = "linear_2", "linear_3"
"""The outputs of O-Net beside the probabilities, as PyTorch's exporter calls them."""


class Faces(NamedTuple):
    """Faces, in pixels of the image."""

    probabilities: NDArray[np.float64]
    """(faces,)."""
    boxes: NDArray[np.float64]
    """Left, top, right and bottom: (faces, 4)."""
    landmarks: NDArray[np.float64]
    """x and y of the eyes, the nose and the corners of the mouth: (faces, 5, 2)."""


def main(image: str, picture: str) -> None:
    """Find the faces of an image, print them, and draw them into a picture."""
    with Scorer(MODELS) as scorer:
        answers = [
            scorer.score(image, model="onet", mode="exact", grid=True, scales=[f"{scale:.4f}x"])
            for scale in scales_of(image)
        ]
    found = Faces(*(np.concatenate(parts) for parts in zip(*map(faces_of, answers), strict=True)))
    chosen = without_overlaps(found)
    faces = Faces(*(part[chosen] for part in found))
    for probability, box in zip(faces.probabilities, faces.boxes, strict=True):
        print(f"{probability:.3f}", *box.round().astype(int))
    draw(image, faces).save(picture)


def scales_of(image: str) -> list[float]:
    """Return the scales at which the image has at least one window."""
    with Image.open(image) as opened:
        side = min(opened.size)
    scales = [scale for scale in SCALES if scale * side >= WINDOW]
    if not scales:
        sys.exit(f"{image}: expected sides of at least {WINDOW / SCALES[0]:.0f} pixels, got {side}")
    return scales


def faces_of(answer: Answer) -> Faces:
    """Return the windows with a face: O-Net gives corners and landmarks as shares of the window's width and height."""
    probabilities = np.asarray(answer.grid, np.float64)[..., answer.labels.index("face")]
    has_face = probabilities >= LEAST
    windows = answer.boxes[has_face].astype(np.float64)
    corner, size = windows[:, None, :2], windows[:, None, 2:]
    offsets = answer.further[BOX][has_face].reshape(-1, 2, 2)
    boxes = np.concatenate([corner, corner + size], axis=1) + offsets * size
    landmarks = corner + answer.further[LANDMARKS][has_face].reshape(-1, 2, 5).swapaxes(1, 2) * size
    return Faces(probabilities[has_face], boxes.reshape(-1, 4), landmarks)


def without_overlaps(faces: Faces) -> list[int]:
    """Return the positions of the faces that overlap no face of higher probability (non-maximum suppression)."""
    kept = list[int]()
    for position in np.argsort(-faces.probabilities):
        if all(overlap(faces.boxes[position], faces.boxes[other]) <= OVERLAP for other in kept):
            kept.append(int(position))
    return kept


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = sum(float(np.prod(box[2:] - box[:2])) for box in (one, other))
    return shared / (areas - shared)


def draw(image: str, faces: Faces) -> Image.Image:
    """Draw boxes and landmarks over the image."""
    picture = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for box, points in zip(faces.boxes, faces.landmarks, strict=True):
        pen.rectangle(tuple(box), outline=(255, 60, 60), width=3)
        for x, y in points:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(60, 220, 255))
    return picture


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python models/real/faces.py IMAGE PICTURE.jpg")
    main(*sys.argv[1:])
