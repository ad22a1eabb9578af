"""Lists of videos: every form that is read, every bad line, and what a check of the videos finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from synthetic_frames import make_frames, write_images

from videozoo import create_model
from videozoo.cli.data import read_labels
from videozoo.cli.main import run
from videozoo.demo import write_video
from videozoo.errors import InvalidArgument, ListError, VideoError
from videozoo.mmaction2_file import write_mmaction2
from videozoo.synthetic import MOTIONS
from videozoo.training.network import create_network
from videozoo.training.plan import Plan, make_plan
from videozoo.training.run import train
from videozoo.video.dataset import VideoList, read_list
from videozoo.video.decode import FrameFolder, open_frames
from videozoo.video.listed import check_videos, listed_video


def listed(path: Path, text: str, **options: object) -> list[tuple[str, int | None, tuple[int, ...]]]:
    """Path below the list's folder, number of frames and labels of every video of a list."""
    path.write_text(text, encoding="utf-8")
    found = read_list(path, **options)  # type: ignore[arg-type]
    return [(video.path.relative_to(path.parent).as_posix(), video.num_frames, video.labels) for video in found.videos]


def write_series(folder: Path, count: int, template: str = "img_{:05}.png", *, first: int = 1) -> Path:
    return write_images(folder, [template.format(first + i) for i in range(count)], make_frames(count, 16, 24))


# Forms


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a.mp4 3\nb/c d.mp4 0\n", {}, [("a.mp4", None, (3,)), ("b/c d.mp4", None, (0,))]),
        ("\n  a.mp4\t3 \r\n\r\n", {}, [("a.mp4", None, (3,))]),
        ("\ufeffa.mp4 3", {}, [("a.mp4", None, (3,))]),
        ("ärger/ü.mp4 1", {}, [("ärger/ü.mp4", None, (1,))]),
        ("a 3 7\nb 12 0\n", {}, [("a", 3, (7,)), ("b", 12, (0,))]),
        ("run 2 3\n", {"form": "video"}, [("run 2", None, (3,))]),
        ("a.mp4 3 7\nb.mp4 1\n", {"multi_label": True}, [("a.mp4", None, (3, 7)), ("b.mp4", None, (1,))]),
        ("a c 30 3 7\nb 9 1", {"multi_label": True, "form": "frames"}, [("a c", 30, (3, 7)), ("b", 9, (1,))]),
    ],
)
def test_text_lists(
    text: str, options: dict[str, object], expected: list[tuple[str, int | None, tuple[int, ...]]], tmp_path: Path
) -> None:
    assert listed(tmp_path / "list.txt", text, **options) == expected


