"""The ways to run one network, each in a child process of its own.

A contestant is built once, untimed, and then asked for forwards. All of them see the same random weights and the same
clip, from fixed seeds, so that their logits can be compared. Nothing is imported before it is needed: a peer's process
holds the peer, and not us.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videozoo.errors import InvalidArgument

if TYPE_CHECKING:
    from torch import nn

    from videozoo.layers.video_model import VideoModel

EAGER = "eager"
OURS = "videozoo"
MACHINE = "machine"
ONNX_FILE = "model.onnx"
MMACTION2_FILE = "model.pth"
_SEED = 20


@dataclass(frozen=True)
class Task:
    """What a child is to run; all of it JSON values."""

    model: str
    """An architecture."""
    clip: tuple[int, ...]
    """N, C, T, H, W."""
    threads: int
    device: str
    dtype: str
    """``float32``, ``bfloat16`` or ``float16``; only `Videozoo` and its like, `Autocast` and `Machine` heed it."""
    folder: str
    """Where `prepare` put the files of the peers."""


class Contestant:
    """One way to run a network."""

    modules: tuple[str, ...] = ("torch",)
    """Imported before memory is looked at; the last one names the contestant's version."""

    def build(self, task: Task) -> None:
        """Get ready; untimed.

        Raises:
            Exception: any, where the contestant cannot take this network on this device.
        """
        raise NotImplementedError

    def forward(self) -> Any:
        """One forward, complete when this returns; the logits, in a form of its own."""
        raise NotImplementedError

    def logits(self) -> list[float]:
        """The logits of one forward, the clips' one after another."""
        return [float(value) for value in self.forward().reshape(-1).tolist()]

    def turn(self, forwards: int) -> dict[str, Any]:
        """Seconds on the clock and of processor time, of one forward out of as many."""
        started, worked = time.perf_counter(), time.process_time()
        for _ in range(forwards):
            self.forward()
        ended, done = time.perf_counter(), time.process_time()
        return {"wall_s": (ended - started) / forwards, "cpu_s": (done - worked) / forwards}

    def device_peak_bytes(self) -> int | None:
        """Peak of the accelerator's memory; None without one."""
        return None


