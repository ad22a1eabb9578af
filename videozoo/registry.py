"""Names: which architectures and weights there are, and which row a name means.

Nothing here imports torch. An unknown name is answered with the nearest names and the command that lists them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from videozoo.errors import InvalidArgument, UnknownModel, UnknownWeights
from videozoo.manifest import Architecture, Entry, File, load

_TEST = "test"


def list_models(filter: str = "*", *, pretrained: bool = False) -> list[str]:
    """Sorted names of the architectures that match ``filter``, a pattern of shell wildcards.

    ``test_*`` architectures appear only where ``filter`` starts with ``test_``. With ``pretrained``, only architectures
    that have weights with a published file appear.

    >>> list_models("tpn_*")
    ['tpn_slowonly_r50', 'tpn_tsm_r50']
    """
    manifest = load()
    published = {entry.architecture for entry in manifest.entries if entry.file is not None}
    return _matching(manifest.architectures if not pretrained else published, filter)


def is_model(name: str) -> bool:
    """Whether ``name`` is an architecture, the ``test_*`` ones included."""
    return name in load().architectures


def architecture(name: str) -> Architecture:
    """The record of the architecture ``name``.

    Raises:
        UnknownModel: there is none of this name; the message names the nearest ones.
    """
    if not is_model(name):
        raise _unknown_model(name)
    return load().architectures[name]


def list_weights(filter: str = "*") -> list[str]:
    """Sorted names of the weights, ``architecture.tag``, that match ``filter``; ``test_*`` as in :func:`list_models`.

    >>> list_weights("tpn_slowonly*")
    ['tpn_slowonly_r50.imagenet_k400', 'tpn_slowonly_r50.k400']
    """
    return _matching((entry.name for entry in load().entries), filter)


def search(text: str) -> list[str]:
    """Sorted names of the weights whose own name, upstream config name or file name contains ``text`` in any case.

    >>> search("ircsn_ig65m_pretrained_r152")
    ['ircsn_r152.ig65m_k400_bn', 'ircsn_r152.ig65m_k400_vmz']
    """
    wanted = text.lower()
    return sorted(entry.name for entry in load().entries if any(wanted in name.lower() for name in _aliases(entry)))


def get_weights(name: str) -> Entry:
    """The row that ``name`` means: ``architecture.tag``, an architecture (its default row) or an upstream config name.

    Raises:
        UnknownWeights: no row has this name, or the config name belongs to more than one; the message lists candidates.

    >>> get_weights("tpn_slowonly_r50").name
    'tpn_slowonly_r50.imagenet_k400'
    """
    entries = load().entries
    for entry in entries:
        if name == entry.name or (entry.default and name == entry.architecture):
            return entry
    configured = [entry for entry in entries if entry.source.config and _stem(name) == _stem(entry.source.config)]
    if len(configured) == 1:
        return configured[0]
    if configured:
        raise UnknownWeights(
            f"the upstream config {name!r} belongs to several weights; ask for one of {_join(configured)}"
        )
    head, dot, tag = name.partition(".")
    if is_model(head):
        raise _unknown_tag(head, tag if dot else None)
    candidates = [*(entry.name for entry in entries), *load().architectures]
    raise UnknownWeights(
        f"no weights are called {name!r}{_nearest(name, candidates)}; `videozoo list` prints all of them"
    )


def find_weights(patterns: Iterable[str]) -> list[Entry]:
    """The rows that names and wildcards mean, each once; of a wildcard, only rows with a published file.

    Raises:
        UnknownWeights: a name or a wildcard that means no row.

    >>> [entry.name for entry in find_weights(["ircsn_r152", "tpn_tsm*"])]
    ['ircsn_r152.ig65m_k400', 'tpn_tsm_r50.tsm_sthv1']
    """
    found: dict[str, Entry] = {}
    for pattern in patterns:
        if not any(letter in pattern for letter in "*?["):
            entry = get_weights(pattern)
            found[entry.name] = entry
            continue
        rows = [get_weights(name) for name in list_weights(pattern)]
        if not rows:
            raise UnknownWeights(f"no weights match {pattern!r}; `videozoo list` prints all of them")
        found |= {entry.name: entry for entry in rows if entry.file is not None}
    return list(found.values())


def resolve_weights(architecture: str, pretrained: bool | str) -> Entry:
    """The row of ``architecture`` that ``pretrained`` means, also where its file was never published.

    Args:
        architecture: name of the network.
        pretrained: True for the default row; else a tag, a full name ``architecture.tag``, or what the training started
            from, such as ``"ig65m"``: the first row with that pretraining. Weights that were only pretrained started
            from nothing, so that only their own tag, such as ``"ig65m_raw"``, means them.

    Raises:
        UnknownModel: no architecture has this name.
        UnknownWeights: the architecture has no such row; the message lists its tags.
        InvalidArgument: ``pretrained`` is False, which means no row.

    >>> resolve_weights("ircsn_r152", "ig65m").name
    'ircsn_r152.ig65m_k400'
    """
    if pretrained is False:
        raise InvalidArgument(
            f"pretrained=False asks for no weights of {architecture}; give True, a tag or a pretraining"
        )
    if not is_model(architecture):
        raise _unknown_model(architecture)
    entries = [entry for entry in load().entries if entry.architecture == architecture]
    if pretrained is True:
        matches = [entry for entry in entries if entry.default]
    else:
        tag = pretrained.removeprefix(f"{architecture}.")
        matches = [entry for entry in entries if entry.tag == tag]
        matches += [entry for entry in entries if entry.pretraining == pretrained]
    if not matches:
        raise _unknown_tag(architecture, None if pretrained is True else pretrained)
    return matches[0]


def find_by_digest(sha256: str) -> Entry | None:
    """The row whose file has the SHA-256 digest ``sha256``, None if there is none.

    A row of which only the first 8 digits are known matches on those; so does a ``sha256`` of 8 digits.

    Raises:
        InvalidArgument: ``sha256`` is neither 64 nor 8 hexadecimal digits.
    """
    digest = sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}", digest):
        raise InvalidArgument(f"{sha256!r} is no SHA-256 digest; give its 64 hexadecimal digits, or the first 8")
    for entry in load().entries:
        if entry.file is not None and _has_digest(entry.file, digest):
            return entry
    return None


def find_by_file_name(name: str) -> Entry | None:
    """The row whose published file has this name and no published digest; None if there is none.

    A name proves nothing: whoever takes such a file says so.
    """
    for entry in load().entries:
        file = entry.file
        if file is not None and file.name == name and file.sha256 is None and file.sha256_prefix is None:
            return entry
    return None


def _has_digest(file: File, digest: str) -> bool:
    if file.sha256 is not None:
        return file.sha256.startswith(digest)
    return file.sha256_prefix == digest[:8]


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    hidden = not pattern.startswith(_TEST)
    return sorted(name for name in names if fnmatchcase(name, pattern) and not (hidden and name.startswith(_TEST)))


def _aliases(entry: Entry) -> list[str]:
    return [name for name in (entry.name, entry.source.config, entry.file and entry.file.name) if isinstance(name, str)]


def _stem(config: str) -> str:
    """``config`` without the ``.py`` that the upstream pages write after some names and not after others."""
    return config.removesuffix(".py")


def _join(entries: Iterable[Entry]) -> str:
    return ", ".join(entry.name for entry in entries)


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=3)
    return f"; the nearest are {', '.join(near)}" if near else ""


def _unknown_model(name: str) -> UnknownModel:
    near = _nearest(name, load().architectures)
    return UnknownModel(f"no model is called {name!r}{near}; `videozoo list` prints all of them")


def _unknown_tag(architecture: str, asked: str | None) -> UnknownWeights:
    entries = [entry for entry in load().entries if entry.architecture == architecture]
    what = f"no weights {asked!r}" if asked is not None else "no published weights"
    if not entries:
        return UnknownWeights(
            f"{architecture} has {what}: none were published; build it without, or give a checkpoint_path"
        )
    tags = ", ".join(entry.tag for entry in entries)
    return UnknownWeights(f"{architecture} has {what}; its tags are {tags}")
