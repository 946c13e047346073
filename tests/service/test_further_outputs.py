"""Further outputs of a model in answers: by every method, in this process and from a server, and in files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.conversion import SILENT
from support.detectors import SIDE, STRIDE, detector, windows_of
from support.hostile_models import edit_graph, edit_spec
from support.pictures import encode, noise
from support.scoring import plan_message
from support.servers import Server, infer, running

from converter import convert as conversion
from converter.sources.read import read_source
from fullconv import Answer, Client, OutputError, RequestError, Scorer
from fullconv.protos import open_inference_pb2 as oip
from fullconv.protos import scoring_pb2
from service.errors import LimitError
from service.limits import Limits
from service.scoring.scorer import Scorer as ServiceScorer

ALSO = ("boxes", "embedding")
PIXELS = noise(300, 240, 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with the detector."""
    folder = tmp_path_factory.mktemp("detector")
    onnx.save(detector(), folder / "net.onnx")
    request = conversion.Request(folder / "models" / "net" / "1", windows=4, scores="prob", also=ALSO)
    conversion.convert(read_source(folder / "net.onnx", arch=None, window=None), request, SILENT)
    return folder / "models"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    """Yield a server of the detector."""
    with running(models) as server:
        yield server


@pytest.fixture(params=["in this process", "from a server"])
def scorer(request: pytest.FixtureRequest, models: Path, server: Server) -> Iterator[Scorer | Client]:
    """Yield a scorer of each kind."""
    with Scorer(models) if request.param == "in this process" else Client(server.address) as scorer:
        yield scorer


def check(further: Any, expected: list[np.ndarray]) -> None:  # noqa: ANN401 (a mapping of arrays)
    """Compare an answer's further outputs with those of the source."""
    assert list(further) == list(ALSO)
    for values, own in zip(further.values(), expected, strict=True):
        assert_allclose(values, own, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 8}, {"flip": True}, {"grid": "top", "grid_top": 2}, {"grid": "float16"}, {"classes": [1]}],
    ids=["native", "coarse", "flip", "top", "float16", "one class"],
)
@pytest.mark.parametrize("mode", ["shared", "crops"])
def test_values_of_every_window(
    scorer: Scorer | Client, mode: Literal["shared", "crops"], options: dict[str, Any]
) -> None:
    """They are the source's own whatever becomes of the scores; the mirrored image does not change them."""
    answer = scorer.score(PIXELS, model="net", mode=mode, **{"grid": True, **options})
    check(answer.further, windows_of(detector(), PIXELS, ALSO, options.get("stride", STRIDE)))


def test_large_images(scorer: Scorer | Client) -> None:
    """Rows of a large image bring their values, which `planned` and the model's description announce."""
    with scorer.score_large(PIXELS, model="net", mode="shared", grid=True) as stream:
        header = stream.planned.header
        rows = list(stream.rows())
    assert header.further == scorer.model("net").output.further == (("boxes", 4), ("embedding", 6))
    values = np.concatenate([part.further for part in rows if part.further is not None])
    check(header.split(values), windows_of(detector(), PIXELS, ALSO))


def test_many_images(scorer: Scorer | Client) -> None:
    """Each of many images has its own values."""
    images = {"a": PIXELS, "b": PIXELS[::-1].copy()}
    for name, answer in scorer.score_many(images.items(), model="net", mode="crops", grid=True):
        assert isinstance(answer, Answer)
        check(answer.further, windows_of(detector(), images[name], ALSO))


def test_masked_windows(scorer: Scorer | Client, tmp_path: Path) -> None:
    """Windows that a mask leaves out have NaN; the others have their values."""
    mask = np.full(PIXELS.shape[:2], 255, np.uint8)
    mask[:100] = 0
    (tmp_path / "mask.png").write_bytes(encode(mask, ".png"))
    answer = scorer.score(PIXELS, model="net", mode="crops", grid=True, mask=tmp_path / "mask.png")
    expected = windows_of(detector(), PIXELS, ALSO)
    for values in expected:
        values[:25] = np.nan
    check(answer.further, expected)


