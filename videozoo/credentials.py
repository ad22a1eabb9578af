"""Who asks: the Hugging Face token, for its endpoint alone, and addresses without the passwords in them."""

from __future__ import annotations

import os

from videozoo.errors import FetchError


def huggingface_endpoint() -> str:
    """The host of Hugging Face repositories: ``HF_ENDPOINT``, or the public one; without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def authorization(url: str) -> dict[str, str]:
    """The header by which a private repository of the Hugging Face endpoint is read; none for any other address.

    The endpoint is ``HF_ENDPOINT``; the token is the one that huggingface_hub would send (``HF_TOKEN``, or that of
    ``hf auth login``), if any; ``HF_HUB_DISABLE_IMPLICIT_TOKEN`` keeps it here.

    Raises:
        FetchError: the token has to be renewed, and cannot be.

    >>> authorization("https://example.org/huggingface.co/lab/csn")
    {}
    """
    if not url.startswith(huggingface_endpoint() + "/"):
        return {}
    from huggingface_hub import constants, get_token

    try:
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    except Exception as error:  # of a login service, whose client may be any
        reason = (str(error).splitlines() or [""])[0][:300] or type(error).__name__
        raise FetchError(
            f"no Hugging Face token could be had: {reason}; run `hf auth login` or set HF_TOKEN"
        ) from error
    return {"Authorization": f"Bearer {token}"} if token else {}


def without_credentials(url: str) -> str:
    """A URL as it may be shown and recorded: ``user:password@`` left out.

    >>> without_credentials("https://user:secret@host/a@b")
    'https://host/a@b'
    """
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}" if separator else url
