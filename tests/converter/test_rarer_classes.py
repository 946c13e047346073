"""The agreement on windows outside of the most frequent class: background must not hide lost objects."""

import numpy as np
import pytest

from converter.verify.difference import difference
from converter.verify.networks import NetworkOutput
from fullconv.common.certificate import agreement, is_warning


def outputs(classes: list[int]) -> list[NetworkOutput]:
    """Return the outputs of a network for windows of these classes."""
    logits = np.eye(3, dtype=np.float32)[classes]
    return [NetworkOutput(row[None, None], row[None, None]) for row in logits]


CASES = {
    "every object is lost": ([0] * 95 + [1] * 5, [0] * 100, "but on only 0 % of the 5 windows", True),
    "half of the objects are lost": (
        [0] * 180 + [1, 2] * 10,
        [0] * 190 + [1, 2] * 5,
        "but on only 50 % of the 20",
        True,
    ),
    "no object is lost": ([0] * 95 + [1] * 5, [0] * 95 + [1] * 5, "", False),
    "too few objects to tell": ([0] * 99 + [1], [0] * 100, "", False),
    "one class": ([2] * 50, [2] * 50, "but all 50 windows have the same top class, so that their agreement", True),
    "few windows": ([0, 1] * 4, [0, 1] * 4, "but 8 windows are too few to tell", True),
    "one window": ([0], [0], "but 1 window is too few to tell", True),
    "one class that does not agree": ([2] * 50, [1] * 50, "", True),
    "a low agreement says enough": ([0] * 50 + [1] * 50, [0] * 100, "", True),
}


@pytest.mark.parametrize(("reference", "got", "said", "warns"), CASES.values(), ids=CASES)
def test_windows_of_rarer_classes(reference: list[int], got: list[int], said: str, *, warns: bool) -> None:
    """They are counted by themselves, and named where a high agreement is due to the most frequent class."""
    seen = difference(outputs(reference), outputs(got), has_top_class=True)
    common = max(set(reference), key=reference.count)
    rarer = [(one, other) for one, other in zip(reference, got, strict=True) if one != common]
    assert seen.rarer_windows == len(rarer)
    assert seen.rarer_agreement == (np.mean([one == other for one, other in rarer]) if rarer else 0)
    assert said in agreement(seen)
    assert (", but " in agreement(seen)) == bool(said)
    assert is_warning(seen) == warns