def test_several_labels_after_a_folder_of_frames(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert listed(tmp_path / "list.txt", "a 30 3 7\nb 9 1\n", multi_label=True) == [("a", 30, (3, 7)), ("b", 9, (1,))]


def test_the_kinetics_list_finds_videos_by_their_id(tmp_path: Path) -> None:
    for name in (
        "abseiling/0wR5jVB-WPk_000417_000427.mp4",
        "zumba/-1IlTIWPNs4.webm",
        "x/0wR5jVB-WPk_000417_000427.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames.mp4").touch()  # a path that exists is meant before a file of that id
    text = "0wR5jVB-WPk 300 0\n-1IlTIWPNs4 250 399\nframes 10 1\ngone 10 2\n"
    assert listed(tmp_path / "val.txt", text) == [
        ("abseiling/0wR5jVB-WPk_000417_000427.mp4", 300, (0,)),
        ("zumba/-1IlTIWPNs4.webm", 250, (399,)),
        ("frames", 10, (1,)),
        ("gone", 10, (2,)),
    ]


def test_two_videos_of_one_id_are_told(tmp_path: Path) -> None:
    for name in ("a_000001_000011.mp4", "a_000002_000012.mp4"):
        (tmp_path / name).touch()
    with pytest.raises(ListError, match=r"line 1: a: 2 files are of this name: .*a_000001.* and .*a_000002"):
        listed(tmp_path / "val.txt", "a 300 0\n")


@pytest.mark.parametrize(
    ("name", "text", "options", "expected"),
    [
        ("a.csv", "path,label\nx y.mp4,2\nz.mp4,0\n", {}, [("x y.mp4", None, (2,)), ("z.mp4", None, (0,))]),
        ("a.csv", "id;Num_Frames;Class\nx;20;1\n", {}, [("x", 20, (1,))]),
        ("a.tsv", "label\tvideo\n1\tx.mp4\n", {}, [("x.mp4", None, (1,))]),
        ("a.csv", "label,youtube_id,split\nturn left,x,val\n", {"class_names": ["turn left"]}, [("x", None, (0,))]),
        ("a.csv", 'path,label\n"x, y.mp4",Turn_Left\n', {"class_names": ["turn left"]}, [("x, y.mp4", None, (0,))]),
        ("a.csv", "path,labels\nx.mp4,3 7\ny.mp4,1|2\n", {"multi_label": True}, [
            ("x.mp4", None, (3, 7)), ("y.mp4", None, (1, 2)),
        ]),
        ("a.csv", "a.mp4 3\n", {"form": "video"}, [("a.mp4", None, (3,))]),
    ],
)  # fmt: skip
def test_csv_lists(
    name: str,
    text: str,
    options: dict[str, object],
    expected: list[tuple[str, int | None, tuple[int, ...]]],
    tmp_path: Path,
) -> None:
    assert listed(tmp_path / name, text, **options) == expected


def test_class_folders(tmp_path: Path) -> None:
    for name in ("walk/b.mp4", "walk/a.MP4", "walk/notes.txt", "walk/.hidden.mp4", "turn_left/frames/img_00001.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "readme.txt").touch()
    found = read_list(tmp_path)
    assert [(video.name, video.labels) for video in found.videos] == [
        ("turn_left/frames", (0,)), ("walk/a.MP4", (1,)), ("walk/b.mp4", (1,)),
    ]  # fmt: skip
    assert (found.form, found.class_names) == ("folders", ("turn_left", "walk"))
    found = read_list(tmp_path, class_names=["Walk", "run", "turn left"])
    assert [video.labels for video in found.videos] == [(2,), (0,), (0,)]
    with pytest.raises(ListError, match=r"no class is called 'turn_left'; the nearest are turn leftt.*; 2 more"):
        read_list(tmp_path, class_names=["turn leftt"])


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("numbers", [range(12), range(1, 4)])
@pytest.mark.parametrize("named", [False, True])
def test_a_class_folder_whose_name_is_a_number_is_a_name(numbers: range, named: bool, tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/{number}.mp4" for number in numbers))
    names = sorted(map(str, numbers))
    found = read_list(tmp_path, class_names=names if named else None, num_classes=len(names))
    assert found.class_names == tuple(names)
    assert [(names[video.labels[0]], video.path.stem) for video in found.videos] == [(name, name) for name in names]


def test_class_folders_of_one_name_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "turn left/a.mp4", "Turn_Left/b.mp4", "walk/c.mp4")
    for names in (None, ["walk", "turn left"]):
        with pytest.raises(ListError, match="holds 'Turn_Left' and 'turn left', which name one class") as caught:
            read_list(tmp_path, class_names=names)
        assert str(tmp_path) in str(caught.value)


def test_a_label_is_looked_up_exactly_first(tmp_path: Path) -> None:
    names = ["Walk", "walk", "a b"]
    text = "path,label\nx.mp4,walk\ny.mp4,Walk\nz.mp4,A_b\n"
    assert [labels for *_, labels in listed(tmp_path / "a.csv", text, class_names=names)] == [(1,), (0,), (2,)]
    with pytest.raises(ListError, match=r"line 2: x\.mp4: the label 'WALK' may mean 'Walk' and 'walk'"):
        listed(tmp_path / "a.csv", "path,label\nx.mp4,WALK\n", class_names=names)


def test_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"a.mp4 3\n{tmp_path}/b.mp4 4\n")
    found = read_list(tmp_path / "list.txt", root=tmp_path / "videos")
    assert [video.path for video in found.videos] == [tmp_path / "videos" / "a.mp4", tmp_path / "b.mp4"]
    other = read_list(tmp_path / "list.txt")
    assert found.sha256 != other.sha256
    assert other.sha256 == read_list(tmp_path / "list.txt").sha256


# Bad lists


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.txt", "", {}, "is empty: it lists no videos"),
        ("a.txt", "\n \n", {}, "is empty"),
        ("a.csv", "", {}, "names the columns none"),
        ("a.csv", "path,label\n", {}, "is empty"),
        ("a.txt", "x.mp4 1\ny.mp4\n", {}, "line 2: 'y.mp4' is not `path label`"),
        ("a.txt", "x 3 1\n\ny 1\n", {}, "line 3: 'y 1' is not `name num_frames label`"),
        ("a.txt", "x.mp4 1\ny.mp4 400\n", {"num_classes": 400}, "line 2: y.mp4: label 400 is out of range.*0 to 399"),
        ("a.txt", "x.mp4 -1\n", {}, "line 1: x.mp4: label -1 is out of range"),
        ("a.txt", "x.mp4 jump\n", {}, "line 1: x.mp4: label 'jump' is not a number, and no class names"),
        ("a.txt", "x.mp4 jmup\n", {"class_names": ["jump"]}, "'jmup'; the nearest are jump"),
        ("a.txt", "x 3 1\ny 0 1\n", {}, "line 2: y: '0' is no number of frames"),
        ("a.txt", "x 3 1\ny three 1\n", {}, "line 2: y: 'three' is no number of frames"),
        ("a.txt", "x 1 2\ny z\n", {"multi_label": True, "form": "video"}, "line 2: y: label 'z'"),
        ("a.txt", "x.mp4 9\nx.mp4\ny.mp4\n", {"num_classes": 2}, "line 1: .*; 2 more: `videozoo data check`"),
        ("a.csv", "file,klass\nx,1\n", {}, "line 1 names the columns file, klass: need a header"),
        ("a.csv", "path,label\nx.mp4,\n", {}, "line 2: the column label is empty"),
        ("a.csv", "path,label\n,3\n", {}, "line 2: the column path is empty"),
        ("a.csv", "path,label\nx.mp4\n", {}, "line 2: the column label is empty"),
    ],
)
def test_bad_lists_are_told_in_one_line(
    name: str, text: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ListError, match=message) as caught:
        listed(tmp_path / name, text, **options)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="there is no such file or folder"):
        read_list(tmp_path / "none.txt")
    with pytest.raises(ListError, match="holds no class folders"):
        read_list(tmp_path)
    (tmp_path / "class").mkdir()
    with pytest.raises(ListError, match="is empty"):
        read_list(tmp_path)
    with pytest.raises(ListError, match="is a folder: its form cannot be 'csv'"):
        read_list(tmp_path, form="csv")
    with pytest.raises(ListError, match="is no folder: its form cannot be 'folders'"):
        read_list(__file__, form="folders")
    with pytest.raises(ListError, match="there is no such file"):
        read_list(tmp_path / "none", form="folders")
    (tmp_path / "video.mp4").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ListError, match="cannot be read as a list"):
        read_list(tmp_path / "video.mp4")


