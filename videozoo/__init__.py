"""A model zoo for video action recognition with verified pretrained weights, in plain PyTorch.

>>> import videozoo
>>> videozoo.list_models("*csn*")
['ipcsn_r101', 'ipcsn_r152', 'ipcsn_r50', 'ircsn_r101', 'ircsn_r152', 'ircsn_r50']

Names load what they need when they are first used, so ``import videozoo`` imports neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videozoo.convert import ConversionReport, convert_checkpoint
    from videozoo.errors import VideoZooError
    from videozoo.evaluation import evaluate
    from videozoo.evaluation_result import EvaluationResult
    from videozoo.export import Exported, export_model
    from videozoo.hub import Pushed, push_to_hub, save_to_dir
    from videozoo.inference import optimize_for_inference, reuse_heap
    from videozoo.manifest import Entry
    from videozoo.models import create_model
    from videozoo.models.csn import (
        ipcsn_r50,
        ipcsn_r101,
        ipcsn_r152,
        ircsn_r50,
        ircsn_r101,
        ircsn_r152,
        test_ircsn,
    )
    from videozoo.models.r2plus1d import r2plus1d_18, r2plus1d_34, r2plus1d_152, r3d_18
    from videozoo.models.slowonly import slowonly_r50
    from videozoo.models.tpn import test_tpn, tpn_slowonly_r50, tpn_tsm_r50
    from videozoo.models.tsm import tsm_r50
    from videozoo.models.tsn import test_tsn, tsn_r50
    from videozoo.predict import Recognizer, create_transform, load_recognizer
    from videozoo.prediction import Prediction, WindowPrediction
    from videozoo.registry import get_weights, is_model, list_models, list_weights
    from videozoo.video.dataset import VideoList, read_list

__version__ = "0.1.0"

_HOME = {
    "ConversionReport": "convert",
    "Entry": "manifest",
    "EvaluationResult": "evaluation_result",
    "Exported": "export",
    "Prediction": "prediction",
    "Pushed": "hub",
    "Recognizer": "predict",
    "VideoList": "video.dataset",
    "VideoZooError": "errors",
    "WindowPrediction": "prediction",
    "convert_checkpoint": "convert",
    "create_model": "models",
    "create_transform": "predict",
    "evaluate": "evaluation",
    "export_model": "export",
    "get_weights": "registry",
    "ipcsn_r101": "models.csn",
    "ipcsn_r152": "models.csn",
    "ipcsn_r50": "models.csn",
    "ircsn_r101": "models.csn",
    "ircsn_r152": "models.csn",
    "ircsn_r50": "models.csn",
    "is_model": "registry",
    "list_models": "registry",
    "list_weights": "registry",
    "load_recognizer": "predict",
    "optimize_for_inference": "inference",
    "push_to_hub": "hub",
    "read_list": "video.dataset",
    "reuse_heap": "inference",
    "save_to_dir": "hub",
    "r2plus1d_152": "models.r2plus1d",
    "r2plus1d_18": "models.r2plus1d",
    "r2plus1d_34": "models.r2plus1d",
    "r3d_18": "models.r2plus1d",
    "slowonly_r50": "models.slowonly",
    "test_ircsn": "models.csn",
    "test_tpn": "models.tpn",
    "test_tsn": "models.tsn",
    "tpn_slowonly_r50": "models.tpn",
    "tpn_tsm_r50": "models.tpn",
    "tsm_r50": "models.tsm",
    "tsn_r50": "models.tsn",
}
"""Public name -> module that defines it."""

__all__ = [
    "ConversionReport",
    "Entry",
    "EvaluationResult",
    "Exported",
    "Prediction",
    "Pushed",
    "Recognizer",
    "VideoList",
    "VideoZooError",
    "WindowPrediction",
    "convert_checkpoint",
    "create_model",
    "create_transform",
    "evaluate",
    "export_model",
    "get_weights",
    "ipcsn_r50",
    "ipcsn_r101",
    "ipcsn_r152",
    "ircsn_r50",
    "ircsn_r101",
    "ircsn_r152",
    "is_model",
    "list_models",
    "list_weights",
    "load_recognizer",
    "optimize_for_inference",
    "push_to_hub",
    "r2plus1d_18",
    "r2plus1d_34",
    "r2plus1d_152",
    "r3d_18",
    "read_list",
    "reuse_heap",
    "save_to_dir",
    "slowonly_r50",
    "test_ircsn",
    "test_tpn",
    "test_tsn",
    "tpn_slowonly_r50",
    "tpn_tsm_r50",
    "tsm_r50",
    "tsn_r50",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'videozoo' has no attribute {name!r}")
    value = getattr(import_module(f"videozoo.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
