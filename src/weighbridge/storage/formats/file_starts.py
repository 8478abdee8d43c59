"""What a file is that is not what its name says, told by its first bytes: most often a download that went wrong."""

from __future__ import annotations

from typing import Final, NamedTuple


class Start(NamedTuple):
    """What a file begins like.

    Args:
        what: The kind of file, with its article.
        hint: What to do about it.
    """

    what: str
    hint: str


_PAGE: Final = Start("a web page", "the download was answered with a page instead of the file: fetch it again")
_STARTS: Final[dict[bytes, Start]] = {
    b"version ": Start("a Git LFS pointer", "it only names the file: fetch the file itself with `git lfs pull`"),
    b"<!DOCTYP": _PAGE,
    b"<!doctyp": _PAGE,
    b"<html": _PAGE,
    b"GGUF": Start("a GGUF file", "weighbridge does not read GGUF: take the safetensors files of the model"),
    b"PK\x03\x04": Start("a zip archive", "if it is a torch file, its name ends in .bin, .pt or .pth"),
    b'{"': Start("JSON", "if it is an index or an inventory, its name ends in .json"),
}
"""By the first bytes, of which a safetensors reader has eight."""


def name_start(head: bytes) -> Start | None:
    """Return what a file begins like, where that is no format of a checkpoint of its name.

    Args:
        head: The file's first bytes, eight or more.

    Examples:
        >>> name_start(b"version https://git-lfs.github.com/spec/v1").what
        'a Git LFS pointer'
    """
    return next((start for magic, start in _STARTS.items() if head.startswith(magic)), None)
