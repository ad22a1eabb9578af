"""A folder that any web server, or a Hugging Face repository, can serve as a mirror: ``VIDEOZOO_MIRROR`` names it then.

<folder>/originals/<row>/<file>          as it was published
<folder>/converted/<row>.safetensors     what videozoo makes of it; the same bytes everywhere
<folder>/videozoo.lock                   digest and size of both; a user who trusts the mirror names it by VIDEOZOO_LOCK
<folder>/README.md                       the list of the files, and how to use them
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videozoo import cache, lockfile, registry
from videozoo.cache import planning
from videozoo.cache.contents import contents
from videozoo.cache.guards import lock_guard
from videozoo.cache.places import Kind, layout
from videozoo.errors import DigestMismatch, FetchError, InvalidArgument, OutputError
from videozoo.files import TEMPORARY_PREFIX, digest_problem, place, sha256_file
from videozoo.importing import convert_into_cache
from videozoo.lockfile import Locked, LockedConversion
from videozoo.manifest import Entry, load

LOCK = "videozoo.lock"
README = "README.md"


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What the folder has of one row."""

    weights: str
    written: tuple[str, ...]
    """Files that this call wrote, as paths below the folder."""
    kept: tuple[str, ...]
    """Files that were there, and were read and found right."""


def entries_to_mirror(patterns: Sequence[str]) -> list[Entry]:
    """The rows that names and wildcards mean; where there are none, those that the cache holds, but for those whose
    file comes with the package.

    Raises:
        UnknownWeights: a pattern that means no row.
    """
    if patterns:
        return registry.find_weights(patterns)
    held = {file.row for file in contents() if file.kind in ("original", "converted")}
    return [entry for entry in load().entries if entry.name in held and entry.file and not entry.file.embedded]


def prepare(folder: Path) -> None:
    """Make the folder, and remove what a run that was killed left in it. Only one run at a time may write to a folder.

    Raises:
        InvalidArgument: it is the cache, or inside it.
        OutputError: it cannot be written.
    """
    if cache.home().resolve() in (folder.resolve(), *folder.resolve().parents):
        raise InvalidArgument(f"{folder} belongs to the cache {cache.home()}: name another folder for the mirror")
    try:
        for kind in ("originals", "converted"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    (Path(parent) / name).unlink()
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror or error}") from error


def mirror(folder: Path, entry: Entry, *, progress: bool = True, trust_first_use: bool = False) -> Mirrored:
    """Bring one row into a folder that was prepared; what is there, and right, is not written again.

    The original is downloaded into the cache if it is not on this machine, and converted there. Of a row that was
    imported, whose original is nowhere to be had, the folder gets the converted file alone.

    Args:
        folder: see `prepare`.
        entry: the row.
        progress: whether to draw a bar on stderr while downloading, if that is a terminal.
        trust_first_use: whether a file of which no digest is known may be downloaded.

    Raises:
        FetchError: the row cannot be had; as `cache.fetch`.
        DigestMismatch: the converted file of the cache is not what its record and the lock say.
        CheckpointError: the original cannot be converted.
        OutputError: the folder, or the cache, cannot be written.
    """
    written: list[str] = []
    kept: list[str] = []
    original = _mirror_original(folder, entry, written, kept, progress, trust_first_use)
    if original is None:
        line = lockfile.read(cache.lock_path())[entry.name]
    else:
        line = Locked(sha256_file(original), original.stat().st_size, "")
    conversion = _mirror_converted(folder, entry, original, line.sha256, written, kept)
    line = replace(line, source=_public_source(entry), converted=conversion)
    try:
        with lock_guard(folder / LOCK):  # somebody may have named it as the lock of their runs
            if lockfile.read(folder / LOCK).get(entry.name) != line:
                lockfile.put(folder / LOCK, entry.name, line)
    except OSError as error:
        raise OutputError(f"cannot write {folder / LOCK}: {error.strerror or error}") from error
    return Mirrored(entry.name, tuple(written), tuple(kept))