class Eager(Contestant):
    """The network as `create_model` gives it, in evaluation."""

    def build(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        self.cuda = task.device.startswith("cuda")
        self.dtype = getattr(torch, task.dtype)
        self.context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        self.clip = torch.from_numpy(random_clip(task)).to(task.device)
        self.net = self.prepared(random_model(task.model).to(task.device))

    def prepared(self, model: VideoModel) -> nn.Module:
        """What is called with a clip."""
        return model

    def forward(self) -> Any:
        import torch

        with torch.inference_mode(), self.context():
            logits = self.net(self.clip)
            if self.cuda:
                torch.cuda.synchronize()
        return logits.float()

    def device_peak_bytes(self) -> int | None:
        import torch

        return torch.cuda.max_memory_allocated() if self.cuda else None


class ChannelsLast(Eager):
    """Weights and clip in channels-last memory, and nothing else."""

    def prepared(self, model: VideoModel) -> nn.Module:
        import torch

        for part in model.modules():
            weight = getattr(part, "weight", None)
            if isinstance(weight, torch.nn.Parameter) and weight.ndim in (4, 5):
                layout = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
                weight.data = weight.data.contiguous(memory_format=layout)
        self.clip = self.clip.contiguous(memory_format=torch.channels_last_3d)
        return model


class Autocast(ChannelsLast):
    """Channels-last, and torch's own choice of what runs in the reduced precision."""

    def prepared(self, model: VideoModel) -> nn.Module:
        import torch

        kind, dtype = self.clip.device.type, self.dtype
        if dtype == torch.float32:
            raise InvalidArgument("autocast takes --dtype bfloat16 or float16")
        self.context = lambda: torch.autocast(kind, dtype=dtype)
        return super().prepared(model)


class Compile(Eager):
    """``torch.compile`` of the network, with its default settings."""

    def prepared(self, model: VideoModel) -> nn.Module:
        import torch

        return torch.compile(model)  # type: ignore[return-value]


class Library(Eager):
    """`optimize_for_inference`, in a process whose allocator is as it was."""

    def prepared(self, model: VideoModel) -> nn.Module:
        from videozoo.inference import optimize_for_inference

        return optimize_for_inference(model, dtype=self.dtype)


class LibraryCompile(Eager):
    """`optimize_for_inference` with ``compile``; with `reuse_heap` on the CPU."""

    def prepared(self, model: VideoModel) -> nn.Module:
        from videozoo.inference import optimize_for_inference, reuse_heap

        if not self.cuda:
            reuse_heap()
        return optimize_for_inference(model, dtype=self.dtype, compile=True)


class Videozoo(Library):
    """`optimize_for_inference` and `reuse_heap`, as the command line runs networks."""

    def build(self, task: Task) -> None:
        from videozoo.inference import reuse_heap

        if task.device == "cpu":
            reuse_heap()
        super().build(task)


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

    modules = ("torch", "mmcv", "mmaction")
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


class Machine(Contestant):
    """What the arithmetic of this machine gives: large products, by the libraries that torch calls.

    The bound of a network is its number of operations over the best of these rates, in the same rounds.
    """

    def build(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        self.cuda, dtype = task.device.startswith("cuda"), getattr(torch, task.dtype)
        size, batch = (8192, 64) if self.cuda else (1536, 4)
        weight = torch.randn(size, size, device=task.device, dtype=dtype)
        self.kernels: dict[str, tuple[float, Callable[[], object]]] = {
            f"{size} x {size} matrix product": (2 * size**3, lambda: weight @ weight)
        }
        for channels, pixels in ((256, 28), (128, 28), (512, 14)):
            conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=task.device, dtype=dtype)
            conv.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            maps = torch.randn(batch, channels, pixels, pixels, device=task.device, dtype=dtype)
            maps = maps.contiguous(memory_format=torch.channels_last)
            operations = 2 * 9 * batch * (channels * pixels) ** 2
            self.kernels[f"3 x 3 convolution of {channels} channels, {pixels} x {pixels}, channels-last"] = (
                operations,
                lambda conv=conv, maps=maps: conv(maps),
            )

    def forward(self) -> Any:
        import torch

        for _, kernel in self.kernels.values():
            kernel()
        if self.cuda:
            torch.cuda.synchronize()
        return torch.zeros(0)

    def turn(self, forwards: int) -> dict[str, Any]:
        """Operations per second of each kernel: on the clock, and of processor time."""
        import torch

        rates = {}
        for name, (operations, kernel) in self.kernels.items():
            started, worked, done = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - started < 0.05:
                kernel()
                done += 1
                if self.cuda and done % 10 == 0:
                    torch.cuda.synchronize()
            if self.cuda:
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter() - started, time.process_time() - worked
            rates[name] = (done * operations / wall, done * operations / cpu)
        return {"rates": rates, "capability": torch.backends.cpu.get_cpu_capability()}


CONTESTANTS: dict[str, type[Contestant]] = {
    OURS: Videozoo,
    "library": Library,
    "library_compile": LibraryCompile,
    EAGER: Eager,
    "channels_last": ChannelsLast,
    "autocast": Autocast,
    "compile": Compile,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "mmaction2": Mmaction2,
}


def random_model(architecture: str) -> VideoModel:
    """A network whose every tensor is random, from a fixed seed, and whose maps neither vanish nor grow."""
    import torch

    from videozoo.models import create_model

    model = create_model(architecture)
    generator = torch.Generator().manual_seed(_SEED)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        else:  # batch norms' weights halve, so that fifty residual additions do not overflow
            tensor.normal_(0.5 if name.endswith("weight") else 0.0, 0.1, generator=generator)
    return model.eval()


def random_clip(task: Task) -> Any:
    """The clips that every contestant sees: float32 of shape (N, C, T, H, W), a numpy array."""
    numpy: Any = importlib.import_module("numpy")
    return numpy.random.default_rng(_SEED).standard_normal(task.clip, dtype="float32")


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
