"""What decoding is planned to cost, limits on files before they are parsed, and decoding in a process of its own."""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.testing import assert_array_equal
from support.hostile import SMALL_WEBP, chunk, many_scans, one_bit_png, progressive
from support.paths import ROOT
from support.pictures import encode, noise

from service.errors import CancelledRunError, ImageError, LimitError
from service.images.decoding import UNSHARED, DecodingCost, DecodingRates, UnsharedDecoding
from service.images.encoded import open_bytes, open_file
from service.images.headers import MAX_CHUNKS, MAX_SCANS, MAX_TEXT_BYTES, opens_quickly
from service.images.picture import Picture
from service.limits import Limits
from service.scoring.execution import Execution
from service.scoring.options import OTSU, RequestedOptions, Scale
from service.scoring.scorer import Scorer, ScoringRequest

MODELS = ROOT / "models"
MIB = 1 << 20
PIXELS = noise(300, 200, 3)
MEASURED = {
    "webp": (SMALL_WEBP, "WebP", 1960 * MIB),
    "progressive": (progressive(16000, 16000, 20), "progressive JPEG", 1519 * MIB),
    "interlaced": (
        pyvips.Image.black(8000, 8000, bands=3).copy(interpretation="srgb").write_to_buffer(".png", interlace=True),
        "interlaced PNG",
        8000 * 8000 * 3,
    ),
}
"""Files, their kinds, and the peak of memory while they are decoded, as measured."""
FILES = {
    "baseline.jpg": encode(PIXELS, ".jpg"),
    "progressive.jpg": encode(PIXELS, ".jpg", interlace=True),
    "plain.png": encode(PIXELS, ".png"),
    "interlaced.png": encode(PIXELS, ".png", interlace=True),
    "deep.png": encode(PIXELS.astype(np.uint16) * 257, ".png"),
    "lossy.webp": encode(PIXELS, ".webp"),
    "strips.tif": encode(PIXELS, ".tif", compression="deflate"),
    "tiles.tif": encode(PIXELS, ".tif", compression="jpeg", tile=True, tile_width=64, tile_height=64),
}


def turned(orientation: int) -> bytes:
    """Return a JPEG file that EXIF turns."""
    image = pyvips.Image.new_from_array(PIXELS).copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    data: bytes = image.write_to_buffer(".jpg")
    return data


FILES |= {f"turned {orientation}.jpg": turned(orientation) for orientation in range(2, 9)}


class Apart:
    """Decodes every file in a process of its own, and is cancelled after some pauses; a `Decoding`."""

    def __init__(self, pauses: float = np.inf) -> None:
        self._pauses = pauses

    @contextmanager
    def turn(self, _: DecodingCost) -> Iterator[None]:
        """Do not wait."""
        yield

    def at_end(self, end: Callable[[], None]) -> None:
        """Keep a function that ends a process."""
        self.end = end

    def pause(self) -> None:
        """Count down, and raise CancelledRunError in the end."""
        self._pauses -= 1
        if self._pauses < 0:
            raise CancelledRunError("cancelled")

    def is_apart(self, _: DecodingCost) -> bool:
        """Return True."""
        return True


@pytest.mark.parametrize("kind", MEASURED)
def test_memory_of_decoders_is_planned(kind: str) -> None:
    """The plan of a file that is decoded whole holds at least 0.9 of the memory that it was measured to take."""
    data, name, measured = MEASURED[kind]
    planned = Scorer(MODELS).plan(open_bytes(data, name="i"), ScoringRequest("digits"))
    assert planned.picture.cost.kind == name
    assert planned.decoding.held_bytes >= 0.9 * measured
    assert planned.held_bytes == planned.plan.held_bytes + planned.decoding.held_bytes
    assert planned.picture.cost.step_seconds > 0


def test_rows_are_not_planned_as_whole_images() -> None:
    """A file that is decoded row by row is planned to hold some of its rows, however high it is."""
    costs = [open_bytes(one_bit_png(4000, height), name="i").cost for height in (4000, 40_000)]
    assert costs[0].held_bytes < 4000 * 4000
    assert costs[1].held_bytes < 1.2 * costs[0].held_bytes
    assert costs[1].seconds > 5 * costs[0].seconds


def test_plans_with_too_much_memory_are_refused() -> None:
    """What decoders hold counts as memory of the plan; the error names the kind of file and the way out."""
    scorer = Scorer(MODELS, Limits(plan_bytes=1 << 30))
    with pytest.raises(LimitError, match=r"memory: .* at most 1024 MiB, got .* decoding a WebP file; save it as"):
        scorer.plan(open_bytes(SMALL_WEBP, name="i"), ScoringRequest("digits"))


