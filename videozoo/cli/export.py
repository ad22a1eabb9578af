"""``videozoo export``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from videozoo.cli.data import read_labels
from videozoo.cli.weights import add_weight_arguments, refuse_unknown_weights
from videozoo.model_config import is_folder_name

if TYPE_CHECKING:
    from videozoo.export import Exported, Request

NAME = "export"
HELP = "Write a network as a file for ONNX Runtime, OpenVINO or torch.export, checked against the network."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", metavar="NAME", help="an architecture, architecture.tag, hf-hub: or local-dir:")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a file *.onnx, *.xml (OpenVINO) or *.pt2"
    )
    parser.add_argument(
        "--format", metavar="NAME",
        help="torch-export, onnx, openvino or aot (compiled for this processor); default: by the name of OUT",
    )  # fmt: skip
    parser.add_argument(
        "--dynamic", default="", metavar="AXES", help="axes of any size, of batch, frames and size: batch,size"
    )
    parser.add_argument("--dtype", default="float32", help="of weights and maps: float32 (default), float16, bfloat16")
    parser.add_argument("--fused", action="store_true", help="fold batch norms into the convolutions first")
    parser.add_argument(
        "--views", choices=("full", "center"), default="full",
        help="whose clips fit where axes are fixed: the published test protocol's (default), or its centred view's",
    )  # fmt: skip
    add_weight_arguments(parser)
    parser.add_argument("--labels", type=Path, metavar="TXT", help="class names of FILE, one a line")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="the lock file to write and obey")
    parser.add_argument("--force", action="store_true", help="replace OUT")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Write the file and print how well it agrees."""
    refuse_unknown_weights(options.model, options.pretrained, options.checkpoint)
    class_names = read_labels(options.labels)
    dynamic = [axis for axis in options.dynamic.split(",") if axis]
    from videozoo.export import export_model, request
    from videozoo.models import create_model

    wanted = request(
        options.output, format=options.format, dynamic=dynamic, dtype=options.dtype, fused=options.fused,
        overwrite=options.force,
    )  # fmt: skip
    if not is_folder_name(options.model):
        _check_axes(options.model.partition(".")[0], wanted)
    model = create_model(
        options.model,
        options.pretrained or True,
        checkpoint_path=options.checkpoint,
        num_classes=options.num_classes,
        lock=options.lock,
    )
    exported = export_model(
        model, wanted.path, format=wanted.format, dynamic=wanted.dynamic, dtype=wanted.dtype, fused=wanted.fused,
        mode=options.views, labels=class_names, overwrite=wanted.overwrite,
    )  # fmt: skip
    if options.json:
        print(json.dumps(asdict(exported) | {"difference": exported.difference}, indent=2))
    else:
        _print(exported)
    return 0


def _check_axes(architecture: str, wanted: Request) -> None:
    """Refuse axes before weights are fetched: the network without values says all that is asked."""
    import torch

    from videozoo.artefacts.program import check_axes
    from videozoo.models import create_model

    with torch.device("meta"):
        check_axes(create_model(architecture), wanted.dynamic)


def _print(exported: Exported) -> None:
    for path, size_bytes in exported.files.items():
        print(f"{size_bytes:>12,} bytes  {path}")
    fused = ", batch norms folded" if exported.fused else ""
    print(f"{exported.format}, {exported.dtype}{fused}; clips {exported.clips}")
    for one in exported.agreement:
        shape = " x ".join(map(str, one.shape))
        print(f"  {shape:28}  differs from the network by {one.difference:.1e} of its largest logit")
    print(f"largest disagreement {exported.difference:.1e}; tolerance {exported.tolerance:.0e}")