def _mirror_original(
    folder: Path, entry: Entry, written: list[str], kept: list[str], progress: bool, trust_first_use: bool
) -> Path | None:
    """The original in the folder; None where only the conversion of the row is in the cache."""
    name = layout(entry, "original")
    target, file = folder / name, planning.wanted(entry)
    if target.is_file() and not target.is_symlink() and planning.look(target, file).problem is None:
        kept.append(name)
        return target
    try:
        source = cache.fetch(entry, progress=progress, trust_first_use=trust_first_use)
    except FetchError:
        if cache.converted(entry) is None or entry.name not in lockfile.read(cache.lock_path()):
            raise
        return None
    _copy(source, target, planning.look(source, planning.wanted(entry)).sha256)
    written.append(name)
    return target


def _mirror_converted(
    folder: Path, entry: Entry, original: Path | None, sha256: str, written: list[str], kept: list[str]
) -> LockedConversion:
    name = layout(entry, "converted")
    target, known = folder / name, cache.known_conversion(entry)
    if known is None or planning.look(target, known).problem is not None:
        source = cache.converted(entry)
        if source is None and original is not None:
            source = convert_into_cache(entry, original, sha256)
        if source is None:
            raise OutputError(f"{entry.name}: its conversion left the cache meanwhile; run this again")
        found = LockedConversion(sha256_file(source), source.stat().st_size, lockfile.CONVERTER)
        problem = planning.converted_problem(entry)  # in full: the mirror's lock is going to vouch for these bytes
        if problem is not None or (known is not None and known != found):
            raise DigestMismatch(
                f"{entry.name}: {source} is not published: {problem or 'the lock has another digest'}; "
                f"remove it with `videozoo cache clean {entry.name}`"
            )
        known = found
        if planning.look(target, known).problem is not None:
            _copy(source, target, known.sha256)
            written.append(name)
            return known
    kept.append(name)
    return known


def _copy(source: Path, target: Path, sha256: str | None) -> None:
    def write(temporary: Path) -> None:
        shutil.copyfile(source, temporary)
        problem = "it changed meanwhile" if sha256 is None else digest_problem(sha256_file(temporary), sha256)
        if problem is not None:
            raise OutputError(f"{target} is not what {source} was: {problem}")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    place(target, write, overwrite=True)


def _public_source(entry: Entry) -> str:
    """Where the original was published: the lock of a mirror tells no paths and hosts of its maker."""
    file = entry.file
    return "" if file is None else file.urls[0] if file.urls else file.name


def write_readme(folder: Path) -> None:
    """List what the folder has.

    Raises:
        OutputError: it cannot be written.
    """
    text = _readme(folder, lockfile.read(folder / LOCK))

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    if not (folder / README).is_file() or (folder / README).read_text(encoding="utf-8", errors="replace") != text:
        place(folder / README, write, overwrite=True)


def _readme(folder: Path, lines: Mapping[str, Locked]) -> str:
    rows = []
    for entry in load().entries:
        line = lines.get(entry.name)
        if line is None:
            continue
        kinds: tuple[tuple[Kind, Locked | LockedConversion | None], ...]
        kinds = (("original", line), ("converted", line.converted))
        for kind, known in kinds:
            name = layout(entry, kind)
            if known is not None and (folder / name).exists():
                rows.append(f"| `{name}` | {known.size_bytes} | `{known.sha256}` |")
    return "\n".join([_HOW_TO_USE, "| file | bytes | sha256 |", "| --- | --- | --- |", *rows, ""])


_HOW_TO_USE = """\
# Mirror of videozoo

Weights of video models, as they were published and as [safetensors](https://github.com/huggingface/safetensors).
Written by `videozoo mirror`; run it again to add to it.

    export VIDEOZOO_MIRROR=https://HOST/PATH          # wherever this folder is served
    export VIDEOZOO_MIRROR=hf-hub:ORG/NAME@REVISION   # or the repository that it was uploaded to

Originals are compared with the digests that videozoo knows. The converted files are taken only by those who trust this
mirror's `videozoo.lock`: download it, look at it, and name it by `VIDEOZOO_LOCK` or `--lock`. The rights in the weights
are their publishers'; `videozoo info NAME` says what these state.
"""
