"""The training loop and the synthetic motions."""

import numpy as np
import pytest
import torch

from videozoo.errors import InvalidArgument, OutputError
from videozoo.models import create_model
from videozoo.synthetic import MOTIONS, draw_clip, motion_of
from videozoo.train import motion_clips, predicted_classes, save_weights, train


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    return motion_clips(create_model("test_ircsn"), 32)


def run(data: tuple[torch.Tensor, torch.Tensor], num_steps: int) -> tuple[list[float], torch.nn.Module]:
    torch.manual_seed(0)
    model = create_model("test_ircsn", drop_rate=0.0)
    steps = list(train(model, *data, num_steps=num_steps, batch_size=16, peak_lr=5e-3))
    assert [step.number for step in steps] == list(range(1, num_steps + 1))
    return [step.loss for step in steps], model


def test_training_learns_the_clips_it_sees(data):
    losses, model = run(data, 40)
    assert losses[0] > 1.5
    assert losses[-1] < 0.5 * losses[0]
    assert not model.training


def test_same_seed_gives_the_same_losses_and_weights(data):
    first, one = run(data, 4)
    second, other = run(data, 4)
    assert first == second
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(("num_steps", "batch_size"), [(0, 4), (1, 0), (1, 33)])
def test_impossible_runs_are_refused(data, num_steps, batch_size):
    steps = train(create_model("test_ircsn"), *data, num_steps=num_steps, batch_size=batch_size, peak_lr=1e-3)
    with pytest.raises(InvalidArgument, match="32 clips"):
        next(steps)


def test_predicted_classes_do_not_depend_on_the_batch(data):
    model = create_model("test_ircsn")
    assert torch.equal(predicted_classes(model, data[0], batch_size=5), predicted_classes(model, data[0]))


def test_clips_are_the_same_on_every_run_and_differ_by_seed():
    assert np.array_equal(draw_clip(5), draw_clip(5))
    assert not np.array_equal(draw_clip(5), draw_clip(13))
    assert motion_of(5) == motion_of(13) == MOTIONS.index("shrink")


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 2, -1), ("right", 2, 1), ("up", 1, -1), ("down", 1, 1)])
def test_the_bar_moves_where_its_class_says(motion, axis, sign):
    for seed in range(MOTIONS.index(motion), 80, len(MOTIONS)):
        frames = draw_clip(seed, num_frames=8).astype(float)
        still = np.median(frames, axis=0)
        changed = np.abs(frames - still).sum(axis=3) * (np.abs(frames - still).max(axis=3) > 40)
        places = np.arange(changed.shape[axis])
        centres = [(mask.sum(axis=1 - (axis - 1)) * places).sum() / mask.sum() for mask in (changed[0], changed[-1])]
        assert sign * (centres[1] - centres[0]) > 3


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"num_frames": 0}, {"height": 8}, {"width": 40}])
def test_clips_that_cannot_be_drawn(arguments):
    with pytest.raises(InvalidArgument, match="need seed >= 0"):
        draw_clip(**({"seed": 0} | arguments))


def test_saved_weights_load_again(tmp_path):
    model = create_model("test_tsn")
    for name in ("ours.safetensors", "theirs.pth"):
        save_weights(model, tmp_path / name)
        again = create_model("test_tsn", checkpoint_path=tmp_path / name)
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
        with pytest.raises(OutputError, match="exists"):
            save_weights(model, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours.safetensors", "theirs.pth"]
