"""Jobs in an S3 bucket, by moto's server on this machine, which refuses requests, cuts bodies off and is slow."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Barrier, Lock
from typing import Any

import pytest
from pyarrow import parquet
from support.jobs import COMMAND, MODELS, batch, last_line, make_images, rows, written
from support.s3 import CREDENTIALS, Bucket, s3_bucket
from support.servers import wait_until

from fullconv.common.files import OutputError
from service.batch import lease, retries, stores
from service.batch.stores import RemoteStore

pytestmark = pytest.mark.extras

IN, OUT = "s3://bucket/in", "s3://bucket/out"


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    """Yield a bucket that this process reaches by the variables of the environment."""
    with s3_bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": bucket.address}.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture
def bucket(server: Bucket, images: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return a bucket with the images in the folder `in`, which answers without faults; waits are short."""
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.05)
    server.faults.reset()
    server.remove()
    for path in images.rglob("*.*"):
        server.put(f"in/{path.relative_to(images)}", path.read_bytes())
    return server


def rows_of(objects: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return the rows of results in a bucket."""
    parts = [data for name, data in sorted(objects.items()) if name.startswith("results/")]
    return [row for data in parts for row in parquet.read_table(BytesIO(data)).to_pylist()]


def command(*arguments: str) -> list[str]:
    """Return a command for a process of its own."""
    return [*COMMAND, *MODELS, "--json", *arguments]


@pytest.mark.parametrize("kind", ["npz", "zarr"])
def test_a_bucket_holds_the_results_of_a_folder(kind: str, bucket: Bucket, images: Path) -> None:
    """Images and results in a bucket give the same rows and grids as in folders, apart from the paths."""
    assert batch(images, "--grids", kind).exit_code == 3
    assert batch(IN, "--grids", kind, out=OUT).exit_code == 3
    local, remote = written(), bucket.objects("out")
    listed = {name for name in (*local, *remote) if name.startswith("inputs/")}  # named after their content: the paths
    assert local.keys() - listed == remote.keys() - listed
    assert {name: data for name, data in remote.items() if name.startswith("grids/")} == {
        name: data for name, data in local.items() if name.startswith("grids/")
    }
    for row, expected in zip(rows_of(remote), rows(), strict=True):
        assert row.pop("path") == expected.pop("path").replace("images/", f"{IN}/")
        error = expected.pop("error")
        assert row.pop("error") == (error and error.replace("images/", f"{IN}/"))
        assert row == expected


FAULTS = {
    "refused": {"refused": 0.3},
    "cut off": {"cut_off": 0.3},
    "carried out and answered with 500": {"lost": 0.3},
    "all": {"refused": 0.1, "cut_off": 0.1, "lost": 0.1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_pass_leave_no_trace(name: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a third of the requests are refused or cut off, they are repeated, and the results have the same bytes."""
    batch(IN, "--grids", "npz", out="s3://bucket/expected")
    with monkeypatch.context() as patch:
        for fault, share in FAULTS[name].items():
            patch.setattr(bucket.faults, fault, share)
        result = batch(IN, "--grids", "npz", "--json", out=OUT)
    assert json.loads(result.stdout)["failures"] == {"image": 2}, result.stderr
    assert bucket.objects("out") == bucket.objects("expected")


@pytest.mark.parametrize("timeout", [15.0, 0.5], ids=["in time", "too late"])
def test_slow_objects_are_read(timeout: float, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object whose second half comes late is read, after the time of s3fs in a further request."""
    import s3fs  # noqa: PLC0415 (an extra)

    batch(IN, out="s3://bucket/expected")
    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "read_timeout", timeout)
        s3fs.S3FileSystem.clear_instance_cache()
        bucket.faults.seconds["image0001.png"] = 2.0
        bucket.faults.counts.clear()
        batch(IN, out=OUT)
    s3fs.S3FileSystem.clear_instance_cache()
    assert bucket.faults.counts["GET /bucket/in/image0001.png"] == (1 if timeout > 2.0 else 2)
    assert bucket.objects("out") == bucket.objects("expected")


def test_a_bucket_that_refuses_everything_ends_the_job(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that refuses every request ends the job with one line that states its answer."""
    monkeypatch.setattr(bucket.faults, "refused", 1.0)
    monkeypatch.setattr(retries, "TRIES", 1)
    result = batch("images", out=OUT)
    assert result.exit_code == 1
    assert last_line(result).startswith("fullconv-batch: s3://bucket/out/leases: cannot be listed: ")


@pytest.mark.usefixtures("bucket")
def test_a_server_that_never_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write ends although the server accepts the connection and says nothing."""
    import s3fs  # noqa: PLC0415 (an extra)

    monkeypatch.setattr(stores, "WRITE_SECONDS", 0.5)
    monkeypatch.setattr(retries, "TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(OutputError, match=r"s3://bucket/out/job\.json: cannot be written"):
            RemoteStore(OUT).write("job.json", b"{}")
    s3fs.S3FileSystem.clear_instance_cache()


ENVIRONMENTS = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL", "conf.json"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_address_of_the_bucket(name: str, bucket: Bucket, tmp_path: Path) -> None:
    """The variables of AWS and of fsspec, and a file of fsspec, name the server of the bucket."""
    environment = {key: value for key, value in os.environ.items() if key != "AWS_ENDPOINT_URL"}
    if name == "conf.json":
        (tmp_path / name).write_text(json.dumps({"s3": {"endpoint_url": bucket.address}}))
        environment["FSSPEC_CONFIG_DIR"] = str(tmp_path)
    else:
        environment[name] = bucket.address
    arguments = command(f"{IN}/image0001.png", "-o", OUT)
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert [row["path"] for row in rows_of(bucket.objects("out"))] == [f"{IN}/image0001.png"]


def test_missing_credentials_are_one_line(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the job ends at once: nothing is tried again."""
    import s3fs  # noqa: PLC0415 (an extra)

    monkeypatch.setattr(retries, "FIRST_SECONDS", 1000.0)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket.faults.counts.clear()
    result = batch(IN, out=OUT)
    s3fs.S3FileSystem.clear_instance_cache()
    assert result.exit_code == 3
    assert "s3://bucket/in: cannot be listed: " in last_line(result)
    assert "credentials" in last_line(result)
    assert not bucket.faults.counts


def test_places_that_there_are_not(bucket: Bucket, tmp_path: Path) -> None:
    """A missing image has a row that says so; a missing bucket, and a URL without a bucket, end the job."""
    (tmp_path / "list.txt").write_text(f"{IN}/image0001.png\n{IN}/nothing.png\n")
    batch("--list", "list.txt", out=OUT)
    assert [row["error"] for row in rows_of(bucket.objects("out"))] == [
        None,
        f"{IN}/nothing.png: cannot be read: No such file or directory",
    ]
    for out, message in {
        "s3://nowhere/out": "cannot be written: The specified bucket does not exist",
        "s3://": "out: expected a URL with a bucket or a folder, got 's3://'",
    }.items():
        result = batch("images", out=out)
        assert result.exit_code == 3
        assert message in last_line(result)


def test_markers_of_folders_are_ignored(bucket: Bucket) -> None:
    """Empty objects whose names end with "/", which consoles make for folders, are neither images nor results."""
    for name in ("in/", "in/below/", "out/", "out/results/", "out/leases/"):
        bucket.put(name, b"")
    assert batch(IN, out=OUT).exit_code == 3
    assert len(rows_of(bucket.objects("out"))) == 10


@pytest.mark.slow
def test_jobs_that_are_killed_lose_nothing(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGKILL at any moment every object is complete or absent, and the job continues to the same bytes."""
    make_images(Path("many"), 300)
    for path in Path("many").iterdir():
        bucket.put(f"many/{path.name}", path.read_bytes())
    arguments = command("s3://bucket/many", "--grids", "npz", "-o")
    subprocess.run([*arguments, "s3://bucket/expected"], check=True, capture_output=True)
    expected = bucket.objects("expected")
    monkeypatch.setattr(bucket.faults, "refused", 0.03)
    monkeypatch.setattr(bucket.faults, "cut_off", 0.03)
    some = partial(bucket.faults.has_written, "out/grids")
    for begun in (
        partial(some, 1),
        partial(some, 100),
        lambda: bucket.names("out/results/"),
    ):
        bucket.faults.counts.clear()
        with subprocess.Popen([*arguments, OUT], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            try:
                wait_until(begun)
            finally:
                run.kill()
        bucket.remove("out/leases")  # as if the time of the lease had passed
        found = bucket.objects("out")
        assert found.items() <= expected.items()
    kept = len(rows_of(found))
    assert kept >= 44  # the images of the last part
    result = subprocess.run([*arguments, OUT], check=True, capture_output=True)
    assert json.loads(result.stdout)["images"] == {"total": 300, "kept": kept, "processed": 300 - kept, "failed": 0}
    assert bucket.objects("out") == expected


@pytest.mark.slow
def test_shards_that_start_together_are_one_job(bucket: Bucket) -> None:
    """Three shards whose runs begin a new job at the same moment give the bytes of one run."""
    make_images(Path("many"), 300)
    arguments = command("many", "--grids", "npz", "-o")
    subprocess.run([*arguments, "s3://bucket/expected"], check=True, capture_output=True)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen([*arguments, OUT, "--shard", f"{number}/3"], stdout=subprocess.DEVNULL)
            )
            for number in range(3)
        ]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert bucket.objects("out") == bucket.objects("expected")


def test_a_second_run_waits(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run of another process scores, a second run waits, and then finds that nothing is left to do."""
    subprocess.run(command(IN, "-o", "s3://bucket/expected"), check=False, capture_output=True)
    monkeypatch.setitem(bucket.faults.seconds, "image0001.png", 5.0)
    with subprocess.Popen(command(IN, "-o", OUT), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_until(lambda: "image0001.png" not in bucket.faults.seconds)  # it is being read
        second = subprocess.run(command(IN, "-o", OUT), check=False, capture_output=True, text=True)
        assert run.wait(60) == 3
    event = json.loads(second.stderr.splitlines()[0])
    assert event["event"] == "wait"
    assert "shard-0-of-1.json: another run was writing here: waiting for at most 90 s" in event["reason"]
    assert json.loads(second.stdout)["images"] == {"total": 10, "kept": 10, "processed": 0, "failed": 2}
    assert rows_of(bucket.objects("out")) == rows_of(bucket.objects("expected"))
    assert not any(name.startswith("leases/") for name in bucket.objects("out"))


def test_one_of_many_runs_has_the_lease(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs that start at the same moment, one holds the lease; answers that are lost make no difference."""
    monkeypatch.setattr(bucket.faults, "lost", 0.3)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.2)
    runs = 6
    start, end, lock, holders = Barrier(runs), Barrier(runs), Lock(), []

    def begin(number: int) -> None:
        start.wait()
        try:
            with lease.lease(RemoteStore(OUT)):
                with lock:
                    holders.append(number)
                end.wait(60)
        except lease.LeaseError:
            end.wait(60)

    with ThreadPoolExecutor(runs) as pool:
        list(pool.map(begin, range(runs)))
    assert len(holders) == 1
    assert not any(name.startswith("leases/") for name in bucket.objects("out"))
