"""The benchmark: who is asked when, what is made of the answers, and what the command does when it cannot measure."""

from __future__ import annotations

import importlib.util
import json
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from videozoo.benchmark import measure as measuring
from videozoo.benchmark import profile as profiling
from videozoo.benchmark.child import Child, Unable
from videozoo.benchmark.contestants import CONTESTANTS, MACHINE, OURS
from videozoo.benchmark.measure import Figures, Result, measure, plan
from videozoo.benchmark.operations import KINDS, Operations
from videozoo.benchmark.profile import profile
from videozoo.benchmark.report import COLUMNS, append_csv, read_csv, text
from videozoo.benchmark.task import Task, random_model
from videozoo.cli import main
from videozoo.errors import InvalidArgument, OutputError, VideoZooError
from videozoo.inference import optimize_for_inference
from videozoo.manifest import load

Capture = pytest.CaptureFixture[str]
GIGA = 1e9
LOGITS = [1.0, -4.0]
READY = {"version": "1.2", "logits": LOGITS, "imports_mb": 50.0}
PREPARED = {"parameters": 10, "flops": 3 * 10**9, "logits": LOGITS}


def turn(wall_s: float, cpu_s: float) -> dict[str, Any]:
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": 100.0, "device_peak_mb": None}


def machine_turn(**rates: tuple[float, float]) -> dict[str, Any]:
    return {"rates": rates, "arithmetic": "AVX512", "peak_mb": 1.0, "device_peak_mb": None}


class Script:
    """What children answer: name -> the answer when it is ready, and then one for each turn, the warm-up first."""

    def __init__(self, children: Mapping[str, Sequence[dict[str, Any] | Unable]]) -> None:
        self.children = {"prepare": [PREPARED], MACHINE: [READY] + [machine_turn(product=(GIGA, GIGA))] * 9, **children}
        self.asked: list[tuple[str, int]] = []
        self.kinds: dict[str, list[dict[str, Any]]] = {}
        self.open: list[str] = []

    def child(self, name: str, task: Task, *, python: str | None = None, against: Sequence[str] = ()) -> Any:
        return ScriptedChild(self, name)


class ScriptedChild:
    def __init__(self, script: Script, name: str) -> None:
        self.script, self.name = script, name
        self.answers: Iterator[dict[str, Any] | Unable] = iter(script.children[name])
        self.ready = self.answer()
        script.open.append(name)

    def answer(self) -> dict[str, Any]:
        answer = next(self.answers)
        if isinstance(answer, Unable):
            raise answer
        return answer

    def kinds(self) -> dict[str, Any]:
        return self.script.kinds[self.name].pop(0)

    def turn(self, forwards: int) -> dict[str, Any]:
        self.script.asked.append((self.name, forwards))
        return self.answer()

    def close(self) -> None:
        self.script.open.remove(self.name)


def run(monkeypatch: pytest.MonkeyPatch, script: Script, *against: str, rounds: int = 3) -> Result:
    monkeypatch.setattr(measuring, "Child", script.child)
    (result,) = measure(plan("test_tsn", against=against, threads=[1], rounds=rounds))
    assert script.open == []
    return result


def ours(*walls: float) -> list[dict[str, Any]]:
    return [READY, *(turn(wall, 2 * wall) for wall in (1.0, *walls))]


def test_figures_are_medians_and_ratios_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script({
        OURS: ours(2.0, 1.0, 9.0),
        "eager": [READY | {"logits": [1.0, -4.4]}, *(turn(wall, 3.0) for wall in (1.0, 5.0, 8.0, 6.0))],
        MACHINE: [READY, *[machine_turn(slow=(GIGA, 2 * GIGA), fast=(2 * GIGA, GIGA))] * 4],
    })  # fmt: skip
    result = run(monkeypatch, script, "eager")
    own, eager = result.contestants
    assert (own.latency_ms, own.latency_low_ms, own.latency_high_ms, own.cpu_ms) == (2000, 1500, 5500, 4000)
    assert (own.clips_per_second, own.latency_ratio, own.cpu_ratio, own.error) == (0.5, 1, 1, 0)
    assert (eager.latency_ms, eager.latency_ratio, eager.cpu_ratio) == (6000, 3, 0.75)
    assert eager.error == pytest.approx(0.1)
    # 3 GFLOP: 1.5 s on the clock by the fast kernel, 1.5 s of processor time by the one that is best at that
    assert (result.bound_kernel, result.bound_gflops, result.bound_ms, result.bound_cpu_ms) == ("fast", 2, 1500, 1500)
    assert (own.over_bound, own.cpu_over_bound) == (pytest.approx(4 / 3), pytest.approx(8 / 3))


