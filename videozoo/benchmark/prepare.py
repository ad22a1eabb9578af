"""What all contestants need of a network, found once: its cost, the logits to compare with, and the peers' files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videozoo.benchmark.contestants import Eager
from videozoo.benchmark.peers import MMACTION2_FILE, ONNX_FILE
from videozoo.benchmark.task import Task, random_model
from videozoo.errors import InvalidArgument

NEEDS_ONNX = ("onnxruntime", "openvino")
NEEDS_PTH = ("mmaction2",)


def prepare(task: Task, against: Sequence[str]) -> dict[str, Any]:
    """Parameters, operations per batch and the logits of eager float32 on the CPU; the peers' files into the folder.

    Operations are counted by torch's counter: two for a multiplication with its addition.
    """
    model = random_model(task.model)
    if set(against) & set(NEEDS_PTH):
        _write_pth(model, Path(task.folder) / MMACTION2_FILE)
    if set(against) & set(NEEDS_ONNX):
        _write_onnx(model, task)
    eager = Eager()
    eager.build(task)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops": _operations(task),
        "logits": eager.logits(),
    }


def _operations(task: Task) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from videozoo.models import create_model

    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        create_model(task.model).eval()(torch.empty(task.clip))
    return int(counter.get_total_flops())


def _write_pth(model: Any, path: Path) -> None:
    from videozoo.mmaction2_file import write_mmaction2

    write_mmaction2(model, path)


def _write_onnx(model: Any, task: Task) -> None:
    """Write the file, or in its place a text that says why there is none."""
    from videozoo.artefacts.program import export_program
    from videozoo.artefacts.write import check_installed, write

    path = Path(task.folder) / ONNX_FILE
    n, c, t, h, w = task.clip
    try:
        check_installed("onnx")
        write(export_program(model, (n, c, t, h, w)), "onnx", path, "")
    except InvalidArgument as error:  # a network that cannot be exported is measured without these peers
        path.with_suffix(".txt").write_text(str(error), encoding="utf-8")
