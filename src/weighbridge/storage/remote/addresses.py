"""The addresses of what does not lie on this disk: `hf://`, `s3://`, `gs://`, `az://`, `https://`, and `file://`.

An address that is shown or recorded holds no secret: a user and a password before the host are taken out of it when it
is read, and one that carries a signature behind its path is refused: that would be needed with every range.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from weighbridge.base.errors import CheckpointError, WeighbridgeError
from weighbridge.base.file_names import INDEX_SUFFIX, SAFETENSORS_SUFFIX, TORCH_SUFFIXES, check_name

HUB: Final = "hf"
STORES: Final = ("s3", "gs", "az")
SERVERS: Final = ("https", "http")
LOCAL: Final = "file"
SCHEMES: Final = (HUB, *STORES, *SERVERS, LOCAL)

_SCHEME: Final = re.compile(rf"({'|'.join(SCHEMES)})://(?s:.*)")
_EATEN: Final = re.compile(rf"({'|'.join(SCHEMES)}):/([^/].*)")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES: Final = (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES, ".json", ".json.gz", ".gguf")


class Address(NamedTuple):
    """An address, split.

    Args:
        scheme: One of `SCHEMES`.
        text: The address without secrets and without a slash at its end.
        folder: The address of the folder: all of it, unless it ends in the name of a file.
        file_name: The name of a file that it ends in; empty for a folder.
        user: What stands before the host and is a secret, or a token for the hub; empty for none.
    """

    scheme: str
    text: str
    folder: str
    file_name: str
    user: str = ""


def is_address(place: object) -> bool:
    """Tell whether a place is given as an address, and not as a path.

    Examples:
        >>> is_address("s3://bucket/model"), is_address("model"), is_address("C://model")
        (True, False, False)
    """
    return isinstance(place, str) and _SCHEME.fullmatch(place) is not None


def is_elsewhere(place: object) -> bool:
    """Tell whether a place is given as an address of what does not lie on this disk."""
    return is_address(place) and not str(place).startswith(f"{LOCAL}://")


def local_path(text: str) -> Path:
    """Return the path that a `file://` address means.

    Raises:
        CheckpointError: `checkpoint-not-found` for one with a host.

    Examples:
        >>> local_path("file:///data/a%20model")
        PosixPath('/data/a model')
    """
    found = urlsplit(text)
    if found.netloc not in ("", "localhost") or not found.path.startswith("/"):
        expected = "three slashes and an absolute path, file:///data/model"
        raise CheckpointError("checkpoint-not-found", "this address names no file", where=text, expected=expected)
    return Path(unquote(found.path))


def path_or_address(place: str | os.PathLike[str]) -> Path | str:
    """Return the path of what lies on this disk, or the address of what does not.

    Raises:
        CheckpointError: `checkpoint-not-found` for a `file://` address with a host.

    Examples:
        >>> path_or_address("file:///data/model"), path_or_address("s3://bucket/model")
        (PosixPath('/data/model'), 's3://bucket/model')
    """
    text = os.fspath(place)
    if is_elsewhere(text):
        return text
    if is_address(text):
        return local_path(text)
    return Path(text).expanduser() if text.startswith("~/") else Path(text)


def read_address(text: str) -> Address:
    """Split an address of what lies elsewhere.

    Raises:
        CheckpointError: `path-unsafe` for one that leaves its own folder, `checkpoint-not-found` for one without a
            host, a bucket or a repository.
        WeighbridgeError: `usage` for one with a question mark: what stands behind it may be a signature.

    Examples:
        >>> read_address("https://me:secret@host.org/models/tiny/").text
        'https://host.org/models/tiny'
        >>> read_address("s3://bucket/tiny/model.safetensors")[2:4]
        ('s3://bucket/tiny', 'model.safetensors')
    """
    scheme, _, rest = text.partition("://")
    if scheme != HUB and ("?" in rest or "#" in rest):
        what, hint = "an address with a question mark, or a hash sign, is not read", _SIGNED_HINT
        raise WeighbridgeError("usage", what, where=f"{scheme}://{_without_user(rest)[1]}", hint=hint)
    user, rest = _without_user(rest) if scheme != HUB else ("", rest)
    host, _, path = rest.rstrip("/").partition("/")
    clean = f"{scheme}://{host}" + (f"/{path}" if path else "")
    if not host or host != host.strip() or "\0" in text:
        what, expected = "this address names no place", "hf://org/name, s3://bucket/prefix, https://host/path"
        raise CheckpointError("checkpoint-not-found", what, where=clean, expected=expected)
    if path:
        check_name(unquote(path), clean)
    last = path.rpartition("/")[2] if path else ""
    if last.endswith(_FILE_SUFFIXES) and (scheme != HUB or "/" in path):
        return Address(scheme, clean, clean[: -len(last) - 1], last, user)
    return Address(scheme, clean, clean, "", user)


_SIGNED_HINT: Final = (
    "name the file by its plain address, and let the client find credentials: see docs/remote.md;\n"
    "or fetch a signed address with another program, and open the file"
)


def _without_user(rest: str) -> tuple[str, str]:
    """Split what stands before the host from the rest, and leave out what stands behind a question mark."""
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    user, at, name = host.rpartition("@")
    return (user, name + slash + path) if at else ("", host + slash + path)


def hint_for_path(path: Path) -> str:
    """Return what to try where a path leads nowhere and looks like something else; empty for nothing.

    Examples:
        >>> hint_for_path(Path("org/name"))
        'hf://org/name is the repository of this name on the hub'
        >>> hint_for_path(Path("hf://org/name"))
        'give the address as text, not as a Path, which eats a slash: "hf://org/name"'
    """
    eaten = _EATEN.fullmatch(str(path))
    if eaten is not None:
        return f'give the address as text, not as a Path, which eats a slash: "{eaten[1]}://{eaten[2]}"'
    if _HUB_NAME.fullmatch(str(path)) and not str(path).endswith((*_FILE_SUFFIXES, INDEX_SUFFIX)):
        return f"hf://{path} is the repository of this name on the hub"
    return ""
