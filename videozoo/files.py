"""Files written whole or not at all, and the digests by which they are known."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from videozoo.errors import OutputError

TEMPORARY_PREFIX = ".videozoo-"
"""How the name of every unfinished file starts."""


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The 64 hexadecimal digits of the SHA-256 of a file's bytes.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_problem(found: str, expected: str) -> str | None:
    """What is wrong with a digest, in words; None when it is the expected one.

    Args:
        found: the 64 digits that were computed.
        expected: all 64 digits, or the published first 8, which are then called a prefix.

    >>> digest_problem("c568e7ad" + 56 * "0", "c568e7ad")
    >>> digest_problem("00" * 32, "c568e7ad")[-38:]
    'not one with the known prefix c568e7ad'
    """
    if found.startswith(expected):
        return None
    wanted = f"the known {expected}" if len(expected) == len(found) else f"one with the known prefix {expected}"
    return f"its sha256 is {found}, not {wanted}"


def place(target: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Let ``write`` fill a temporary file beside ``target``, then give it the final name in one step.

    Whatever goes wrong, an interrupt included, ``target`` is as it was and no temporary file is left. The new file has
    the permissions of any newly created one (the umask decides). A link is replaced, not followed.

    Args:
        target: the final name; its folder must exist.
        write: called once, with the path of an empty file to fill; what it raises, unless an ``OSError``, is passed on.
        overwrite: whether a file of this name may be replaced; if not, one that appears meanwhile is kept, too.

    Raises:
        OutputError: ``target`` exists, or cannot be written.
    """
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}.tmp"
    try:
        refuse_unfit(target, overwrite=overwrite)
        # Created here, not by `write`: O_EXCL follows no link, and the mode that the umask leaves is known.
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            mode = os.fstat(descriptor).st_mode & 0o777
        finally:
            os.close(descriptor)
        write(temporary)
        os.chmod(temporary, mode)  # `write` may have put a file with its own mode in place of ours
        _flush_to_disk(temporary)
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_without_overwrite(temporary, target)
    except FileExistsError as error:
        raise OutputError(_exists(target)) from error
    except OSError as error:
        raise OutputError(_cannot(target, error)) from error
    finally:
        with suppress(OSError):  # gone already after success; on a failing disk the first error is the one to report
            temporary.unlink()
    _flush_folder(target.parent)


def _exists(target: Path) -> str:
    return f"{target} exists; pass --force (overwrite=True) to replace it"


def _cannot(target: Path, error: OSError) -> str:
    advice = "; name an output with a shorter name" if error.errno == errno.ENAMETOOLONG else ""
    return f"cannot write {target}: {error.strerror or error}{advice}"


def refuse_unfit(target: Path, *, overwrite: bool) -> None:
    """Find out before any work is done what `place` would refuse, or destroy.

    Raises:
        OutputError: ``target`` exists, is no regular file, has no folder, or has a name that cannot be.
    """
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise OutputError(_cannot(target, error)) from None
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; name a file")
    if target.exists() and not target.is_file():
        raise OutputError(f"cannot write {target}: it is not a regular file")  # replacing /dev/null would remove it
    if not overwrite and os.path.lexists(target):
        raise OutputError(_exists(target))
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: there is no folder {target.parent}")


def _rename_without_overwrite(temporary: Path, target: Path) -> None:
    if os.name == "nt":
        os.rename(temporary, target)  # refuses an existing name there; elsewhere it replaces it
        return
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}:
            raise
        # A file system without hard links: the smallest window that is left is between these two lines.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(temporary, target)


def _flush_to_disk(path: Path) -> None:
    """Have the bytes on the disk before the name is: else a power cut can leave a full name on an empty file."""
    with open(path, "rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # folders cannot be opened there
    with suppress(OSError):  # some network file systems refuse it, and the file is complete either way
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
