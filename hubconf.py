"""torch.hub entry points, one per architecture.

    model = torch.hub.load("path/to/videozoo", "ircsn_r152", source="local", pretrained="ig65m")

Every entry takes ``pretrained`` (False, True, a tag or a pretraining), ``num_classes``, ``in_chans``, ``drop_rate``,
``bn_frozen`` and ``checkpoint_path``; ``help(entry)`` shows the rest.
"""

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "requests", "tqdm", "av", "numpy"]

from videozoo.models.csn import (  # noqa: E402
    ipcsn_r50,  # noqa: F401
    ipcsn_r101,  # noqa: F401
    ipcsn_r152,  # noqa: F401
    ircsn_r50,  # noqa: F401
    ircsn_r101,  # noqa: F401
    ircsn_r152,  # noqa: F401
    test_ircsn,  # noqa: F401
)
from videozoo.models.r2plus1d import r2plus1d_18, r2plus1d_34, r2plus1d_152, r3d_18  # noqa: E402, F401
from videozoo.models.slowonly import slowonly_r50  # noqa: E402, F401
from videozoo.models.tpn import test_tpn, tpn_slowonly_r50, tpn_tsm_r50  # noqa: E402, F401
from videozoo.models.tsm import tsm_r50  # noqa: E402, F401
from videozoo.models.tsn import test_tsn, tsn_r50  # noqa: E402, F401
