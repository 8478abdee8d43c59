"""Equal tensors: several are made of one, or several that must be equal become one.

To lower either of them, a converter's operations run in several rounds. `Repeat` joins what as many rounds give, each
of which reads the sources anew; after `MergeEqual` each round goes on with one of the tensors that must be equal, and
what the rounds come to must be the same. So each round moves every element that it reads exactly once, and a round
trip is one, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from weighbridge.base.errors import LayoutError
from weighbridge.operations.parts import check_parts, into_targets, target_counts
from weighbridge.operations.values import Arguments, Context, Lane, Value, arity_error, brief, common_dtype, single

Lanes = tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Repeat(Arguments):
    """Make several equal tensors of each one: each takes its fate as `shared`.

    Args:
        times: How many of each tensor, side by side: `a, b` becomes `a, a, b, b`. If it is left out, there is one
            tensor, and each target gets it.

    Examples:
        >>> Repeat(2).inverse()
        MergeEqual(times=2)
    """

    times: int | None = None

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        _check_times(self)

    def lower(self, lanes: Lanes, context: Context) -> Lanes:
        """Repeat each value, which is read again for each time."""
        return self.join([lanes] * self.count(context), context)

    def count(self, context: Context) -> int:
        """Return how many tensors are made of one.

        Raises:
            LayoutError: `operation-argument` where neither the operation nor a target says it.
        """
        if self.times is not None:
            return self.times
        try:
            return sum(target_counts(context))
        except LayoutError as problem:
            hint = f"say how often: {type(self).__name__}(times=...)"
            raise problem.with_context(hint=hint) from None

    def join(self, rounds: Sequence[Lanes], context: Context) -> Lanes:
        """Put the equal values of several rounds side by side."""
        if self.times is None:
            values = [single(lanes)[1] for lanes in rounds]
            return into_targets(values, target_counts(context), context)
        alike = list(zip(*rounds, strict=True))
        if not context.takes_list and not any(lane.indexed for lane in rounds[0]):
            return tuple(lane for lanes in alike for lane in lanes)
        return tuple(
            Lane(lanes[0].name, tuple(value for same in zip(*(lane.values for lane in lanes), strict=True)
                                      for value in same), indexed=True)
            for lanes in alike
        )  # fmt: skip

    def inverse(self) -> MergeEqual:
        """Return the operation that makes one tensor of the equal ones."""
        return MergeEqual(self.times)


@dataclass(frozen=True, slots=True)
class MergeEqual(Arguments):
    """Make one tensor of several that must be equal, bit for bit: their fate is `checked`.

    They are compared before anything is written, and what differs is an error.

    Args:
        times: How many become one, those that lie side by side: `a, a, b, b` becomes `a, b`. All of them, if it is
            left out.

    Examples:
        >>> from weighbridge.algebra.layout import Layout
        >>> pair = tuple(Lane(name, (Value(Layout.of(i, (2, 3)), "F32"),)) for i, name in enumerate("ab"))
        >>> print(*MergeEqual().lower(pair, Context()))
        a: F32 [2, 3]
    """

    times: int | None = None

    def __post_init__(self) -> None:
        Arguments.__post_init__(self)
        _check_times(self)

    def lower(self, lanes: Lanes, context: Context) -> Lanes:
        """Keep the first of the values that must be equal."""
        return self.part(lanes, context)[0]

    def part(self, lanes: Lanes, context: Context) -> list[Lanes]:
        """Return for each of the values that must be equal the lanes that have that one."""
        if self.times is None:
            values = [value for lane in lanes for value in lane.values]
            _check_alike(values)
            return [(Lane(lanes[0].name, (value,)),) for value in values]
        if lanes and all(lane.indexed for lane in lanes):
            return self._part_lists(lanes, self.times, context)
        if not lanes or len(lanes) % self.times or any(lane.indexed for lane in lanes):
            raise arity_error(f"{self.times} for each one", lanes)
        for at in range(0, len(lanes), self.times):
            _check_alike([value for lane in lanes[at : at + self.times] for value in lane.values])
        return [lanes[number :: self.times] for number in range(self.times)]

    def _part_lists(self, lanes: Lanes, times: int, context: Context) -> list[Lanes]:
        for lane in lanes:
            count = len(lane.values)
            if not count or count % times or (count > times and not context.takes_list):
                raise arity_error(f"{times} for each one", lanes)
            for at in range(0, count, times):
                _check_alike(lane.values[at : at + times])
        return [
            tuple(replace(lane, values=lane.values[number::times], indexed=context.takes_list) for lane in lanes)
            for number in range(times)
        ]

    def inverse(self) -> Repeat:
        """Return the operation that makes the equal tensors again."""
        return Repeat(self.times)


def _check_times(operation: Repeat | MergeEqual) -> None:
    if operation.times is not None and operation.times < 2:
        raise LayoutError(
            "operation-argument",
            f"{type(operation).__name__} is for several equal tensors",
            expected="a whole number above 1",
            got=brief(operation.times),
        )
    check_parts(operation.times or 0)


def _check_alike(values: Sequence[Value]) -> None:
    """Refuse values that cannot be equal, whatever they hold."""
    common_dtype(values)
    shapes = list(dict.fromkeys(value.shape for value in values))
    if len(shapes) > 1:
        got = ", ".join(str(list(shape)) for shape in shapes)
        raise LayoutError("shape-mismatch", "tensors that must be equal differ in shape", expected="one", got=got)