def test_turns_rotate_and_are_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script({OURS: ours(1, 1), "eager": [READY, *[turn(0.03, 1)] * 3]})
    run(monkeypatch, script, "eager", rounds=2)
    warm_up, first, second = script.asked[:3], script.asked[3:6], script.asked[6:]
    assert sorted(warm_up) == [("eager", 1), (MACHINE, 1), (OURS, 1)]
    assert first == [(OURS, 1), ("eager", 7), (MACHINE, 1)]  # seven of 30 ms are the first to reach 0.2 s
    assert second == [("eager", 7), (MACHINE, 1), (OURS, 1)]


@pytest.mark.parametrize(
    "answers",
    [[Unable("no such thing")], [READY, Unable("no such thing")], [READY, turn(1, 1), Unable("no such thing")]],
)
def test_who_fails_is_left_out_with_a_line(answers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, Script({OURS: ours(1, 1, 1), "compile": answers}), "compile")
    assert [figures.name for figures in result.contestants] == [OURS]
    assert result.skipped == {"compile": "no such thing"}
    assert "compile: skipped: no such thing" in text(result).splitlines()


def test_without_us_or_the_machine_there_are_no_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [Unable("gone")]
    result = run(monkeypatch, Script({OURS: gone, "eager": ours(1, 1, 1), MACHINE: gone}), "eager")
    (eager,) = result.contestants
    assert (eager.latency_ratio, eager.over_bound, result.bound_ms) == (None, None, None)
    assert "eager" in text(result)


def test_logits_that_cannot_be_compared_have_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    eager = [READY | {"logits": [1.0]}, *[turn(1, 1)] * 4]
    compiled = [READY | {"logits": [1.0, float("nan")]}, *[turn(1, 1)] * 4]
    result = run(
        monkeypatch, Script({OURS: ours(1, 1, 1), "eager": eager, "compile": compiled}), "eager", "compile"
    )  # fmt: skip
    assert [figures.error for figures in result.contestants] == [0, None, None]


def test_where_nothing_runs_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="test_tsn: nothing runs on cpu: not today"):
        run(monkeypatch, Script({OURS: [Unable("not today")]}))


def test_a_network_that_cannot_run_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VideoZooError, match=r"test_tsn on clips of \[1, 3, 8, 32, 32\]: too short"):
        run(monkeypatch, Script({"prepare": [Unable("too short")]}))


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("tsn_r50", (25, 224)),
        ("tsn_r50.imagenet_k400_eval7", (7, 224)),
        ("ircsn_r50", (32, 224)),
        ("r2plus1d_34.ig65m_k400_clip8", (8, 112)),
    ],
)
def test_the_clip_is_the_protocols(name: str, clip: tuple[int, int]) -> None:
    wanted = plan(name)
    assert (wanted.num_frames, wanted.size) == clip
    assert wanted.model == name.partition(".")[0]


# The file


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch) -> Result:
    return run(monkeypatch, Script({OURS: ours(1, 1, 1), "eager": ours(3, 3, 3)}), "eager")


