"""What values leave open: for a finding, what would have given the same bytes, and what decided."""

from __future__ import annotations

from typing import Final, NamedTuple

ANY_ORDER: Final = "any order of their elements"
"""Said of tensors that hold one value throughout."""

BY_MODULE: Final = "the module that its other tensors are in"
"""The reason of a choice that rests on another one."""

BY_PLAINNESS: Final = "being the plainest"
"""The reason of a choice among operations."""


class Choice(NamedTuple):
    """Other findings that would give the same values as the one that was chosen.

    Args:
        sources: Other tensors that could be what the target is made of.
        targets: Other tensors that the source could give.
        operations: Other operations, as text.
        by: What decided.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    by: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there is anything else that fits."""
        return bool(self.sources or self.targets or self.operations)
