"""Recipes as data, learning rates, and groups of parameters."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Literal

import pytest
import torch

from videozoo import registry
from videozoo.errors import CheckpointMismatch, InvalidArgument, UnknownWeights
from videozoo.manifest import Protocol
from videozoo.models import create_model
from videozoo.training import recipes
from videozoo.training.network import create_network, inflate
from videozoo.training.optimizer import create_optimizer, parameter_groups, set_rates
from videozoo.training.recipe import CosineSchedule, LossSettings, OneCycleSchedule, Recipe, Sgd, StepSchedule
from videozoo.training.schedule import Course, lr_factor, momentum_at
from videozoo.video.augmentation import (
    Augmentation,
    ColorJitter,
    MultiScaleCrop,
    RandomCrop,
    RandomResizedCrop,
)


def protocol_for(name: str) -> Protocol:
    """Of the row that the recipe is named after, else of its architecture."""
    try:
        return registry.get_weights(name).protocol
    except UnknownWeights:
        architecture = recipes.read(name)["model"].get("architecture", "test_ircsn")
        return registry.architecture(architecture).protocol


def recipe(name: str, *changes: str) -> Recipe:
    return recipes.resolve(recipes.read(name), protocol_for(name), changes)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_complete_and_is_read_back_as_it_was_written(name: str) -> None:
    found = recipe(name)
    assert recipes.resolve(tomllib.loads(found.to_toml()), protocol_for("test_tsn.motion8")) == found
    assert found.lr == found.optimizer.lr
    assert found.about


def test_every_row_of_the_seed_pages_has_its_recipe() -> None:
    published = {
        entry.name
        for entry in map(registry.get_weights, registry.list_weights())
        if entry.source.zoo == "MMAction2" and entry.source.config
    }
    ports = {"ircsn_r152.ig65m_k400_vmz"}  # another file of one training
    assert published - ports <= set(recipes.names())


# Facts of the original configs, by family and row: what a change of one file or of one value must not pass by

RESIZED = RandomResizedCrop(area=(0.08, 1.0), aspect_ratio=(0.75, 4 / 3))
JITTER = ColorJitter(0.5, 0.5, 0.5, 0.1)


def scales(num_positions: Literal[5, 13]) -> MultiScaleCrop:
    return MultiScaleCrop(scales=(1.0, 0.875, 0.75, 0.66), max_gap=1, num_positions=num_positions)


def warm(epochs: tuple[int, ...], warmup: float = 0.0) -> StepSchedule:
    return StepSchedule(epochs, factor=0.1, warmup_epochs=warmup, warmup_factor=0.1)


def clips(num_frames: int, frame_stride: int, *, jitter: ColorJitter | None = None) -> Augmentation:
    side = None if jitter else 256
    return Augmentation(
        sampling="clips", num_frames=num_frames, frame_stride=frame_stride, short_side=side, crop_size=224,
        crop=RESIZED, flip_probability=0.5, color_jitter=jitter,
    )  # fmt: skip


def segments(
    num_frames: int,
    crop: RandomResizedCrop | MultiScaleCrop | RandomCrop,
    *,
    short_side: int | None = 256,
    jitter: ColorJitter | None = None,
) -> Augmentation:
    return Augmentation(
        sampling="segments", num_frames=num_frames, frame_stride=1, short_side=short_side, crop_size=224, crop=crop,
        flip_probability=0.5, color_jitter=jitter,
    )  # fmt: skip


CSN, SLOW = clips(32, 2), clips(8, 8)
TPN_SGD = Sgd(0.01, 64, 1e-4, nesterov=True, clip_norm=40.0)
CSN58 = (Sgd(1.25e-4, 24, 1e-4, clip_norm=40.0), warm((32, 48), 16), CSN, 58, 0.5, "bn")
CSN180 = (
    Sgd(0.08, 32, 1e-4, clip_norm=40.0), CosineSchedule("epoch", warmup_epochs=40, warmup_factor=0.1), CSN, 180, 0.5,
    "bn",
)  # fmt: skip
TPN = (TPN_SGD, warm((75, 125)), clips(8, 8, jitter=JITTER), 150, 0.5, "none")
TSM_SGD = Sgd(0.01, 64, 1e-4, groups="tsm", clip_norm=20.0)
PADDLE = Sgd(0.01, 128, 1e-4, clip_norm=40.0)
FACTS = {
    **dict.fromkeys(("ipcsn_r152.ig65m_k400", "ipcsn_r152.sports1m_k400", "ircsn_r152.ig65m_k400"), CSN58),
    **dict.fromkeys(("ircsn_r152.sports1m_k400", "ircsn_r50.ig65m_k400"), CSN58),
    "ircsn_r152.ig65m_k400_bn": (*CSN58[:5], "none"),
    **dict.fromkeys(("ipcsn_r152.k400", "ircsn_r152.k400", "ircsn_r50.k400"), CSN180),
    **dict.fromkeys(("tpn_slowonly_r50.k400", "tpn_slowonly_r50.imagenet_k400"), TPN),
    "tpn_tsm_r50.tsm_sthv1": (
        Sgd(0.01, 64, 5e-4, nesterov=True, clip_norm=20.0), warm((75, 125)),
        segments(8, RESIZED, short_side=None, jitter=JITTER), 150, 0.5, "none",
    ),
    "tsn_r50.mmaction2_1x1x3_100e": (
        Sgd(0.01, 256, 1e-4, clip_norm=40.0), warm((40, 80)), segments(3, scales(5)), 100, 0.4, "none",
    ),
    "tsn_r50.mmaction2_320p_1x1x8_100e": (
        Sgd(0.00375, 96, 1e-4, clip_norm=40.0), warm((40, 80)), segments(8, RESIZED), 100, 0.4, "none",
    ),
    "tsn_r50.imagenet_k400": (PADDLE, warm((40, 80)), segments(3, scales(5)), 100, 0.4, "none"),
    "tsn_r50.imagenet_k400_8seg": (PADDLE, warm((40, 80)), segments(8, scales(5)), 100, 0.4, "none"),
    "tsn_r50.imagenet_k400_paddle20": (
        Sgd(0.01, 128, 1e-4), warm((15, 30)), segments(3, RandomCrop()), 45, 0.2, "none",
    ),
    "tsm_r50.mmaction2_1x1x8_50e": (TSM_SGD, warm((20, 40)), segments(8, scales(13)), 50, 0.5, "none"),
    "tsm_r50.mmaction2_1x1x8_100e": (TSM_SGD, warm((40, 80)), segments(8, scales(13)), 100, 0.5, "none"),
    "slowonly_r50.mmaction2_8x8x1_256e": (
        Sgd(0.1, 64, 1e-4, clip_norm=40.0), CosineSchedule("epoch"), SLOW, 256, 0.5, "none",
    ),
    "slowonly_r50.mmaction2_imagenet_8x8x1_150e": (
        Sgd(0.01, 64, 1e-4, clip_norm=40.0), warm((90, 130), 10), SLOW, 150, 0.5, "none",
    ),
}  # fmt: skip
STARTS = {
    "ipcsn_r152.ig65m_k400": "ig65m_raw_trunk", "ircsn_r152.ig65m_k400": "ig65m_raw_trunk",
    "ircsn_r152.ig65m_k400_bn": "ig65m_raw_trunk", "ircsn_r50.ig65m_k400": "ig65m_raw_trunk",
    "ipcsn_r152.sports1m_k400": "sports1m_raw_trunk", "ircsn_r152.sports1m_k400": "sports1m_raw_trunk",
}  # fmt: skip
FROM_NOTHING = {
    "ipcsn_r152.k400", "ircsn_r152.k400", "ircsn_r50.k400", "tpn_slowonly_r50.k400",
    "slowonly_r50.mmaction2_8x8x1_256e",
}  # fmt: skip
SPORTS1M_PIXELS = {"ipcsn_r152.k400", "ircsn_r152.k400", "ipcsn_r152.sports1m_k400", "ircsn_r152.sports1m_k400"}


def test_the_facts_are_of_all_recipes_but_our_own() -> None:
    assert set(FACTS) == set(recipes.names()) - {"finetune", "motion8"}


@pytest.mark.parametrize("name", FACTS)
def test_what_the_original_configs_say(name: str) -> None:
    found = recipe(name)
    optimizer, schedule, augmentation, epochs, drop_rate, freeze = FACTS[name]
    assert (found.optimizer, found.schedule) == (optimizer, schedule)
    assert found.augmentation == augmentation
    assert (found.run.epochs, found.run.batch_size) == (epochs, optimizer.lr_batch_size)
    tsm, tpn = name.startswith("tsm"), name.startswith("tpn")
    assert (found.model.drop_rate, found.model.freeze, found.model.fc_std) == (
        drop_rate,
        freeze,
        0.001 if tsm else 0.01,
    )
    start = STARTS.get(name), None if name in FROM_NOTHING | STARTS.keys() else "resnet50.tv_in1k"
    assert (found.model.pretrained, found.model.imagenet) == start
    assert found.loss == LossSettings(aux_weight=0.5 if tpn else 0.0)
    pixels = (110.2008, 100.63983, 95.99475), (58.14765, 56.46975, 55.332195)
    imagenet = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    assert (found.input.mean, found.input.std) == (pixels if name in SPORTS1M_PIXELS else imagenet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optimizer.wieght_decay=1"], "wieght_decay is no setting; did you mean weight_decay"),
        (["optimzer.lr=1"], "optimzer is no setting; did you mean optimizer"),
        (["optimizer.lr=high"], "recipe.optimizer.lr must be a number"),
        (["optimizer.lr=0"], "recipe.optimizer.lr must be above 0"),
        (["optimizer.lr=nan"], "recipe.optimizer.lr must be above 0"),
        (["optimizer.clip_norm=-1"], "clip_norm must be above 0"),
        (["optimizer.momentum=0", "optimizer.nesterov=true"], "nesterov needs a momentum"),
        (["optimizer.kind=adam"], "recipe.optimizer.kind must be 'sgd' or 'adamw'"),
        (["schedule.epochs=[3, 2]"], "must be numbers from 1 on that rise"),
        (["run.batch_size=0"], "recipe.run.batch_size must be at least 1"),
        (["run.mixed_precision=bf61"], "did you mean bf16"),
        (["run.ema_decay=1"], "ema_decay must be from 0 to below 1"),
        (["model.freeze=most"], "recipe.model.freeze must be 'none' or 'bn' or 'trunk'"),
        (["model.pretrained=ig65m", "model.imagenet=resnet50"], "both say where weights come from"),
        (["augmentation.crop.area=[1, 2]"], "augmentation.crop.area"),
        (["run=3"], "write section.key=value"),
        (["run.epochs"], "write section.key=value"),
        (["about.epochs=3"], "about is no table"),
    ],
)
def test_changes_that_cannot_be(changes: list[str], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message.replace("(", r"\(")):
        recipe("ircsn_r50.ig65m_k400", *changes)


def test_changes_and_the_linear_scaling_rule() -> None:
    found = recipe("ircsn_r50.ig65m_k400", "run.batch_size=6", "optimizer.clip_norm=false", "run.epochs = 3")
    assert found.lr == pytest.approx(1.25e-4 * 6 / 24)
    assert (found.optimizer.clip_norm, found.run.epochs) == (None, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ircsn_r50.ig65m_k40", "the nearest are ircsn_r50.ig65m_k400"),
        ("none.toml", "cannot be read"),
        ("bad.toml", "no TOML"),
    ],
)
def test_recipes_that_there_are_not(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text("= 1")
    with pytest.raises(InvalidArgument, match=message):
        recipes.read(name)


@pytest.mark.parametrize(
    ("architecture", "from_weights", "name"),
    [
        ("ircsn_r50", False, "ircsn_r50.ig65m_k400"),
        ("ircsn_r50", True, "finetune"),
        ("test_tpn", False, "motion8"),
        ("tsn_r50", False, "tsn_r50.imagenet_k400_8seg"),
    ],
)
def test_the_recipe_that_is_meant(architecture: str, from_weights: bool, name: str) -> None:
    assert recipes.default_name(architecture, from_weights=from_weights) == name


def test_no_recipe_is_made_for_some() -> None:
    with pytest.raises(InvalidArgument, match=r"--recipe FILE.toml takes .*--recipe finetune"):
        recipes.default_name("r2plus1d_34", from_weights=False)


# Learning rates


def test_one_cycle_is_the_one_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=0.005)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=50, pct_start=0.1)
    schedule, course = OneCycleSchedule(rise=0.1), Course(7, 50)
    for step in range(50):
        assert 0.005 * lr_factor(schedule, step, course) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        assert momentum_at(schedule, step, course) == pytest.approx(optimizer.param_groups[0]["betas"][0], rel=1e-9)
        optimizer.step()
        if step < 49:
            theirs.step()


def test_cosine_changes_by_epochs_and_the_warm_up_by_steps() -> None:
    course = Course(steps_per_epoch=10, num_steps=40)
    by_epoch = CosineSchedule(warmup_epochs=1, warmup_factor=0.1)
    assert [lr_factor(by_epoch, step, course) for step in (0, 5, 10, 19, 20, 39)] == pytest.approx(
        [0.1, 0.55, 0.85355339, 0.85355339, 0.5, 0.14644661]
    )
    assert lr_factor(CosineSchedule(each="step"), 39, course) == pytest.approx(0.0015413, abs=1e-6)
    assert momentum_at(by_epoch, 3, course) is None


# Groups


def test_groups_of_tsm() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, "tsm", lr=0.1, weight_decay=1e-4)
        for parameter in group["params"]
    }
    conv, norm, linear = model
    expected = {
        conv.weight: (0.1, 1e-4), conv.bias: (0.2, 0.0), norm.weight: (0.1, 0.0), norm.bias: (0.1, 0.0),
        linear.weight: (0.5, 1e-4), linear.bias: (1.0, 0.0),
    }  # fmt: skip
    assert found == {id(parameter): rates for parameter, rates in expected.items()}


def test_a_new_head_learns_faster() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 2))
    groups = parameter_groups(model, "head", lr=0.1, weight_decay=1e-4)
    found = [(group["lr"], group["weight_decay"]) for group in groups]
    assert found == [(0.1, 1e-4), (0.1, 0.0), (1.0, 1e-4), (1.0, 0.0)]


def test_what_does_not_learn_is_in_no_group_and_rates_keep_their_factors() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    settings = recipe("tsm_r50.mmaction2_1x1x8_50e").optimizer
    optimizer = create_optimizer(model, settings, lr=0.01)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    set_rates(optimizer, 0.1, 0.85)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.005, 0.01])
    assert {group["momentum"] for group in optimizer.param_groups} == {0.85}


# The network before its first step


@pytest.mark.parametrize(("freeze", "learns"), [("none", 1.0), ("bn", 0.5), ("trunk", 0.1)])
def test_what_is_frozen(freeze: str, learns: float) -> None:
    network = create_network("test_ircsn", recipe("motion8", f"model.freeze={freeze}"), num_classes=3)
    learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert network.training and {norm.training for norm in norms} == {freeze == "none"}
    assert ("bn1.weight" in learning, "conv1.weight" in learning) == (freeze == "none", freeze != "trunk")
    assert {"fc.weight", "fc.bias"} <= learning
    if freeze == "trunk":
        assert learning == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("part", ["neck", "aux_head"])
def test_the_pyramid_and_its_auxiliary_head_are_drawn_uniformly(part: str) -> None:
    """Within sqrt(6 / (inputs + outputs)) of a weight: Glorot's initialisation."""
    torch.manual_seed(0)
    network = create_model("test_tpn", aux_head=True)
    convolutions = [module for module in getattr(network, part).modules() if isinstance(module, torch.nn.Conv3d)]
    assert convolutions
    for conv in convolutions:
        outputs, inputs, *kernel = conv.weight.shape
        bound = (6 / ((inputs + outputs) * math.prod(kernel))) ** 0.5
        assert 0.8 * bound < conv.weight.detach().abs().max().item() <= bound


def test_images_on_a_trunk_with_time() -> None:
    source = create_model("test_tsn", num_classes=0).backbone.state_dict()
    flat = create_model("test_tsn")
    inflate(flat, source, "test")
    assert torch.equal(flat.backbone.conv1.weight, source["conv1.weight"])
    with pytest.raises(CheckpointMismatch, match="does not fit"):
        inflate(create_model("test_ircsn"), source, "test")


@pytest.mark.slow
def test_an_inflated_network_answers_a_still_picture_as_the_flat_one() -> None:
    import timm

    flat = timm.create_model("resnet50", num_classes=0).eval()
    slow = create_model("slowonly_r50", num_classes=0).eval()
    inflate(slow, flat.state_dict(), "resnet50")
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    clip = picture.unsqueeze(2).expand(-1, -1, 9, -1, -1)
    with torch.no_grad():
        middle = slow.forward_features(clip)[:, :, 4]
        assert torch.allclose(middle, flat.forward_features(picture), rtol=1e-4, atol=1e-4)
        for name in ("tsm_r50", "tpn_tsm_r50", "tpn_slowonly_r50"):
            inflate(create_model(name), flat.state_dict(), "resnet50")