def test_scans_are_limited() -> None:
    """A JPEG file of more scans than any encoder writes is refused before it is parsed."""
    open_bytes(progressive(64, 64, MAX_SCANS - 3), name="i")
    with pytest.raises(LimitError, match=f"i: scans: expected at most {MAX_SCANS} in a JPEG file, got more"):
        open_bytes(progressive(64, 64, MAX_SCANS - 2), name="i")
    with pytest.raises(LimitError, match="scans"):
        open_bytes(many_scans(255 << 10), name="i")


def test_compressed_text_is_limited(tmp_path: Path) -> None:
    """A PNG file of much compressed text is refused before the text is inflated; other text is not limited."""
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100 * MIB), 9))
    plain = chunk(b"iTXt", b"key\0\0\0\0\0" + bytes(2 * MAX_TEXT_BYTES))
    file = tmp_path / "i.png"
    file.write_bytes(one_bit_png(32, 32, chunks=plain))
    assert open_file(file).width == 32
    for chunks in (bomb, plain + chunk(b"iTXt", b"key\0\1\0\0\0" + bytes(MAX_TEXT_BYTES))):
        file.write_bytes(one_bit_png(32, 32, chunks=chunks))
        with pytest.raises(LimitError, match="text: expected at most 64 KiB of compressed text"):
            open_file(file)


def test_chunks_are_limited() -> None:
    """A PNG file of very many chunks before its pixels is refused."""
    empty = chunk(b"teSt", b"")
    open_bytes(one_bit_png(32, 32, chunks=empty * (MAX_CHUNKS - 1)), name="i")
    with pytest.raises(LimitError, match="chunks: expected at most 10000"):
        open_bytes(one_bit_png(32, 32, chunks=empty * MAX_CHUNKS), name="i")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (FILES["baseline.jpg"], True),
        (FILES["plain.png"], True),
        (FILES["lossy.webp"], True),
        (FILES["strips.tif"], False),
        (progressive(64, 64, 200), False),
        (one_bit_png(32, 32, chunks=chunk(b"zTXt", bytes(9000))), False),
        (b"", False),
    ],
    ids=["jpeg", "png", "webp", "tiff", "scans", "text", "empty"],
)
def test_what_is_opened_quickly(data: bytes, *, expected: bool) -> None:
    """Files whose header may take long to read are not opened in the thread of small requests."""
    assert opens_quickly(data) is expected


def samples(picture: Picture, decoding: UnsharedDecoding | Apart, step: int, first: int = 0) -> np.ndarray:
    """Return the converted rows of an image from `first` on, read in steps."""
    rows = picture.rows(Scorer(MODELS).model("digits").spec.input, decoding)
    return np.concatenate([rows.read(at, min(at + step, picture.height)) for at in range(first, picture.height, step)])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("first", [0, pytest.param(77, marks=pytest.mark.slow)])
def test_decoding_apart_gives_the_same_pixels(name: str, first: int, tmp_path: Path) -> None:
    """A process of its own decodes every kind of file, in memory or on disk, from any row on, as this process does."""
    expected = samples(open_bytes(FILES[name], name="i"), UNSHARED, 64, first)
    assert_array_equal(samples(open_bytes(FILES[name], name="i"), Apart(), 41, first), expected)
    path = tmp_path / "i"
    path.write_bytes(FILES[name])
    assert_array_equal(samples(open_file(path), Apart(), 50, first), expected)


def test_a_process_skips_rows() -> None:
    """Rows between two calls are left out, as by the decoders of this process."""
    picture = open_bytes(FILES["plain.png"], name="i")
    model_input = Scorer(MODELS).model("digits").spec.input
    inside, apart = picture.rows(model_input), picture.rows(model_input, Apart())
    for first, stop in ((10, 20), (20, 30), (250, 300)):
        assert_array_equal(apart.read(first, stop), inside.read(first, stop))


def test_skipped_rows_are_read_in_steps() -> None:
    """Rows far below the last are reached with pauses, so that a request can be cancelled meanwhile."""
    pixels, pauses = noise(4096, 512, 1), [0]
    picture = open_bytes(encode(pixels[..., 0], ".png"), name="i")

    def count() -> None:
        pauses[0] += 1

    rows = picture.open_samples(count)
    assert_array_equal(rows.read(4000, 4096), pixels[4000:])
    assert pauses[0] > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_the_largest_images_are_decoded_apart(name: str) -> None:
    """The memory limit of the process leaves room for the images that need the most memory."""
    picture = open_bytes(MEASURED[name][0], name="i")
    rows = picture.rows(Scorer(MODELS).model("digits").spec.input, Apart())
    assert rows.read(0, 16).shape == (16, picture.width, 1)


