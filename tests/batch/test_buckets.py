"""Images and results in buckets, whose failures pass or last."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet
from support.jobs import batch, last_line, rows, written

from service.batch import cli, lease, reading, retries, worker
from service.batch.budget import Budget
from service.batch.item import Divided, ItemScorer, Scored
from service.batch.reading import Copies
from service.batch.stop import Stop
from service.batch.stores import RemoteStore


class FlakyFileSystem(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A bucket in memory that fails on request, and cuts off what is read."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    failures: ClassVar[Counter[str]] = Counter()
    """For each operation, how often it fails from now on."""
    truncated: ClassVar[int] = 0
    """How often an image that is read is cut off from now on."""
    lock: ClassVar[Lock] = Lock()

    def _fail(self, operation: str) -> None:
        with self.lock:
            self.failures[operation] -= 1
            if self.failures[operation] >= 0:
                raise OSError(5, "Service Unavailable (503)")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("flaky://"))
        return stripped

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> bytes:
        """Read a file."""
        self._fail("read")
        data: bytes = super().cat_file(path, *arguments, **options)
        with self.lock:
            if type(self).truncated > 0 and "/in/" in path:
                type(self).truncated -= 1
                return data[: len(data) // 2]
        return data

    def pipe_file(self, path: str, value: bytes, *arguments: Any, **options: Any) -> None:
        """Write a file."""
        self._fail("write")
        super().pipe_file(path, value, *arguments, **options)

    def find(self, path: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (fsspec's)
        """List a folder."""
        self._fail("list")
        return super().find(path, *arguments, **options)


class CloudFileSystem(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """A store in memory that has two protocols, as Google's and Amazon's stores have."""

    protocol = ("gs", "gcs")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))
        return stripped

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a file."""
        return f"gs://{self._strip_protocol(name).lstrip('/')}"


@pytest.fixture
def bucket(images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyFileSystem]:
    """Return a bucket with the images in the folder `in`; waits are short."""
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    files = FlakyFileSystem()
    files.store.clear()
    files.failures.clear()
    for path in images.rglob("*.*"):
        files.pipe_file(f"/bucket/in/{path.relative_to(images)}", path.read_bytes())
    yield files
    files.store.clear()


def in_bucket(files: FlakyFileSystem, folder: str) -> dict[str, bytes]:
    """Return the files of results in a bucket by their path, without the times."""
    top = f"/bucket/{folder}/"
    found = {path.removeprefix(top): file.getvalue() for path, file in files.store.items() if path.startswith(top)}
    return {name: data for name, data in found.items() if not name.startswith("timing/")}


def rows_in(files: FlakyFileSystem, folder: str) -> list[dict[str, Any]]:
    """Return the rows of results in a bucket."""
    parts = [data for name, data in sorted(in_bucket(files, folder).items()) if name.startswith("results/")]
    return [row for data in parts for row in parquet.read_table(BytesIO(data)).to_pylist()]


def test_buckets_hold_the_same_results(bucket: FlakyFileSystem, images: Path) -> None:
    """Images and results in a bucket give the same rows and grids as in folders; no lease is left."""
    batch(images, "--grids", "npz")
    assert batch("flaky://bucket/in", "--grids", "npz", out="flaky://bucket/out").exit_code == 3
    local, remote = written(), in_bucket(bucket, "out")
    grids_and_parts = [name for name in local if not name.startswith("inputs/")]
    assert sorted(grids_and_parts) == sorted(name for name in remote if not name.startswith("inputs/"))
    assert {name: data for name, data in remote.items() if name.startswith("grids/")} == {
        name: data for name, data in local.items() if name.startswith("grids/")
    }
    for row, expected in zip(rows_in(bucket, "out"), rows(), strict=True):
        assert row.pop("path") == expected.pop("path").replace("images/", "flaky://bucket/in/")
        assert row == expected


def test_patterns_and_single_files(bucket: FlakyFileSystem) -> None:
    """A URL may have a pattern, and may name one file."""
    assert batch("flaky://bucket/in/*2.tif", "flaky://bucket/in/image0001.png", out="flaky://bucket/out").exit_code == 0
    assert [Path(row["path"]).name for row in rows_in(bucket, "out")] == ["image0002.tif", "image0001.png"]


