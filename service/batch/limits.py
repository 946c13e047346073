"""How many images of a job may fail before it stops."""

import re
from dataclasses import dataclass

LIMIT = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<percent>%?)")


@dataclass(frozen=True)
class FailureLimit:
    """A number of images, or a share of the job's images. None: no limit."""

    number: float | None = None
    is_share: bool = False
    """Whether the number is a share, 0 to 1."""

    @classmethod
    def parse(cls, text: str | None) -> "FailureLimit":
        """Return the limit that a text such as 10 or 5% states; raises ValueError."""
        if text is None:
            return cls()
        match = LIMIT.fullmatch(text)
        if not match or (not match["percent"] and "." in text) or (match["percent"] and float(match["number"]) > 100):
            raise ValueError(f"expected a number of images, or a percentage such as 5%, got {text!r}")
        return cls(float(match["number"]) / (100 if match["percent"] else 1), bool(match["percent"]))

    def exceeded(self, failed: int, total: int) -> bool:
        """Return whether more images have failed than may."""
        return self.number is not None and failed > self.number * (total if self.is_share else 1)
