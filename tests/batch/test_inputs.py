"""The images of a job: folders, patterns, lists, and odd names."""

import os
import socket
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.jobs import OUT, batch, last_line, make_images, rows
from support.pictures import noise, png

from service.batch.engines import local_limits
from service.batch.listing import list_listed


def paths() -> list[str]:
    return [row["path"] for row in rows()]


def test_patterns_choose_images(images: Path) -> None:
    """--include chooses images by their name, or by their path below the argument."""
    batch(images, "--include", "*.png", "--include", "below/*")
    assert paths() == [
        f"images/{name}"
        for name in ("below/broken.jpg", "below/image0000.jpg", "image0001.png", "image0004.png", "image0007.png")
    ]


def test_images_count_once(images: Path) -> None:
    """An image that several arguments name has one row."""
    batch(images / "image0001.png", images, "images/*.png")
    assert paths()[0] == "images/image0001.png"
    assert len(paths()) == 10


def test_results_inside_the_folder_of_images_are_no_images(images: Path) -> None:
    """Rasters of grids in the folder of results are not scored by the next run."""
    arguments = (images, "--grids", "geotiff")
    assert batch(*arguments, out=images / "out").exit_code == 3
    assert "10 in earlier runs" in batch(*arguments, out=images / "out").stdout


LISTS = {
    "list.txt": "images/image0001.png\n\nimages/image0002.tif\n",
    "list.csv": 'label,path,weight\ncat,images/image0001.png,1.5\n"a ""dog""\nat home",images/image0002.tif,\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_name_images_and_carry_columns(name: str, images: Path) -> None:
    """The images of a list keep its order, and its other columns are in the results with their types."""
    Path(name).write_text(LISTS[name], "utf-8")
    assert batch("--list", name).exit_code == 0
    assert paths() == [str(images / "image0001.png"), str(images / "image0002.tif")]
    if name.endswith(".csv"):
        assert [(row["label"], row["weight"]) for row in rows()] == [("cat", 1.5), ('a "dog"\nat home', None)]


def test_parquet_lists_carry_columns_of_any_type(images: Path) -> None:
    """Columns of a Parquet list keep their types; an image that does not exist has a row with its error."""
    boxes = pa.array([[1, 2], None], pa.list_(pa.int16()))
    parquet.write_table(pa.table({"path": [f"{images}/image0001.png", "none.png"], "box": boxes}), "list.parquet")
    assert batch("--list", "list.parquet").exit_code == 3
    table = parquet.read_table(OUT / "results")
    assert table.schema.field("box").type == boxes.type
    assert table["box"].to_pylist() == [[1, 2], None]
    assert table["error"].to_pylist() == [None, "none.png: cannot be read: No such file or directory"]


def test_lists_with_views_of_texts(images: Path) -> None:
    """Columns of views of texts and bytes are texts and bytes in the results, and the job continues."""
    columns = {
        "path": pa.array([f"{images}/image0001.png"], pa.string_view()),
        "plate": pa.array(["A1"], pa.string_view()),
        "key": pa.array([b"1"], pa.binary_view()),
        "count": pa.array([3], pa.int8()),
    }
    parquet.write_table(pa.table(columns), "list.parquet")
    for _ in range(2):
        assert batch("--list", "list.parquet").exit_code == 0
    table = parquet.read_table(OUT / "results")
    assert [table.schema.field(name).type for name in ("plate", "key", "count")] == [
        pa.string(), pa.binary(), pa.int8(),
    ]  # fmt: skip
    assert table.select(["plate", "key", "count"]).to_pylist() == [{"plate": "A1", "key": b"1", "count": 3}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "file,label\na.png,1\n", "expected one column 'path' in list.csv, got file, label"),
        ("list.csv", "path,path\na.png,b.png\n", "expected one column 'path' in list.csv, got path, path"),
        ("list.csv", "", "list.csv cannot be read: Empty CSV file"),
        ("list.csv", "path\na.png,b\n", "list.csv cannot be read: CSV parse error: Expected 1 columns, got 2"),
        ("list.csv", "path,width\na.png,1\n", "expected carried columns with other names than those of the results"),
        ("list.csv", "path,grid\na.png,1\n", "than path, bytes, modified_or_etag, grid, got 'grid'"),
        ("list.txt", "a.png\nb.png\na.png\n", "expected each path once in list.txt, got 'a.png' in rows 1 and 3"),
        ("list.txt", "\n", "expected at least one image in list.txt, got none"),
        ("list.txt", b"\xff\xfe\x00", "list.txt cannot be read"),
        ("list.parquet", "no table", "list.parquet cannot be read"),
        ("none.csv", None, "none.csv cannot be read: No such file or directory"),
    ],
    ids=[
        "no path",
        "two paths",
        "empty",
        "ragged",
        "name of a result",
        "name of a listing",
        "twice",
        "no image",
        "not text",
        "no Parquet",
        "missing",
    ],
)
def test_wrong_lists(name: str, text: str | bytes | None, message: str, images: Path) -> None:
    """A list that cannot be used is one line, and nothing is written."""
    assert images.exists()
    if text is not None:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    result = batch("--list", name)
    assert result.exit_code == 3
    assert message in last_line(result)
    assert not OUT.exists() or not any(OUT.glob("[a-z]*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected images or --list, got none"),
        (["a.png", "--list", "b.txt"], "expected images or --list, got both"),
        (["a.png", ""], "expected an image, a folder, a pattern or a URL, got an empty text"),
        (["a.png", "--engine", "server"], "expected --server with --engine server only, got none"),
        (["a.png", "--server", "h:1", "--engine", "local"], "expected --server with --engine server only"),
        (["a.png", "--server", "h:none"], "expected HOST:PORT"),
        (["a.png", "--precision", "bf16"], "expected fp32 with provider cpu, got bf16"),
        (["a.png", "--server", "h:1", "--tile-mib", "9"], "expected no --provider, --precision and --tile-mib"),
        (["a.png", "--max-failures", "many"], "expected a number of images, or a percentage such as 5%, got 'many'"),
        (["a.png", "--max-failures", "101%"], "expected a number of images"),
        (["a.png", "--shard", "3/3"], "expected I/N with I from 0 to N - 1, got '3/3'"),
        (["a.png", "--grid-as", "top"], "expected --grids with options of grids, got none"),
        (["a.png", "--grids", "npz", "--merge"], "expected a grid file that ends in .geojson with it"),
        (["a.png", "--address", "auto"], "expected --engine ray with it, got none"),
        (["a.png", "--roi-crs", "EPSG:4326"], "expected --roi with it, got none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_command_lines(arguments: list[str], message: str) -> None:
    """Options that contradict each other end with status 2, before anything is opened."""
    result = batch(*arguments)
    assert result.exit_code == 2
    assert message in last_line(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "empty: expected at least one image, got 1 other file;"),
        (
            ["images", "--include", "*.gif"],
            "expected at least one image, got 10 other files; --include *.gif selects none",
        ),
        (["images", "nothing.png"], "nothing.png: expected an image, a folder, a pattern or a URL, got no such file"),
        (["nothing/*.png"], "nothing/*.png: expected at least one image, got 0 other files"),
        (["s4://bucket"], "s4://bucket: expected a URL that fsspec can open"),
        (["images", "--mode", "shared", "--average", "none"], ""),
    ],
    ids=["empty folder", "nothing included", "no file", "empty pattern", "unknown protocol", "wrong option"],
)
def test_inputs_without_images(arguments: list[str], message: str, images: Path) -> None:
    """Inputs without an image are one line, and nothing is written."""
    assert images.exists()
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    result = batch(*arguments)
    assert result.exit_code == (3 if message else 2)
    assert message in last_line(result)
    assert not OUT.exists()