def test_failures_that_pass_leave_no_trace(bucket: FlakyFileSystem) -> None:
    """Refused requests and truncated reads are tried again, and the results are the same."""
    arguments = ("flaky://bucket/in", "--grids", "npz")
    batch(*arguments, out="flaky://bucket/expected")
    bucket.failures.update({"list": 2, "read": 3, "write": 3})
    FlakyFileSystem.truncated = 3
    assert batch(*arguments, out="flaky://bucket/out").exit_code == 3
    assert FlakyFileSystem.truncated == 0
    assert not +bucket.failures
    assert in_bucket(bucket, "out") == in_bucket(bucket, "expected")


def test_images_that_cannot_be_read_have_rows(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image whose reads fail again and again has a row; --retry-failed scores it when the bucket answers."""
    monkeypatch.setattr(reading, "retry", lambda work, pause: (pause(0), work())[1])
    FlakyFileSystem.truncated = 1
    result = batch("flaky://bucket/in/image0001.png", "--json", out="flaky://bucket/out")
    assert json.loads(result.stdout)["failures"] == {"read": 1}
    (row,) = rows_in(bucket, "out")
    assert row["error"].startswith("flaky://bucket/in/image0001.png: cannot be read: expected ")
    again = batch("flaky://bucket/in/image0001.png", "--retry-failed", out="flaky://bucket/out")
    assert again.exit_code == 0
    assert rows_in(bucket, "out")[0]["error"] is None


def test_buckets_that_refuse_to_be_written_end_the_job(bucket: FlakyFileSystem) -> None:
    """A bucket that refuses every write ends the job with one line; nothing is left."""
    bucket.failures["write"] = 1000
    result = batch("flaky://bucket/in", out="flaky://bucket/out")
    assert result.exit_code == 1
    assert "cannot be written: [Errno 5] Service Unavailable (503)" in last_line(result)
    assert in_bucket(bucket, "out") == {}


def test_a_bucket_that_is_gone_is_named(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a bucket answers nothing any more, the line says so, although the lease cannot be removed either."""
    write = RemoteStore.write

    def written(store: RemoteStore, name: str, data: bytes) -> None:
        if name.startswith("timing/"):
            bucket.failures.update(write=1000, read=1000)
        write(store, name, data)

    monkeypatch.setattr(RemoteStore, "write", written)
    result = batch("flaky://bucket/in", out="flaky://bucket/out")
    assert result.exit_code == 1
    assert "cannot be written: [Errno 5] Service Unavailable (503)" in last_line(result)


def lease_of_another(renewed: float) -> bytes:
    """Return the lease of a run on a machine whose clock states this time."""
    return json.dumps({"owner": "another", "host": "far", "process": 7, "renewed": renewed}).encode()


@pytest.mark.parametrize("ahead", [-86400.0, 0.0, 90.0, 86400.0], ids="{:.0f} s".format)
def test_a_bucket_has_one_run_at_a_time(ahead: float, bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run renews its lease, another is refused, whatever the clocks of the machines state."""
    assert bucket.store
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.01)
    store, name = RemoteStore("flaky://bucket/out"), "leases/shard-0-of-1.json"
    store.write(name, lease_of_another(ahead + time.time()))
    monkeypatch.setattr(Stop, "wait_to_begin", lambda *_: store.write(name, lease_of_another(ahead + time.time())))
    result = batch("flaky://bucket/in", out="flaky://bucket/out")
    assert result.exit_code == 1
    assert "another run was writing here: waiting for at most 90 s, to see whether it has ended" in last_line(result)
    assert f"{name}: another run of this job, process 7 on far, is writing here" in last_line(result)


@pytest.mark.parametrize("ahead", [-86400.0, 0.0, 90.0, 86400.0], ids="{:.0f} s".format)
@pytest.mark.parametrize("name", ["shard-0-of-1", "shard-1-of-2"])
def test_leases_of_ended_runs_end(
    name: str, ahead: float, bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that is not renewed ends, whatever its clock states, and is removed; no run waits for it again."""
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.1)
    RemoteStore("flaky://bucket/out").write(f"leases/{name}.json", lease_of_another(ahead + time.time()))
    first, second = (batch("flaky://bucket/in", "--json", out="flaky://bucket/out") for _ in range(2))
    events = [json.loads(line)["event"] for line in first.stderr.splitlines()]
    assert events[:2] == ["wait", "start"]
    assert '"wait"' not in second.stderr
    assert len(rows_in(bucket, "out")) == 10
    assert not any(name.startswith("leases/") for name in in_bucket(bucket, "out"))


def test_a_run_that_waits_begins_when_the_other_has_ended(
    bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for a lease, and begins as soon as it is released."""
    store, name = RemoteStore("flaky://bucket/out"), "leases/shard-0-of-1.json"
    store.write(name, lease_of_another(time.time()))
    monkeypatch.setattr(Stop, "wait_to_begin", lambda *_: store.remove(name))
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(lease._Held, "take", lambda *_: None)  # noqa: SLF001 (which would wait too)
    assert batch("flaky://bucket/in", out="flaky://bucket/out").exit_code == 3
    assert len(rows_in(bucket, "out")) == 10


def test_a_run_that_waits_ends_at_the_first_signal(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for a lease has begun nothing, and ends when it is asked to stop."""
    RemoteStore("flaky://bucket/out").write("leases/shard-0-of-1.json", lease_of_another(0.0))
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 600.0)
    monkeypatch.setattr(lease, "_is_released", lambda *_: cli.stop.gently.set())
    result = batch("flaky://bucket/in", out="flaky://bucket/out")
    assert result.exit_code == 1
    assert "interrupted: the same command continues the job" in last_line(result)
    assert [*in_bucket(bucket, "out")] == ["leases/shard-0-of-1.json"]


def test_leases_are_renewed(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run renews its lease, also after a failed renewal."""
    assert bucket.store
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    store = RemoteStore("flaky://bucket/out")
    with lease.lease(store):
        first = store.read("leases/shard-0-of-1.json")
        end = time.monotonic() + 30
        while store.read("leases/shard-0-of-1.json") == first and time.monotonic() < end:
            time.sleep(0.01)
        assert store.read("leases/shard-0-of-1.json") != first


def test_large_files_are_copied_first(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are not scored from memory give the same rows, with their hashes."""
    batch("flaky://bucket/in", out="flaky://bucket/expected")
    monkeypatch.setattr(reading, "WHOLE_BYTES", 1)
    batch("flaky://bucket/in", out="flaky://bucket/out")
    assert rows_in(bucket, "out") == rows_in(bucket, "expected")


def test_copies_share_the_disk(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are copied at the same time as long as there is space for them; each waits for its turn."""
    batch("flaky://bucket/in", out="flaky://bucket/expected")
    largest = max(len(data) for data in in_bucket(bucket, "in").values())
    disk = Budget(largest)
    monkeypatch.setattr(reading, "WHOLE_BYTES", 1)
    monkeypatch.setattr(worker, "Copies", partial(Copies, disk=disk))
    batch("flaky://bucket/in", out="flaky://bucket/out")
    assert rows_in(bucket, "out") == rows_in(bucket, "expected")
    assert disk.highest == largest
    assert disk.held == 0


@pytest.mark.parametrize(("url", "kind"), [("memory://", MemoryFileSystem), ("gs://", CloudFileSystem)])
def test_other_stores(url: str, kind: type[MemoryFileSystem], bucket: FlakyFileSystem, images: Path) -> None:
    """The stores of other protocols give the same rows and grids."""
    assert bucket.store
    fsspec.register_implementation("gs", CloudFileSystem, clobber=True)
    files = kind()
    files.store.clear()
    for path in images.rglob("*.*"):
        files.pipe_file(f"/jobs/in/{path.relative_to(images)}", path.read_bytes())
    batch("flaky://bucket/in", "--grids", "npz", out="flaky://bucket/out")
    assert batch(f"{url}jobs/in", "--grids", "npz", out=f"{url}jobs/out").exit_code == 3
    found = {name.removeprefix("/jobs/out/"): data.getvalue() for name, data in files.store.items() if "/out/" in name}
    expected = in_bucket(bucket, "out")
    assert {name: data for name, data in found.items() if name.startswith("grids/")} == {
        name: data for name, data in expected.items() if name.startswith("grids/")
    }
    parts = [data for name, data in sorted(found.items()) if name.startswith("results/")]
    averages = [row["average"] for data in parts for row in parquet.read_table(BytesIO(data)).to_pylist()]
    assert averages == [row["average"] for row in rows_in(bucket, "out")]
    files.store.clear()


def test_stores_with_folders(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL of files gives the same results as their folder: what a store of folders needs is made."""
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    batch(images, "--grids", "npz")
    out = tmp_path / "further" / "out"
    for processed in (10, 0):
        result = batch(images, "--grids", "npz", "--json", out=f"file://{out}")
        assert json.loads(result.stdout)["images"]["processed"] == processed
    assert written(out) == written()


@pytest.mark.usefixtures("bucket")
def test_results_below_the_images_are_left_out() -> None:
    """Grids of an earlier run that lie below the argument are not images of the job."""
    arguments = ("flaky://bucket", "--grids", "geotiff")
    for kept in (0, 10):
        result = batch(*arguments, "--json", out="flaky://bucket/in/out")
        assert json.loads(result.stdout)["images"] == {"total": 10, "kept": kept, "processed": 10 - kept, "failed": 2}


def test_a_run_whose_lease_was_taken_over_stops(bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that finds another run's name in its lease stops with one line, and leaves the lease to that run."""
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    store, name = RemoteStore("flaky://bucket/out"), "leases/shard-0-of-1.json"
    other = json.dumps({"owner": "another", "renewed": time.time()}).encode()
    score = ItemScorer.score

    def slow(self: ItemScorer, *arguments: Any) -> Scored | Divided:
        while not cli.stop.gently.wait(0.02):  # a renewal may replace the name that was written
            store.write(name, other)
        return score(self, *arguments)

    monkeypatch.setattr(ItemScorer, "score", slow)
    result = batch("flaky://bucket/in/image0001.png", out="flaky://bucket/out")
    assert result.exit_code == 1
    assert "another run of this job has begun, because this run could not renew its lease" in last_line(result)
    assert in_bucket(bucket, "out")[name] == other


@pytest.mark.parametrize("shards", [(0, 1), (1, 2)], ids=["whole", "shard"])
def test_leases_of_shards_and_of_the_whole_job(
    shards: tuple[int, int], bucket: FlakyFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the whole job and a run of a shard exclude each other, and two shards do not."""
    assert bucket.store
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.01)
    store = RemoteStore("flaky://bucket/out")
    with lease.lease(store, *shards):
        with pytest.raises(lease.LeaseError, match="another run of this job"), lease.lease(store, *shards):
            pass
        other = (0, 2) if shards == (0, 1) else (0, 1)
        with pytest.raises(lease.LeaseError, match="another run of this job"), lease.lease(store, *other):
            pass
        if shards == (1, 2):
            with lease.lease(store, 0, 2):
                assert store.names("leases") == {"shard-0-of-2.json", "shard-1-of-2.json"}
    assert store.names("leases") == set()


def test_files_beside_grids_are_sent_too(bucket: FlakyFileSystem, images: Path) -> None:
    """The names of classes, which a raster of classes has in a file beside it, are in the bucket too."""
    arguments = ("--grids", "geotiff", "--grid-as", "argmax")
    batch(images / "image0001.png", *arguments)
    batch("flaky://bucket/in/image0001.png", *arguments, out="flaky://bucket/out")
    expected = {name: data for name, data in written().items() if name.startswith("grids/")}
    assert len(expected) == 2
    assert {name: data for name, data in in_bucket(bucket, "out").items() if name.startswith("grids/")} == expected
