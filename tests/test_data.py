"""The exported networks in `data/` are valid, and answer what the framework that wrote them answered."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.testing import assert_allclose

DATA = Path(__file__).parent / "data"
EXPORTS = sorted(path for folder in ("pytorch",) for path in (DATA / folder).glob("*.onnx"))


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_exports_answer_what_their_framework_answered(path: Path) -> None:
    """ONNX Runtime's scores of the stored window are the stored ones, to rounding."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    stored = np.load(path.with_name(f"{path.name.split('.')[0]}.npz"))
    session = ort.InferenceSession(path)
    got = session.run(None, {session.get_inputs()[0].name: stored["window"]})[0]
    assert got.shape == stored["scores"].shape
    assert_allclose(got, stored["scores"], rtol=0, atol=1e-5 * np.abs(stored["scores"]).max())
