"""Which names somebody has put a mapping under; known without reading any mapping."""

from __future__ import annotations

from functools import cache
from typing import Final

ENTRY_POINT_GROUP: Final = "weighbridge.mappings"
"""Group of the entry points by which other packages ship mappings: each names a `Mapping`, or a function giving one."""

REGISTERED: Final[set[str]] = set()
"""Each name under which somebody put a mapping, an alias or a provider into the default registry of this process."""


@cache
def shipped_names() -> frozenset[str]:
    """Names that installed packages ship; read once, since that opens a file for each package."""
    from importlib.metadata import entry_points  # it loads an e-mail parser, which is slow

    return frozenset(entry_points(group=ENTRY_POINT_GROUP).names)
