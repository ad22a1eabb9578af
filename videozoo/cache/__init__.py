"""Entry -> verified file: ``plan`` decides and changes nothing, ``obtain`` and ``fetch`` act.

    source, in this order; at each the converted file first          verified by
    <home>/converted/<row>.safetensors (+ .json)                     size and sha256 of the record made with it
    videozoo/weights/<file>                       inside the package the row's digest
    <home>/originals/<row>/<file>                 downloaded before  the lock's digest, else the row's, or its 8 digits
    a folder of VIDEOZOO_WEIGHTS_DIR              the user's own     the same; a converted file: the lock's alone
    the mirrors of VIDEOZOO_MIRROR                in their order     the same, while it streams in
    the row's Hugging Face repository, then its URLs in their order  the same; URLs give the original alone

Nothing is used before its digest is checked; ``videozoo.lock`` (see `videozoo.lockfile`) keeps the full one from the
first use on. A row without any digest is had only with ``trust_first_use``, or when the lock has it; a converted file
that this cache did not make, only when the lock has its digest: what a file or a mirror says of itself proves nothing.
Every use reads the file once to hash it: 0.1 s for 130 MB on a processor with SHA instructions; only a converted file
of this cache that nobody touched since it was hashed is not hashed again (`videozoo.cache.untouched` says what that
rests on, and what it does not see). A damaged file of the cache is set aside as ``<file>.damaged``; a conversion of
another original or release stays until the new one takes its place. ``<home>/locks/<row>.lock``, empty and kept, makes
sure that two processes never download one row at once. A cache that cannot be written still serves what it holds.

Environment: ``VIDEOZOO_HOME``, ``VIDEOZOO_LOCK``, ``VIDEOZOO_WEIGHTS_DIR``, ``VIDEOZOO_MIRROR``, ``VIDEOZOO_OFFLINE``
and ``HF_HUB_OFFLINE``.
"""

from videozoo.cache.guards import guard
from videozoo.cache.places import home, lock_path, weights_dirs
from videozoo.cache.planning import Plan, known_conversion, plan, remote_addresses
from videozoo.cache.storing import converted, fetch, obtain, record_first_use, store_converted

__all__ = [
    "Plan",
    "converted",
    "fetch",
    "guard",
    "home",
    "known_conversion",
    "lock_path",
    "obtain",
    "plan",
    "record_first_use",
    "remote_addresses",
    "store_converted",
    "weights_dirs",
]