@pytest.mark.parametrize("template", ["img.jpg", "img_{:05", "img_{}_{}.jpg", "{name}.jpg", "a/{:03}.jpg", "{:s}.jpg"])
def test_templates_hold_one_number(template: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="template"):
        read_list(tmp_path, template=template)


@pytest.mark.parametrize("before", ["", "x.mp4,0\n"])
def test_a_quote_that_never_closes_is_told(before: str, tmp_path: Path) -> None:
    header = "path,label\n" if before else ""
    text = f'{header}{before}"y.mp4,' + 20_000 * "z.mp4,1\n"
    with pytest.raises(ListError, match=r"a\.csv line \d+: field larger than field limit .*; a quote that opens must"):
        listed(tmp_path / "a.csv", text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "data/walk/a.mp4")
    (tmp_path / "data" / "walk").chmod(0)
    try:
        with pytest.raises(ListError, match=r"walk cannot be read: Permission denied$"):
            read_list(tmp_path / "data")
    finally:
        (tmp_path / "data" / "walk").chmod(0o700)


def test_a_scan_keeps_the_good_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a.mp4 1\nb.mp4\nc.mp4 9\nd.mp4 0\n")
    found = read_list(path, num_classes=2, keep_problems=True)
    assert [video.name for video in found.videos] == ["a.mp4", "d.mp4"]
    assert [(problem.line, problem.name) for problem in found.problems] == [(2, "b.mp4"), (3, "c.mp4")]


