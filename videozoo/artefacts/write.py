"""A graph as a file, with a text in its metadata."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from videozoo.artefacts.form import KEY, Format
from videozoo.errors import InvalidArgument, reason

EXTRA_FILE = f"{KEY}.json"
"""Name of the description in the archives that torch writes, in their folder ``extra``."""
_NEEDED: dict[Format, tuple[str, ...]] = {
    "torch-export": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "aot": (),
}


def check_installed(format: Format) -> None:
    """Refuse a format that this installation can neither write nor check.

    Raises:
        InvalidArgument: a package, or what AOTInductor needs, is missing.
    """
    missing = [name for name in _NEEDED[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidArgument(f'format {format}: {missing[0]} is not installed: pip install "videozoo[export]"')
    if format == "aot":
        inductor = importlib.import_module("torch._inductor")
        if not hasattr(inductor, "aoti_compile_and_package"):
            raise InvalidArgument(f"format aot: torch {torch.__version__} has no AOTInductor packages")
        compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
        if not any(name and shutil.which(name) for name in compilers):
            raise InvalidArgument("format aot: it needs a C++ compiler, and none was found (CXX names one)")


def write(program: ExportedProgram, format: Format, path: Path, text: str) -> list[Path]:
    """Write a graph.

    Args:
        program: what `export_program` gave.
        format: one of which `check_installed` found what it needs.
        path: with the format's suffix; in a folder of its own.
        text: the description, which goes into the metadata.

    Returns:
        The files, the one of the given name last.

    Raises:
        InvalidArgument: the format cannot hold the graph; with the library's reason.
    """
    writers = {"torch-export": _torch_export, "onnx": _onnx, "openvino": _openvino, "aot": _aot}
    try:
        with quiet():
            writers[format](program, path, text)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # any: every library has its own way to say that it cannot
        raise InvalidArgument(
            f"the graph cannot be written as {format}: {type(error).__name__}: {reason(error)}"
        ) from None
    weights = path.with_suffix(".bin")
    return [weights, path] if format == "openvino" else [path]


def _onnx(program: ExportedProgram, path: Path, text: str) -> None:
    """Write a graph as one ONNX file, by torch's own exporter."""
    onnx_program: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    onnx_program.model.metadata_props[KEY] = text
    onnx_program.save(str(path), external_data=False)


def _torch_export(program: ExportedProgram, path: Path, text: str) -> None:
    torch.export.save(program, str(path), extra_files={EXTRA_FILE: text})


def _openvino(program: ExportedProgram, path: Path, text: str) -> None:
    openvino: Any = importlib.import_module("openvino")
    model = openvino.convert_model(program)
    model.set_rt_info(text, KEY)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _aot(program: ExportedProgram, path: Path, text: str) -> None:
    inductor: Any = importlib.import_module("torch._inductor")
    inductor.aoti_compile_and_package(program, package_path=str(path))
    with zipfile.ZipFile(path, "a") as archive:  # stored like the other entries; torch's loaders pass it over
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/extra/{EXTRA_FILE}", text)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings: the exporters' advice to their developers is none to ours."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
