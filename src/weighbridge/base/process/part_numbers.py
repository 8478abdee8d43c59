"""Which part of a run a process is: said by whoever starts it, or by what the launcher of its job has set for it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from weighbridge.base.errors import WeighbridgeError

LAUNCHERS: Final = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
)
"""The variables in which torchrun, Open MPI, other MPIs, `srun` and a Slurm array say the number and the count."""

_TEXT: Final = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


class PartNumber(NamedTuple):
    """One of the processes that share a run.

    Args:
        number: Its number, from 0, as ranks are numbered.
        parts: How many there are.
    """

    number: int
    parts: int

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


def read_part(given: object, environment: Mapping[str, str] = os.environ) -> PartNumber:
    """Read which part a process is.

    Args:
        given: A pair of number and count, the same as text, or `auto` for what the launcher says.
        environment: Where the launcher has said it.

    Raises:
        WeighbridgeError: `usage`.

    Examples:
        >>> read_part((3, 16)), read_part("0/2"), str(read_part("auto", {"RANK": "1", "WORLD_SIZE": "4"}))
        (PartNumber(number=3, parts=16), PartNumber(number=0, parts=2), '1/4')
    """
    if given == "auto":
        return _from_launcher(environment)
    match = _TEXT.fullmatch(given) if isinstance(given, str) else None
    pair = tuple(map(int, match.groups())) if match else given
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(type(number) is int for number in pair)
    if not is_pair:
        expected = 'auto, or number and count, such as 3/16 (part="3/16", part=(3, 16))'
        raise WeighbridgeError("usage", "this is no part of a run", expected=expected, got=repr(given)[:80])
    assert isinstance(pair, tuple | list)
    part = PartNumber(*pair)
    if not 0 <= part.number < part.parts:
        some = f"0/{part.parts} to {part.parts - 1}/{part.parts}" if part.parts > 0 else "at least one part"
        raise WeighbridgeError(
            "usage", "there is no part of this number", expected=f"{some}: numbers begin at 0", got=str(part)
        )
    return part


def _from_launcher(environment: Mapping[str, str]) -> PartNumber:
    """Return what a launcher has set; several that say the same are one."""
    said = {names: tuple(environment[name] for name in names if name in environment) for names in LAUNCHERS}
    whole = {names: values for names, values in said.items() if len(values) == 2}
    found = {names: _read_pair(names, values) for names, values in whole.items()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    if found:
        got = "; ".join(f"{names[0]}/{names[1]} = {part}" for names, part in found.items())
        hint = "\n".join(f"--part ${names[0]}/${names[1]}, if that is what is meant" for names in found)
        raise WeighbridgeError("usage", "launchers say different things of this process", got=got, hint=hint)
    half = [f"{name} alone" for names in LAUNCHERS for name in names if name in environment]
    raise WeighbridgeError(
        "usage",
        "no launcher says which part this process is",
        expected="; ".join(f"{number} and {count}" for number, count in LAUNCHERS),
        got=", ".join(half) or "none of them",
        hint="give number and count: --part 3/16 (part=(3, 16))",
    )


def _read_pair(names: tuple[str, str], values: tuple[str, ...]) -> PartNumber:
    try:
        return read_part("/".join(values))
    except WeighbridgeError as problem:
        raise problem.with_context(where=" and ".join(names)) from None
