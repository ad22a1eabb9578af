"""`videozoo train`: what it writes, what it refuses, and that a run that was stopped ends as if it had not been."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from accelerate.utils import DistributedType

from videozoo import create_model, load_recognizer, registry
from videozoo.checkpoints import safetensors_file
from videozoo.checkpoints.file_map import FileMap
from videozoo.cli import main
from videozoo.errors import TrainingError, VideoError
from videozoo.mmaction2_file import write_mmaction2
from videozoo.synthetic import MOTIONS, Motions, draw_clip, motion_of
from videozoo.training.network import create_network
from videozoo.training.plan import make_plan
from videozoo.training.run import train
from videozoo.training.validation import CenterViews, ValidationLoader

ROOT = Path(__file__).parent.parent
Capture = pytest.CaptureFixture[str]

SMALL = ["--workers", "0", "--set", "run.batch_size=8", "--set", "run.num_steps=7", "--set", "run.log_every=1"]
"""Seven steps: one epoch of four, and three of the next."""


def command(*arguments: object, changes: Sequence[str] = ()) -> list[str]:
    given = [item for change in changes for item in ("--set", change)]
    return ["train", "test_ircsn", "--data", "synthetic:32", *SMALL, *given, *map(str, arguments)]


def succeeds(capsys: Capture, arguments: Sequence[str]) -> str:
    status = main.run(list(arguments))
    streams = capsys.readouterr()
    assert status == 0, streams.err
    return streams.out


def fails(capsys: Capture, arguments: Sequence[str], status: int, message: str) -> None:
    assert main.run(list(arguments)) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videozoo: ")]
    (line,) = lines
    assert message in line, line


def files_of(folder: Path) -> dict[str, bytes]:
    """All that a run left, but for what names the folder: byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".videozoo-training").iterdir() if path.name != "lock"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main.run(command("--val", "synthetic:16", "--validate", "--out", out)) == 0
    return out


# What it writes


