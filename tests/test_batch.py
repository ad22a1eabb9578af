"""Many videos to one table: which videos, what the rows say, and that a killed run is as one that was not."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batch_runs import ENVIRONMENT, command, wait_for, write_many
from safetensors import safe_open
from safetensors.numpy import load_file
from synthetic_frames import make_frames

from videozoo import create_transform, get_weights, journal, load_recognizer
from videozoo.batch import answers, local, tables
from videozoo.batch.answers import Network, Question
from videozoo.batch.decoders import Decoders, Failure, Job
from videozoo.batch.inputs import Item, ListForm, find_videos, shard_of
from videozoo.batch.lanes import Lanes
from videozoo.batch.pieces import Piece, Plan, pieces
from videozoo.batch.rows import Row, packed, unpacked
from videozoo.batch.tables import writer_for
from videozoo.cli.main import run
from videozoo.demo import write_video
from videozoo.errors import InvalidArgument, ListError, OutputError, VideoError
from videozoo.journal import Journal, beside, read
from videozoo.processors import num_processors

NUM_VIDEOS = 6


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files, the third of which is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(folder / f"v{number}.mp4", np.roll(make_frames(24 + number, 32, 48), number, axis=2))
    (folder / "v2.mp4").write_bytes(b"no video")
    (folder / "notes.md").write_text("left out")
    return folder


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Which videos


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (*("a.mp4", "b/c.MKV", "b/d.txt", "frames/img_00001.jpg", "frames/img_00002.jpg"), ".hidden/e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "thumbs").mkdir()
    (tmp_path / "thumbs" / "f.mp4").touch()
    (tmp_path / "thumbs" / "poster1.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["."], ["a.mp4", "b/c.MKV", "frames", "thumbs/f.mp4"]),
        (["b", "a.mp4", "b/c.MKV"], ["b/c.MKV", "a.mp4"]),
        (["*.mp4"], ["a.mp4"]),
        (["**/*"], ["a.mp4", "b/c.MKV", "frames", "thumbs/f.mp4"]),
        (["b/*.txt"], ["b/d.txt"]),
        (["frames"], ["frames"]),
        (["none.mp4", ".hidden/e.mp4"], ["none.mp4", ".hidden/e.mp4"]),
        (["list.txt"], ["a.mp4", "with space.mp4"]),
        (["labelled.txt"], ["a.mp4", "b/c.MKV"]),
        (["labelled.csv"], ["a.mp4"]),
    ],
)
def test_inputs(tree: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], expected: list[str]) -> None:
    (tree / "list.txt").write_text("a.mp4\n\nwith space.mp4\na.mp4\n")
    (tree / "labelled.txt").write_text("a.mp4 0\nb/c.MKV 1\n")
    (tree / "labelled.csv").write_text("path,label\na.mp4,3\n")
    monkeypatch.chdir(tree)
    assert [os.path.normpath(item.path) for item in find_videos(inputs)] == expected


def test_a_list_of_frame_folders_says_how_they_are_read(tree: Path) -> None:
    (tree / "list.txt").write_text("frames 2 0\n")
    (item,) = find_videos([str(tree / "list.txt")], ListForm(template="img_{:05}.jpg"))
    assert item == Item(str(tree / "frames"), "img_{:05}.jpg", 2)


@pytest.mark.parametrize("given", ["frames", ".", "*", "bare.txt"])
def test_a_template_is_for_folders_of_frames_wherever_they_are(
    tree: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tree / "bare.txt").write_text("frames\na.mp4\n")
    monkeypatch.chdir(tree)
    found = find_videos([given], ListForm(template="img_{:05}.jpg"))
    assert [item.template for item in found if os.path.normpath(item.path) == "frames"] == ["img_{:05}.jpg"]
    assert {item.template for item in found if item.path.endswith(".mp4")} <= {None}
    with pytest.raises(InvalidArgument, match="one number"):
        find_videos([given], ListForm(template="img"))


def test_links_to_folders_are_followed_and_never_in_circles(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "g.mp4").touch()
    (elsewhere / "up").symlink_to(tree)
    (tree / "linked").symlink_to(elsewhere)
    found = [os.path.relpath(item.path, tree) for item in find_videos([str(tree)])]
    assert found == ["a.mp4", "b/c.MKV", "frames", "linked/g.mp4", "thumbs/f.mp4"]


def test_a_folder_that_cannot_be_read_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: Any) -> Any:
        if os.path.basename(path) == "thumbs":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(VideoError, match="thumbs cannot be read: Permission denied"):
        find_videos([str(tree)])


def test_a_glob_without_a_match_and_a_bad_list_are_refused(tree: Path) -> None:
    with pytest.raises(VideoError, match="no video matches"):
        find_videos([str(tree / "*.avi")])
    (tree / "list.txt").write_text("a.mp4 x\n")
    with pytest.raises(ListError, match="line 1"):
        find_videos([str(tree / "list.txt")])


def test_shards_are_disjoint_and_together_everything() -> None:
    items = [Item(str(number)) for number in range(11)]
    shards = [shard_of(items, f"{number}/4")[0] for number in (1, 2, 3, 4)]
    assert sorted(item.path for shard in shards for item in shard) == sorted(item.path for item in items)
    assert max(map(len, shards)) - min(map(len, shards)) == 1


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "a/b", "-1/2"])
def test_a_shard_that_cannot_be_is_refused(shard: str) -> None:
    with pytest.raises(InvalidArgument, match="1/4 to 4/4"):
        shard_of([Item("a")], shard)


# Rows and tables

ROWS = [
    Row("a", 0, 0.0, 1.5, vector=np.array([1.1, -2e-30], np.float32)),
    Row("a", 1, 1.5, 2.0, vector=np.array([3, 4], np.float32)),
    Row("b\udcff", 0, None, None, error="no video"),
]


@pytest.mark.parametrize("row", [*ROWS, Row("c", 0, None, 2.0, labels=("x", "y"), probabilities=(0.1, 1e-20))])
def test_a_row_comes_back_from_a_journal(row: Row) -> None:
    again = unpacked(row.path, json.loads(json.dumps(packed(row))))
    assert repr(again) == repr(row)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".safetensors"])
def test_tables_hold_every_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    writer_for(path)(path, lambda: ROWS, {"kind": "features"})
    if suffix == ".safetensors":
        tensors = load_file(path)
        np.testing.assert_array_equal(tensors["vectors"][:2], np.stack([row.vector for row in ROWS[:2]]))  # type: ignore[misc]
        assert np.isnan(tensors["vectors"][2]).all() and np.isnan(tensors["start_seconds"][2])
        assert tensors["windows"].tolist() == [0, 1, 0]
        return
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        found = pq.read_table(path).to_pylist()
    else:
        found = read_jsonl(path)
    assert [record["path"] for record in found] == ["a", "a", "b\\udcff"]
    assert [record["error"] for record in found] == [None, None, "no video"]
    for record, row in zip(found[:2], ROWS, strict=False):
        assert np.array_equal(np.array(record["vector"], np.float32), row.vector)  # type: ignore[arg-type]
    assert list(found[0]) == ["path", "window", "start_seconds", "end_seconds", "vector", "error"]


def test_a_header_that_no_reader_of_safetensors_opens_is_refused(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out.safetensors", tmp_path / "out.jsonl"
    with monkeypatch.context() as patch, pytest.raises(OutputError, match=r"\.parquet or \.jsonl"):
        patch.setattr(tables, "_HEADER_BYTES", 100)
        local.run(job(videos, out), num_processes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors.journal"]
    beside(out).rename(beside(other))
    monkeypatch.setattr(answers, "_features", None)  # nothing is computed again
    assert local.run(job(videos, other), num_processes=0).num_rows == len(read_jsonl(other)) - 1


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"\.parquet, \.jsonl, \.safetensors"):
        writer_for(Path("table.csv"))


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("videozoo.batch.tables.find_spec", lambda name: None if name == "pyarrow" else find_spec(name))
    with pytest.raises(InvalidArgument, match=r"videozoo\[parquet\]"):
        writer_for(Path("table.parquet"))


# The commands


def test_extract_gives_the_mean_of_the_views(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert run(["extract", str(videos), "--model", "test_ircsn", "--out", str(out)]) == 5
    captured = capsys.readouterr()
    assert captured.out == f"{out}: 5 rows of 6 videos\n"
    assert captured.err.startswith("videozoo: error: 1 of 6 videos have rows with an error")
    rows = read_jsonl(out)
    assert [Path(row["path"]).name for row in rows] == [f"v{number}.mp4" for number in range(NUM_VIDEOS)]
    assert "v2.mp4" in rows[2]["error"] and rows[2]["vector"] is None
    assert rows[5]["end_seconds"] == pytest.approx((24 + 5) / 16) and rows[5]["start_seconds"] == 0
    recognizer = load_recognizer("test_ircsn", optimize=False)
    with torch.inference_mode():
        maps = recognizer.model.forward_features(recognizer.transform(str(videos / "v1.mp4")))
        expected = recognizer.model.forward_head(maps, pre_logits=True).mean(dim=0)
    torch.testing.assert_close(torch.tensor(rows[1]["vector"]), expected, rtol=0, atol=1e-4)
    assert list(tmp_path.iterdir()) == [out]


def test_predict_ranks_labels_of_windows_in_a_shard(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(videos / "*.mp4"), "--model", "test_tsn", "--topk", "2", "--json"]
    command += ["--window", "0.5", "--stride", "0.25", "--shard", "2/6", "--workers", "0"]
    assert run([*command, "--out", str(tmp_path / "out.jsonl")]) == 0
    out = tmp_path / "out-00002-of-00006.jsonl"
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out), "num_videos": 1, "num_rows": 6, "num_failed": 0,
    }  # fmt: skip
    rows = read_jsonl(out)
    assert [row["start_seconds"] for row in rows] == [0.25 * number for number in range(6)]
    assert [row["end_seconds"] for row in rows] == [0.5, 0.75, 1.0, 1.25, 1.5, 25 / 16]
    recognizer = load_recognizer("test_tsn", mode="center")
    for number, piece in enumerate(pieces(Plan(recognizer.transform, 0.5, 0.25), Item(str(videos / "v1.mp4")))):
        expected = recognizer.recognise_sampled(piece.sampled).probabilities.topk(2)
        assert rows[number]["labels"] == [recognizer.labels[index] for index in expected.indices.tolist()]
        np.testing.assert_allclose(rows[number]["probabilities"], expected.values, atol=1e-6)


def test_predict_prints_the_videos_of_a_folder(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", str(videos), "--model", "test_ircsn", "--topk", "1"]) == 5
    captured = capsys.readouterr()
    assert [line for line in captured.out.splitlines() if line.startswith(str(videos))] == [
        str(videos / f"v{number}.mp4") for number in range(NUM_VIDEOS) if number != 2
    ]
    assert "v2.mp4" in captured.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.csv"], 2, "tables are .parquet"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--layer", "layer9"], 2, "layer4"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--window", "0"], 2, "window 0.0"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--stride", "1"], 2, "stride 1.0"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--shard", "0/2"], 2, "shard 0/2"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--workers", "-1"], 2, "--workers -1"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--address", "x"], 2, "--engine ray"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--engine", "ray"], 2, "folder"),
        (["extract", "VIDEOS", "--model", "test_ircsm", "--out", "a.jsonl"], 2, "test_ircsn"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "there.jsonl"], 6, "--force"),
        (["extract", "VIDEOS", "--model", "test_ircsn", "--out", "none/a.jsonl"], 6, "no folder"),
        (["extract", "none.mp4", "--model", "test_ircsn", "--out", "a.jsonl"], 5, "none.mp4"),
        (["predict", "VIDEOS", "--model", "test_ircsn", "--window", "2"], 2, "--window without --out"),
        (["predict", "VIDEOS", "--model", "test_ircsn", "--out", "a.jsonl", "--profile"], 2, "--profile"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_leave_nothing(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text("mine")
    assert run([str(videos) if argument == "VIDEOS" else argument for argument in arguments]) == status
    error = capsys.readouterr().err
    assert error.startswith("videozoo: error: ") and message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.jsonl"]
    assert Path("there.jsonl").read_text() == "mine"


@pytest.mark.parametrize("suffix", [".parquet", ".safetensors"])
def test_labels_are_the_same_in_every_format(videos: Path, tmp_path: Path, suffix: str) -> None:
    predict = ["predict", str(videos), "--model", "test_tsn", "--topk", "3", "--workers", "0", "--out"]
    assert run([*predict, str(tmp_path / "out.jsonl")]) == 5
    expected = read_jsonl(tmp_path / "out.jsonl")
    out = tmp_path / f"out{suffix}"
    if suffix == ".parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        assert run([*predict, str(out)]) == 5
        found = pq.read_table(out).to_pylist()
        assert [row["labels"] for row in found] == [row["labels"] for row in expected]
        probabilities = [row["probabilities"] for row in found]
    else:
        assert run([*predict, str(out)]) == 5
        with safe_open(out, "np") as stream:
            assert json.loads(stream.metadata()["labels"]) == [row["labels"] for row in expected]
            probabilities = stream.get_tensor("probabilities")
    for numbers, row in zip(probabilities, expected, strict=True):
        if row["probabilities"] is None:
            assert numbers is None or np.isnan(numbers).all()
        else:
            np.testing.assert_array_equal(np.float32(numbers), np.float32(row["probabilities"]))


def test_a_folder_gets_a_file_a_shard_whatever_its_name(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "run.1").mkdir()
    for folder, shard, name in (("run.1", "2/6", "rows-00002-of-00006"), ("new/deep", "4/6", "rows-00004-of-00006")):
        out = tmp_path / folder
        extract = ["extract", str(videos), "--model", "test_ircsn", "--workers", "0", "--out", str(out)]
        assert run([*extract, "--shard", shard]) == 0
        assert [path.name for path in out.iterdir()] == [f"{name}.parquet"]


@pytest.mark.parametrize("wrong", [("--window", "0"), ("--layer", "layer9")])
def test_a_folder_that_was_made_for_nothing_is_gone(videos: Path, tmp_path: Path, wrong: tuple[str, str]) -> None:
    pytest.importorskip("pyarrow")
    out = str(tmp_path / "new" / "deep")
    assert run(["extract", str(videos), "--model", "test_ircsn", "--workers", "0", "--out", out, *wrong]) == 2
    assert list(tmp_path.iterdir()) == []


def test_processes_are_for_the_processors_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert num_processors() == 8


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision announces its image writer's removal
def test_frames_of_a_folder_have_seconds_only_if_somebody_says_the_rate(tmp_path: Path) -> None:
    from torchvision.io import write_png

    for number, frame in enumerate(make_frames(20, 32, 48), start=1):
        write_png(torch.from_numpy(frame).permute(2, 0, 1), str(tmp_path / f"img_{number:05}.png"))
    transform = create_transform(get_weights("test_ircsn"))
    (piece,) = pieces(Plan(transform), Item(str(tmp_path)))
    assert (piece.start_seconds, piece.end_seconds) == (None, None)
    with pytest.raises(VideoError, match="--fps"):
        next(pieces(Plan(transform, 1.0), Item(str(tmp_path))))
    found = list(pieces(Plan(transform, 1.0, None, 10.0), Item(str(tmp_path), None, 15)))
    assert [(piece.start_seconds, piece.end_seconds) for piece in found] == [(0, 1), (1, 1.5)]


# Runs that end early


class _Killed(BaseException):
    """As abrupt as can be inside a process."""


def job(videos: Path, out: Path, **more: Any) -> local.Job:
    question = Question("features", layer="layer3")
    items = find_videos([str(videos)])
    return local.Job(items, Network("test_ircsn", mode="center"), question, out, 0.5, 0.25, **more)


def test_a_run_that_is_cut_off_anywhere_goes_on(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieced = tmp_path / "whole.jsonl", tmp_path / "pieced.jsonl"
    summary = local.run(job(videos, whole), num_processes=0)
    assert (summary.num_videos, summary.num_failed) == (6, 1)
    answered: list[tuple[str, int]] = []
    features = answers._features

    def cut_off(recognizer: Any, stage: int | None, path: str, piece: Piece) -> Row:
        if len(answered) in (2, 11):
            answered.append(("killed", len(answered)))
            raise _Killed
        answered.append((path, piece.window))
        return features(recognizer, stage, path, piece)

    monkeypatch.setattr(answers, "_features", cut_off)
    for _ in range(2):
        with pytest.raises(_Killed):
            local.run(job(videos, pieced), num_processes=0)
        assert not pieced.exists()
        with open(f"{pieced}.journal", "ab") as journal:
            journal.write(b'{"video": 0, "wind')  # a line that was cut off
    assert local.run(job(videos, pieced), num_processes=0) == local.Summary(str(pieced), 6, summary.num_rows, 1)
    assert pieced.read_bytes() == whole.read_bytes()
    done = [what for what in answered if what[0] != "killed"]
    assert len(done) == len(set(done)) == summary.num_rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pieced.jsonl", "whole.jsonl"]


def cut_off_after(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """End the next run after so many rows, as if killed; what was answered is noted from then on."""
    answered: list[tuple[str, int]] = []
    features = answers._features

    def cut_off(recognizer: Any, stage: int | None, path: str, piece: Piece) -> Row:
        if len(answered) == num_rows:
            answered.clear()
            monkeypatch.setattr(answers, "_features", noted)
            raise _Killed
        return noted(recognizer, stage, path, piece)

    def noted(recognizer: Any, stage: int | None, path: str, piece: Piece) -> Row:
        answered.append((Path(path).name, piece.window))
        return features(recognizer, stage, path, piece)

    monkeypatch.setattr(answers, "_features", cut_off)
    return answered


def test_a_run_that_replaces_a_table_goes_on_without_being_told_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("an old table")
    answered = cut_off_after(3, monkeypatch)
    with pytest.raises(_Killed):
        local.run(job(videos, out, overwrite=True), num_processes=0)
    assert out.read_text() == "an old table"
    summary = local.run(job(videos, out), num_processes=0)
    assert len(answered) == summary.num_rows - 3 and ("v0.mp4", 0) not in answered
    assert len(read_jsonl(out)) == summary.num_rows + 1
    assert list(tmp_path.iterdir()) == [out]


def test_a_run_goes_on_over_a_folder_that_has_changed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "videos", tmp_path / "out.jsonl"
    folder.mkdir()
    for name in ("v0.mp4", "v1.mp4", "v3.mp4"):
        (folder / name).write_bytes((videos / name).read_bytes())
    answered = cut_off_after(9, monkeypatch)  # all of v0, some of v1
    with pytest.raises(_Killed):
        local.run(job(folder, out), num_processes=0)
    (folder / "v3.mp4").unlink()
    (folder / "a.mp4").write_bytes((videos / "v4.mp4").read_bytes())
    local.run(job(folder, out), num_processes=0)
    names = [Path(row["path"]).name for row in read_jsonl(out)]
    assert sorted(set(names)) == ["a.mp4", "v0.mp4", "v1.mp4"] and names == sorted(names)
    assert {name for name, _ in answered} == {"a.mp4", "v1.mp4"} and ("v1.mp4", 0) not in answered


def test_a_run_with_other_class_names_is_another_run(videos: Path, tmp_path: Path) -> None:
    names = load_recognizer("test_tsn").labels
    for class_names in (names, names[::-1]):
        network = Network("test_tsn", mode="center", class_names=class_names)
        wanted = local.Job(find_videos([str(videos)]), network, Question("labels"), tmp_path / "out.jsonl")
        if class_names is names:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(_Killed):
                patch.setattr(local, "_write", raise_killed)
                local.run(wanted, num_processes=0)
        else:
            with pytest.raises(OutputError, match="another labels"):
                local.run(wanted, num_processes=0)


def raise_killed(*_: Any, **__: Any) -> None:
    raise _Killed


def test_the_bar_moves_with_every_row(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[int] = []

    class Bar(local.tqdm):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings | {"disable": False, "file": io.StringIO()})

        def update(self, n: int = 1) -> None:
            assert self.miniters == 0
            updates.append(n)

    monkeypatch.setattr(local, "tqdm", Bar)
    summary = local.run(job(videos, tmp_path / "out.jsonl", progress=True), num_processes=0)
    assert updates.count(1) == summary.num_videos and updates.count(0) == summary.num_rows


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_lanes_change_no_byte(videos: Path, tmp_path: Path, two_threads: None) -> None:
    in_lanes, alone = tmp_path / "lanes.jsonl", tmp_path / "alone.jsonl"
    local.run(job(videos, in_lanes), num_processes=1)
    torch.set_num_threads(1)
    local.run(job(videos, alone), num_processes=0)
    assert in_lanes.read_bytes() == alone.read_bytes()


def piece(window: int) -> Piece:
    return Piece(window, None, None, np.zeros(0, np.int64), [], np.zeros((0, 1), np.int64))


def test_answers_come_in_order_though_the_second_is_there_first(two_threads: None) -> None:
    second = threading.Event()

    def answer(path: str, piece: Piece) -> Row:
        if piece.window == 1:
            assert second.wait(60), "nothing ran beside it"
        if piece.window == 2:
            second.set()
        return Row(path, piece.window, None, None)

    model: Any = torch.nn.Linear(1, 1)
    outcomes = [(0, piece(0)), (0, piece(1)), (0, piece(2)), (0, None), (1, Failure(0, "no video")), (2, piece(0))]
    with Lanes(model, answer) as lanes:
        found = list(lanes.run([Item(name) for name in "abc"], outcomes))
    assert [number for number, _ in found] == [0, 0, 0, 0, 1, 2]
    assert [row.window for _, row in found if isinstance(row, Row)] == [0, 1, 2, 0]
    assert isinstance(found[4][1], Failure) and found[3][1] is None


def test_lanes_stop_between_two_layers(two_threads: None) -> None:
    model: Any = torch.nn.Linear(1, 1)
    began = threading.Event()
    ended: list[str] = []

    def answer(path: str, piece: Piece) -> Row:
        try:
            while piece.window == 1:
                model(torch.zeros(1))
                began.set()
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        return Row(path, piece.window, None, None)

    def outcomes() -> Any:
        yield 0, piece(0)
        yield 0, piece(1)
        assert began.wait(60)
        raise _Killed

    with pytest.raises(_Killed), Lanes(model, answer) as lanes:
        list(lanes.run([Item("a")], outcomes()))
    assert ended == ["_Stopped"]
    model(torch.zeros(1))  # the network is as it was


def test_a_run_that_begins_anew_leaves_the_journal_to_the_one_that_has_it(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Journal(beside(out), {"model": "other"}) as theirs:
        theirs.append({"video": 0, "done": True})
        with pytest.raises(OutputError, match="another process is writing"):
            local.run(job(videos, out, overwrite=True), num_processes=0)
        assert read(beside(out), {"model": "other"}) == [{"video": 0, "done": True}]
        theirs.remove()
    out.write_text("theirs")
    with pytest.raises(OutputError, match="--force"):
        local.run(job(videos, out), num_processes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_journal_that_its_owner_removed_meanwhile_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.journal"
    lock = journal._lock

    def removed_before(stream: Any, path: Path) -> None:
        monkeypatch.setattr(journal, "_lock", lock)
        path.unlink()
        lock(stream, path)

    monkeypatch.setattr(journal, "_lock", removed_before)
    with Journal(path, {}) as ours:
        ours.append({"video": 0})
    assert read(path, {}) == [{"video": 0}]


def test_a_run_that_was_killed_at_its_very_end_is_finished(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    extract = ["extract", str(videos / "v0.mp4"), "--model", "test_ircsn", "--workers", "0", "--out", str(out)]

    def killed(self: Journal) -> None:
        raise _Killed

    with monkeypatch.context() as patch, pytest.raises(_Killed):
        patch.setattr(Journal, "remove", killed)
        run(extract)
    table = out.read_bytes()
    kept = beside(out).read_bytes()
    assert run(extract) == 0
    assert "1 rows of 1 videos" in capsys.readouterr().out
    assert (out.read_bytes(), beside(out).exists()) == (table, False)
    beside(out).write_bytes(kept)
    out.write_text("not that table")
    assert run(extract) == 6
    assert out.read_text() == "not that table"
    out.write_bytes(table)  # and the folder has grown since
    assert run(["extract", str(videos / "v1.mp4"), *extract[1:]]) == 0
    assert [Path(row["path"]).name for row in read_jsonl(out)] == ["v1.mp4", "v0.mp4"]


def test_a_window_without_an_answer_is_a_row_that_says_why(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = answers._features

    def failing(recognizer: Any, stage: int | None, path: str, piece: Piece) -> Row:
        if path.endswith("v1.mp4") and piece.window == 1:
            raise RuntimeError("not enough memory\nfor this")
        return features(recognizer, stage, path, piece)

    monkeypatch.setattr(answers, "_features", failing)
    summary = local.run(job(videos, tmp_path / "out.jsonl"), num_processes=0)
    rows = [row for row in read_jsonl(tmp_path / "out.jsonl") if row["path"].endswith("v1.mp4")]
    assert [row["error"] is None for row in rows] == [True, False] + [True] * (len(rows) - 2)
    assert "RuntimeError: not enough memory" in rows[1]["error"] and "\n" not in rows[1]["error"]
    assert summary.num_failed == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_damaged_file_whose_name_is_no_utf8_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / os.fsdecode(b"bad\xff.mp4")
    bad.write_bytes(b"no video")
    out = tmp_path / "out.jsonl"
    assert run(["extract", str(tmp_path), "--model", "test_ircsn", "--workers", "0", "--out", str(out)]) == 5
    (row,) = read_jsonl(out)
    assert row["path"].endswith("bad\\udcff.mp4") and "bad\\udcff.mp4 is not a video" in row["error"]


@pytest.fixture
def pool() -> Any:
    with Decoders(Plan(create_transform(get_weights("test_ircsn"), "center"), 0.25), 1) as pool:
        yield pool


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupt_of_the_terminal_never_reaches_the_first_decoder() -> None:
    from multiprocessing import resource_tracker

    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # as in a process that has just begun
    with Decoders(None, 1) as pool:
        status = Path(f"/proc/{pool._workers[0].process.pid}/status").read_text()
        blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)


@pytest.mark.parametrize("num_deaths", [0, 1])
def test_a_decoder_that_dies_costs_no_window(videos: Path, pool: Decoders, num_deaths: int) -> None:
    jobs = [Job(number, Item(str(videos / f"v{number}.mp4")), num_deaths=num_deaths) for number in (0, 1)]
    found: list[tuple[int, int]] = []
    ends: dict[int, Failure | None] = {}
    for number, outcome in pool.run(jobs):
        if isinstance(outcome, Piece):
            if not found:
                pool._workers[0].process.kill()
                pool._workers[0].process.join()
            found.append((number, outcome.window))
        else:
            ends[number] = outcome
    failed = [number for number, failure in ends.items() if failure is not None]
    assert ends.keys() == {0, 1}
    assert len(failed) == num_deaths  # the decoder was at one of them, mostly the first
    for number, failure in ends.items():
        windows = [window for other, window in found if other == number]
        assert windows == list(range(6 + number if failure is None else failure.window))
        assert failure is None or "died 2 times (signal 9)" in failure.reason


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 files, 25 of them damaged."""
    return write_many(tmp_path_factory.mktemp("many"), 500)


@pytest.mark.slow
def test_500_files_killed_three_times_at_random(many: Path, tmp_path: Path) -> None:
    whole, pieced = tmp_path / "whole.parquet", tmp_path / "pieced.parquet"
    assert subprocess.run(command(many, whole, "--workers", "2"), env=ENVIRONMENT, capture_output=True).returncode == 5
    generator = random.Random()
    journal = Path(f"{pieced}.journal")
    for kill in range(3):
        least = generator.randrange(kill * 120 + 1, kill * 120 + 120)
        process = subprocess.Popen(command(many, pieced, "--workers", "2"), env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        wait_for(lambda least=least: journal.exists() and journal.read_bytes().count(b"\n") > least, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not pieced.exists()
    assert subprocess.run(command(many, pieced, "--workers", "2"), env=ENVIRONMENT, capture_output=True).returncode == 5
    assert pieced.read_bytes() == whole.read_bytes()
    import pyarrow.parquet as pq

    rows = pq.read_table(pieced).to_pylist()
    assert [row["path"] for row in rows] == sorted(str(path) for path in many.iterdir())
    assert sum(row["error"] is not None for row in rows) == 25