def test_unknown_models(images: Path) -> None:
    """An unknown model or class is one line, and nothing is written."""
    for arguments, models in (((images,), ["--model", "none"]), ((images, "--classes", "cat"), ["--model", "digits"])):
        result = batch(*arguments, models=[*models, "--models", str(Path(__file__).parents[2] / "models")])
        assert (result.exit_code, OUT.exists()) == (3, False)
        assert "none" in last_line(result) or "cat" in last_line(result)


ODD = [
    "a\nb.png",
    "Ab.png",
    "aB.png",
    "seite 図.png",
    os.fsdecode(b"caf\xe9.png"),
    os.fsdecode(b"caf\xe8.png"),
    "x.png~",
    "{stem}.png",
]


def test_odd_names(images: Path) -> None:
    """Names with newlines, that differ in case alone, or that are not UTF-8 are scored; each grid has its own place."""
    folder = images / "odd"
    folder.mkdir()
    for number, name in enumerate(ODD):
        (folder / name).write_bytes(png(noise(70 + number, 70, 1)))
    assert batch(folder, "--grids", "npz").exit_code == 0
    found = {row["path"]: row for row in rows()}
    assert sorted(found) == sorted(
        [
            "images/odd/a\nb.png",
            "images/odd/Ab.png",
            "images/odd/aB.png",
            r"images/odd/caf\xe8.png",
            r"images/odd/caf\xe9.png",
            "images/odd/seite 図.png",
            "images/odd/{stem}.png",
        ]
    )
    assert {row["height"] for row in found.values()} == {70, 71, 72, 73, 74, 75, 77}
    places = [row["grid"] for row in found.values()]
    assert len({place.casefold() for place in places}) == len(places)
    assert all((OUT / place).is_file() for place in places)


