"""Take out of texts what an address may hold and nobody may see: a user before the host, and what follows a `?`."""

from __future__ import annotations

import re
from typing import Final

_USER: Final = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY: Final = re.compile(r"((?:https?|s3|gs|az)://[^\s?#'\"]*)[?#][^\s'\"]*")


def without_secrets(text: str) -> str:
    """Return a text with its addresses as they may be shown; any other text as it is.

    Examples:
        >>> without_secrets("weighbridge plan https://me:secret@host.org/tiny?X-Signature=secret fix.yaml")
        'weighbridge plan https://host.org/tiny?… fix.yaml'
        >>> without_secrets("hf://org/name@main")
        'hf://org/name@main'
    """
    return _QUERY.sub(r"\1?…", _USER.sub("", text)) if "://" in text else text
