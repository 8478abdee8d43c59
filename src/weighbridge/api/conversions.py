"""What the receipt beside a checkpoint says of the mapping that it is to be planned with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from weighbridge.base.errors import WeighbridgeError
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.wrapped_names import own_rules

if TYPE_CHECKING:
    from weighbridge.planning.plan import Plan
    from weighbridge.storage import Checkpoint


def find_conversion(source: Checkpoint, mapping: Mapping) -> Plan | None:
    """Return the plan that made a checkpoint by this very mapping, or by the one that this is the inverse of.

    A receipt proves the layout that a checkpoint is in, which its names and shapes may leave open.

    Args:
        source: The opened checkpoint.
        mapping: What it is to be planned with.

    Returns:
        The recorded plan; None where there is no receipt, where it names other rules, and where the checkpoint was made
        by their recorded way back, which leads to the layout that the rules read.
    """
    rules = (mapping.forward or mapping).transforms
    place = Path(source.where)
    if not rules or source.files is None or not _has_receipt(place):
        return None
    from weighbridge.running.receipt import read_receipt, read_recorded_mapping

    try:
        named = Mapping.from_dict(read_recorded_mapping(place))
        if (own_rules(named) if mapping.forward is None else named.transforms) != rules:
            return None  # most receipts are of something else, and proving one takes longer than planning
        recorded = read_receipt(place).plan
    except WeighbridgeError:
        return None
    known = recorded.is_back is not True if mapping.forward is not None else recorded.is_back is False
    return recorded if known and recorded.reading.startswith("mapped") else None


def _has_receipt(place: Path) -> bool:
    folder = place if place.is_dir() else place.parent
    return (folder / RECEIPT_NAME).is_file()
