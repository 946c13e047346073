"""An object that was found in an image."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectedObject:
    """An object: its class, and its box in pixels of the image."""

    label: str
    """Label of the class, or its index as text if the model has no labels."""
    index: int
    """Index of the class in the network's output."""
    colour: str | None
    """Colour of the class, "#rrggbb". None: the class has no colour."""
    score: float
    """Probability of the class; for a model without probabilities, its score."""
    x: float
    """Left edge of the box. Edges and sizes are whole numbers if the box is a window."""
    y: float
    """Top edge of the box."""
    width: float
    """Width of the box."""
    height: float
    """Height of the box."""