def test_csv_is_added_to(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    append_csv(path, result)
    append_csv(path, result)
    rows = read_csv([path])
    assert [row["name"] for row in rows] == [OURS, "eager"] * 2
    assert path.read_text(encoding="utf-8").splitlines()[0].split(",") == list(COLUMNS)
    assert (rows[1]["latency_ratio"], rows[1]["clip"], rows[1]["flops"]) == ("3", "1x3x8x32x32", "3000000000")
    assert all(rows[0][name] for name in ("date", "cpus", "torch", "rounds", "threads"))


def test_csv_of_another_kind_is_left_alone(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InvalidArgument, match="has other columns"):
        append_csv(path, result)
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n"
    with pytest.raises(OutputError, match="cannot be written"):
        append_csv(tmp_path / "no" / "folder.csv", result)


# Where the time goes


def sums(flops: float, cpu_s: float) -> dict[str, float]:
    return {"calls": 2, "flops": flops, "wall_s": cpu_s / 2, "cpu_s": cpu_s}


def test_a_profile_gives_shares_and_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script({OURS: ours(2.0, 3.0)})
    script.kinds = {OURS: [{"convolution": sums(3 * GIGA, 3.0), "pooling": sums(0, 1.0)}] * 2}
    monkeypatch.setattr(profiling, "Child", script.child)
    whole, convolution, pooling = profile(plan("test_tsn", against=(), threads=[1], rounds=2), (OURS,))
    assert script.open == []
    assert (whole["kind"], whole["calls"], whole["gflop"], whole["ms"], whole["cpu_ms"]) == ("all", 4, 3, 2500, 5000)
    assert (convolution["kind"], convolution["share"], convolution["gflops"]) == ("convolution", 0.75, 1)
    assert (convolution["bound_gflops"], convolution["bound_cpu_ms"]) == (1, 3000)
    assert (pooling["kind"], pooling["share"], pooling["gflops"], pooling["bound_cpu_ms"]) == ("pooling", 0.25, 0, 0)


@pytest.mark.parametrize("name", ["test_ircsn", "test_tpn", "test_tsn"])
def test_operations_have_the_arithmetic_that_torch_counts(name: str) -> None:
    torch = pytest.importorskip("torch")
    counting = importlib.import_module("torch.utils.flop_counter")
    model = random_model(name)
    clip = torch.ones(1, 3, 8, 32, 32)
    with torch.inference_mode(), counting.FlopCounterMode(display=False) as counter:
        model(clip)
    found = {}
    for which, net in {"plain": model, "fast": optimize_for_inference(model)}.items():
        with torch.inference_mode():
            net(clip)  # the first forward also finds out which convolutions work, and packs weights
            with Operations() as operations:
                net(clip)
        assert sum(kind["flops"] for kind in operations.kinds.values()) == counter.get_total_flops()
        assert set(operations.kinds) <= set(KINDS)
        found[which] = operations.kinds
    assert found["plain"]["batch norm"]["calls"] > 0
    assert "batch norm" not in found["fast"]
    assert name != "test_ircsn" or found["fast"]["depthwise convolution"]["calls"] == 4


# What the README shows


@pytest.fixture
def publish(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / "benchmarks" / "publish.py"))


def test_the_table_has_a_line_for_each_network_and_number_of_threads(
    publish: dict[str, Any], result: Result, tmp_path: Path
) -> None:
    path = tmp_path / "figures.csv"
    append_csv(path, result)
    append_csv(path, replace(result, threads=2, contestants=result.contestants[:1]))
    header, _, one, two, _, conditions = publish["table"](read_csv([path])).splitlines()
    assert header.endswith("| against eager: clock, CPU |")
    assert one.startswith("| `test_tsn`, 1x3x8x32x32 | 1 | 1000 | 2000 | 1.00 | ")
    assert (one.split(" | ")[-1], two.split(" | ")[-1]) == ("3.00x, 3.00x |", "- |")
    assert "medians of 3 rounds" in conditions


def test_aims_that_are_missed_are_told_apart(publish: dict[str, Any]) -> None:
    def record(name: str, ratio: float, over_bound: float) -> dict[str, str]:
        return {
            "model": "tsn_r50",
            "threads": "2",
            "name": name,
            "latency_ratio": str(ratio),
            "over_bound": str(over_bound),
        }

    records = [
        record(OURS, 1, 1.5),
        record("eager", 2, 3),
        record("onnxruntime", 1, 1.5),
        record("openvino", 1.1, 1.65),
    ]
    _, _, eager, onnxruntime, _, reached = publish["missed"](records).splitlines()
    assert eager == "| `tsn_r50` | 2 | eager | 3.80x | 2.00x | 3.00x | needs 0.79 x the bound, ours is at 1.50 |"
    assert onnxruntime.endswith("| needs 1.25 x the bound, ours is at 1.50 |")
    assert reached == "1 aims are reached."


