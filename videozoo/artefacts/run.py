"""What runs an exported graph on this processor, and how the text in its metadata is read.

ONNX and OpenVINO files are data that their runtimes interpret. The archives of torch are programs:
``torch.export.load`` unpickles what the archive says is a pickle and evaluates its symbolic sizes as Python, and an
AOTInductor package is a shared library. They are opened only where the caller says that they are trusted.
"""

from __future__ import annotations

import importlib
import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videozoo.artefacts.form import KEY, Format
from videozoo.artefacts.write import EXTRA_FILE, quiet
from videozoo.errors import InvalidArgument, UnreadableCheckpoint, reason
from videozoo.model_config import MAX_CONFIG_BYTES

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From clips (N, C, T, H, W) to logits (N, num_classes)."""


def open_artefact(path: Path, *, trusted: bool) -> tuple[str, Run]:
    """The description of an exported network, and what runs it.

    Args:
        path: a file that ``export_model`` wrote; its suffix says how it is read.
        trusted: whether code in it may run, as it does in ``.pt2`` files.

    Raises:
        InvalidArgument: a ``.pt2`` file that is not trusted, or the format's runtime is not installed.
        UnreadableCheckpoint: no such file, a damaged one, or one that videozoo did not write.
    """
    if not path.is_file():
        raise UnreadableCheckpoint(f"{path}: there is no such file; `videozoo export` writes one")
    suffix = path.suffix.lower()
    if suffix == ".pt2" and not trusted:
        raise InvalidArgument(
            f"{path} is a program: to open a .pt2 file can run code in it. If you trust it, say so: --trust-artefact "
            "(trust_artefact=True); .onnx and .xml files are data"
        )
    readers = {".pt2": _open_archive, ".onnx": _open_onnx, ".xml": _open_openvino}
    try:
        text, run = readers[suffix](path)
    except (InvalidArgument, UnreadableCheckpoint):
        raise
    except Exception as error:  # any: whatever a runtime says of a file that it cannot use
        raise UnreadableCheckpoint(f"{path} cannot be opened: {reason(error)}") from None
    if text is None:
        raise UnreadableCheckpoint(f"{path} has no description of videozoo's in it; `videozoo export` writes one")
    return text, run


def _open_onnx(path: Path) -> tuple[str | None, Run]:
    runtime = _runtime("onnxruntime", path)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    return text, lambda clips: session.run(None, {name: clips})[0]


def _open_openvino(path: Path) -> tuple[str | None, Run]:
    runtime = _runtime("openvino", path)
    core = runtime.Core()
    model = core.read_model(str(path))
    text = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else None
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else some processors compute in bfloat16
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return text, lambda clips: np.array(request.infer([clips])[0])


def _open_archive(path: Path) -> tuple[str | None, Run]:
    kind, text = _inside(path)
    if text is None:
        return None, lambda clips: clips
    with quiet():
        if kind == "aot":
            inductor: Any = importlib.import_module("torch._inductor")
            model = inductor.aoti_load_package(str(path))
        else:
            # its guards shut out clips whose maps have one pixel; what fits is checked before, by the description
            model = torch.export.load(str(path)).module(check_guards=False)

    def run(clips: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = model(torch.from_numpy(clips)).numpy()
        return logits

    return text, run


def _inside(path: Path) -> tuple[Format, str | None]:
    """Which of torch's two formats an archive has, and the description in it; nothing of it is run."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        kind: Format = "aot" if any("/data/aotinductor/" in name for name in names) else "torch-export"
        found = next((name for name in names if name.endswith(f"/extra/{EXTRA_FILE}")), None)
        if found is None:
            return kind, None
        with archive.open(found) as stream:
            return kind, stream.read(MAX_CONFIG_BYTES + 1).decode("utf-8")


def _runtime(name: str, path: Path) -> Any:
    if importlib.util.find_spec(name) is None:
        raise InvalidArgument(f'{path}: {name} is not installed: pip install "videozoo[export]"')
    return importlib.import_module(name)
