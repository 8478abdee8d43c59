"""Say why a transform can be run in one direction only."""

from __future__ import annotations

from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.transforms import Transform, pairs
from weighbridge.pattern import is_one_way


def one_way_reason(transform: Transform) -> str:
    """Say why a transform has no inverse; empty for one that has.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> one_way_reason(WeightRenaming(["x.w1", "x.w2"], "y.w"))
        'several sources share one target'
    """
    try:
        transform.inverse()
    except WeighbridgeError as problem:
        reasons = (is_one_way(*pair) for pair in pairs(transform))
        return next((reason for reason in reasons if reason), problem.what.removeprefix("this rule has no inverse: "))
    return ""
