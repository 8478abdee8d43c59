"""Quantised weights and what belongs to them: codes are no numbers, and mean nothing without their scales.

Until a rule can take a weight's scales along, it may rename the whole group, and nothing else. Whoever joins, cuts,
turns or casts the codes, or leaves a scale behind under its old name, would get other weights than were published.

The names are those that the formats' own writers give: FP8 of DeepSeek and Qwen, compressed-tensors, ModelOpt, GPTQ and
AWQ, bitsandbytes, torchao, HQQ, AQLM, MLX, and the MXFP4 of gpt-oss.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from weighbridge.base.errors import PlanError
from weighbridge.base.specs import DTYPES, Header
from weighbridge.planning.program import Program
from weighbridge.planning.steps import Fated, Step

_BESIDE: Final = (
    r"\.weight_(?:scale(?:_inv|_2)?|global_scale|zero_point|packed|shape|g_idx|format)",
    r"\.weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.[^.]+)",
    r"\.(?:qweight|qzeros|scales|biases|g_idx|scale|zero|SCB|W_q|codes|codebooks|qscale_weight|pre_quant_scale)",
    r"\.(?:input_scale|input_global_scale|activation_scale|qscale_act)",
    r"\._weight_(?:qdata|scale|zero_point|scale_and_zero)",
    r"_(?:blocks|scales|scale_inv|scale)",
)
_COMPANION: Final = re.compile(rf"(?P<stem>.+?)(?:{'|'.join(_BESIDE)})")
_MAIN: Final = (".weight", "")


class Group(NamedTuple):
    """The tensors of one quantised weight: what their names have in common, and the names."""

    stem: str
    keys: tuple[str, ...]


def find_groups(header: Header) -> list[Group]:
    """Find the quantised weights of a checkpoint by their names and dtypes.

    A group has a tensor of codes, which are integers, packed, or floats of 8 bits at most, and something beside it.

    Examples:
        >>> from weighbridge.base.specs import TensorSpec
        >>> specs = {"q.weight": ("F8_E4M3", (4, 4)), "q.weight_scale_inv": ("F32", (1, 1)), "n.weight": ("F32", (4,))}
        >>> find_groups(Header({key: TensorSpec(*spec) for key, spec in specs.items()}))
        [Group(stem='q', keys=('q.weight', 'q.weight_scale_inv'))]
    """
    if not any(_holds_codes(dtype) for dtype in {spec.dtype for spec in header.values()}):
        return []
    beside: dict[str, list[str]] = {}
    for key in header:
        found = _COMPANION.fullmatch(key)
        if found is not None:
            beside.setdefault(found["stem"], []).append(key)
    groups = []
    for stem, keys in beside.items():
        keys += [name for tail in _MAIN if (name := stem + tail) in header.specs]
        if len(keys) > 1 and any(_holds_codes(header[key].dtype) for key in keys):
            groups.append(Group(stem, tuple(sorted(keys))))
    return groups


def _holds_codes(dtype: str) -> bool:
    kind = DTYPES[dtype]
    return kind.kind not in ("bool", "complex") and (kind.kind != "float" or kind.bits <= 8)


def companion_faults(header: Header, steps: Sequence[Step], dropped: Iterable[Fated]) -> Iterator[PlanError]:
    """Yield an error for each quantised weight that is not moved as it is, together with all that belongs to it.

    Args:
        header: Specs of the checkpoint's tensors.
        steps: What becomes of them.
        dropped: Those that are left out.
    """
    groups = find_groups(header)
    if not groups:
        return
    left_out = {fated.key for fated in dropped}
    step_of = {key: step for step in steps for key in step.sources}
    for group in groups:
        ways = {key: _way(group, key, step_of.get(key), key in left_out) for key in group.keys}
        if len(set(ways.values())) > 1 or None in ways.values():
            yield _apart(group, ways, step_of)


def _way(group: Group, key: str, step: Step | None, is_left_out: bool) -> str | None:
    """Say what the group is called afterwards, by one of its tensors; None for a tensor that is not moved as it is."""
    if step is None:
        return "" if is_left_out else "?"
    if len(step.targets) != 1 or step.program != Program.identity(step.program.sources[0]):
        return None
    tail = key.removeprefix(group.stem)
    name = step.targets[0]
    return name.removesuffix(tail) if name.endswith(tail) else None


def _apart(group: Group, ways: dict[str, str | None], step_of: dict[str, Step]) -> PlanError:
    moved = [key for key, way in ways.items() if way is None]
    first = sorted(group.keys, key=lambda key: key not in moved)[:4]
    return PlanError(
        "companion-unknown",
        "the codes of a quantised weight are not moved as they are, together with what belongs to them",
        where=group.stem,
        expected=f"one new name for {', '.join(key.removeprefix(group.stem) for key in group.keys[:6])}, and no cast",
        got="\n".join(_line(key, step_of.get(key)) for key in first),
        hint="rename the whole module, or dequantise the checkpoint with the library that wrote it, and convert that",
    )


def _line(key: str, step: Step | None) -> str:
    if step is None:
        return f"{key}: left out"
    cast = "".join(f", cast to {after}" for _, after in step.program.casts)
    return f"{key} -> {', '.join(step.targets[:2])}{cast}"