def test_grids_of_different_folders_do_not_collide(images: Path) -> None:
    """Images of the same name below several arguments have grids of their own."""
    make_images(Path("other"), 2)
    batch(images, "other", "--grids", "npz")
    places = [row["grid"] for row in rows() if row["grid"]]
    assert len(places) == len(set(places)) == 10
    assert sum("~" in place for place in places) == 4


def test_lists_cannot_write_outside_the_results(images: Path) -> None:
    """The grid of an image that a list names by an absolute path, or with "..", lies below the folder of grids."""
    absolute = (images / "image0001.png").absolute()
    Path("list.txt").write_text(f"{absolute}\nimages/../images/below/../image0002.tif\n", "utf-8")
    assert batch("--list", "list.txt", "--grids", "npz").exit_code == 0
    assert [row["grid"] for row in rows()] == [f"grids{absolute}.npz", "grids/images/image0002.tif.npz"]


def test_long_names_and_names_of_folders_have_grids(images: Path) -> None:
    """A name of 250 bytes, and a name that is a folder with the grid's suffix, have grids of their own."""
    folder = images / "odd"
    (folder / "a.png.npz").mkdir(parents=True)
    for name in ("a.png", "a.png.npz/b.png", f"{'図' * 80}.png"):
        (folder / name).write_bytes(png(noise(70, 70, 1)))
    assert batch(folder, "--grids", "npz").exit_code == 0
    assert all((OUT / row["grid"]).is_file() for row in rows())
    assert len({row["grid"] for row in rows()}) == 3


@pytest.mark.parametrize("names", [["a.png", "a.png.npz/b.png"], ["a.png.npz/b.png", "a.png"]], ids=["file", "folder"])
def test_grids_of_added_images_exclude_no_other(names: list[str], images: Path) -> None:
    """If the grid of an image has the name of another image's folder, both have grids, whichever was added later."""
    folder = images / "odd"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(noise(70, 70, 1)))
        assert batch(folder, "--grids", "npz", "--update").exit_code == 0
    assert all((OUT / row["grid"]).is_file() for row in rows())
    assert len({row["grid"] for row in rows()}) == 2
    assert batch(folder, "--grids", "npz").exit_code == 0


@pytest.mark.parametrize(
    ("path", "is_remote"), [("S3://bucket/a.png", True), ("memory://a.png", True), ("a://b.png", False), ("x", False)]
)
def test_stores_have_more_threads(path: str, is_remote: bool, tmp_path: Path) -> None:  # noqa: FBT001 (a parameter)
    """A job whose images are in a store reads more of them at the same time, since each takes longer to come."""
    (tmp_path / "list.txt").write_text(f"here.png\n{path}\n")
    assert list_listed(tmp_path / "list.txt").has_urls == is_remote
    limits = local_limits(2, remote=is_remote)
    assert limits.threads == (8 if is_remote else 4)


def test_urls_of_a_list_that_cannot_be_opened_have_rows(images: Path) -> None:
    """A URL with an unknown protocol has a row with its error; the other images of the list have scores."""
    Path("list.txt").write_text(f"s33://bucket/a.png\n{images}/image0001.png\n")
    assert batch("--list", "list.txt").exit_code == 3
    assert [row["error_kind"] for row in rows()] == ["read", None]


def test_lists_from_other_systems(images: Path) -> None:
    """A text list may begin with a byte order mark and have carriage returns."""
    Path("list.txt").write_bytes(f"\ufeff{images}/image0001.png\r\n{images}/image0002.tif\r\n".encode())
    assert batch("--list", "list.txt").exit_code == 0
    assert len(paths()) == 2


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a character device"])
def test_special_files_have_rows(kind: str, images: Path, tmp_path: Path) -> None:
    """A pipe, a socket or a device in a list is not opened, and has a row with its error; other images have scores."""
    path = tmp_path / "special.png"
    match kind:
        case "a named pipe":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case _:
            path = Path("/dev/zero")
    Path("list.txt").write_text(f"{path}\n{images}/image0001.png\n")
    assert batch("--list", "list.txt").exit_code == 3
    assert [row["error"] for row in rows()] == [f"{path}: expected a file or a folder, got {kind}", None]
    assert rows()[0]["error_kind"] == "read"