def test_without_a_grid(scorer: Scorer | Client) -> None:
    """An answer of averages alone has no further values; neither has the plan."""
    assert not scorer.score(PIXELS, model="net").further
    assert not scorer.plan(PIXELS, model="net", grid=True).further


def test_scaled_views(scorer: Scorer | Client) -> None:
    """Of several scales, the values are those of the first, like the positions of the windows."""
    both = scorer.score(PIXELS, model="net", mode="crops", grid=True, scales=["1x", "0.5x"])
    one = scorer.score(PIXELS, model="net", mode="crops", grid=True)
    for name in ALSO:
        assert_array_equal(both.further[name], one.further[name])


def test_files(scorer: Scorer | Client, tmp_path: Path) -> None:
    """The file of the grid holds an array for each further output, and nothing else is left beside it."""
    answer = scorer.score(PIXELS, model="net", grid=True)
    answer.save(tmp_path / "grid.npz")
    with np.load(tmp_path / "grid.npz") as file:
        check({name: file[f"further_{name}"] for name in ALSO}, [*answer.further.values()])
        assert_array_equal(file["scores"], answer.grid)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.npz"]


def test_a_full_disk(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one error that names the file, also where further outputs wait."""
    with Scorer(models) as scorer:
        answer = scorer.score(PIXELS, model="net", grid=True)
    monkeypatch.setattr(Path, "touch", lambda path, **_: path.symlink_to("/dev/full"))
    with pytest.raises(OutputError, match=r"grid\.npz: cannot be written: No space left on device"):
        answer.save(tmp_path / "grid.npz")
    assert not list(tmp_path.iterdir())


def test_open_inference(server: Server) -> None:
    """The Open Inference Protocol has an output tensor for each, by its own name."""
    message = oip.ModelInferRequest(model_name="net", raw_input_contents=[PIXELS.tobytes()])
    message.inputs.add(name="image", datatype="UINT8", shape=PIXELS.shape)
    for name in ("embedding", "average", "boxes"):
        message.outputs.add(name=name)
    message.parameters["mode"].string_param = "crops"
    response = infer(server, message)
    assert [output.name for output in response.outputs] == ["embedding", "average", "boxes"]
    expected = dict(zip(ALSO, windows_of(detector(), PIXELS, ALSO), strict=True))
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name != "average":
            values = np.frombuffer(data, "<f4").reshape(output.shape)[0]
            assert_allclose(np.moveaxis(values, 0, -1), expected[output.name], rtol=0, atol=1e-5)


def test_answers_that_are_too_large(models: Path) -> None:
    """The size of an answer counts further values: it is refused before anything is computed."""
    cells, values = 72 * 57, 3 + 10
    image = scoring_pb2.RawImage(height=300, width=240, channels=3, dtype="uint8", data=PIXELS.tobytes())
    request = scoring_pb2.ScoreRequest(model="net", image=scoring_pb2.Image(raw=image))
    request.options.grid = True
    with pytest.raises(LimitError, match=r"grid: expected at most .* for 72×57 cells of 3 classes;"):
        plan_message(ServiceScorer(models, Limits(message_bytes=4 * cells * values)), request)
    plan_message(ServiceScorer(models, Limits(message_bytes=4 * cells * values + 10_000)), request)


@pytest.mark.parametrize(
    ("name", "message"),
    [("scores", "outputs of different names"), ("bones", "expected the outputs scores, bones, embedding")],
    ids=["twice", "another"],
)
def test_damaged_descriptions(name: str, message: str, models: Path, tmp_path: Path) -> None:
    """A description of outputs that the graph does not have is refused when the model is loaded."""
    copy = tmp_path / "net" / "1"
    copy.mkdir(parents=True)
    for file in (models / "net" / "1").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    edit_graph(copy / "model.onnx", edit_spec(lambda spec: setattr(spec.output.further[0], "name", name)))
    with Scorer(tmp_path) as scorer, pytest.raises(RequestError, match=message):
        scorer.score(noise(SIDE, SIDE, 3), model="net")
