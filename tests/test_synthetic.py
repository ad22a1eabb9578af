"""The synthetic motions."""

import numpy as np
import pytest

from videozoo.errors import InvalidArgument
from videozoo.synthetic import MOTIONS, draw_clip, motion_of


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
