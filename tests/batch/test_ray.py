"""Jobs on a Ray cluster whose nodes run on this machine, with one CPU each."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.jobs import MODELS, written
from support.pictures import encode, noise
from support.servers import wait_until

if TYPE_CHECKING:  # the extra ray
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

COUNT = 60
LINE = [*MODELS, "--grids", "npz", "--stride", "2", "--json"]
START = """
from service.batch import cli, job, program, ray_engine
job.PART_IMAGES = 4
ray_engine.NODES_SECONDS = 0.2
"""
"""The beginning of the programs that run jobs."""
CONTINUE = "interrupted: the same command continues the job"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of images with sides of 64 to 512 pixels. One is damaged, some are smaller than a window."""
    folder, rng = tmp_path_factory.mktemp("ray") / "images", np.random.default_rng(0)
    folder.mkdir()
    for number in range(COUNT - 1):
        height, width = (int(side) for side in rng.integers(64, 513, 2))
        suffix = (".jpg", ".png", ".tif")[number % 3]
        (folder / f"{number:02d}{suffix}").write_bytes(encode(noise(height, width, 1, seed=number), suffix))
    (folder / "damaged.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator["Cluster"]:
    """Yield a cluster of one node, where URLs of files stand for a bucket: their folders need not exist."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (an extra)

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FSSPEC_FILE", '{"auto_mkdir": true}')
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def node(cluster: "Cluster") -> Iterator["Node"]:
    """Yield a second node of the cluster."""
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@dataclass
class Job:
    """A running job, and what it has written to standard error."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Read standard error until the process ends."""
        for line in self.process.stderr or ():
            if line.startswith("{"):
                self.events.append(event := json.loads(line))
                if event["event"] in ("error", "interrupted"):
                    self.messages.append(event.get("error") or event["reason"])
            else:
                self.messages.append(line.rstrip())

    @property
    def parts(self) -> list[int]:
        """The numbers of the parts that the job has reported, in the order of the reports."""
        return [event["number"] for event in self.of_kind("part")]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [event for event in self.events if event["event"] == kind]

    def wait_for(self, count: int, kind: str = "part") -> None:
        """Wait until the job has reported some parts, or other events."""
        wait_until(lambda: len(self.of_kind(kind)) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.messages

    def end(self, status: int) -> dict[str, Any]:
        """Wait for the end, and assert the exit status and that only the command has written; returns the summary."""
        with self.process:  # which closes the pipes
            output = self.process.stdout.read() if self.process.stdout else ""
            self.reader.join(100)
            assert self.process.wait(100) == status, self.messages
        assert len(self.messages) == len(self.of_kind("error")) + len(self.of_kind("interrupted")), self.messages
        summary: dict[str, Any] = json.loads(output or "{}")
        return summary

    def __post_init__(self) -> None:
        self.reader = Thread(target=self.follow)
        self.reader.start()


def start(images: Path, out: str, *options: str, setup: str = "", line: Sequence[str] = LINE) -> Job:
    """Start a job after some lines of Python; its results lie beside the images."""
    command = [sys.executable, "-c", f"{START}{setup}\ncli.main()", "images", *line, "-o", out, *options]
    pipe = subprocess.PIPE
    return Job(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=images.parent))


def on_cluster(
    images: Path, cluster: "Cluster", out: str, *options: str, setup: str = "", line: Sequence[str] = LINE
) -> Job:
    """Start a job on the cluster."""
    return start(images, out, "--engine", "ray", "--address", cluster.address, *options, setup=setup, line=line)


def files_of(images: Path, out: str) -> dict[str, bytes]:
    """Return the files of a job's results by their path, without the times and the lock."""
    return written(images.parent / out)


@pytest.fixture(scope="module")
def whole(images: Path) -> dict[str, bytes]:
    """Return the files of the job, written by one process without Ray."""
    start(images, "whole").end(3)
    return files_of(images, "whole")


def actors_of(node: "Node") -> list[int]:
    """Return the processes of the actors of a node."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text("ascii").split()
    return [int(each) for each in children if b"NodeWorker" in Path(f"/proc/{each}/cmdline").read_bytes()]


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_the_bytes_are_those_of_one_process(images: Path, cluster: "Cluster", whole: dict[str, bytes]) -> None:
    """A cluster writes the same files as one process, and every image is counted."""
    job = on_cluster(images, cluster, "same")
    failed = job.end(3)["images"].pop("failed")
    assert failed > 1
    assert job.messages[-1].startswith(f"images without scores: {failed}; ")
    assert "images/damaged.png" in {event["path"] for event in job.events if event["event"] == "failure"}
    assert files_of(images, "same") == whole


@pytest.mark.ray
def test_a_lost_node_loses_no_part(images: Path, cluster: "Cluster", node: "Node", whole: dict[str, bytes]) -> None:
    """If the raylet of a node is killed half-way, the other node scores the parts of the lost node too."""
    job = on_cluster(images, cluster, "lost")
    job.wait_for(4)
    assert actors_of(node)
    cluster.remove_node(node, allow_graceful=False)
    job.end(3)
    assert sorted(job.parts) == list(range(COUNT // 4))
    assert files_of(images, "lost") == whole


@pytest.mark.ray
def test_a_lost_process_loses_no_part(images: Path, cluster: "Cluster", node: "Node", whole: dict[str, bytes]) -> None:
    """If the process of an actor is killed, its node gets another actor, and its parts are scored."""
    job = on_cluster(images, cluster, "process")
    wait_until(lambda: actors_of(node))
    job.wait_for(2)
    (first,) = actors_of(node)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: set(actors_of(node)) - {first})
    job.end(3)
    assert sorted(job.parts) == list(range(COUNT // 4))
    assert files_of(images, "process") == whole


@pytest.mark.ray
def test_an_added_node_scores(
    images: Path, cluster: "Cluster", whole: dict[str, bytes], request: pytest.FixtureRequest
) -> None:
    """A node that is added to the cluster gets an actor of a job that runs."""
    job = on_cluster(images, cluster, "added")
    job.wait_for(1)
    node = request.getfixturevalue("node")
    wait_until(lambda: actors_of(node))
    job.end(3)
    assert files_of(images, "added") == whole


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_a_killed_job_continues(images: Path, cluster: "Cluster", whole: dict[str, bytes]) -> None:
    """A job whose process is killed three times gives the same bytes, and reported parts are not scored again."""
    parts = []
    for _ in range(3):
        job = on_cluster(images, cluster, "killed")
        job.wait_for(2)
        job.process.kill()
        job.end(-signal.SIGKILL)
        parts += job.parts
    job = on_cluster(images, cluster, "killed")
    job.end(3)
    parts += job.parts
    assert len(parts) == len(set(parts))
    assert files_of(images, "killed") == whole


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_results_go_to_a_bucket(images: Path, cluster: "Cluster", whole: dict[str, bytes]) -> None:
    """The actors write the same bytes into a place that is known by a URL."""
    on_cluster(images, cluster, f"file://{images.parent}/bucket").end(3)
    assert files_of(images, "bucket") == whole


@pytest.mark.ray
@pytest.mark.usefixtures("node")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "termination"])
def test_a_signal_finishes_the_parts_that_have_begun(
    number: signal.Signals, images: Path, cluster: "Cluster", whole: dict[str, bytes]
) -> None:
    """After one signal no further part begins; the parts that have begun are written and reported."""
    out = number.name
    job = on_cluster(images, cluster, out)
    job.wait_for(2)
    job.process.send_signal(number)
    assert job.end(1)["stopped"]
    assert job.messages[-1] == CONTINUE
    assert 2 <= len(job.parts) < COUNT // 4
    assert sorted(f"part-{part:06d}.parquet" for part in job.parts) == sorted(
        path.name for path in (images.parent / out / "results").iterdir()
    )
    on_cluster(images, cluster, out).end(3)
    assert files_of(images, out) == whole


@pytest.mark.ray
@pytest.mark.usefixtures("node")
def test_a_second_signal_gives_up(images: Path, cluster: "Cluster", whole: dict[str, bytes]) -> None:
    """After two signals the parts that have begun are given up, and no unfinished file is left."""
    job = on_cluster(images, cluster, "given-up", setup="job.PART_IMAGES = 30\ncli.GRACE_SECONDS = 0.0")
    wait_until((images.parent / "given-up" / "grids").exists)
    job.process.send_signal(signal.SIGINT)
    wait_until(lambda: bool(job.messages))
    job.process.send_signal(signal.SIGINT)
    job.end(1)
    assert job.messages[-1] == CONTINUE
    assert job.parts == []
    left = files_of(images, "given-up")
    assert left.items() <= whole.items()
    assert not (images.parent / "given-up" / "results").exists()
    on_cluster(images, cluster, "given-up").end(3)
    assert files_of(images, "given-up") == whole


LARGE_LINE = [*MODELS, "--grids", "zarr", "--json"]
SECTIONS = 5
"""Number of sections of the large image."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiled TIFF file of 108 megapixels among small images."""
    folder = tmp_path_factory.mktemp("mixed") / "images"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.png").write_bytes(encode(noise(300, 400, 1, seed=number), ".png"))
    tiled = encode(noise(9000, 12000, 1), ".tif", tile=True, tile_width=512, tile_height=512)
    (folder / "3-large.tif").write_bytes(tiled)
    return folder


@pytest.fixture(scope="module")
def whole_mixed(mixed: Path) -> dict[str, bytes]:
    """Return the files of the job with the large image, written by one process without Ray."""
    start(mixed, "whole", line=LARGE_LINE).end(0)
    return files_of(mixed, "whole")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_nodes_share_a_large_image(mixed: Path, cluster: "Cluster", whole_mixed: dict[str, bytes]) -> None:
    """Both nodes score sections of a large image at the same time; rows, averages and grids have the same bytes."""
    job = on_cluster(mixed, cluster, "shared", line=LARGE_LINE)
    job.end(0)
    assert files_of(mixed, "shared") == whole_mixed
    assert not (mixed.parent / "shared" / "sections").exists()
    sections = job.of_kind("section")
    assert sorted(event["section"] for event in sections) == [*range(SECTIONS)]
    assert {(event["path"], event["sections"]) for event in sections} == {("images/3-large.tif", SECTIONS)}
    spans = {
        process: (min(event["time"] - event["seconds"] for event in own), max(event["time"] for event in own))
        for process in {event["process"] for event in sections}
        if (own := [event for event in sections if event["process"] == process])
    }
    (first, second) = spans.values()
    together = min(first[1], second[1]) - max(first[0], second[0])
    assert together > 0.5 * max(first[1] - first[0], second[1] - second[0])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("what", ["node", "process"])
def test_sections_of_a_lost_node_are_scored_again(
    what: str, mixed: Path, cluster: "Cluster", node: "Node", whole_mixed: dict[str, bytes]
) -> None:
    """If a node or its process ends while it scores sections, the results have the same bytes."""
    job = on_cluster(mixed, cluster, f"lost-{what}", line=LARGE_LINE)
    job.wait_for(2, "section")
    if what == "node":
        cluster.remove_node(node, allow_graceful=False)
    else:
        (actor,) = actors_of(node)
        os.kill(actor, signal.SIGKILL)
    job.end(0)
    assert sorted(event["section"] for event in job.of_kind("section")) == [*range(SECTIONS)]
    assert files_of(mixed, f"lost-{what}") == whole_mixed


@pytest.mark.ray
def test_too_many_failures_stop_the_job(images: Path, cluster: "Cluster") -> None:
    """The reports of the actors count for --max-failures; no further part begins when it is exceeded."""
    job = on_cluster(images, cluster, "failures", "--max-failures", "0")
    summary = job.end(3)
    assert "--max-failures is 0" in job.messages[-1]
    assert summary["images"]["processed"] < COUNT


@pytest.mark.ray
def test_failed_images_are_scored_again(images: Path, cluster: "Cluster") -> None:
    """With --retry-failed, only the images without scores are scored again."""
    first = on_cluster(images, cluster, "again").end(3)["images"]
    again = on_cluster(images, cluster, "again", "--retry-failed").end(3)["images"]
    assert again == {**first, "kept": COUNT - first["failed"], "processed": first["failed"]}


BOMB = """
import os
class Bomb:
    def __reduce__(self):
        return os._exit, (1,)
"""
"""A value that ends the process that receives it."""
CONFIG = """
from dataclasses import replace
engine = ray_engine.ray_engine
program.ray_engine = lambda address, config, stop: engine(address, replace(config, {}), stop)
"""
"""Changes what the actors get."""
FAILURES = {
    "package": (3, CONFIG.format("package='0.0'"), "ray: expected fullconv 0.0 on every node, got "),
    "weights": (3, CONFIG.format("weights_sha256='0'"), "models: expected the same weights of model "),
    "models": (3, CONFIG.format("models='/nowhere'"), "models: expected a directory of models, got /nowhere"),
    "opening": (
        1,
        BOMB + CONFIG.format("package=Bomb()"),
        "address: expected a Ray cluster with a node that can score",
    ),
    "part": (1, BOMB + "ray_engine.detached = lambda part: Bomb()", "part 0: expected a process that scores it, got"),
    "output": (3, "import pathlib\npathlib.Path('output').mkdir()\npathlib.Path('output/grids').touch()", "/grids"),
}
"""The exit status, what leads to it, and the beginning or a part of the message."""


@pytest.mark.ray
@pytest.mark.parametrize("name", FAILURES)
def test_errors_arrive_as_themselves(name: str, images: Path, cluster: "Cluster") -> None:
    """An error that concerns all images, and processes that end again and again, end the job with one line."""
    status, setup, expected = FAILURES[name]
    job = on_cluster(images, cluster, name, setup=setup)
    job.end(status)
    assert len(job.messages) == 1
    assert expected in job.messages[0]
    assert "ray::" not in job.messages[0]


@pytest.mark.ray
def test_an_address_without_cluster_is_refused(images: Path) -> None:
    """A port at which nothing listens, and text that is no address, give one line and exit status 1."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for address in (f"127.0.0.1:{unused.getsockname()[1]}", "nowhere"):
            job = start(images, "refused", "--engine", "ray", "--address", address)
            job.end(1)
            assert job.messages[0].startswith(f"address: expected a Ray cluster at {address}, got ")
