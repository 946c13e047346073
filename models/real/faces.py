"""Finds faces with O-Net alone: every window at several scales, with its offsets of the box and its landmarks.

    python models/real/convert.py build/models --network onet
    python models/real/faces.py build/photographs/astronaut.png build/faces.jpg

Prints the probability and the box (left, top, right, bottom) of each face, in pixels of the image, and draws them.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from fullconv import Scorer
from fullconv.objects.found import DetectedObjects

MODELS = Path("build/models")
WINDOW = 48
"""Side of O-Net's window in pixels."""
SCALES = [0.7 * 2 ** (-step / 2) for step in range(6)]
"""Faces have 48 pixels, the window of O-Net, at one of these factors."""
LEAST = 0.95
"""Smallest probability of a face."""
BOX, LANDMARKS = "linear_2", "linear_3"
"""The outputs of O-Net beside the probabilities, as PyTorch's exporter calls them."""


def main(image: str, picture: str) -> None:
    """Find the faces of an image, print them, and draw them into a picture."""
    with Scorer(MODELS) as scorer:
        first, *others = (
            scorer.score(image, model="onet", mode="exact", grid=True, scales=[f"{scale:.4f}x"])
            for scale in scales_of(image)
        )
        faces = first.objects(*others, threshold=LEAST, box_output=BOX)
    corners = np.concatenate([faces.boxes[:, :2], faces.boxes[:, :2] + faces.boxes[:, 2:]], axis=1)
    for probability, box in zip(faces.scores, corners, strict=True):
        print(f"{probability:.3f}", *box.round().astype(int))
    draw(image, corners, landmarks_of(faces)).save(picture)


def scales_of(image: str) -> list[float]:
    """Return the scales at which the image has at least one window."""
    with Image.open(image) as opened:
        side = min(opened.size)
    scales = [scale for scale in SCALES if scale * side >= WINDOW]
    if not scales:
        sys.exit(f"{image}: expected sides of at least {WINDOW / SCALES[0]:.0f} pixels, got {side}")
    return scales


def landmarks_of(faces: DetectedObjects) -> NDArray[np.float64]:
    """Return x and y of the eyes, the nose and the corners of the mouth, (faces, 5, 2), in pixels of the image.

    O-Net gives the landmarks as shares of the window's width and height.
    """
    shares = faces.further[LANDMARKS].reshape(-1, 2, 5).swapaxes(1, 2).astype(np.float64)
    return faces.windows[:, None, :2] + shares * faces.windows[:, None, 2:]


def draw(image: str, boxes: NDArray[np.float64], landmarks: NDArray[np.float64]) -> Image.Image:
    """Draw boxes, as left, top, right and bottom, and landmarks over the image."""
    picture = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for box, points in zip(boxes.tolist(), landmarks.tolist(), strict=True):
        pen.rectangle(tuple(box), outline=(255, 60, 60), width=3)
        for x, y in points:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(60, 220, 255))
    return picture


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python models/real/faces.py IMAGE PICTURE.jpg")
    main(*sys.argv[1:])
