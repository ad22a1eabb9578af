"""Files of Hugging Face repositories: ``hf-hub:org/name@revision`` -> verified file in huggingface_hub's own cache.

huggingface_hub downloads, resumes, locks and caches (``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``), but takes a damaged
file of the right size for a good one. Every file is therefore hashed at every use and compared with the digest under
which the cache keeps it: sha256 for large files, git's own for small ones. huggingface_hub is imported when first
needed.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from videozoo.errors import DigestMismatch, FetchError, InvalidArgument, NoSource
from videozoo.files import digest_problem, sha256_file

PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at a revision."""

    name: str
    """``org/name``."""
    revision: str
    """A branch, a tag or a commit."""

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}@{self.revision}"


def parse_repository(text: str) -> Repository:
    """What ``hf-hub:org/name@revision`` means; without a revision, the branch ``main``.

    Raises:
        InvalidArgument: it is not of this form.

    >>> parse_repository("hf-hub:lab/csn@v1")
    Repository(name='lab/csn', revision='v1')
    """
    name, at, revision = text.removeprefix(PREFIX).partition("@")
    check_repository_name(name)
    if at and (".." in revision or not _REVISION.fullmatch(revision)):
        raise InvalidArgument(f"{text[:200]!r}: after @ stands a branch, a tag or a commit of the repository")
    return Repository(name, revision or "main")


def check_repository_name(name: str) -> None:
    """Refuse what cannot be a repository.

    Raises:
        InvalidArgument: ``name`` is not of the form ``org/name``.
    """
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise InvalidArgument(
            f"{name[:200]!r} is no repository: give it as org/name, of letters, digits, '-', '_', '.'"
        )


def fetch_file(repository: Repository, name: str, *, max_bytes: int | None = None) -> Path:
    """One file of a repository, from huggingface_hub's cache or downloaded into it, hashed and found right.

    Offline (``VIDEOZOO_OFFLINE``, ``HF_HUB_OFFLINE``) only the cache is looked at. A damaged file is fetched once more.

    Args:
        repository: from `parse_repository`.
        name: path within the repository, such as ``config.json``.
        max_bytes: refuse a larger file before it is downloaded.

    Raises:
        NoSource: it is not in the cache, and offline.
        DigestMismatch: the bytes are not those that the repository names.
        FetchError: no such repository, revision or file; the host cannot be reached; the file is too large.
    """
    if not all(part not in ("", ".", "..") for part in name.split("/")) or "\\" in name:
        raise InvalidArgument(f"{name[:200]!r} is no path within a repository")
    if max_bytes is not None:
        _refuse_large(repository, name, max_bytes)
    path = _download(repository, name, force=False)
    problem = _problem(path)
    if problem is not None and not is_offline():
        path = _download(repository, name, force=True)
        problem = _problem(path)
    if problem is not None:
        raise DigestMismatch(f"{repository}: {name} is damaged: {problem}; delete {path.resolve()} and fetch it again")
    return path


def pinned(repository: Repository, file: Path) -> Repository:
    """The repository at the very commit that ``file``, the answer of `fetch_file`, came from."""
    for folder in file.parents:
        if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
            return replace(repository, revision=folder.name)
    return repository


def is_offline() -> bool:
    """Whether ``VIDEOZOO_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids every connection, as the environment is now."""
    names = ("VIDEOZOO_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() not in {"", "0", "false", "no", "off"} for name in names)


def explain(error: Exception, what: str) -> FetchError:
    """One line for whatever huggingface_hub raised, and what to do about it.

    Args:
        error: the exception.
        what: the repository with its revision, and the file.
    """
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        reason = "access is granted on its page only; ask for it there, then run `hf auth login` or set HF_TOKEN"
    elif isinstance(error, errors.RepositoryNotFoundError):
        reason = "no such repository, or a private one: check the name, or run `hf auth login` or set HF_TOKEN"
    elif isinstance(error, errors.RevisionNotFoundError):
        reason = "the repository has no such revision: give one of its branches, tags or commits after @"
    elif isinstance(error, errors.OfflineModeIsEnabled) or is_offline():
        return NoSource(
            f"{what}: not in the cache, and VIDEOZOO_OFFLINE or HF_HUB_OFFLINE forbids a download; "
            "unset it once to fill the cache"
        )
    elif isinstance(error, errors.LocalEntryNotFoundError):
        reason = "not in the cache, and the host cannot be reached: check the connection, or HF_ENDPOINT"
    elif isinstance(error, errors.EntryNotFoundError):
        reason = "the repository has no such file at this revision: look at its page, or give another revision after @"
    elif status in (401, 403):
        reason = f"refused with HTTP {status}: run `hf auth login` or set HF_TOKEN to a token that may do this"
    elif status is not None:
        reason = f"the host answered HTTP {status}; try again later"
    else:
        found = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        reason = f"{found}; check the connection, HF_ENDPOINT, and that HF_HOME can be written"
    return FetchError(f"{what}: {reason}")


def _refuse_large(repository: Repository, name: str, max_bytes: int) -> None:
    from huggingface_hub import hf_hub_download

    try:
        known = hf_hub_download(
            repository.name, name, revision=repository.revision, local_files_only=is_offline(), dry_run=True
        )
    except Exception as error:
        raise explain(error, f"{repository}: {name}") from error
    if known.file_size is not None and known.file_size > max_bytes:
        raise FetchError(
            f"{repository}: {name} has {known.file_size} bytes, and at most {max_bytes} are read; "
            "use another repository"
        )


def _download(repository: Repository, name: str, *, force: bool) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            repository.name,
            name,
            revision=repository.revision,
            local_files_only=is_offline(),
            force_download=force,
            library_name="videozoo",
        )
    except Exception as error:  # its own errors, its HTTP client's, the system's: they differ between its versions
        raise explain(error, f"{repository}: {name}") from error
    return Path(path)


def _problem(path: Path) -> str | None:
    """Why a file of the cache is not what its blob's name says; None if it is, or where nothing is said."""
    blob = path.resolve()
    try:
        if re.fullmatch(r"[0-9a-f]{64}", blob.name):
            return digest_problem(sha256_file(blob), blob.name)
        if re.fullmatch(r"[0-9a-f]{40}", blob.name):
            content = blob.read_bytes()
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            return None if digest == blob.name else f"its git digest is {digest}, not {blob.name}"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None
