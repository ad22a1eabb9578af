"""The interface that every network of the zoo has: timm's model methods over clips instead of images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from videozoo.errors import InvalidArgument


class VideoModel(nn.Module):
    """A classifier of clips: (N, C, T, H, W), normalised float, to logits (N, num_classes).

    ``forward`` is ``forward_head(forward_features(x))``. A network with ``num_classes=0`` has no classifier and answers
    with its pooled features, (N, num_features).
    """

    first_conv: str
    """Name of the convolution that sees the pixels."""
    feature_info: list[dict[str, Any]]
    """One record a stage, as timm gives them: ``num_chs``, ``reduction`` (of H and W) and ``module``."""
    frames_are_independent = False
    """Whether the maps of a frame depend on that frame alone, and frames meet only in `forward_head`."""
    for_inference = False
    """Whether `videozoo.optimize_for_inference` made this network, which then cannot be trained."""

    def __init__(
        self, *, num_features: int, num_classes: int, in_chans: int, drop_rate: float, bn_frozen: bool
    ) -> None:
        super().__init__()
        if num_classes < 0 or in_chans < 1 or not 0 <= drop_rate < 1:
            raise InvalidArgument(
                f"num_classes={num_classes}, in_chans={in_chans}, drop_rate={drop_rate}: "
                "need num_classes >= 0, in_chans >= 1 and 0 <= drop_rate < 1"
            )
        self.num_features = num_features
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.bn_frozen = bn_frozen
        self.pretrained_cfg: dict[str, Any] = {}
        self.row_is_claimed = False
        """Whether only the file, or the repository, that the weights came from says which row they are of."""

    def _add_classifier(self) -> None:
        """The last layers; called last, so that they are last in ``state_dict`` and ``print``."""
        self.dropout: nn.Module = nn.Dropout(self.drop_rate)
        self.fc = classifier(self.num_features, self.num_classes)

    @property
    def smallest_clip(self) -> tuple[int, int, int]:
        """Smallest (T, H, W) that the network can take."""
        return (1, 1, 1)

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Feature maps of the last stage.

        Args:
            x: (N, C, T, H, W) normalised clip.

        Returns:
            (N, num_features, T', H', W').

        Raises:
            InvalidArgument: ``x`` has another number of dimensions or channels, or is smaller than `smallest_clip`.
        """

    @abstractmethod
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        *,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of several stages.

        Args:
            x: (N, C, T, H, W) normalised clip.
            indices: which records of ``feature_info`` to return; an int means that many of the last, None all.
            stop_early: leave out stages that no index asks for (with ``intermediates_only``).
            intermediates_only: return the list alone.

        Returns:
            The last stage's maps and the list of maps, each (N, C', T', H', W'), in the order of ``indices``.

        Raises:
            InvalidArgument: an index outside ``feature_info``, or a clip that does not fit.
        """

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool feature maps (N, num_features, T', H', W') and classify: (N, num_classes), or the pooled features."""
        x = x.mean(dim=(2, 3, 4))  # (N, num_features)
        return x if pre_logits else self.fc(self.dropout(x))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of clips (N, C, T, H, W)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer: ``nn.Linear``, or ``nn.Identity`` when ``num_classes`` is 0."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, randomly initialised classifier in place; 0 takes the classifier away."""
        self._refuse_after_optimisation("a new classifier")
        weight = next(self.parameters())
        self.num_classes = num_classes
        self.fc = classifier(self.num_features, num_classes).to(weight.device, weight.dtype)

    def tensors_on_request(self) -> dict[str, Tensor]:
        """Tensors, on the meta device, of parts that this instance was built without and a checkpoint may hold."""
        return {}

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; with ``bn_frozen``, batch norms keep statistics, scale and shift."""
        if mode:
            self._refuse_after_optimisation("training")
        super().train(mode)
        if mode and self.bn_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
                    for parameter in module.parameters():
                        parameter.requires_grad = False
        return self

    def fused_parts(self, dtype: torch.dtype | None) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Parts of the network, each with what computes the same faster in evaluation, with weights of ``dtype``.

        None for the weights' own. What no part names is copied as it is.
        """
        yield from ()

    def _refuse_after_optimisation(self, what: str) -> None:
        if self.for_inference:
            raise InvalidArgument(f"{what}: this network was optimised for inference; use the one it was made from")

    def _check_clip(self, x: Tensor) -> None:
        if x.ndim != 5:
            raise InvalidArgument(f"expected a clip (N, C, T, H, W), found {x.ndim} dimensions: {tuple(x.shape)}")
        if x.shape[1] != self.in_chans:
            raise InvalidArgument(f"expected {self.in_chans} channels (N, C, T, H, W), found {tuple(x.shape)}")
        if any(size < least for size, least in zip(x.shape[2:], self.smallest_clip, strict=True)):
            t, h, w = self.smallest_clip
            raise InvalidArgument(f"clip {tuple(x.shape)} is too small: the smallest T x H x W is {t} x {h} x {w}")

    def _stages(self, indices: int | Sequence[int] | None) -> list[int]:
        """``indices`` of `forward_intermediates` as a list of positions in ``feature_info``."""
        count = len(self.feature_info)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            wanted = list(range(count - indices, count)) if indices <= count else []
        else:
            wanted = list(indices)
        if not wanted or any(not -count <= index < count for index in wanted):
            raise InvalidArgument(f"indices={indices}: this network has {count} stages, 0 to {count - 1}")
        return [index % count for index in wanted]


def classifier(num_features: int, num_classes: int) -> nn.Module:
    """A linear layer drawn from N(0, 0.01), as action recognition has it since TSN; identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    linear = nn.Linear(num_features, num_classes)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return linear


def init_convolutions(module: nn.Module) -> None:
    """He initialisation of every convolution for ReLU (arXiv 1502.01852); batch norms start as the identity."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
