"""Other people's runtimes. Each is imported in its own process alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from videozoo.benchmark.task import Contestant, Task, random_clip
from videozoo.errors import InvalidArgument

ONNX_FILE = "model.onnx"
MMACTION2_FILE = "model.pth"


class OnnxRuntime(Contestant):
    """ONNX Runtime on the file that ``torch.onnx.export`` wrote."""

    modules = ("numpy", "onnxruntime")

    def build(self, task: Task) -> None:
        ort = importlib.import_module("onnxruntime")
        provider = "CUDAExecutionProvider" if task.device.startswith("cuda") else "CPUExecutionProvider"
        if provider not in ort.get_available_providers():
            raise InvalidArgument(f"this onnxruntime has no {provider}")
        ort.set_default_logger_severity(3)
        options = ort.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(onnx_file(task), options, providers=[provider])
        self.feed = {self.session.get_inputs()[0].name: random_clip(task)}

    def forward(self) -> Any:
        return self.session.run(None, self.feed)[0]


class OpenVino(Contestant):
    """OpenVINO on the same file: its latency mode, in float32."""

    modules = ("numpy", "openvino")

    def build(self, task: Task) -> None:
        if task.device != "cpu":
            raise InvalidArgument("only measured on the CPU")
        core = importlib.import_module("openvino").Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": task.threads,
        }
        self.request = core.compile_model(onnx_file(task), "CPU", settings).create_infer_request()
        self.clip = random_clip(task)

    def forward(self) -> Any:
        return self.request.infer([self.clip])[0]


class Mmaction2(Contestant):
    """MMAction2 0.x's own code with our weights under its names; it runs in the interpreter that the user named."""

    modules = ("mmcv", "torch", "mmaction")
    _CONFIGS = {  # noqa: RUF012
        "ircsn_r50": "csn/ircsn_bnfrozen_r50_32x2x1_180e_kinetics400_rgb",
        "ircsn_r152": "csn/ircsn_bnfrozen_r152_32x2x1_180e_kinetics400_rgb",
        "ipcsn_r152": "csn/ipcsn_bnfrozen_r152_32x2x1_180e_kinetics400_rgb",
        "tpn_slowonly_r50": "tpn/tpn_slowonly_r50_8x8x1_150e_kinetics_rgb",
        "tpn_tsm_r50": "tpn/tpn_tsm_r50_1x1x8_150e_sthv1_rgb",
        "tsm_r50": "tsm/tsm_r50_1x1x8_50e_kinetics400_rgb",
        "tsn_r50": "tsn/tsn_r50_1x1x3_100e_kinetics400_rgb",
    }

    def build(self, task: Task) -> None:
        import torch

        if task.model not in self._CONFIGS or task.device != "cpu":
            raise InvalidArgument(f"only measured with {', '.join(self._CONFIGS)}, on the CPU")
        torch.set_num_threads(task.threads)
        root = Path(str(importlib.import_module("mmaction").__file__)).parent
        path = root / ".mim" / "configs" / "recognition" / f"{self._CONFIGS[task.model]}.py"
        config = importlib.import_module("mmcv").Config.fromfile(str(path))
        test = dict(config.model.get("test_cfg") or {}) | {"average_clips": None}  # logits
        config.model.test_cfg = test
        config.model.backbone.pretrained = None  # else it fetches weights when it is built
        model = importlib.import_module("mmaction.models").build_model(config.model)
        weights = torch.load(Path(task.folder) / MMACTION2_FILE, weights_only=True)["state_dict"]
        model.load_state_dict(weights, strict=False)  # it has the auxiliary classifier too
        self.model = model.eval()
        clip = torch.from_numpy(random_clip(task))
        two_dimensional = hasattr(model, "backbone") and type(model).__name__ == "Recognizer2D"
        self.clip = clip.transpose(1, 2).contiguous() if two_dimensional else clip[:, None]

    def forward(self) -> Any:
        import torch

        with torch.inference_mode():
            return self.model(self.clip, None, return_loss=False)


def onnx_file(task: Task) -> str:
    """The network's ONNX file.

    Raises:
        InvalidArgument: `prepare` could not write it.
    """
    path = Path(task.folder) / ONNX_FILE
    if not path.exists():
        reason = path.with_suffix(".txt")
        raise InvalidArgument(reason.read_text(encoding="utf-8") if reason.exists() else "no ONNX file was written")
    return str(path)
