"""The same table on Ray: what a folder of its files says is done, and what a cluster makes of the rest."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_runs import ENVIRONMENT, command, wait_for, write_many
from child_functions import Deadly
from synthetic_frames import make_frames

from videozoo import create_transform, get_weights
from videozoo.batch import decoders, local, on_ray
from videozoo.batch.answers import Network, Question
from videozoo.batch.decoders import Failure, outcomes
from videozoo.batch.inputs import Item, find_videos
from videozoo.batch.pieces import Piece, Plan
from videozoo.batch.ray_folder import Ends, Folder, Found, Todo
from videozoo.batch.tables import parquet_schema
from videozoo.checkpoints.tensors import sha256_tensors
from videozoo.cli.main import run
from videozoo.demo import write_video
from videozoo.errors import OutputError


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 files, 25 of them damaged."""
    return write_many(tmp_path_factory.mktemp("many"), 500)


ENGINE = ["--engine", "ray", "--out", "out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers 0"),
        (["--device", "cpu"], "--device cpu"),
        (["--shard", "1/2"], "shard"),
        (["--address", "nowhere.invalid:1"], "no Ray cluster at nowhere.invalid:1"),
    ],
)
@pytest.mark.parametrize("name", ["extract", "predict"])
def test_what_ray_does_not_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, arguments: list[str], message: str,
) -> None:  # fmt: skip
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").touch()
    assert run([name, "a.mp4", "--model", "test_tsn", *ENGINE, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("videozoo: error: ") and message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


# What a folder says is done

ABOUT = {"kind": "features", "window_seconds": 1.0}
WHOLE = {"kind": "features", "window_seconds": None}
Wanted = tuple[str, int, float | None, str | None]
"""Path, window, where it starts, and why it has no answer."""


def opened(folder: Path, about: dict[str, Any] = ABOUT) -> Folder:
    pytest.importorskip("pyarrow")
    with Folder(folder, about).begin(overwrite=False):
        return Folder(folder, about)


def write_rows(folder: Folder, rows: Sequence[Wanted], name: str = "part") -> Path:
    """As Ray does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [dict(zip(("path", "window", "start_seconds", "error"), row, strict=True)) for row in rows]
    path = folder.path / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(records, schema=parquet_schema("features", folder.about)), path)
    return path


DAMAGED = "no more frames"


@pytest.mark.parametrize(
    ("about", "rows", "count", "first"),
    [
        (ABOUT, [(0, 0.0, None), (1, 1.0, None)], 2, None),
        (ABOUT, [(0, 0.0, None), (1, 1.0, None)], None, 2),
        (ABOUT, [(0, 0.0, None), (2, 2.0, None)], 3, 1),
        (ABOUT, [(0, 0.0, "out of memory")], 1, None),
        (ABOUT, [(0, 0.0, "out of memory")], 2, 1),
        (ABOUT, [(0, 0.0, None), (1, None, DAMAGED)], None, None),
        (ABOUT, [(2, None, DAMAGED)], None, 0),
        (ABOUT, [(0, None, DAMAGED), (1, 1.0, None)], 3, 2),
        (ABOUT, [], 1, 0),
        (WHOLE, [(0, 0.0, None)], None, None),
        (WHOLE, [(0, None, DAMAGED)], None, None),
        (WHOLE, [], 1, 0),
    ],
)
def test_a_video_is_done_when_its_every_row_is_there(
    tmp_path: Path,
    about: dict[str, Any],
    rows: list[tuple[int, float | None, str | None]],
    count: int | None,
    first: int | None,
) -> None:
    folder = opened(tmp_path, about)
    write_rows(folder, [("a.mp4", *row) for row in rows])
    if count is not None:
        Ends(tmp_path).add("a.mp4", count)
    left = folder.read().left([Item("a.mp4")])
    assert [video.first for video in left] == ([] if first is None else [first])
    assert [video.known for video in left] == ([] if first is None else [{row[0] for row in rows}])


def test_rows_of_other_videos_do_not_count(tmp_path: Path) -> None:
    folder = opened(tmp_path, WHOLE)
    write_rows(folder, [("a", 0, 0.0, None), ("b", 0, None, DAMAGED), ("c", 0, None, DAMAGED), ("d", 0, 0.0, None)])
    assert folder.read().summed([Item("a"), Item("b")]) == (1, 1)


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ({"one": [0, 1], "two": [0, 1]}, ["two"]),
        ({"one": [0, 1, 2], "two": [1]}, ["one"]),
        ({"one": [1], "two": [0, 1, 2]}, ["two"]),
        ({"one": [0, 1], "three": [1, 2], "two": [2, 3]}, ["one", "two"]),
    ],
)
def test_a_file_whose_every_row_others_have_is_removed(
    tmp_path: Path, parts: dict[str, list[int]], kept: list[str]
) -> None:
    folder = opened(tmp_path)
    for name, windows in parts.items():
        write_rows(folder, [("a", window, float(window), None) for window in windows], name)
    windows = {window for part in parts.values() for window in part}
    assert folder.read().answered == {"a": len(windows)}
    assert folder.read().windows == {"a": windows}
    assert sorted(path.stem for path in tmp_path.glob("*.parquet")) == kept


@pytest.mark.parametrize(
    "parts",
    [
        [[("a", 0, 0.0, None), ("a", 1, 1.0, None)], [("a", 1, 1.0, None), ("a", 2, 2.0, None)]],
        [[("a", 0, 0.0, None)], [("a", 0, None, DAMAGED)]],
        [[("a", 0, 0.0, None), ("a", 0, 0.0, None)]],
    ],
)
def test_files_that_repeat_rows_otherwise_are_kept_and_refused(tmp_path: Path, parts: list[list[Wanted]]) -> None:
    folder = opened(tmp_path)
    paths = [write_rows(folder, rows, f"part{number}") for number, rows in enumerate(parts)]
    with pytest.raises(OutputError, match=r"repeats window [01] of a: start with --force"):
        folder.read()
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("size", [0, 3, 4, 100, -1])
def test_a_file_that_was_cut_off_is_removed(tmp_path: Path, size: int) -> None:
    folder = opened(tmp_path)
    part = write_rows(folder, [("a", 0, 0.0, None)])
    part.write_bytes(part.read_bytes()[:size])
    assert len(folder.read().left([Item("a")])) == 1
    assert not part.exists()


def test_an_end_that_a_power_cut_has_spoilt_is_as_if_never_said(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    write_rows(folder, [("a", 0, 0.0, None), ("b", 0, 0.0, None)])
    (tmp_path / "_ends-0.jsonl").write_bytes(b'\0\0\0\n["b", 1]\n["a", 1')
    assert [video.name for video in folder.read().left([Item("a"), Item("b")])] == ["a"]


@pytest.mark.parametrize("content", [b"my own notes", b"PAR1 and my own notes PAR1"])
def test_a_file_that_ray_did_not_leave_is_kept(tmp_path: Path, content: bytes) -> None:
    folder = opened(tmp_path)
    part = tmp_path / "mine.parquet"
    part.write_bytes(content)
    with pytest.raises(OutputError, match=r"mine\.parquet cannot be read .*remove the file"):
        folder.read()
    assert part.read_bytes() == content


def test_a_file_that_cannot_be_read_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    folder = opened(tmp_path)
    part = write_rows(folder, [("a", 0, 0.0, None)])

    def failing(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="Input/output error"):
        patch.setattr(pq, "read_table", failing)
        folder.read()
    assert part.exists() and folder.read().answered == {"a": 1}


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    write_rows(Folder(tmp_path, ABOUT | {"layer": "layer3"}), [("a", 0, 0.0, None)])
    with pytest.raises(OutputError, match="of another run: name a new folder"):
        folder.read()


def test_a_folder_is_one_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = Folder(out, ABOUT)
    with folder.begin(overwrite=False) as run:
        with pytest.raises(OutputError, match="another process is writing"):
            folder.begin(overwrite=True)
        write_rows(folder, [("a", 0, 0.0, None)])
        Ends(out).add("a", 1)
    folder.begin(overwrite=False).__exit__()
    with pytest.raises(OutputError, match="another layer"):
        Folder(out, ABOUT | {"layer": "layer3"}).begin(overwrite=False)
    with folder.begin(overwrite=False) as run:
        run.append({"finished": True})
    with pytest.raises(OutputError, match="exists; pass --force"):
        folder.begin(overwrite=False)
    assert not folder.read().left([Item("a")])
    with folder.begin(overwrite=True):
        assert folder.read().left([Item("a")])
    folder.begin(overwrite=False).__exit__()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="holds other files"):
        Folder(tmp_path, ABOUT).begin(overwrite=False)


@pytest.mark.parametrize("written", [None, b"", b'{"run": {"ki'])
def test_a_run_whose_forced_start_was_killed_takes_no_earlier_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bytes | None
) -> None:
    folder = opened(tmp_path)
    write_rows(folder, [("a", 0, 0.0, None)])
    Ends(tmp_path).add("a", 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "_clear", killed)
        folder.begin(overwrite=True)
    if written is not None:  # the journal itself was not begun any further
        (tmp_path / "_run.journal").write_bytes(written)
    with folder.begin(overwrite=False):
        assert not folder.read().windows
        write_rows(folder, [("a", 0, 0.0, None)])
        Ends(tmp_path).add("a", 1)
    with folder.begin(overwrite=False):
        assert not folder.read().left([Item("a")])


# What a task does


@pytest.fixture(scope="module", autouse=True)
def _no_decoder_stays() -> Iterator[None]:
    yield
    on_ray._give_up_decoders()


def decoded(video: Todo) -> list[dict[str, Any]]:
    plan = Plan(create_transform(get_weights("test_ircsn"), "center"), 0.5, frame_rate=16)
    return list(on_ray._decode(pickle.dumps(plan), {"video": pickle.dumps(video)}))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ((), [(0, True), (1, True), (2, True), (3, False)]),
        ((1,), [(0, True), (2, True), (3, False)]),
        ((0, 1, 2), [(3, False)]),
    ],
)
def test_a_task_decodes_what_has_no_row(
    tmp_path: Path, known: tuple[int, ...], expected: list[tuple[int, bool]]
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, make_frames(24, 32, 48))
    found = decoded(Todo(Item(str(path)), "a.mp4", frozenset(known)))
    assert [(message["window"], bool(message["piece"])) for message in found] == expected
    assert {(message["path"], message["error"]) for message in found} == {("a.mp4", "")}


@pytest.mark.parametrize("given", ["folder/a.mp4", "./folder/a.mp4", "folder//a.mp4"])
def test_a_task_finds_relative_paths_and_its_reasons_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.mp4").write_bytes(b"no video")
    monkeypatch.chdir(tmp_path)
    (expected,) = outcomes(Plan(create_transform(get_weights("test_ircsn"), "center")), decoders.Job(0, Item(given)))
    assert isinstance(expected, Failure) and "not a video" in expected.reason
    (video,) = Found().left([Item(given)])
    monkeypatch.chdir("/")
    errors = [message["error"] for message in decoded(video)]
    assert errors == [expected.reason]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision announces its image writer's removal
def test_windows_before_the_damage_are_not_lost(tmp_path: Path) -> None:
    from torchvision.io import write_png

    for number, frame in enumerate(make_frames(24, 32, 48), start=1):
        write_png(torch.from_numpy(frame).permute(2, 0, 1), str(tmp_path / f"img_{number:05}.png"))
    for number in range(17, 25):
        (tmp_path / f"img_{number:05}.png").write_bytes(b"no image")
    found = decoded(Todo(Item(str(tmp_path)), "frames", frozenset({2})))
    assert [(message["window"], bool(message["piece"]), message["error"]) for message in found] == [
        (0, True, ""), (1, True, ""),
    ]  # fmt: skip
    (failure,) = decoded(Todo(Item(str(tmp_path)), "frames", frozenset({0, 1})))
    assert failure["window"] == 2 and failure["error"].startswith("frames/img_00017.png is not a readable image")


def test_a_video_that_kills_its_decoder_is_a_row(tmp_path: Path) -> None:
    video = Todo(Item(str(tmp_path / "a.mp4"), None, Deadly()), "a.mp4")  # type: ignore[arg-type]
    reason = "a.mp4: its decoder died 2 times (exit status 3)"
    assert [(message["window"], message["error"]) for message in decoded(video)] == [(0, reason)]


@pytest.mark.parametrize(("known", "last"), [({0, 1, 3, 4}, []), ({0, 1, 4}, [(3, False, "a.mp4 is away")])])
def test_a_failure_says_no_end_beside_its_row(
    monkeypatch: pytest.MonkeyPatch, known: set[int], last: list[tuple[int, bool, str]]
) -> None:
    """It may pass, and then there are windows after it: an end that outlives the row would lose them."""
    piece = Piece(2, 2.0, 3.0, np.zeros((1, 1), np.int64), [], np.zeros((1, 1), np.int64))

    class Passing:
        def run(self, jobs: Sequence[decoders.Job]) -> Iterator[tuple[int, decoders.Outcome]]:
            assert [job.start for job in jobs] == [2]
            yield from ((0, piece), (0, Failure(3, "a.mp4 is away")))

    monkeypatch.setattr(on_ray, "_decoder", lambda _: nullcontext(Passing()))
    found = decoded(Todo(Item("a.mp4"), "a.mp4", frozenset(known)))
    expected = [(2, True, ""), *last]
    assert [(message["window"], bool(message["piece"]), message["error"]) for message in found] == expected


def test_an_actor_keeps_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network("test_ircsn", mode="center")
    weights = sha256_tensors(network.load().model.state_dict())
    called: list[str] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda number: called.append(f"{number} threads"))
    monkeypatch.setattr(on_ray, "reuse_heap", lambda: called.append("heap"))
    on_ray._Actor(on_ray._Answering(network, Question("features"), "cpu", weights, tmp_path))
    assert called == ["1 threads", "heap"]


def test_an_actor_gets_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = on_ray._anywhere(Network("local-dir:best", checkpoint=Path("a.pth"), lock=Path("b.lock")))
    assert (network.name, network.checkpoint, network.lock) == (
        f"local-dir:{tmp_path}/best", tmp_path / "a.pth", tmp_path / "b.lock",
    )  # fmt: skip
    assert on_ray._anywhere(Network("test_tsn")) == Network("test_tsn")


# Whole runs


class _Interrupted:
    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_an_interrupt_in_a_destructor_of_ray_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), on_ray._interrupts_kept():
        _Interrupted()
        reached = True
    assert reached and capsys.readouterr().err == ""


def instead_of_ray(monkeypatch: pytest.MonkeyPatch, answered: Sequence[str]) -> list[list[str]]:
    """Answer for the first windows of these videos alone; returns what is asked for in each run."""
    asked: list[list[str]] = []

    def compute(job: Any, plan: Any, todo: Sequence[Todo], folder: Folder, address: Any) -> None:
        asked.append([video.name for video in todo])
        names = [video.name for video in todo if video.name in answered]
        write_rows(folder, [(name, 0, 0.0, None) for name in names], f"part{len(list(folder.path.iterdir()))}")
        for name in names:
            Ends(folder.path).add(name, 1)

    monkeypatch.setattr(on_ray, "_compute", compute)
    return asked


def job(out: Path, *names: str, **more: Any) -> local.Job:
    items = [Item(name) for name in names]
    return local.Job(items, Network("test_ircsn", mode="center"), Question("features"), out, 0.5, **more)


def test_a_task_of_one_processor_decodes_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    plans: list[Plan] = []
    monkeypatch.setattr(on_ray, "_compute", lambda job, plan, *_: plans.append(plan))
    with pytest.raises(OutputError, match=r"lacks 1 videos, such as a\.mp4; repeat the command"):
        on_ray.run(job(tmp_path / "ray", "a.mp4"))
    assert [plan.num_threads for plan in plans] == [1]


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_callers_settings_of_ray_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    context = pytest.importorskip("ray.data").DataContext.get_current()
    seen: list[tuple[bool, bool]] = []

    def failing(*_: object, override_num_blocks: int) -> None:
        seen.append((context.enable_progress_bars, context.print_on_execution_start))
        raise ray.exceptions.RayError("it is gone")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray.data, "from_items", failing)
    monkeypatch.setattr(context, "enable_progress_bars", True)
    monkeypatch.setattr(context, "print_on_execution_start", True)
    with pytest.raises(OutputError, match="Ray gave up: it is gone"):
        on_ray.run(job(tmp_path / "ray", "a.mp4"))
    assert seen == [(False, False)]
    assert context.enable_progress_bars and context.print_on_execution_start


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_video_that_ray_lost_is_missed_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    wanted = job(tmp_path / "ray", "a.mp4", "b\udcff.mp4")
    instead_of_ray(monkeypatch, ["a.mp4"])
    with pytest.raises(OutputError, match="lacks 1 videos, such as b"):
        on_ray.run(wanted)
    asked = instead_of_ray(monkeypatch, ["b\\udcff.mp4"])
    assert on_ray.run(wanted).num_rows == 2
    assert asked == [["b\\udcff.mp4"]]


def test_a_killed_run_goes_on_over_a_folder_that_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    asked = instead_of_ray(monkeypatch, ["a.mp4", "c.mp4"])
    with pytest.raises(OutputError, match="lacks 1 videos"):
        on_ray.run(job(tmp_path / "ray", "a.mp4", "b.mp4"))
    assert on_ray.run(job(tmp_path / "ray", "a.mp4", "c.mp4")).num_rows == 2
    assert asked == [["a.mp4", "b.mp4"], ["c.mp4"]]
    with pytest.raises(OutputError, match="--force"):
        on_ray.run(job(tmp_path / "ray", "a.mp4", "c.mp4"))
    assert on_ray.run(job(tmp_path / "ray", "a.mp4", overwrite=True)).num_rows == 1


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


@pytest.fixture
def lethal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder's name: whichever process looks into it is killed, on the cluster of this test as well."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("""
import os, signal, sys

def look(event, arguments):
    if event in ("os.listdir", "os.scandir") and str(arguments[0]).endswith("lethal"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
""")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}")
    (tmp_path / "clips" / "lethal").mkdir(parents=True)
    return "clips/lethal"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_has_the_local_rows_of_windows_with_labels_and_of_relative_paths(
    tmp_path: Path, lethal: str, cluster: Any
) -> None:
    import pyarrow.parquet as pq

    clips = write_many(tmp_path / "clips", 14)
    (tmp_path / "list.txt").write_text(
        "\n".join([lethal, *(f"clips/{path.name}" for path in sorted(clips.glob("v*")))])
    )
    (tmp_path / "names.txt").write_text("\n".join(f"name {number}" for number in range(8)))
    predict = [sys.executable, "-m", "videozoo", "predict", "list.txt", "--model", "test_tsn", "--labels", "names.txt"]
    predict += ["--window", "0.5", "--stride", "0.25", "--topk", "2", "--fps", "16", "--out"]
    for more in (["local.parquet", "--workers", "1"], ["ray", "--engine", "ray", "--address", cluster.address]):
        done = subprocess.run([*predict, *more], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr.splitlines()[-1:]) == (
            5, ["videozoo: error: 2 of 15 videos have rows with an error, in the column `error`"],
        )  # fmt: skip
    found, expected = (
        sorted(pq.read_table(tmp_path / name).to_pylist(), key=lambda row: (row["path"], row["window"]))
        for name in ("ray", "local.parquet")
    )
    assert len(expected) > 50 and {row["error"] for row in expected if row["path"] == lethal} == {
        f"{lethal}: its decoder died 2 times (signal 9)"
    }
    for row, other in zip(found, expected, strict=True):
        if other["probabilities"] is not None:
            np.testing.assert_allclose(row.pop("probabilities"), other.pop("probabilities"), atol=1e-5)
        assert row == other


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "message", "status"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]
)
def test_a_run_that_is_told_to_end_leaves_one_line_and_a_folder_that_goes_on(
    tmp_path: Path, number: int, message: str, status: int
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "ray"
    extract = command(write_many(tmp_path, 200), out, "--engine", "ray")
    environment = ENVIRONMENT | {"RAY_ADDRESS": "127.0.0.1:1"}  # of no cluster, and none was asked for
    process = subprocess.Popen(
        extract, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for(lambda: bool(list(out.glob("*.parquet"))), process)
    assert len(in_session(process.pid)) > 5
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does it
    else:
        process.send_signal(number)
    assert process.communicate() == (b"", f"videozoo: {message}\n".encode())
    assert process.returncode == status
    while in_session(process.pid):
        threading.Event().wait(0.1)
    assert "finished" not in (out / "_run.journal").read_text()
    done = subprocess.run(extract, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, f"{out}: 190 rows of 200 videos\n")
    assert done.stderr == "videozoo: error: 10 of 200 videos have rows with an error, in the column `error`\n"


def in_session(number: int) -> list[str]:
    """Numbers of the processes that were started in this session and still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if int(session) == number and state != "Z":
                found.append(path.parent.name)
    return found