def test_a_cancelled_process_ends() -> None:
    """A request that is cancelled while a process decodes its file ends the process, and raises CancelledRunError."""
    picture = open_bytes(SMALL_WEBP, name="i")
    rows = picture.rows(Scorer(MODELS).model("digits").spec.input, Apart(pauses=2))
    with pytest.raises(CancelledRunError):
        rows.read(0, 16)
    process = rows.source._process  # type: ignore[attr-defined]  # noqa: SLF001 (nothing else shows that it runs)
    assert process.returncode == -9  # although `rows` still exists


TURNED = """
import os, sys
from service.images.encoded import open_bytes
rows = open_bytes(sys.stdin.buffer.read(), name="i").open_samples(lambda: None)
rows.read(0, 16)
print(os.listdir(os.environ["TMPDIR"]), [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]])
"""


def test_turned_images_write_no_files(tmp_path: Path) -> None:
    """A file that EXIF turns is decoded in memory, even if libvips would keep so large an image in a file."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "VIPS_DISC_THRESHOLD": "1000"}
    found = subprocess.run(
        [sys.executable, "-c", TURNED], input=turned(6), env=environment, check=True, capture_output=True
    )
    assert found.stdout.startswith(b"[] ")
    assert str(tmp_path).encode() not in found.stdout


def test_damaged_files_are_refused_by_a_process() -> None:
    """A process that cannot decode its file gives the same error as this process."""
    data = FILES["progressive.jpg"]
    picture = open_bytes(data[: len(data) // 2], name="cut.jpg")
    messages = set()
    for decoding in (UNSHARED, Apart()):
        with pytest.raises(ImageError) as caught:
            samples(picture, decoding, 64)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert "cut.jpg: expected a complete JPEG file, got a truncated file: it ends after" in messages.pop()


def test_a_process_that_takes_more_memory_than_planned_is_refused() -> None:
    """The memory of a decoder is bounded by its plan; the error says so."""
    picture = open_bytes(SMALL_WEBP, name="i.webp")
    picture = replace(picture, cost=replace(picture.cost, held_bytes=0))
    with pytest.raises(ImageError, match=r"i\.webp: (its decoder ended|expected a complete)"):
        samples(picture, Apart(), 64)


def test_one_decode_serves_all_scales() -> None:
    """An image that is scored at several sizes is decoded once, with the same scores as if decoded for each."""
    scales = tuple(Scale(factor=factor) for factor in (1.0, 0.5, 1.5))
    picture = open_bytes(encode(noise(200, 260, 1), ".png"), name="i")
    opened = []

    def open_samples(pause: object) -> object:
        opened.append(pause)
        return picture.open_samples(pause)  # type: ignore[arg-type]

    counted = replace(picture, open_samples=open_samples)  # type: ignore[arg-type]
    scorer, request = Scorer(MODELS), ScoringRequest("digits", options=RequestedOptions(scales=scales, grid=True))
    planned = scorer.plan(counted, request)
    again = replace(planned, decoding=replace(planned.decoding, keeps_pixels=False))
    averages = []
    for each, expected in ((planned, 1), (again, 3)):
        opened.clear()
        execution = Execution(each)
        rows = [part.scores for part in execution.rows()]
        averages.append((np.concatenate(rows), execution.result().average))
        assert len(opened) == expected
    assert_array_equal(averages[0][0], averages[1][0])
    assert_array_equal(averages[0][1], averages[1][1])
    assert planned.decoding.passes == 1


def test_masks_and_passes_are_planned() -> None:
    """Finding the foreground decodes the image once more; a mask image is decoded for each scale."""
    picture, scorer = open_bytes(encode(noise(400, 400, 1), ".png"), name="i"), Scorer(MODELS)

    def seconds(**options: object) -> float:
        request = ScoringRequest("digits", options=RequestedOptions(**options))  # type: ignore[arg-type]
        return scorer.plan(picture, request).decoding.seconds

    once = seconds()
    assert seconds(mask=OTSU) == pytest.approx(2 * once)
    assert seconds(mask=lambda: picture) == pytest.approx(2 * once)
    two = (Scale(factor=1.0), Scale(factor=0.9))
    assert seconds(mask=lambda: picture, scales=two) == pytest.approx(3 * once)


def test_rates_are_learnt_within_bounds() -> None:
    """Predictions approach what decoding takes, and never leave a factor of eight, whatever is observed."""
    rates, cost = DecodingRates(), DecodingCost("PNG", seconds=1.0)
    assert rates.seconds(cost) == 1.0
    for _ in range(100):
        rates.observe(cost, 1, 3.0)
    assert rates.seconds(cost) == pytest.approx(3.0)
    for _ in range(100):
        rates.observe(cost, 1, 0.0)
    assert rates.seconds(cost) == pytest.approx(1 / 8)
    rates.observe(replace(cost, seconds=1e-4), 1, 1.0)
    assert rates.seconds(replace(cost, kind="WebP")) == 1.0
