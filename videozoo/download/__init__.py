"""URLs -> one verified file.

The first URL that gives the right bytes wins. What arrives stands as ``<file>.part`` beside the target while it is
hashed, and gets the final name only when the digest is right. A body that ends early is taken up again by Range,
within the call and, where the server gave a strong ETag (kept with the URL in ``<file>.part.json``), in a later one;
without one no unfinished file outlives the call. TLS is always verified; proxies, ``NO_PROXY`` and
``REQUESTS_CA_BUNDLE`` are honoured; a redirect never leaves https and never carries credentials along.

    limits     how long, how often, how much
    session    one GET, and whom it may ask
    part       what has arrived, and the record that makes it resumable
    transfer   one URL, asked again until its file is whole
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videozoo.credentials import without_credentials
from videozoo.download.part import PART, Part
from videozoo.download.session import new_session
from videozoo.download.transfer import Downloaded, Transfer
from videozoo.errors import DigestMismatch, FetchError, OutputError
from videozoo.files import place, refuse_unfit

__all__ = ["PART", "Downloaded", "download", "without_credentials"]


def download(
    urls: Sequence[str], target: Path, *, digest: str | None, size_bytes: int | None, what: str, progress: bool
) -> Downloaded:
    """Place the file that one of ``urls`` gives at ``target``; they are tried in order.

    Only one caller at a time may download to one ``target``.

    Args:
        urls: https only, except for hosts that are this machine itself.
        target: the final name, in an existing folder; when all URLs fail nothing is left there, and beside it at most
            what a later call can resume.
        digest: 64 hexadecimal digits of the sha256, or its first 8; None to take what comes, which only a user who said
            so may have.
        size_bytes: of the file, where it is known.
        what: whose file it is, for messages.
        progress: whether to draw a bar on stderr if that is a terminal.

    Raises:
        DigestMismatch: every URL answered, each with other bytes.
        FetchError: no URL gave the file; the message has each one's reason.
        OutputError: ``target`` cannot be written.
    """
    refuse_unfit(target, overwrite=True)
    reasons: list[str] = []
    only_digests = True
    part = Part(target)
    try:
        with new_session() as session:
            for url in urls:
                transfer = Transfer(session, url, part, digest, size_bytes, target.name if progress else None)
                try:
                    found = transfer.run()
                except FetchError as error:
                    reasons.append(f"{without_credentials(url)}: {error}")
                    only_digests &= isinstance(error, DigestMismatch)
                    continue
                place(target, part.move, overwrite=True)
                return found
    except OSError as error:  # of the disk: those of the network are FetchErrors
        part.remove()
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.tidy()
    kind = DigestMismatch if reasons and only_digests else FetchError
    raise kind(
        f"{what} could not be downloaded: {'; '.join(reasons) or 'no URL is known'}; a file that you have can be put "
        "into a folder that VIDEOZOO_WEIGHTS_DIR names (under its published name, and with --trust-first-use, where no "
        "digest is known), or be passed as checkpoint_path="
    )
