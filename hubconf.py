"""torch.hub entry points, one per architecture.

    model = torch.hub.load("path/to/videozoo", "ircsn_r152", source="local", pretrained="ig65m")

Every entry takes ``pretrained`` (False, True, a tag or a pretraining), ``num_classes``, ``in_chans``, ``drop_rate``,
``bn_frozen`` and ``checkpoint_path``; ``help(entry)`` or ``torch.hub.help`` shows the rest.
"""

dependencies = ["torch", "torchvision", "timm", "huggingface_hub", "safetensors", "requests", "tqdm", "av", "numpy"]

from videozoo.models.csn import ipcsn_r50, ipcsn_r152, ircsn_r50, ircsn_r152, test_ircsn  # noqa: E402, F401
from videozoo.models.slowonly import slowonly_r50  # noqa: E402, F401
from videozoo.models.tpn import test_tpn, tpn_slowonly_r50, tpn_tsm_r50  # noqa: E402, F401
from videozoo.models.tsm import tsm_r50  # noqa: E402, F401
from videozoo.models.tsn import test_tsn, tsn_r50  # noqa: E402, F401