def test_lists_are_read_without_torch() -> None:
    code = "import sys, videozoo.video.dataset; print(sorted({'torch', 'av', 'numpy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Folders of frames


@pytest.mark.parametrize(("template", "first"), [("frame{:03}.png", 1), ("{}.png", 0), ("img_{:05d}.png", 1)])
def test_templates_choose_among_series(template: str, first: int, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "frames", 4, template, first=first)
    write_series(folder, 2, "other_{}.png")
    write_series(folder, 3, "flow_{}.png")
    frames = FrameFolder(folder, template=template)
    assert frames.num_frames == 4
    assert [int(frame.sum()) for _, frame in frames.read([3, 0])] == [
        int(make_frames(4, 16, 24)[i].sum()) for i in (0, 3)
    ]


def test_a_list_may_use_fewer_frames_than_there_are(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "frames", 4)
    assert FrameFolder(folder, num_frames=3).num_frames == 3
    with pytest.raises(VideoError, match="holds 4 frames, not the 5 that were announced"):
        FrameFolder(folder, num_frames=5)
    with pytest.raises(VideoError, match=r"holds no frame x_1\.png"):
        FrameFolder(folder, template="x_{}.png")


# Checks


def checked(path: Path, text: str, **options: bool) -> list[str | None]:
    path.write_text(text)
    problems = check_videos(read_list(path), **options)
    return [None if problem is None else str(problem) for problem in problems]


def test_every_video_is_checked_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", make_frames(8, 32, 48))
    (tmp_path / "text.mp4").write_text("no video")
    text = "good.mp4 0\ngone.mp4 1\ntext.mp4 2\ngood.mp4 3\n"
    good, gone, no_video, twice = checked(tmp_path / "list.txt", text)
    assert good is None
    assert gone == f"line 2: no video at {tmp_path / 'gone.mp4'}: there is no such file or folder"
    assert no_video is not None
    assert no_video.startswith(f"line 3: {tmp_path / 'text.mp4'} is not a video that can be read")
    assert twice == f"line 4: {tmp_path / 'good.mp4'} is listed twice: line 1 has it with another label"