def test_the_cost_of_a_video_is_that_of_all_its_views(publish: dict[str, Any]) -> None:
    record = {"name": OURS, "model": "tpn_tsm_r50", "clip": "1x3x8x256x256", "cpu_ms": "500"}
    ((entry, seconds, top1),) = publish["points"]([record])
    assert (entry.name, seconds, top1) == ("tpn_tsm_r50.tsm_sthv1", 3.0, 51.5)  # 2 x 8 segments x 3 crops


def test_the_documents_show_what_was_measured(publish: dict[str, Any]) -> None:
    for path, shown in publish["documents"]().items():
        assert path.read_text(encoding="utf-8") == shown, "run: python benchmarks/publish.py"


def test_the_plot_shows_every_published_figure(publish: dict[str, Any]) -> None:
    shown = {entry.name for entry, _, _ in publish["points"](read_csv([publish["ROWS"]]))}
    published = {entry.name for entry in load().entries if entry.figures.top1_percent is not None}
    assert shown == {name for name in published if not name.startswith("test_")}


# The command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test_tns"], "test_tsn"),
        (["test_tsn.nothing"], "nothing"),
        (["test_tsn", "--against", "caffe2"], "--against caffe2: there are autocast, "),
        (["test_tsn", "--against", "machine"], "--against machine"),
        (["test_tsn", "--threads", "two"], "--threads two"),
        (["test_tsn", "--threads", "2,0"], "--threads 0: at least 1"),
        (["test_tsn", "--rounds", "0"], "--rounds 0: at least 1"),
        (["test_tsn", "--batch", "-1"], "--batch -1: at least 1"),
        (["test_tsn", "--device", "foo"], "--device foo: one of cpu, cuda, or cuda:N"),
        (["test_tsn", "--dtype", "int8"], "--dtype int8: one of float32"),
        (["test_tsn", "test_tns"], "test_tsn"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main.run(["benchmark", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("videozoo: error: ")
    assert message in line


def test_an_output_that_cannot_be_written_is_found_before_anything_runs(tmp_path: Path, capsys: Capture) -> None:
    assert main.run(["benchmark", "test_tsn", "--csv", str(tmp_path / "no" / "folder.csv")]) == OutputError.exit_status
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is not None, reason="onnxruntime is installed")
def test_the_command_measures_in_children(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "figures.csv"
    arguments = ["test_ircsn", "--threads", "1", "--rounds", "1", "--csv", str(path)]
    peers = ["--against", "onnxruntime,mmaction2", "--mmaction2-python", str(tmp_path / "python")]
    assert main.run(["benchmark", *arguments, *peers, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (answer,) = json.loads(out)
    assert set(answer) == {field.name for field in fields(Result)}
    (own,) = answer["contestants"]
    assert set(own) == {field.name for field in fields(Figures)}
    assert own["error"] < 1e-5
    assert min(own["latency_ms"], own["cpu_ms"], own["over_bound"], answer["bound_gflops"]) > 0
    assert answer["parameters"] == 87_080
    assert answer["flops"] > 1e6
    assert answer["skipped"]["onnxruntime"] == "onnxruntime is not installed: pip install 'videozoo[benchmark]'"
    assert "python cannot be started: No such file" in answer["skipped"]["mmaction2"]
    assert [row["model"] for row in read_csv([path])] == ["test_ircsn"]


def test_a_child_that_dies_is_one_line(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n", encoding="utf-8")
    stub.chmod(0o755)
    task = Task("test_tsn", (1, 3, 4, 32, 32), 1, "cpu", "float32", str(tmp_path))
    with pytest.raises(Unable, match="its process ended with status 3: no such luck"):
        Child("mmaction2", task, python=str(stub))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONTESTANTS.keys() - {MACHINE, OURS, "autocast", "mmaction2"}))
def test_every_contestant_gives_the_same_logits(name: str) -> None:
    module = CONTESTANTS[name].modules[-1]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    (result,) = measure(plan("test_tsn", against=[name], threads=[1], rounds=1))
    assert result.skipped == {}
    assert all(figures.error is not None and figures.error < 1e-5 for figures in result.contestants)
    assert [figures.name for figures in result.contestants] == [OURS, name]