def test_the_folder_of_a_run(finished: Path, capsys: Capture) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "recipe.toml", "log.csv", "validation.csv", "best", "last", "state.safetensors", ".videozoo-training",
    }  # fmt: skip
    assert unfinished(finished) == []
    log = [line.split(",") for line in (finished / "log.csv").read_text().splitlines()]
    assert log[0] == ["step", "epoch", "lr", "loss", "gradient_norm"]
    assert [(int(line[0]), int(line[1])) for line in log[1:]] == [(step, (step - 1) // 4) for step in range(1, 8)]
    validation = [line.split(",") for line in (finished / "validation.csv").read_text().splitlines()]
    assert [line[0] for line in validation] == ["step", "4", "7"]
    assert {line[4] for line in validation[1:]} == {"16"}


def test_the_network_of_a_run_is_a_model_folder(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    model = create_model(f"local-dir:{finished / 'last'}")
    assert model.pretrained_cfg["label_names"] == MOTIONS
    prediction = load_recognizer(f"local-dir:{finished / 'best'}")(draw_clip(3))
    assert set(prediction.labels) == set(MOTIONS)
    succeeds(capsys, ["push", str(finished / "best"), "me/mine", "--dry-run"])
    write_video(tmp_path / "video.mp4", 3)
    answer = succeeds(
        capsys, ["predict", str(tmp_path / "video.mp4"), "--model", f"local-dir:{finished / 'best'}", "--json"]
    )
    assert len(json.loads(answer)[0]["topk"]) == 5
    write_mmaction2(model, tmp_path / "test_ircsn.pth")
    again = create_model("test_ircsn", checkpoint_path=tmp_path / "test_ircsn.pth").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_the_recipe_of_a_run_repeats_it_whatever_the_environment_says(
    finished: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = [
        "train",
        "test_ircsn",
        "--data",
        "synthetic:32",
        "--workers",
        "0",
        "--val",
        "synthetic:16",
        "--validate",
    ]
    succeeds(capsys, [*arguments, "--recipe", str(finished / "recipe.toml"), "--out", str(tmp_path / "run")])
    assert files_of(tmp_path / "run") == files_of(finished)


def test_another_seed_is_another_run_and_the_same_in_more_workers_is_not(
    finished: Path, tmp_path: Path, capsys: Capture
) -> None:
    validate = ["--val", "synthetic:16", "--validate"]
    arguments = command(*validate, "--deterministic", "--out", tmp_path / "same", "--workers", 1)
    succeeds(capsys, arguments)
    assert files_of(tmp_path / "same") == files_of(finished)
    succeeds(capsys, command(*validate, "--seed", 1, "--out", tmp_path / "other"))
    assert (tmp_path / "other" / "log.csv").read_text() != (finished / "log.csv").read_text()


def test_what_a_dry_run_prints_can_be_run(capsys: Capture, tmp_path: Path) -> None:
    labels = str(_motion_names(tmp_path))
    arguments = [
        "train",
        "tpn_slowonly_r50",
        "--data",
        "synthetic",
        "--labels",
        labels,
        "--out",
        "nowhere",
        "--dry-run",
    ]
    printed = succeeds(capsys, arguments)
    assert "aux_weight = 0.5" in printed
    assert not Path("nowhere").exists()


def _motion_names(folder: Path) -> Path:
    (folder / "names.txt").write_text("\n".join(MOTIONS))
    return folder / "names.txt"


def test_half_precision_passes_and_averaged_weights(tmp_path: Path, capsys: Capture) -> None:
    changes = ["run.mixed_precision=bf16", "run.clips_at_once=3", "run.ema_decay=0.5", "run.num_steps=2"]
    succeeds(capsys, command("--out", tmp_path / "run", "--tensorboard", changes=changes))
    tensors = create_model(f"local-dir:{tmp_path / 'run' / 'last'}").state_dict()
    content = (tmp_path / "run" / "state.safetensors").read_bytes()
    assert b"average/fc.weight" in content and b"optimizer/fc.weight/exp_avg" in content
    assert any(path.name.startswith("events") for path in (tmp_path / "run").rglob("*"))
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_passes_add_up_to_the_step(tmp_path: Path, capsys: Capture) -> None:
    """With batch norms that do not look at the batch, the size of a pass changes nothing but the rounding."""
    frozen = ["model.freeze=bn", "run.num_steps=3"]
    for name, size in (("whole", 8), ("parts", 3)):
        changes = [*frozen, f"run.clips_at_once={size}"]
        succeeds(
            capsys, command("--pretrained", "motion8", "--recipe", "motion8", "--out", tmp_path / name, changes=changes)
        )
    whole, parts = (logged(tmp_path / name, 3) for name in ("whole", "parts"))
    assert whole == pytest.approx(parts, rel=1e-4)


def logged(out: Path, column: int) -> list[float]:
    return [float(line.split(",")[column]) for line in (out / "log.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize(("package", "more"), [("accelerate", []), ("tensorboard", ["--tensorboard"])])
def test_a_missing_package_is_one_line(
    package: str, more: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    fails(capsys, command("--out", tmp_path / "run", *more), 2, f'needs {package}: pip install "videozoo[train]"')
    assert not (tmp_path / "run").exists()


def test_what_the_device_cannot_is_refused(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    fp16 = command("--out", tmp_path / "run", "--device", "cpu", changes=["run.mixed_precision=fp16"])
    fails(capsys, fp16, 2, "mixed_precision is fp16, which a CPU does not train in")
    monkeypatch.setattr("accelerate.Accelerator.distributed_type", DistributedType.FSDP)
    monkeypatch.setattr("accelerate.Accelerator.is_fsdp2", False)
    fails(capsys, command("--out", tmp_path / "run"), 2, "set FSDP_VERSION=2")

    def refuses(*_: Any, **__: Any) -> None:
        raise ValueError("bf16 mixed precision requires a supported device.")

    monkeypatch.setattr("accelerate.Accelerator.__init__", refuses)
    fails(capsys, command("--out", tmp_path / "run"), 2, "bf16 mixed precision requires a supported device")
    assert not (tmp_path / "run").exists()


# Stopped and resumed


class Stop(BaseException):
    """The process ends here."""


def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videozoo.training import loop

    step = loop._Loop._step
    arguments = command("--val", "synthetic:16", "--validate", "--out", tmp_path / "run", "--resume")
    for last in (2, 3, 5, 6):  # before the first state, and behind one; a state in mid-epoch is in the next test

        def stops(self: Any, number: int, batch: Any, last: int = last) -> Any:
            if number == last:
                raise Stop
            return step(self, number, batch)

        monkeypatch.setattr(loop._Loop, "_step", stops)
        with pytest.raises(Stop):
            main.run(arguments)
        capsys.readouterr()
    monkeypatch.setattr(loop._Loop, "_step", step)
    assert "7 steps" in succeeds(capsys, arguments)
    assert files_of(tmp_path / "run") == files_of(finished)
    assert "nothing was left to do" in succeeds(capsys, arguments)
    assert files_of(tmp_path / "run") == files_of(finished)


def test_a_run_that_was_stopped_while_it_validated_keeps_the_epoch(
    finished: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videozoo.training import loop

    def stops(*_: Any) -> None:
        raise Stop

    arguments = command("--val", "synthetic:16", "--validate", "--out", tmp_path / "deep" / "run", "--resume")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop._Loop, "_validate", stops)
        main.run(arguments)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_step", stops)
        with pytest.raises(Stop):
            main.run(arguments)
    assert len((tmp_path / "deep" / "run" / "validation.csv").read_text().splitlines()) == 2
    capsys.readouterr()
    succeeds(capsys, arguments)
    assert files_of(tmp_path / "deep" / "run") == files_of(finished)


def test_a_folder_without_a_state_is_begun_anew(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videozoo.training import loop

    def stops(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop._Loop, "_step", stops)
        main.run(command("--out", tmp_path))
    capsys.readouterr()
    (tmp_path / "problems.csv").write_text("of the run that was killed before its first state")
    (tmp_path / ".videozoo-0123456789ab.tmp").write_text("what another command is writing")
    succeeds(capsys, command("--out", tmp_path, changes=["run.num_steps=1"]))
    assert "num_steps = 1" in (tmp_path / "recipe.toml").read_text()
    assert not (tmp_path / "problems.csv").exists()
    assert (tmp_path / ".videozoo-0123456789ab.tmp").exists()


@pytest.mark.parametrize("name", ["recipe.toml", "log.csv", "best"])
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_what_no_training_wrote_is_kept(name: str, more: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / name).write_text("mine")
    fails(capsys, command("--out", tmp_path, *more), 6, f"has a {name} that no training wrote")
    assert files_of(tmp_path) == {name: b"mine"}


HOLDS = """
import sys
from pathlib import Path
from videozoo.training.folder import opened
with opened(Path(sys.argv[1]), "", resume=True):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, capsys: Capture) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "run")], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = files_of(tmp_path / "run")
        for more in ([], ["--resume"]):
            fails(capsys, command("--out", tmp_path / "run", *more), 6, "another process trains in ")
        assert files_of(tmp_path / "run") == before
        other.stdin.close()
    assert other.returncode == 0
    succeeds(capsys, command("--out", tmp_path / "run", changes=["run.num_steps=1"]))


@pytest.mark.parametrize("step", [1, 2])
def test_a_full_disk_leaves_the_state_before(
    step: int, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["run.checkpoint_every=1", "run.num_steps=3"]
    succeeds(capsys, command("--out", tmp_path / "whole", changes=changes))
    write, states = safetensors_file.write, []

    def full(target: Path, *arguments: Any, **more: Any) -> None:
        write(target, *arguments, **more)
        states.append(target)
        if len(states) > step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_file, "write", full)
    out = tmp_path / "run"
    fails(capsys, command("--out", out, changes=changes), 6, "No space left on device")
    monkeypatch.setattr(safetensors_file, "write", write)
    assert unfinished(out) == []
    assert f'"step": {step}'.encode() in (out / "state.safetensors").read_bytes()[:3000].replace(b"\\", b"")
    succeeds(capsys, command("--out", out, "--resume", changes=changes))
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_folder_with_a_run_is_not_begun_again(finished: Path, capsys: Capture) -> None:
    before = files_of(finished)
    fails(capsys, command("--out", finished), 6, "--resume goes on with that run")
    resume = ["--val", "synthetic:16", "--out", finished, "--resume"]
    other = ["train", "test_tsn", "--data", "synthetic:32", *SMALL, *map(str, resume)]
    for arguments, message in (
        (command(*resume, changes=["optimizer.lr=0.1"]), "optimizer.lr is 0.005, not 0.1"),
        (command(*resume, "--seed", "5"), "its seed is 0, not 5"),
        (other, "its model is test_ircsn, not test_tsn"),
    ):
        fails(capsys, arguments, 3, message)
    assert files_of(finished) == before


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_a_damaged_state(damage: str, finished: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    out.mkdir()
    content = (finished / "state.safetensors").read_bytes()
    other = (finished / "last" / "model.safetensors").read_bytes()
    (out / "state.safetensors").write_bytes({"cut": content[:-100], "text": b"hello" * 9, "other": other}[damage])
    fails(capsys, command("--out", out, "--resume"), 3, "state.safetensors: ")


@pytest.mark.parametrize(
    ("name", "other"), [("model/fc.weight", "model/fc.w"), ("optimizer/fc.weight/exp_avg", "optimizer/fc.w/exp_avg")]
)
def test_a_state_of_other_tensors(name: str, other: str, finished: Path, tmp_path: Path, capsys: Capture) -> None:
    arrays, metadata = safetensors_file.read(FileMap(finished / "state.safetensors"))
    arrays[other] = arrays.pop(name)
    out = tmp_path / "run"
    out.mkdir()
    safetensors_file.write(out / "state.safetensors", arrays, metadata)
    shown = "fc.w" if name.startswith("model") else "fc.w/exp_avg"
    arguments = command("--val", "synthetic:16", "--validate", "--out", out, "--resume")
    fails(capsys, arguments, 3, f"the state is not of this network: {shown!r} is missing, or has no place")


# Wrong arguments and data


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "ircsn_r51", "--data", "synthetic"], 2, "ircsn_r50"),
        (["train", "test_tsn", "--data", "synthetic", "--labels", "names.txt"], 7, "have the classes left, right"),
        (["train", "ircsn_r50.k600", "--data", "synthetic"], 2, "its tags are"),
        (["train", "r2plus1d_34", "--data", "synthetic"], 2, "no source says how r2plus1d_34 was trained"),
        (["train", "test_tsn", "--data", "synthetic", "--recipe", "tsn_r50.imagenet_k400"], 2, "is for tsn_r50, not"),
        (["train", "test_tsn", "--data", "synthetic", "--recipe", "motion"], 2, "the nearest are motion8"),
        (["train", "test_tsn", "--data", "synthetic", "--set", "run.bach_size=3"], 2, "did you mean batch_size"),
        (["train", "test_tsn", "--data", "synthetic:8"], 2, "there are 8 videos"),
        (["train", "test_tsn", "--data", "synthetic", "--set", "loss.aux_weight=0.5"], 2, "test_tsn has no auxiliary"),
        (["train", "test_tsn", "--data", "synthetic:0"], 2, "num_clips >= 1"),
        (["train", "test_tsn", "--data", "synthetic", "--num-classes", "3"], 2, "--num-classes 3"),
        (["train", "test_tsn", "--data", "synthetic", "--num-classes", "0"], 2, "at least 1"),
        (["train", "test_tsn", "--data", "synthetic", "--seed", "-1"], 2, "seed -1"),
        (["train", "test_tsn", "--data", "synthetic", "--workers", "-1"], 2, "--workers -1"),
        (["train", "test_tsn", "--data", "synthetic", "--validate"], 2, "--validate needs --val"),
        (["train", "test_tsn", "--data", "synthetic", "--checkpoint", "none.pth"], 3, "no file at none.pth"),
        (["train", "local-dir:none", "--data", "synthetic"], 4, "there is no file config.json"),
        (["train", "test_tsn", "--data", "none.txt"], 7, "no list at none.txt"),
        (["train", "test_tsn", "--data", "empty.txt"], 7, "it lists no videos"),
        (["train", "test_tsn", "--data", "range.txt"], 7, "label 8 is out of range: labels go from 0 to 7"),
        (["train", "test_tsn", "--data", "missing.txt"], 7, "none of its 2 videos exists"),
        (["train", "test_tsn", "--data", "half.txt", "--strict"], 7, "half.txt line 2: there is no "),
        (["train", "test_tsn", "--data", "range.txt", "--multi-label"], 2, "one label a video"),
        (["train", "test_tsn", "--data", "range.txt", "--labels", "file"], 2, "--labels file is empty"),
        (["train", "test_tsn", "--data", ".", "--out", "./a/run"], 2, "--out a/run lies in the class folders ."),
        (["eval", "net.onnx", "--data", "range.txt"], 2, "an exported network, which eval does not take"),
        (["train", "test_tsn", "--data", "synthetic", "--out", "file"], 6, "it is a file"),
        (["train", "test_tsn", "--data", "synthetic", "--out", "file/run"], 6, "cannot make the folder file/run"),
        (["train", "test_tsn", "--data", "synthetic", "--out", "file/run", "--tensorboard"], 6, "cannot make the"),
        (
            ["train", "test_tsn", "--data", "synthetic", "--val", "half.txt", "--strict"],
            7,
            "half.txt line 2: there is no",
        ),
    ],
)
def test_wrong_arguments_and_data(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    lists = {
        "names.txt": "a\nb\n",
        "empty.txt": "\n",
        "range.txt": "file 8\n",
        "missing.txt": "a.mp4 0\nb.mp4 1\n",
        "half.txt": "file 0\nb.mp4 1\n",
    }
    for name, text in lists.items():
        Path(name).write_text(text)
    fails(capsys, [*arguments, *([] if "--out" in arguments else ["--out", "run"])], status, message)
    assert not Path("run").exists()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    model = create_model("test_ircsn")
    model.fc.bias.data.fill_(float("nan"))
    write_mmaction2(model, tmp_path / "nan.pth")
    plan = make_plan(
        "test_ircsn", Motions(32), tmp_path / "run", checkpoint=tmp_path / "nan.pth", recipe="motion8",
        changes=["run.log_every=1"],
    )  # fmt: skip
    with pytest.raises(TrainingError, match="another --out and a lower learning rate"):
        train(plan, num_workers=0, device="cpu")


def test_a_plan_names_the_weights_that_it_starts_from(tmp_path: Path) -> None:
    """And not those that the recipe would have started from."""
    (tmp_path / "recipe.toml").write_text(
        'about = ""\n[model]\nimagenet = "resnet50.tv_in1k"\nfc_std = 0.5\n'
        '[optimizer]\nkind = "sgd"\nlr = 0.1\nlr_batch_size = 32\n[schedule]\nkind = "cosine"\n'
        "[run]\nbatch_size = 32\nclips_at_once = 32\n"
    )
    given = {"pretrained": "motion8", "recipe": str(tmp_path / "recipe.toml")}
    plan = make_plan("test_tsn", Motions(32), tmp_path / "run", **given)  # type: ignore[arg-type]
    assert (plan.recipe.model.pretrained, plan.recipe.model.imagenet) == ("motion8", None)
    stds = [
        create_network("test_tsn", plan.recipe, num_classes=count, pretrained="motion8").fc.weight.std().item()
        for count in (8, 80)
    ]
    assert stds[1] == pytest.approx(0.5, rel=0.1) and stds[0] != pytest.approx(0.5, rel=0.1)


def test_what_a_plan_warns_of(tmp_path: Path) -> None:
    def lines(num_ranks: int, *changes: str) -> str:
        return "\n".join(make_plan("test_tsn", Motions(32), tmp_path / "run", changes=changes).lines(num_ranks))

    assert "batch norms see" not in lines(1) and "mirrored" not in lines(1)
    assert "batch norms see 16 clips at a time, in one process 32" in lines(2)
    assert "batch norms see" not in lines(2, "run.clips_at_once=16") + lines(2, "model.freeze=bn")
    assert "'left' is then still taught as 'left', not 'right'" in lines(1, "augmentation.flip_probability=0.5")
    pairs = "augmentation.flip_label_pairs=[[0, 1], [6, 7]]"
    assert "mirrored" not in lines(1, "augmentation.flip_probability=0.5", pairs)


def test_a_model_folder_is_known_by_its_weights(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "last", tmp_path / "copy")
    first, second, other = (
        make_plan(f"local-dir:{folder}", Motions(32), tmp_path / "run").identity
        for folder in (finished / "last", tmp_path / "copy", finished / "best")
    )
    assert first == second
    same = (finished / "last" / "model.safetensors").read_bytes() == (
        finished / "best" / "model.safetensors"
    ).read_bytes()
    assert (first == other) == same
    assert "about" not in first["recipe"]


def test_gradients_that_are_no_numbers_are_not_saved(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    fails(capsys, command("--out", tmp_path / "run", changes=["run.num_steps=1"]), 8, "the gradients' norm nan: begin")
    assert not (tmp_path / "run" / "state.safetensors").exists()


@pytest.mark.parametrize(("more", "message"), [([], "none of the 1 validation videos"), (["--strict"], "line 1: ")])
def test_validation_videos_are_tried_before_the_first_step(
    more: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "val.txt").write_text("bad.mp4 0\n")
    fails(capsys, command("--val", tmp_path / "val.txt", "--out", tmp_path / "run", *more), 5, message)
    assert not (tmp_path / "run" / "log.csv").exists()
    assert "1 steps" in succeeds(capsys, command("--out", tmp_path / "run", changes=["run.num_steps=1"]))


def test_a_dead_worker_of_the_validation_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    views = CenterViews(Motions(4), registry.architecture("test_tsn").protocol.center)
    loader = ValidationLoader(views, batch_size=2, rank=0, num_ranks=1, num_workers=1)

    def dies(_: object) -> None:
        raise RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", dies)
    with pytest.raises(VideoError, match="a process that loads videos ended"):
        next(iter(loader))


def test_strict_validation_ends_at_a_video_that_cannot_be_decoded(tmp_path: Path, capsys: Capture) -> None:
    write_video(tmp_path / "good.mp4", 0)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "val.txt").write_text("good.mp4 0\nbad.mp4 0\n")
    arguments = ["--val", tmp_path / "val.txt", "--out", tmp_path / "run"]
    fails(capsys, command(*arguments, "--strict", changes=["run.num_steps=1"]), 5, "line 2: ")
    assert "1 not decoded" in succeeds(capsys, command(*arguments, "--resume", changes=["run.num_steps=1"]))


# Videos of one's own


def write_video(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=64, height=48, bit_rate=4_000_000)
        for picture in draw_clip(seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def kind_of(seed: int) -> str:
    """The motions in three classes."""
    name = MOTIONS[motion_of(seed)]
    return "turning" if name.startswith("turn") else "zooming" if name in ("grow", "shrink") else "moving"


def write_class_folders(folder: Path, seeds: Sequence[int]) -> Path:
    for seed in seeds:
        write_video(folder / kind_of(seed) / f"{seed}.mp4", seed)
    return folder


def test_fine_tuning_to_a_folder_of_class_folders(tmp_path: Path, capsys: Capture) -> None:
    data = write_class_folders(tmp_path / "data", range(16))
    (data / "moving" / "broken.mp4").write_bytes(b"no video")
    out = tmp_path / "run"
    arguments = ["train", "test_ircsn", "--pretrained", "motion8", "--data", data, "--val", data, "--workers", "0",
                 "--out", out, "--set", "run.epochs=2", "--set", "run.batch_size=8", "--freeze", "trunk"]  # fmt: skip
    printed = succeeds(capsys, list(map(str, arguments)))
    assert f"not decoded, and replaced by others: 1 of {data}" in printed
    assert f"not decoded, and not counted in the validation: 1 of {data}" in printed
    with open(out / "problems.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert [row[:3] for row in rows] == [
        ["data", "line", "name"], *([data, "", "moving/broken.mp4"] for data in ("train", "val")),
    ]  # fmt: skip
    assert all("broken.mp4" in row[3] for row in rows[1:])
    model = create_model(f"local-dir:{out / 'best'}")
    assert (model.num_classes, model.pretrained_cfg["label_names"]) == (3, ("moving", "turning", "zooming"))
    start = create_model("test_ircsn", pretrained=True).state_dict()
    assert torch.equal(model.state_dict()["layer4.0.conv1.weight"], start["layer4.0.conv1.weight"])
    answer = succeeds(
        capsys, ["predict", str(data / "turning" / "6.mp4"), "--model", f"local-dir:{out / 'best'}", "--json"]
    )
    assert {top["label"] for top in json.loads(answer)[0]["topk"]} == {"moving", "turning", "zooming"}
    strict = [*map(str, arguments[:-2]), "--strict", "--out", str(tmp_path / "strict")]
    fails(capsys, strict, 5, "broken.mp4")


def test_a_run_with_thousands_of_bad_videos_goes_on(tmp_path: Path, capsys: Capture) -> None:
    """As text they are more than the header of a state may have."""
    write_video(tmp_path / "good.mp4", 0)
    bad = [f"{'x' * 230}{number}.mp4 1" for number in range(3000)]
    (tmp_path / "train.txt").write_text("\n".join([*bad, "good.mp4 0"]))
    arguments = [
        "train", "test_tsn", "--data", tmp_path / "train.txt", "--out", tmp_path / "run", "--resume", "--workers", "0",
        "--set", "run.batch_size=8", "--set", "run.checkpoint_every=1",
    ]  # fmt: skip
    printed = succeeds(capsys, [*map(str, arguments), "--set", "run.num_steps=2"])
    table = (tmp_path / "run" / "problems.csv").read_text()
    found = len(table.splitlines()) - 1
    assert found > 20 and len(table) > safetensors_file.MAX_HEADER_BYTES
    assert f"replaced by others: {found} of {tmp_path / 'train.txt'}" in printed
    assert f"  {found - 20} more in {tmp_path / 'run' / 'problems.csv'}" in printed
    again = succeeds(capsys, [*map(str, arguments), "--set", "run.num_steps=2"])
    assert "nothing was left to do" in again and f"replaced by others: {found} of" in again
    (tmp_path / "run" / "problems.csv").write_text("mine")
    fails(capsys, [*map(str, arguments), "--set", "run.num_steps=2"], 3, "problems.csv is not the table")


# Long ones


def start(*arguments: object, ranks: int = 1, **environment: str) -> subprocess.Popen[str]:
    """`videozoo train` in its own process, or in several."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    python = [sys.executable]
    if ranks > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        python += ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    return subprocess.Popen(
        [*python, "-m", "videozoo", *map(str, arguments)],
        env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, printed
    return printed


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_a_random_step_and_resumed_it_ends_with_equal_bytes(seed: int, tmp_path: Path) -> None:
    arguments = command("--val", "synthetic:16", "--validate", changes=["run.checkpoint_every=3", "run.num_steps=40"])
    finish(start(*arguments, "--out", tmp_path / "whole"))
    out = tmp_path / "run"
    last = random.Random(seed).randrange(2, 38)
    killed = start(*arguments, "--out", out)
    while killed.poll() is None and lines_of(out / "log.csv") <= last:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    finish(start(*arguments, "--out", out, "--resume"))
    assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [[], ["model.freeze=bn", "run.clips_at_once=3"]])
def test_two_processes_train_as_one(changes: list[str], tmp_path: Path) -> None:
    """With batch norms that learn, a pass of one process is as large as the share of each of two."""
    arguments = command(
        "--val",
        "synthetic:17",
        "--validate",
        "--device",
        "cpu",
        changes=["run.clips_at_once=4", "run.num_steps=12", *changes],
    )
    finish(start(*arguments, "--out", tmp_path / "one"))
    finish(start(*arguments, "--out", tmp_path / "two", ranks=2))
    for column in (3, 4):  # losses, gradient norms
        one, two = (logged(tmp_path / name, column) for name in ("one", "two"))
        assert len(one) == 12 and two == pytest.approx(one, rel=1e-6)
    tables = [(tmp_path / name / "validation.csv").read_text().splitlines() for name in ("one", "two")]
    first = 1 if changes else 4  # running statistics are the first process's: only frozen ones give equal accuracies
    assert [line.split(",")[first:] for line in tables[0]] == [line.split(",")[first:] for line in tables[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("taken", 6, "has a recipe.toml that no training wrote"),
        ("full", 6, "model.safetensors: File too large"),
        ("strict", 5, "bad.mp4 is not a video that can be read"),
        ("strict validation", 5, "bad.mp4 is not a video that can be read"),
    ],
)
def test_what_one_process_cannot_ends_all_in_a_line_each(kind: str, status: int, message: str, tmp_path: Path) -> None:
    out, more = tmp_path / "run", []
    if kind == "taken":
        out.mkdir()
        (out / "recipe.toml").write_text("mine")
    elif kind.startswith("strict"):
        for seed in range(15):
            write_video(tmp_path / f"{seed}.mp4", seed)
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        (tmp_path / "list.txt").write_text("\n".join([*(f"{seed}.mp4 0" for seed in range(15)), "bad.mp4 0"]))
        more = ["--strict", "--data" if kind == "strict" else "--val", str(tmp_path / "list.txt")]
    arguments = command("--device", "cpu", "--out", out, *more)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(2):  # as torchrun starts them, which would end one when the other ends, and print more
        torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "limited"] if kind == "full" else []
        processes.append(
            subprocess.Popen(
                [*limited, sys.executable, "-m", "videozoo", *arguments], cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in torchrun.items()},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    printed = [process.communicate(timeout=600)[1] for process in processes]
    assert not any("Traceback" in text for text in printed), printed
    errors = [[line for line in text.splitlines() if "error" in line] for text in printed]
    assert [len(lines) for lines in errors] == [1, 1], printed
    assert status in [process.returncode for process in processes] and 0 not in [p.returncode for p in processes]
    assert any(message in lines[0] for lines in errors), errors
    assert all(message in lines[0] or "another process of this run has ended" in lines[0] for lines in errors), errors


@pytest.mark.slow
def test_from_nothing_to_95_percent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(
        start(
            "train",
            "test_ircsn",
            "--data",
            "synthetic",
            "--val",
            "synthetic",
            "--out",
            out,
            "--set",
            "run.num_steps=1500",
        )
    )
    assert float((out / "validation.csv").read_text().splitlines()[-1].split(",")[1]) >= 0.95


@pytest.mark.slow
def test_three_classes_from_the_embedded_weights_within_50_steps(tmp_path: Path) -> None:
    """The README's command as it stands there: ten epochs of 80 videos are 50 steps."""
    data = write_class_folders(tmp_path / "data", range(80))
    val = write_class_folders(tmp_path / "val", range(2_000_000, 2_000_400))
    out = tmp_path / "run"
    arguments = ["train", "test_ircsn", "--pretrained", "motion8", "--data", data, "--val", val, "--out", out]
    finish(start(*arguments, "--validate"))
    assert (out / "log.csv").read_text().splitlines()[-1].startswith("50,")
    assert float((out / "validation.csv").read_text().splitlines()[-1].split(",")[1]) >= 0.95