def test_what_cannot_be_opened_is_a_problem_of_its_line(tmp_path: Path) -> None:
    """It stops neither a check nor a run; a pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(write_series(tmp_path / "frames", 1) / "img_00002.png")
    long = 300 * "x"
    text = f"pipe.mp4 1\n{long} 1\nnull\0.mp4 1\nlist.txt/a.mp4 1\nframes 1\n"
    pipe, too_long, null, below_a_file, frames = checked(tmp_path / "list.txt", text, decode=True)
    assert pipe == f"line 1: {tmp_path / 'pipe.mp4'} is neither a file nor a folder"
    assert too_long == f"line 2: {tmp_path / long} cannot be opened: File name too long"
    assert null is not None and "null" in null and "cannot be opened" in null
    assert below_a_file is not None and "there is no such file or folder" in below_a_file
    assert frames is not None and frames.endswith("img_00002.png is not a readable image: it is no file")
    text = f"pipe 9 1\n{long} 9 1\n"
    assert [str(problem)[:7] for problem in checked(tmp_path / "list.txt", text)] == ["line 1:", "line 2:"]


def test_frame_counts_are_checked(tmp_path: Path) -> None:
    write_series(tmp_path / "a", 4)
    fewer, right, more = checked(tmp_path / "list.txt", "a 3 0\na/../a 4 0\na/. 5 0\n")
    assert fewer is not None
    assert "holds 4 frames, the list says 3" in fewer
    assert right is None
    assert more is not None
    assert "holds 4 frames, not the 5" in more


def test_decoding_finds_what_the_header_hides(tmp_path: Path) -> None:
    file = tmp_path / "damaged.mp4"
    write_video(file, make_frames(20, 32, 48))
    data = bytearray(file.read_bytes())
    start = data.index(b"mdat") + 4
    data[start + 400 : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 404 - start)
    file.write_bytes(data)
    assert checked(tmp_path / "list.txt", "damaged.mp4 0\n") == [None]
    (found,) = checked(tmp_path / "list.txt", "damaged.mp4 0\n", decode=True)
    assert found is not None
    assert "damaged" in found


def test_listed_videos_open(tmp_path: Path) -> None:
    write_series(tmp_path / "a", 4, "x{}.png")
    write_series(tmp_path / "a", 2, "y{}.png")
    write_video(tmp_path / "b.mp4", make_frames(8, 32, 48))
    path = tmp_path / "list.txt"
    path.write_text("a 3 0\nb.mp4 99 1\n")
    videos: VideoList = read_list(path, template="x{}.png")
    assert [open_frames(listed_video(videos, video)).num_frames for video in videos.videos] == [3, 8]


# Classes of a training


def plan_of(data: Path, **options: object) -> Plan:
    return make_plan("test_tsn", data, data.parent / "out", changes=["run.batch_size=1"], **options)  # type: ignore[arg-type]


def test_a_training_knows_numeric_folders_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}/{number}.mp4" for number in range(1, 12)))
    plan = plan_of(tmp_path)
    assert isinstance(plan.videos, VideoList)
    assert [plan.labels[video.labels[0]] for video in plan.videos.videos] == sorted(map(str, range(1, 12)))
    assert all(plan.labels[video.labels[0]] == video.path.stem for video in plan.videos.videos)


@pytest.mark.parametrize("name", ["a\tb", "a\u00a0b", "a\u200bb"])
def test_class_names_that_no_folder_can_keep_are_refused(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{name}/a.mp4", "walk/b.mp4")
    with pytest.raises(InvalidArgument, match=r"the class name 'a.*b' is not printable text") as caught:
        plan_of(tmp_path)
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidArgument, match="is not printable text"):
        plan_of(tmp_path, class_names=["walk", name])


def test_a_file_of_labels_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("walk\nrun\n", encoding="utf-8-sig")
    assert read_labels(tmp_path / "labels.txt") == ("walk", "run")


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (MOTIONS, True),
        ([name.replace(" ", "_").title() for name in MOTIONS], True),
        (["jump", *MOTIONS[1:]], False),
        ([f"{number}" for number in range(8)], False),
    ],
)
def test_the_weights_classifier_is_kept_for_the_weights_classes(
    names: Sequence[str], kept: bool, tmp_path: Path
) -> None:
    """In the weights' order, whatever the alphabet's; other classes get a new one, be there as many or not."""
    touch(tmp_path, *(f"{name}/a.mp4" for name in names))
    plan = plan_of(tmp_path, pretrained="motion8")
    assert plan.labels == (MOTIONS if kept else tuple(sorted(names)))
    old = create_model("test_tsn", "motion8").get_classifier()
    new = create_network(
        "test_tsn", plan.recipe, num_classes=8, class_names=plan.labels, pretrained="motion8"
    ).get_classifier()
    assert torch.equal(old.weight, new.weight) is torch.equal(old.bias, new.bias) is kept
    as_given = [f"group {number}" for number in range(8)]
    reordered = create_network("test_tsn", plan.recipe, num_classes=8, class_names=as_given, pretrained="motion8")
    assert not torch.equal(old.weight, reordered.get_classifier().weight)


def test_a_training_begins_with_a_new_classifier_for_other_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = create_model("test_tsn", "motion8").get_classifier().weight
    write_video(tmp_path / "video.mp4", make_frames(8, 32, 32))
    for names, kept in ((MOTIONS, True), ([f"group {number}" for number in range(8)], False)):
        data = tmp_path / str(kept)
        for name in names:
            (data / name).mkdir(parents=True)
            (data / name / "a.mp4").write_bytes((tmp_path / "video.mp4").read_bytes())
        changes = ["run.batch_size=1", "run.num_steps=1", "optimizer.lr=1e-9"]
        plan = make_plan("test_tsn", data, tmp_path / f"run {kept}", pretrained="motion8", changes=changes)
        train(plan, num_workers=0, device="cpu")
        new = create_model(f"local-dir:{plan.out}/last").get_classifier().weight
        assert torch.allclose(old, new, atol=1e-5) is kept
        assert ("for classes of other names" in caplog.text) is not kept


def test_a_file_whose_classes_nobody_has_named_keeps_its_classifier(tmp_path: Path) -> None:
    model = create_model("test_tsn")
    write_mmaction2(model, tmp_path / "own.pth")
    recipe = plan_of(touch(tmp_path / "data", "a/a.mp4")).recipe
    names = [f"group {number}" for number in range(8)]
    network = create_network("test_tsn", recipe, num_classes=8, class_names=names, checkpoint=tmp_path / "own.pth")
    assert torch.equal(network.get_classifier().weight, model.get_classifier().weight)


# The command


def data_check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    status = run(["data", "check", *arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def test_the_command_prints_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "good.mp4", make_frames(8, 32, 48))
    path = tmp_path / "list.txt"
    path.write_text("good.mp4 0\n")
    summary = f"{path}, form video: 1 videos in 1 classes, 0 problems"
    assert data_check(capsys, str(path)) == (0, [summary], "")
    path.write_text("good.mp4 0\ngone.mp4 1\n")
    status, (gone, _), err = data_check(capsys, str(path), "--num-classes", "2", "--decode", "--jobs", "1")
    assert (status, err) == (5, "")
    assert gone.startswith("line 2: no video at")
    path.write_text("gone.mp4 1\nbad\ngood.mp4 up\n")
    (tmp_path / "names.txt").write_text("down\nup\n")
    status, lines, err = data_check(capsys, str(path), "--labels", str(tmp_path / "names.txt"))
    assert (status, err) == (7, "")
    assert [line[:6] for line in lines[:-1]] == ["line 1", "line 2"]
    assert lines[-1] == f"{path}, form video: 2 videos in 1 of 2 classes, 2 problems"
    status, lines, _ = data_check(capsys, str(path), "--json", "--num-classes", "1")
    found = json.loads("\n".join(lines))
    assert (status, found["num_videos"], found["videos_by_label"]) == (7, 0, {})
    assert [problem["line"] for problem in found["problems"]] == [1, 2, 3]


def test_the_command_prints_what_a_terminal_would_obey_as_an_escape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\x1b[2J\x07.mp4 1\n\x1b]0;x 1 y\n")
    status, lines, _ = data_check(capsys, str(path), "--form", "video")
    assert status == 7
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[2J\\x07.mp4" in lines[0]


@pytest.mark.parametrize(
    ("text", "more", "status", "message"),
    [
        ("", [], 7, "is empty"),
        (None, [], 7, "there is no such file"),
        ("a 1", ["--labels", "none.txt"], 2, "--labels none.txt"),
        ("a 1", ["--num-classes", "0"], 2, "--num-classes 0: at least 1"),
        ("a 1", ["--jobs", "0"], 2, "--jobs 0: at least 1"),
        ("a 1", ["--template", "x.jpg"], 2, "template 'x.jpg'"),
    ],
)
def test_lists_that_cannot_be_checked(
    text: str | None, more: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    found, out, err = data_check(capsys, str(tmp_path / "list.txt"), *more)
    assert (found, out, len(err.splitlines())) == (status, [], 1)
    assert err.startswith("videozoo: error: ")
    assert message in err
