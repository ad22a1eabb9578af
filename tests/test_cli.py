"""The command line: what it prints, the exit status of all that can go wrong, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from synthetic_frames import make_frames

import videozoo
from videozoo import errors
from videozoo.cli import main, predict, zoo_list
from videozoo.demo import write_video
from videozoo.synthetic import MOTIONS

ForeignFile = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
COMMANDS = ["list", "info", "predict", "convert", "train", "benchmark", "demo"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    write_video(path, make_frames(20, 32, 48))
    return path


def inventory(folder: Path) -> dict[str, bytes | None]:
    """Every name below ``folder`` with its bytes."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def fails(capsys: Capture, arguments: list[str], status: int, message: str) -> None:
    """The command answers with ``status`` and one line on stderr, prints nothing else, and changes no file."""
    before = inventory(Path.cwd())
    assert main.run(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    (line,) = err.splitlines()
    assert line.startswith("videozoo: error: ")
    assert message in line
    assert inventory(Path.cwd()) == before


def prints(capsys: Capture, arguments: list[str]) -> str:
    """The command succeeds, and says nothing on stderr; what it prints."""
    assert main.run(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def in_a_shell(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(videozoo.__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, "-m", "videozoo", *arguments],
        env=environment, capture_output=True, text=True, timeout=120, **options,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


# list


def test_list_shows_all_weights_and_architectures(capsys: Capture) -> None:
    header, *lines = prints(capsys, ["list"]).splitlines()
    assert header.split() == ["name", "top-1", "%", "top-5", "%", "parameters", "data"]
    names = {line.split()[0] for line in lines}
    assert set(videozoo.list_weights()) <= names
    assert {name.partition(".")[0] for name in names} == set(videozoo.list_models())
    assert "ircsn_r152.ig65m_k400" in names
    assert any(line.startswith("tsm_r50 ") and line.endswith("no weights") for line in lines)
    assert any(line.startswith("tsn_r50.imagenet_k400_eval3 ") and "no file published" in line for line in lines)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("tpn_tsm*", ["tpn_tsm_r50.tsm_sthv1"]),
        ("ircsn_r50.k400", ["ircsn_r50.k400"]),
        ("test_tsn", ["test_tsn.motion8"]),
        ("slowonly_r50", ["slowonly_r50"]),
    ],
)
def test_list_takes_a_pattern(pattern: str, expected: list[str], capsys: Capture) -> None:
    rows = json.loads(prints(capsys, ["list", pattern, "--json"]))
    assert [row["name"] for row in rows] == expected
    assert len(prints(capsys, ["list", pattern]).splitlines()) == len(expected) + 1


def test_list_as_json_keeps_figures_and_nulls(capsys: Capture) -> None:
    rows = {row["name"]: row for row in json.loads(prints(capsys, ["list", "--json"]))}
    assert rows["ircsn_r152.ig65m_k400"]["top1_percent"] == 82.76
    assert rows["tpn_tsm_r50.tsm_sthv1"]["dataset"] == "sthv1"
    assert rows["tsm_r50"]["top1_percent"] is None
    assert rows["tsn_r50.imagenet_k400_eval7"]["has_file"] is False


# info


@pytest.mark.parametrize("name", [*videozoo.list_models(), *videozoo.list_weights(), *videozoo.list_weights("test_*")])
def test_info_tells_of_every_name(name: str, capsys: Capture) -> None:
    out = prints(capsys, ["info", name])
    assert name in out.splitlines()[0]
    assert "None" not in out
    assert json.loads(prints(capsys, ["info", name, "--json"]))["name"] == name


def test_info_knows_the_upstream_config(capsys: Capture) -> None:
    out = prints(capsys, ["info", "tpn_tsm_r50_1x1x8_150e_sthv1_rgb"])
    assert out.split()[:2] == ["name", "tpn_tsm_r50.tsm_sthv1"]


# convert


def test_convert_prints_what_it_found(foreign_file: ForeignFile, tmp_path: Path, capsys: Capture) -> None:
    source, output = foreign_file("test_ircsn"), tmp_path / "out.safetensors"
    out = prints(capsys, ["convert", str(source), "-o", str(output)])
    assert "test_ircsn, 8 classes" in out
    assert "no row of the manifest" in out
    assert output.is_file()
    report = json.loads(prints(capsys, ["convert", str(source), "-o", str(output), "--force", "--json"]))
    assert report["architecture"] == "test_ircsn"
    assert report["output"] == str(output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors"]


def test_videozoo_convert_is_the_same_command(foreign_file: ForeignFile, tmp_path: Path, capsys: Capture) -> None:
    source = foreign_file("test_tsn")
    assert main.run_convert([str(source), "-o", "a.safetensors", "--arch", "test_tsn"]) == 0
    assert "test_tsn, 8 classes" in capsys.readouterr().out
    assert main.run_convert([str(source), "-o", "a.safetensors"]) == errors.OutputError.exit_status
    assert capsys.readouterr().err.startswith("videozoo: error: a.safetensors exists")


def test_a_mismatch_as_json_is_listed_whole(foreign_file: ForeignFile, capsys: Capture) -> None:
    arguments = ["convert", str(foreign_file("test_tpn")), "-o", "out.safetensors", "--arch", "test_tsn", "--json"]
    assert main.run(arguments) == errors.CheckpointMismatch.exit_status
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["type"] == "CheckpointMismatch"
    assert len(error["message"].splitlines()) > 3
    assert len(err.splitlines()) == 1
    assert not list(Path.cwd().iterdir())


# predict


def test_predict_prints_the_best_classes(foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    arguments = ["predict", str(video), "--model", "test_ircsn", "--checkpoint", str(foreign_file("test_ircsn"))]
    first, *lines = prints(capsys, arguments).splitlines()
    assert first == str(video)
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert all(line.split("%  ")[1] in MOTIONS for line in lines)
    (answer,) = json.loads(prints(capsys, [*arguments, "--json", "--topk", "99"]))
    assert answer["video"] == str(video)
    assert sorted(best["label"] for best in answer["topk"]) == sorted(MOTIONS)
    assert sum(best["probability"] for best in answer["topk"]) == pytest.approx(1, abs=1e-5)
    assert (answer["views"], len(answer["frame_indices"])) == (1, 8)


def test_predict_gives_probabilities_where_the_row_averages_logits(
    foreign_file: ForeignFile, video: Path, capsys: Capture
) -> None:
    checkpoint = str(foreign_file("test_tsn"))
    arguments = ["predict", str(video), "--model", "test_tsn", "--checkpoint", checkpoint, "--json", "--topk", "8"]
    (answer,) = json.loads(prints(capsys, arguments))
    assert sum(best["probability"] for best in answer["topk"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("more", [["--views", "center"], ["--fast-resize"], ["--device", "cpu"]])
def test_predict_takes_options(more: list[str], foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    checkpoint = str(foreign_file("test_tpn"))
    out = prints(capsys, ["predict", str(video), "--model", "test_tpn", "--checkpoint", checkpoint, *more])
    assert len(out.splitlines()) == 6


def test_predict_with_labels_of_ones_own(foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    Path("names.txt").write_text("".join(f"ärger {number}\n" for number in range(10)), encoding="utf-8")
    checkpoint = str(foreign_file("test_ircsn", 10))
    arguments = ["predict", str(video), "--model", "test_ircsn", "--checkpoint", checkpoint, "--num-classes", "10"]
    assert "class " in prints(capsys, arguments)
    assert "ärger " in prints(capsys, [*arguments, "--labels", "names.txt"])


def test_one_bad_video_does_not_stop_the_others(foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    videos = [str(video), "missing.mp4", __file__, str(video)]
    arguments = ["predict", *videos, "--model", "test_ircsn", "--checkpoint", str(foreign_file("test_ircsn"))]
    assert main.run(arguments) == errors.VideoError.exit_status
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [str(video), str(video)]
    assert [line.startswith("videozoo: error: ") for line in err.splitlines()] == [True, True]
    assert main.run([*arguments, "--json"]) == errors.VideoError.exit_status
    answers = json.loads(capsys.readouterr().out)
    assert [answer["video"] for answer in answers] == videos
    assert ["error" in answer for answer in answers] == [False, True, True, False]
    assert "missing.mp4" in answers[1]["error"]
    assert answers[0] == answers[3] and len(answers[0]["topk"]) == 5


def test_predict_tells_where_the_time_goes(foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    checkpoint = str(foreign_file("test_ircsn"))
    arguments = ["predict", str(video), "missing.mp4", "--model", "test_ircsn", "--checkpoint", checkpoint, "--profile"]
    assert main.run(arguments) == errors.VideoError.exit_status
    out, err = capsys.readouterr()
    assert "missing.mp4" in err
    *parts, total = [line.split() for line in out.splitlines()[6:]]
    assert [part[0] for part in parts] == ["decode", "resize", "normalise", "network", "rest"]
    assert sum(float(part[1]) for part in parts) == pytest.approx(float(total[1]), abs=0.003)
    assert sum(float(part[3]) for part in parts) == pytest.approx(100, abs=0.3)
    main.run([*arguments, "--json"])
    answer, _ = json.loads(capsys.readouterr().out)
    assert answer["seconds"].keys() == {part[0] for part in parts}


# Wrong names and arguments: 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "no_such*"], "nothing matches 'no_such*'"),
        (["info", "ircsn_r51"], "ircsn_r50"),
        (["info", "ircsn_r50.k600"], "its tags are ig65m_k400, k400"),
        (["info", ""], "no weights are called ''"),
        (["info", "ircsn_ig65m_pretrained_bnfrozen_r152_32x2x1_58e_kinetics400_rgb"], "ircsn_r152.ig65m_k400_vmz"),
        (["predict", "x.mp4", "--model", "ircsn_r512"], "ircsn_r152"),
        (["predict", "x.mp4", "--model", "ircsn_r50", "--pretrained", "k600"], "its tags are ig65m_k400, k400"),
        (["predict", "x.mp4", "--model", "ircsn_r50.k600"], "its tags are ig65m_k400, k400"),
        (["predict", "x.mp4", "--model", "slowonly_r50"], "none were published"),
        (["predict", "x.mp4", "--model", "test_tsn", "--topk", "0"], "--topk 0: at least 1"),
        (["predict", "x.mp4", "--model", "test_tsn", "--topk", "-3"], "at least 1"),
        (["predict", __file__, "--model", "test_tsn", "--device", "toaster"], "device toaster"),
        (["predict", __file__, "--model", "test_tsn", "--device", "cuda:99"], "device cuda:99"),
        (["predict", __file__, "--model", "test_tsn", "--device", "meta"], "device meta"),
        (["predict", "x.mp4", "--model", "test_tsn", "--labels", "none.txt"], "--labels none.txt"),
    ],
)
def test_wrong_names_and_arguments(arguments: list[str], message: str, capsys: Capture) -> None:
    fails(capsys, arguments, 2, message)


def test_convert_with_an_unknown_architecture(foreign_file: ForeignFile, capsys: Capture) -> None:
    arguments = ["convert", str(foreign_file("test_tsn")), "-o", "out.safetensors", "--arch", "test_tns"]
    fails(capsys, arguments, errors.UnknownModel.exit_status, "test_tsn")


@pytest.mark.parametrize(
    "arguments",
    [[], ["predict"], ["predict", "x.mp4"], ["convert"], ["nonsense"], ["list", "--jsn"], ["predict", "--topk", "two"]],
)
def test_wrong_usage_is_status_2_with_the_usage(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main.run(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: videozoo")


# Checkpoints: 3


@pytest.fixture
def bad_checkpoint(foreign_file: ForeignFile, tmp_path: Path) -> Callable[[str], Path]:
    """``bad_checkpoint(fault)``: a file for test_ircsn with this fault."""

    def write(fault: str) -> Path:
        path = tmp_path / "bad.pth"
        state = OrderedDict(torch.load(foreign_file("test_ircsn"), weights_only=True)["state_dict"])
        if fault == "missing":
            del state["backbone.layer1.0.conv1.conv.weight"]
        elif fault == "extra":
            state["backbone.layer7.0.conv1.conv.weight"] = torch.zeros(2)
        elif fault == "misshaped":
            state["backbone.layer1.0.conv1.conv.weight"] = torch.zeros(2, 2, 1, 1, 1)
        torch.save({"state_dict": state}, path)
        whole = path.read_bytes()
        contents = {"text": b"no weights here\n", "empty": b"", "truncated": whole[: len(whole) // 2]}
        if fault in contents:
            path.write_bytes(contents[fault])
        return path

    return write


@pytest.mark.parametrize("fault", ["missing", "extra", "misshaped", "text", "empty", "truncated"])
def test_bad_checkpoints(fault: str, bad_checkpoint: Callable[[str], Path], video: Path, capsys: Capture) -> None:
    path = str(bad_checkpoint(fault))
    fails(capsys, ["convert", path], 3, path)
    fails(capsys, ["convert", path, "--arch", "test_ircsn"], 3, path)
    fails(capsys, ["predict", str(video), "--model", "test_ircsn", "--checkpoint", path], 3, path)


def test_checkpoints_of_another_network(foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    path = str(foreign_file("test_tpn"))
    fails(capsys, ["convert", path, "--arch", "test_ircsn", "-o", "out.safetensors"], 3, "does not fit test_ircsn")
    fails(capsys, ["predict", str(video), "--model", "test_ircsn", "--checkpoint", path], 3, "does not fit test_ircsn")


def test_checkpoints_of_another_class_count(foreign_file: ForeignFile, video: Path, capsys: Capture) -> None:
    path = str(foreign_file("test_ircsn", 10))
    message = "has 10 classes, test_ircsn has 8"
    fails(capsys, ["predict", str(video), "--model", "test_ircsn", "--checkpoint", path], 3, message)


def test_missing_checkpoints(video: Path, capsys: Capture) -> None:
    for folder in (".", "..", "/"):
        fails(capsys, ["convert", folder], 3, f"{folder}: ")
    fails(capsys, ["convert", "none.pth"], 3, "none.pth")
    fails(capsys, ["predict", str(video), "--model", "test_ircsn", "--checkpoint", "none.pth"], 3, "none.pth")


# Weights that cannot be had: 4


@pytest.mark.parametrize(
    ("model", "message"), [("tsn_r50.imagenet_k400_eval3", "never published"), ("ircsn_r50", "forbids a download")]
)
def test_weights_that_cannot_be_had(
    model: str, message: str, video: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOZOO_OFFLINE", "1")
    fails(capsys, ["predict", str(video), "--model", model], 4, message)


# Videos: 5


def _audio_only(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def _text(path: Path) -> None:
    path.write_text("not a video\n")


def _empty(path: Path) -> None:
    path.touch()


def _truncated(path: Path) -> None:
    write_video(path, make_frames(20, 32, 48))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # its index stands at the end


def _scrambled(path: Path) -> None:
    write_video(path, make_frames(20, 32, 48))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - start)
    path.write_bytes(data)


def _missing(path: Path) -> None:
    pass


def _empty_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_audio_only, "no video stream"),
        (_text, "is not a video that can be read"),
        (_empty, "is not a video that can be read"),
        (_truncated, "is not a video that can be read"),
        (_scrambled, "is damaged"),
        (_missing, "no such file or folder"),
        (_empty_folder, "holds no frames"),
    ],
)
def test_bad_videos(
    write: Callable[[Path], None], message: str, foreign_file: ForeignFile, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "bad.mp4"
    write(path)
    checkpoint = str(foreign_file("test_ircsn"))
    fails(capsys, ["predict", str(path), "--model", "test_ircsn", "--checkpoint", checkpoint], 5, message)


# Outputs: 6


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("exists", "exists; pass --force"),
        ("none/out.safetensors", "there is no folder none"),
        (".", "it is a folder"),
        ("exists/out.safetensors", "cannot write"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_bad_outputs(output: str, message: str, foreign_file: ForeignFile, capsys: Capture) -> None:
    Path("exists").write_text("mine")
    fails(capsys, ["convert", str(foreign_file("test_tsn")), "-o", output], 6, message)


def test_force_does_not_make_a_folder_a_file(foreign_file: ForeignFile, capsys: Capture) -> None:
    fails(capsys, ["convert", str(foreign_file("test_tsn")), "-o", ".", "--force"], 6, "it is a folder")


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_leaves_nothing(foreign_file: ForeignFile, tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = in_a_shell("convert", str(foreign_file("test_tsn")), "-o", "out.safetensors", cwd=tmp_path, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (6, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("videozoo: error: cannot write out.safetensors")
    assert not list(tmp_path.iterdir())


# Everything else


def test_an_interrupt_is_status_130(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo_list, "run", interrupted)
    assert main.run(["list"]) == 130
    assert capsys.readouterr() == ("", "videozoo: interrupted\n")


def test_an_interrupt_while_writing_leaves_nothing(
    foreign_file: ForeignFile, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videozoo import isolation

    def interrupted(_: object, __: Path, arguments: dict[str, str], **___: object) -> None:
        Path(arguments["temporary"]).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(isolation, "call", interrupted)
    assert main.run(["convert", str(foreign_file("test_tsn")), "-o", "out.safetensors"]) == 130
    assert not list(Path.cwd().iterdir())


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(zoo_list, "run", defect)
    with pytest.raises(ZeroDivisionError):
        main.run(["list"])


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_names_the_exit_statuses(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main.run(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    statuses = {error.exit_status for error in vars(errors).values() if isinstance(error, type)}
    assert all(f" {status} " in out or f"{status} " in out for status in statuses)
    assert "130 interrupted" in out
    if arguments == ["--help"]:
        assert {line.split()[0] for line in out.splitlines() if line.startswith("    ")} >= set(COMMANDS)


def test_no_command_shares_a_name() -> None:
    assert {predict.NAME, zoo_list.NAME} <= set(COMMANDS)


def test_the_version_is_printed(capsys: Capture) -> None:
    for run in (main.run, main.run_convert):
        with pytest.raises(SystemExit) as caught:
            run(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith("videozoo ")


def test_a_reader_that_has_gone_is_no_error() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(videozoo.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, "-m", "videozoo", "list"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_a_real_process_answers_as_the_function_does(foreign_file: ForeignFile, tmp_path: Path) -> None:
    _scrambled(tmp_path / "bad.mp4")
    checkpoint = str(foreign_file("test_ircsn"))
    done = in_a_shell("predict", "bad.mp4", "--model", "test_ircsn", "--checkpoint", checkpoint, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert len(done.stderr.splitlines()) == 1
    done = in_a_shell("info", "nonsense")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
