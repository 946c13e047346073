"""Answers by a model that is not exact have a sentence on the agreement of dense with crops and the cost of crops."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.networks import PADDED, UNPADDED, make_network
from support.pictures import noise, png
from support.scoring import Scoring, plan_image
from support.servers import running

from converter.spec import embed
from fullconv import Client
from fullconv.command.table import answer_table, plan_table
from fullconv.common.certificate import interval
from fullconv.decode import answer_of
from fullconv.protos import model_pb2, scoring_pb2
from service.engine.repository import read_spec
from service.images.encoded import open_bytes
from service.scoring.scorer import Scorer

IMAGE = noise(150, 214, 3)
CROPS = "--mode exact gives the classifier's own answers for"


def rewrite(models: Path, name: str, change: Callable[[model_pb2.ModelSpec], object]) -> None:
    """Change the ModelSpec of a stored model."""
    file = models / name / "1" / "model.onnx"
    spec = read_spec(file)
    change(spec)
    embed(spec, file)


def agreeing(share: float, windows: int = 643) -> Callable[[model_pb2.ModelSpec], object]:
    """Return a function that sets the agreement in a certificate to a share of the windows."""

    def change(spec: model_pb2.ModelSpec) -> None:
        low, high = interval(share, windows)
        difference = model_pb2.Difference(
            windows=windows,
            max_abs=8.6,
            median_abs=0.43,
            top_class_agreement=share,
            agreement_low=low,
            agreement_high=high,
            rarer_windows=windows // 2,
            rarer_agreement=share,
        )
        spec.parity[0].overall.CopyFrom(difference)

    return change


def unranked(kind: str, classes: int) -> Callable[[model_pb2.ModelSpec], object]:
    """Return a function that changes a certificate to scores without a top class."""

    def change(spec: model_pb2.ModelSpec) -> None:
        spec.output.kind = kind
        spec.output.classes = classes
        spec.parity[0].overall.CopyFrom(
            model_pb2.Difference(windows=256, max_abs=0.238, median_abs=0.0056, p99_abs=0.1)
        )

    return change


def plan(models: Path, name: str, **options: Any) -> Scoring:
    request = scoring_pb2.ScoreRequest(model=name, options=scoring_pb2.ScoreOptions(**options))
    return plan_image(Scorer(models), open_bytes(png(IMAGE), name="i"), request)


def rendered(renderable: object) -> str:
    """Return the text that a terminal shows, without line breaks."""
    text = StringIO()
    console = Console(width=300, file=text)
    console.print(renderable)
    return " ".join(text.getvalue().split())


@pytest.fixture
def padded(convert: Callable[..., Path], tmp_path: Path) -> Path:
    """Return a repository of the padded network, which is not exact."""
    return convert(make_network(tmp_path, PADDED))


def test_little_agreement_is_a_warning(padded: Path) -> None:
    """Below nine tenths the sentence is in `warnings`, with the multiply-adds of crops over those of the plan."""
    rewrite(padded, "padded", agreeing(314 / 643))
    run = plan(padded, "padded")
    times = plan(padded, "padded", mode=scoring_pb2.MODE_EXACT).plan.multiply_adds / run.plan.multiply_adds
    own = "dense names the classifier's own top class on 49 % of windows (45 to 53 %)"
    sentence = f"{own}; {CROPS} {times:.2g} times the compute"
    response = run.complete()
    assert (response.mode, response.mode_reason, list(response.warnings)) == (
        "dense",
        "default for a model whose dense scores are not exact",
        [sentence],
    )
    assert (response.parity.exact, response.parity.windows, response.parity.max_abs_diff) == (False, 643, 8.6)
    assert response.parity.top_class_agreement == 314 / 643
    low, high = interval(314 / 643, 643)
    assert (response.parity.agreement_low, response.parity.agreement_high) == (low, high)
    answer = answer_of(response)
    document = answer.document()
    assert document["warnings"] == [sentence]
    assert document["parity"] == {"exact": False, "max_abs_diff": 8.6, "top_class_agreement": 314 / 643}
    assert answer_of(plan(padded, "padded").response).document()["warnings"] == [sentence]
    unknown: dict[str, Any] = {"predicted_seconds": None, "outputs": []}
    for text in (rendered(answer_table(answer)), rendered(plan_table(answer, unknown))):
        assert f"warning: {sentence}" in text
        assert "not exact" in text


def test_an_agreement_on_one_class_is_a_warning(padded: Path) -> None:
    """If all compared windows have the same top class, their agreement shows nothing, and the answer says so."""

    def change(spec: model_pb2.ModelSpec) -> None:
        agreeing(1.0, 64)(spec)
        spec.parity[0].overall.rarer_windows = 0

    rewrite(padded, "padded", change)
    (warning,) = plan(padded, "padded").complete().warnings
    assert warning.startswith(
        "dense names the classifier's own top class on 100 % of windows (94 to 100 %), but all 64 windows have the "
        "same top class, so that their agreement shows nothing; --mode exact"
    )


@pytest.mark.parametrize(
    ("share", "words"), [(0.9, "90 % of windows (87 to 92 %)"), (642 / 643, "99.8 % of windows (99.1 to 99.9 %)")]
)
def test_enough_agreement_is_a_remark(padded: Path, share: float, words: str) -> None:
    """From nine tenths on the same sentence is in the reason of the mode, and in the table, without a warning."""
    rewrite(padded, "padded", agreeing(share))
    response = plan(padded, "padded").complete()
    sentence = f"dense names the classifier's own top class on {words}; {CROPS}"
    assert response.mode_reason.startswith(f"default for a model whose dense scores are not exact; {sentence}")
    assert not response.warnings
    assert answer_of(response).document()["warnings"] == []
    assert f"dense, the classifier's own top class on {words}" in rendered(answer_table(answer_of(response)))
    requested = plan(padded, "padded", mode=scoring_pb2.MODE_DENSE).complete()
    assert requested.mode_reason.startswith(f"requested; {sentence}")


@pytest.mark.parametrize(("kind", "classes"), [("raw", 5), ("logits-sigmoid", 1)])
def test_scores_without_a_top_class(convert: Callable[..., Path], tmp_path: Path, kind: str, classes: int) -> None:
    """For regression and single outputs the warning has the differences; the agreement in the JSON is null."""
    models = convert(make_network(tmp_path, PADDED, classes=classes))
    rewrite(models, "padded", unranked(kind, classes))
    response = plan(models, "padded").complete()
    (sentence,) = response.warnings
    start = "dense scores differ from the classifier's own by 0.0056 (median) and 0.24 (largest seen on 256 windows)"
    assert sentence.startswith(f"{start}; {CROPS}")
    assert answer_of(response).document()["parity"] == {
        "exact": False,
        "max_abs_diff": 0.238,
        "top_class_agreement": None,
    }


def test_factors_count_strides_and_flips(padded: Path) -> None:
    """The factor depends on the request: another stride and a mirrored pass change it."""
    rewrite(padded, "padded", agreeing(0.5))
    found = []
    for options in ({}, {"stride": 32}, {"stride": 2}, {"flip": True}):
        (sentence,) = plan(padded, "padded", **options).response.warnings
        (factor,) = map(float, re.findall(r"for ([0-9.]+) times", sentence))
        crops = plan(padded, "padded", mode=scoring_pb2.MODE_EXACT, **options).plan.multiply_adds
        expected = crops / plan(padded, "padded", **options).plan.multiply_adds
        np.testing.assert_allclose(factor, expected, rtol=0.1)
        found.append(expected)
    assert found[1] < 1 < found[0]


def test_exact_answers_have_no_warning(convert: Callable[..., Path], tmp_path: Path, padded: Path) -> None:
    """Neither an exact model nor mode crops has a warning, and the certificate of an exact model has full agreement."""
    convert(make_network(tmp_path, UNPADDED))
    response = plan(padded, "unpadded").complete()
    assert (response.parity.exact, response.parity.top_class_agreement, list(response.warnings)) == (True, 1, [])
    assert "dense, exact" in rendered(answer_table(answer_of(response)))
    crops = plan(padded, "padded", mode=scoring_pb2.MODE_CROPS).complete()
    assert (crops.mode, crops.mode_reason, list(crops.warnings)) == ("crops", "requested", [])


def test_reduced_precision_of_an_unpadded_network(convert: Callable[..., Path], tmp_path: Path) -> None:
    """If only reduced precision makes the difference, crops are not recommended, because they differ too."""
    models = convert(make_network(tmp_path, UNPADDED), precision="fp16")
    rewrite(models, "unpadded", agreeing(0.5))
    (sentence,) = plan(models, "unpadded").response.warnings
    assert sentence.endswith("(46 to 54 %); the cause is fp16, and --mode crops has the same difference")


def test_older_servers_are_shown_as_they_answer() -> None:
    """For a server that sends only the largest difference, this is shown, and the agreement is null."""
    response = scoring_pb2.ScoreResponse(mode="dense", parity=scoring_pb2.ParityInfo(max_abs_diff=0.31))
    response.grid.rows = response.grid.cols = 1
    response.average.of = scoring_pb2.AVERAGE_OF_SCORES
    assert "dense, differs from crops by 0.31 (largest seen)" in rendered(answer_table(answer_of(response)))
    assert answer_of(response).document()["parity"]["top_class_agreement"] is None


def test_certificates_of_earlier_releases(padded: Path) -> None:
    """For a model converted by release 0.1, interior and border are combined."""

    def change(spec: model_pb2.ModelSpec) -> None:
        parity = spec.parity[0]
        parity.ClearField("overall")
        parity.interior.CopyFrom(model_pb2.Difference(windows=32, max_abs=1, median_abs=0.1, top_class_agreement=0.5))
        parity.border.CopyFrom(model_pb2.Difference(windows=32, max_abs=3, median_abs=0.1, top_class_agreement=0.75))

    rewrite(padded, "padded", change)
    response = plan(padded, "padded").complete()
    assert (response.parity.windows, response.parity.max_abs_diff) == (64, 3)
    assert response.warnings[0].startswith("dense names the classifier's own top class on 62 % of windows (50 to 73 %)")


@pytest.mark.parametrize(("share", "level", "field"), [(0.5, "WARNING", "warning"), (0.95, "INFO", "remark")])
def test_the_first_request_is_logged(padded: Path, share: float, level: str, field: str) -> None:
    """All answers of a server have the sentence; its log has it once for the model, for all kinds of requests."""
    rewrite(padded, "padded", agreeing(share))
    with running(padded) as server, Client(server.address, timeout=60) as client:
        answers = [client.score(png(IMAGE), model="padded") for _ in range(3)]
        answers.append(client.score_large(IMAGE, model="padded").planned)
        crops = client.score(png(IMAGE), model="padded", mode="crops")
    expected = plan(padded, "padded").complete().warnings
    assert all(answer.warnings == tuple(expected) for answer in answers)
    assert not crops.warnings
    (line,) = server.events("not exact")
    assert (line["level"], line["model"], line["version"]) == (level, "padded", "1")
    assert f"own top class on {100 * share:.0f} % of windows" in line[field]
    assert line["id"] == server.events("request")[0]["id"]


def test_the_command_prints_it(padded: Path, tmp_path: Path) -> None:
    """`fullconv-score --json` prints the warnings and the agreement in the JSON, and not on standard error."""
    rewrite(padded, "padded", agreeing(0.5))
    (tmp_path / "image.png").write_bytes(png(IMAGE))
    command = [
        sys.executable,
        "-m",
        "fullconv",
        str(tmp_path / "image.png"),
        "--model",
        "padded",
        "--models",
        str(padded),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["parity"]["top_class_agreement"] == 0.5
    assert document["warnings"] == list(plan(padded, "padded").response.warnings)
    assert done.stderr == ""
