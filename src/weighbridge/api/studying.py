"""Functions that study checkpoints: whether two are the same, how they differ, what one is, how it became another."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any, Final

from weighbridge.api.bound_plan import Plan
from weighbridge.api.configurations import config_of
from weighbridge.api.functions import plan
from weighbridge.api.opened_places import Place, open
from weighbridge.base.errors import WeighbridgeError
from weighbridge.mappings.finding import AnyMapping
from weighbridge.mappings.registry import default_registry

if TYPE_CHECKING:
    from weighbridge.studies.detection import Detection
    from weighbridge.studies.differences import Diff
    from weighbridge.studies.inference import Inferred
    from weighbridge.studies.verification import Verification

_ITS_RECEIPT: Final = object()
"""Stands for the other side where there is none; None is more likely a slip than a wish."""


def verify(first: Place, second: Place = _ITS_RECEIPT) -> Verification:
    """Compare two checkpoints exactly, tensor by tensor, in bounded memory; or an output with its own receipt.

    Args:
        first: A path, an opened checkpoint, a dict of tensors or a model. Alone, a directory that was written with
            ``digests=True``: every tensor's spec and SHA-256, and the files' headers, must be what its receipt says.
        second: As `first`.

    Returns:
        What differs, and where; true if nothing does.

    Raises:
        CheckpointError: As `open`; alone also `receipt-invalid`, `digests-missing`.
        WeighbridgeError: `usage` if what stands alone is no path.
    """
    from weighbridge.studies.verification import check_output, compare

    if second is not _ITS_RECEIPT:
        return compare(open(first), open(second))
    if not isinstance(first, str | PathLike):
        what, got = "only a directory has a receipt that it can be compared with", f"a {type(first).__name__}"
        raise WeighbridgeError("usage", what, got=got, hint="give two checkpoints to compare with each other")
    return check_output(first)


def diff(first: Place, second: Place, through: AnyMapping | None = None, **options: Any) -> Diff:
    """Say how the tensors of two checkpoints are related: equal, cast, transposed, permuted, or different by how much.

    Args:
        first: A path, an opened checkpoint, a dict of tensors or a model.
        second: As `first`.
        through: A mapping, a list of transforms, a registered name, or the path of a mapping file: the first side is
            what it makes of `first`, with `second` as the target. Nothing is written.
        options: As for `plan`, with `through`.

    Returns:
        The relation of every tensor; true if all are equal.

    Raises:
        PlanError, RegistryError: As `plan`, with `through`.
        CheckpointError: As `open`.
    """
    from weighbridge.studies.comparing import compare_sides
    from weighbridge.studies.contents import Held, Planned

    other = open(second)
    if through is None:
        return compare_sides(Held(open(first)), Held(other))
    made = plan(first, through, target=other.header, **{"allow_overflow": True, **options})
    return compare_sides(Planned(made, made.checkpoint()), Held(other))


def detect(place: Place, *, transformers: bool = False) -> Detection:
    """Say which known family of models a checkpoint belongs to, in which layout its names stand, and why.

    Args:
        place: A path, an opened checkpoint, a dict of tensors, a model or a `Header`; only names are looked at, and the
            `config.json` beside a checkpoint, if there is one.
        transformers: Also judge by the rules of the installed transformers library's own table, which is slow to load.

    Returns:
        The families that come into question, the likeliest first; true if one is known. Families whose names agree
        just as well are named as tied.

    Raises:
        CheckpointError: As `open`.
        RegistryError: `integration-version`, with `transformers`.
    """
    from weighbridge.studies.detection import detect as detect_family

    source, meant = open(place), default_registry.registered()
    others = {name: meant.find(name) for name in meant}
    if transformers:
        from weighbridge.mappings.transformers_table import registry

        table = registry()
        others = {name: table.find(name) for name in table} | others
    return detect_family(source.header, getattr(place, "config", None) or config_of(source, None), others=others)


def infer(first: Place, second: Place, name: str = "") -> Inferred:
    """Infer the mapping between two checkpoints of one model in two layouts by their contents, run it, and compare.

    Args:
        first: What the mapping is to read: a path, an opened checkpoint, a dict of tensors or a model.
        second: What it is to give, bit for bit: the same values in the other layout.
        name: The mapping's name.

    Returns:
        The mapping, its plan, what stays unexplained, what the values left open, and whether the way back holds.

    Raises:
        CheckpointError, PlanError: As `open`; `data-missing` without values, `target-missing` with none in common.
    """
    from weighbridge.studies.inference import infer_mapping

    source = open(first)
    found = infer_mapping(source, open(second), name)
    return replace(found, plan=Plan.bind(found.plan, source))
