"""Files beside the weights that a conversion writes anew, such as a configuration that has the new names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from weighbridge.base.file_names import check_new_name
from weighbridge.base.forms.json_forms import items, text
from weighbridge.base.hashes import sha256_of
from weighbridge.storage.places.directory import Extra


class FileChange(NamedTuple):
    """A file beside the weights, with its text before and after; where there is no text, there is no file.

    Args:
        name: Its name in the directory.
        before: What the source holds.
        after: What is written.
    """

    name: str
    before: str
    after: str

    def inverse(self) -> FileChange:
        """Return the change back."""
        return FileChange(self.name, self.after, self.before)

    @property
    def written(self) -> bytes:
        """What is written."""
        return self.after.encode("utf-8")

    @property
    def extra(self) -> Extra:
        """The file as it is to be written."""
        return Extra(self.name, Path(self.name), self.written)

    def to_list(self) -> list[str]:
        """Return the form that a receipt holds: the name, the text before, and the SHA-256 of what was written."""
        return [self.name, self.before, sha256_of(self.written)]


class RecordedChange(NamedTuple):
    """What a receipt says of a file that was written anew: its name, the text before, and the digest of the new one."""

    name: str
    before: str
    sha256: str

    @staticmethod
    def from_form(form: object) -> RecordedChange:
        """Read the form that `FileChange.to_list` gives.

        Raises:
            CheckpointError: `path-unsafe` for a name that is no new file's.
        """
        name, before, sha256 = map(text, items(form, 3))
        check_new_name(name, "a file that was changed")
        return RecordedChange(name, before, sha256)

    def undo(self, now: str) -> FileChange:
        """Return the change back, from what the file holds now."""
        return FileChange(self.name, now, self.before)

    def is_as_written(self, now: str) -> bool:
        """Tell whether a file still holds what was written."""
        return sha256_of(now.encode("utf-8")) == self.sha256
