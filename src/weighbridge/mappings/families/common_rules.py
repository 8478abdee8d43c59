"""What the families have in common: a table of names as one rename, and experts stacked into one tensor."""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

from weighbridge.mappings.transforms import GroupWeightRename, WeightConverter
from weighbridge.operations.groupings import Concatenate, MergeModulelist


def renames(table: MappingOf[str, str], if_wanted: bool = False) -> GroupWeightRename:
    """Return one simultaneous rename from a table of published and runtime patterns.

    Args:
        table: New patterns by old ones.
        if_wanted: Whether some classes of the family have kept the old names.

    Examples:
        >>> renames({"fc1": "mlp.fc1", "fc2": "mlp.fc2"}).target_patterns
        ('mlp.fc1', 'mlp.fc2')
    """
    return GroupWeightRename(table.keys(), table.values(), if_wanted=if_wanted)


def below(path: str, new_path: str, table: MappingOf[str, str]) -> dict[str, str]:
    """Put a path in front of both sides of a table of names.

    Examples:
        >>> below("encoder.layer.{i}", "layers.{i}", {"output.dense": "mlp.fc2"})
        {'encoder.layer.{i}.output.dense': 'layers.{i}.mlp.fc2'}
    """
    return {f"{path}.{source}": f"{new_path}.{target}" for source, target in table.items()}


def stacked_experts(experts: str, gate: str, up: str, down: str) -> tuple[WeightConverter, WeightConverter]:
    """Return the converters that stack the experts of a layer, with gate and up projection joined.

    Args:
        experts: Path of the list of experts, such as ``"mlp.experts"``.
        gate: Name of an expert's gate projection; its weight has the shape (inner, hidden).
        up: Name of the up projection, of the same shape.
        down: Name of the down projection, of the shape (hidden, inner).

    Returns:
        Converters to `gate_up_proj`, (experts, 2 * inner, hidden), and `down_proj`, (experts, hidden, inner).
    """
    return (
        WeightConverter(
            [f"{experts}.*.{gate}.weight", f"{experts}.*.{up}.weight"],
            f"{experts}.gate_up_proj",
            [MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(f"{experts}.*.{down}.weight", f"{experts}.down_proj", [MergeModulelist(dim=0)]),
    )
