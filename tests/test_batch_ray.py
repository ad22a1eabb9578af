"""The same table on Ray: what a folder of its files says is done, and what a cluster makes of the rest."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_runs import ENVIRONMENT, command, wait_for, write_many

from videozoo.batch import local
from videozoo.batch.answers import Network, Question
from videozoo.batch.inputs import Item, find_videos
from videozoo.errors import OutputError


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 files, 25 of them damaged."""
    return write_many(tmp_path_factory.mktemp("many"), 500)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_video_that_ray_lost_is_missed_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    from videozoo.batch import on_ray

    items = [Item("a.mp4"), Item("b\udcff.mp4")]
    wanted = local.Job(items, Network("test_ircsn", mode="center"), Question("features"), tmp_path / "ray", 0.5)

    def answers_for(name: str) -> Callable[..., None]:
        def compute(job: Any, plan: Any, todo: Any, folder: Any, address: Any) -> None:
            row = {"path": name, "window": 0, "start_seconds": 0.0, "error": None}
            schema = pa.schema([("path", "string"), ("window", "int64"), ("start_seconds", "f8"), ("error", "string")])
            pq.write_table(pa.Table.from_pylist([row], schema=schema), folder.path / f"{len(name)}.parquet")

        return compute

    monkeypatch.setattr(on_ray, "_compute", answers_for("a.mp4"))
    with pytest.raises(OutputError, match="lacks 1 videos"):
        on_ray.run(wanted)
    monkeypatch.setattr(on_ray, "_compute", answers_for("b\\udcff.mp4"))
    assert on_ray.run(wanted).num_rows == 2


@pytest.fixture
def cluster() -> Any:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 150_000_000})
    found.doomed = found.add_node(num_cpus=2, object_store_memory=150_000_000)
    yield found
    found.shutdown()


def local_rows(videos: Path, out: Path) -> dict[str, dict[str, Any]]:
    import pyarrow.parquet as pq

    network, question = Network("test_ircsn", mode="center"), Question("features")
    local.run(local.Job(find_videos([str(videos)]), network, question, out), num_processes=2)
    return {row["path"]: row for row in pq.read_table(out).to_pylist()}


def assert_same_rows(folder: Path, expected: dict[str, dict[str, Any]]) -> None:
    """Every row once, and numbers to 1e-5 of the largest."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder).to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(expected)
    for row in rows:
        other = expected[row["path"]]
        assert {key: row[key] for key in row if key != "vector"} == {key: other[key] for key in row if key != "vector"}
        if row["vector"] is not None:
            np.testing.assert_allclose(row["vector"], other["vector"], atol=1e-5 * np.abs(other["vector"]).max())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_runs_on_two_nodes_that_are_killed_go_on(many: Path, tmp_path: Path, cluster: Any) -> None:
    expected = local_rows(many, tmp_path / "local.parquet")
    out = tmp_path / "ray"
    ray_command = command(many, out, "--engine", "ray", "--address", cluster.address)
    for num_files in (1, 3, 5):
        process = subprocess.Popen(ray_command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda least=num_files: len(list(out.glob("*.parquet"))) >= least, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = subprocess.run(ray_command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 5 and f"{out}: 475 rows of 500 videos" in done.stdout
    assert_same_rows(out, expected)
    again = subprocess.run(ray_command, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 6 and "--force" in again.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_with_a_node_that_dies_writes_every_row_once(many: Path, tmp_path: Path, cluster: Any) -> None:
    import ray

    from videozoo.batch import on_ray

    expected = local_rows(many, tmp_path / "local.parquet")
    out = tmp_path / "ray"
    ray.init(address=cluster.address, log_to_driver=False)
    done = threading.Event()

    def kill() -> None:
        while not done.is_set():
            if len(list(out.glob("*.parquet"))) >= 1:
                cluster.remove_node(cluster.doomed, allow_graceful=False)
                return
            done.wait(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        network, question = Network("test_ircsn", mode="center"), Question("features")
        summary = on_ray.run(local.Job(find_videos([str(many)]), network, question, out))
        assert len([node for node in ray.nodes() if node["Alive"]]) == 1, "the node outlived the run"
    finally:
        done.set()
        killer.join()
        ray.shutdown()
    assert (summary.num_videos, summary.num_rows, summary.num_failed) == (500, 475, 25)
    assert_same_rows(out, expected)
