"""Find copies that together are one transpose: what a file holds in pieces, and a target as one."""

from __future__ import annotations

from collections.abc import Sequence

from weighbridge.algebra.copies import Copy, sort_by_target


def stitched(copies: Sequence[Copy], most_numel: int) -> tuple[list[tuple[Copy, ...]], list[Copy]]:
    """Find transposes whose columns lie side by side and fill whole rows of the target: each group is one transpose.

    Args:
        copies: Copies of one output, all of its dtype, each of a source of its own.
        most_numel: The most elements of a group.

    Returns:
        The groups, and the copies that are in none.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> halves = [Copy(k, 0, 3 * k, (Loop(5, 1, 6), Loop(3, 5, 1))) for k in range(2)]
        >>> groups, left = stitched(halves, 100)
        >>> len(groups), left
        (1, [])
    """
    groups, left = [], []
    open_group: list[Copy] = []
    for copy in sort_by_target(copies):
        if not is_of_rows(copy):
            left.append(copy)
            continue
        if open_group and not _continues(open_group[-1], copy):
            left += open_group
            open_group = []
        open_group.append(copy)
        rows = sum(one.loops[1].size for one in open_group)
        if rows >= copy.loops[0].target_stride or rows * copy.loops[0].size > most_numel:
            whole = rows == copy.loops[0].target_stride and rows * copy.loops[0].size <= most_numel
            if whole and len(open_group) > 1:
                groups.append(tuple(open_group))
            else:
                left += open_group
            open_group = []
    return groups, left + open_group


def _continues(first: Copy, second: Copy) -> bool:
    return first.loops[0] == second.loops[0] and first.target_start + first.loops[1].size == second.target_start


def is_of_rows(copy: Copy) -> bool:
    """Tell whether a copy reads whole rows, one after the other, and writes them as columns."""
    if len(copy.loops) != 2:
        return False
    column, row = copy.loops
    return row[1] == column.size and column[1] == row[2] == 1


def side_by_side(copies: Sequence[Copy], most_numel: int) -> tuple[list[tuple[Copy, ...]], list[Copy]]:
    """Find columns of one length that lie side by side in the target: each group of them is one transpose.

    Args:
        copies: Copies of one output, all of its dtype.
        most_numel: The most elements of a group.

    Returns:
        The groups, and the copies that are in none.

    Examples:
        >>> from weighbridge.algebra.copies import Loop
        >>> columns = [Copy(k, 0, k, (Loop(5, 1, 3),)) for k in range(3)]
        >>> [len(group) for group in side_by_side(columns, 100)[0]], side_by_side(columns[::2], 100)[0]
        ([3], [])
    """
    groups: list[list[Copy]] = []
    left: list[Copy] = []
    for copy in sort_by_target(copies):
        if len(copy.loops) != 1 or copy.loops[0].source_stride != 1:
            left.append(copy)
        elif groups and _is_next(groups[-1], copy) and (len(groups[-1]) + 1) * copy.numel <= most_numel:
            groups[-1].append(copy)
        else:
            groups.append([copy])
    left += [group[0] for group in groups if len(group) == 1]
    return [tuple(group) for group in groups if len(group) > 1], left


def _is_next(group: Sequence[Copy], copy: Copy) -> bool:
    return group[-1].loops == copy.loops and group[-1].target_start + 1 == copy.target_start
