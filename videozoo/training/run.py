"""A plan, carried out: the accelerator, the network and the loaders, and the loop over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from videozoo.errors import InvalidArgument, printable
from videozoo.layers.video_model import VideoModel
from videozoo.ranks import PATIENCE, unconnected
from videozoo.training.folder import opened
from videozoo.training.network import create_network
from videozoo.training.plan import Plan
from videozoo.training.together import together, told_of_lost_processes
from videozoo.training.validation import CenterViews, ValidationLoader
from videozoo.video.batches import EpochOrder, TrainingLoader
from videozoo.video.training import TrainingVideos

if TYPE_CHECKING:
    from accelerate import Accelerator

    from videozoo.training.loop import Result

Device = Literal["auto", "cpu"]


def train(
    plan: Plan,
    *,
    resume: bool = False,
    validate: bool = False,
    deterministic: bool = False,
    num_workers: int = 2,
    device: Device = "auto",
    tensorboard: bool = False,
    progress: bool = False,
) -> Result:
    """Train a network, in one process or in all that torchrun started.

    Args:
        plan: what `make_plan` found possible.
        resume: go on from the state in the plan's folder; where there is none, begin.
        validate: after every epoch, not only after the last.
        deterministic: on a GPU, take the slower algorithms that give the same numbers every time. A CPU always does.
        num_workers: processes that load training videos, for each process that trains.
        device: ``auto`` is the GPU where there is one.
        tensorboard: write its event files to the folder, too.
        progress: draw a bar on stderr, if that is a terminal, and print what was validated.

    Raises:
        InvalidArgument: something that does not go together, or accelerate is missing.
        FetchError, CheckpointError: the weights to start from cannot be used; the folder holds another run.
        OutputError: the folder cannot be written, or has a run in it and ``resume`` is false.
        VideoError, TrainingError: see `videozoo.training.loop.train`.
    """
    if validate and plan.validation is None:
        raise InvalidArgument("--validate needs --val: which videos to validate on")
    if num_workers < 0:
        raise InvalidArgument(f"--workers {num_workers}: 0 or more")
    with _algorithms(deterministic):
        accelerator = _accelerator(plan, device, tensorboard)
        try:
            _refuse_unfit(accelerator)
            with told_of_lost_processes(), ExitStack() as held:
                return _train(plan, accelerator, held, resume, validate, num_workers, tensorboard, progress)
        finally:
            accelerator.end_training()


def _train(
    plan: Plan,
    accelerator: Accelerator,
    held: ExitStack,
    resume: bool,
    validate: bool,
    num_workers: int,
    tensorboard: bool,
    progress: bool,
) -> Result:
    from videozoo.training.loop import Run, train

    recipe, rank, num_ranks = plan.recipe, accelerator.process_index, accelerator.num_processes
    videos = TrainingVideos(
        plan.videos, recipe.augmentation, num_classes=len(plan.labels), seed=plan.seed, strict=plan.strict
    )
    order = EpochOrder(len(videos), batch_size=recipe.run.batch_size, seed=plan.seed, rank=rank, num_ranks=num_ranks)
    with together():
        if accelerator.is_main_process:
            held.enter_context(opened(plan.out, recipe.to_toml(), resume=resume))
    if tensorboard:  # which makes its files
        accelerator.init_trackers("tensorboard")
    network = _network(plan, accelerator)
    validation = None
    if plan.validation is not None:
        views = CenterViews(plan.validation, network.pretrained_cfg["protocol"].center)
        validation = ValidationLoader(
            views, batch_size=recipe.run.clips_at_once, rank=rank, num_ranks=num_ranks, num_workers=num_workers,
            strict=plan.strict,
        )  # fmt: skip
        with together():
            validation.probe()  # an unusable list is told now, and not after an epoch
    run = Run(
        recipe=recipe,
        network=network,
        loader=TrainingLoader(videos, order, num_workers=num_workers, pin_memory=accelerator.device.type == "cuda"),
        steps_per_epoch=order.steps_per_epoch,
        validation=validation,
        out=plan.out,
        labels=plan.labels,
        dataset=plan.dataset,
        identity=plan.identity,
        seed=plan.seed,
        validate_each_epoch=validate,
        progress=progress,
    )
    return train(run, accelerator)


def _network(plan: Plan, accelerator: Accelerator) -> VideoModel:
    """The network of every process; the first one fetches what the others then find."""
    created: list[VideoModel] = []
    for turn in (True, False):
        with together():
            if accelerator.is_main_process == turn:
                torch.manual_seed(plan.seed)
                created.append(
                    create_network(
                        plan.model, plan.recipe, num_classes=len(plan.labels), class_names=plan.labels,
                        pretrained=plan.pretrained, checkpoint=plan.checkpoint,
                    )
                )  # fmt: skip
    return created[0]


def _accelerator(plan: Plan, device: Device, tensorboard: bool) -> Accelerator:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import (
            DistributedDataParallelKwargs,
            GradientAccumulationPlugin,
            InitProcessGroupKwargs,
            ProjectConfiguration,
            is_tensorboard_available,
        )
    except ImportError:
        raise InvalidArgument('training needs accelerate: pip install "videozoo[train]"') from None
    if tensorboard and not is_tensorboard_available():
        raise InvalidArgument('--tensorboard needs tensorboard: pip install "videozoo[train]"')
    run = plan.recipe.run
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this Python, with other settings
    try:
        return Accelerator(
            cpu=device == "cpu",
            mixed_precision=run.mixed_precision,
            # The loop adds the passes of a step up by itself, whatever the environment says.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with="tensorboard" if tensorboard else None,
            project_config=ProjectConfiguration(project_dir=str(plan.out), logging_dir=str(plan.out)),
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=run.find_unused_parameters),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
    except (ValueError, ImportError) as error:  # what this machine, or its environment, does not have
        raise InvalidArgument(f"accelerate refuses these settings: {printable(error)}") from None
    except RuntimeError as error:  # torch's, of a process group
        raise unconnected(error) from None


def _refuse_unfit(accelerator: Accelerator) -> None:
    """Refuse what accelerate would take for something else."""
    from accelerate.utils import DistributedType

    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InvalidArgument(
            "recipe.run.mixed_precision is fp16, which a CPU does not train in: --set run.mixed_precision=bf16, or no"
        )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InvalidArgument("FSDP 1 gathers weights in another way: set FSDP_VERSION=2 in the environment")


@contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """The same numbers every time, where torch has an algorithm for that; it warns of what has none."""
    if not deterministic:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
