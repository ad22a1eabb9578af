"""Features of single frames, kept for the windows that share them: what a sliding window costs a 2-D network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from videozoo.errors import InvalidArgument
from videozoo.layers.video_model import VideoModel
from videozoo.video.views import SampledVideo, ViewTransform


class FrameFeatures:
    """Logits of windows by a network whose maps of a frame depend on that frame alone; each frame is computed once.

    Windows have to come in order: each begins its frames behind the one before. What is kept are features of frames
    from a window's first one on, whichever window showed them, for no later window shows an earlier frame.

    Raises:
        InvalidArgument: a network that mixes frames (``frames_are_independent`` is False).
    """

    def __init__(self, model: VideoModel, transform: ViewTransform, chunk_size: int) -> None:
        if not model.frames_are_independent:
            raise InvalidArgument(f"{type(model).__name__} mixes frames: their features cannot be kept one by one")
        self._model = model
        self._transform = transform
        self._one_frame = replace(transform, views=replace(transform.views, num_frames=1))
        self._chunk_size = chunk_size
        self._kept: dict[int, Tensor] = {}
        """By the frame's number: (crops, num_features)."""

    @torch.inference_mode()
    def view_logits(self, window: SampledVideo) -> Tensor:
        """(views, num_classes) float32, as the network answers to the window's views; to 1e-5 of the largest."""
        numbers = sorted(set(window.frame_indices.tolist()))
        pooled = {number: features for number, features in self._kept.items() if number >= numbers[0]}
        new = [place for place, number in enumerate(numbers) if number not in pooled]
        if new:
            pooled.update(zip((numbers[place] for place in new), self._pooled(window, new), strict=True))
        self._kept = pooled
        clips = torch.stack([torch.stack([pooled[numbers[p]] for p in clip]) for clip in window.positions.tolist()])
        maps = clips.permute(2, 0, 3, 1).flatten(0, 1)  # (clips, T, crops, features) to (views, features, T)
        logits = self._model.forward_head(maps[..., None, None])
        return logits.float().cpu()

    def _pooled(self, window: SampledVideo, places: list[int]) -> Tensor:
        """Features of the frames at these places of ``window.frames``: (frames, crops, num_features)."""
        frames = [window.frames[place] for place in places]
        positions = torch.arange(len(frames)).view(-1, 1).numpy()
        one_by_one = SampledVideo(positions.reshape(-1), frames, positions)
        chunks = self._one_frame.clips(one_by_one, chunk_size=self._chunk_size, channels_last=self._model.for_inference)
        device = next(self._model.parameters()).device
        rows = [self._model.forward_features(clips.to(device)).mean(dim=(2, 3, 4)) for clips in chunks]
        return torch.cat(rows).unflatten(0, (-1, len(frames))).transpose(0, 1)
