"""Weights that an adapter changes: the factors of each, where their elements lie, and how strong they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from weighbridge.base.specs import Shape, TensorSpec
from weighbridge.mappings.lora.peft_configs import RANK_MAJOR
from weighbridge.mappings.lora.ranks import Strength
from weighbridge.planning.factors.rectangles import IN, Matrix


class Factor(NamedTuple):
    """One factor as it lies in a file: its spec, and its strides in elements.

    Args:
        spec: Dtype and shape.
        member: From one expert to the next.
        unit: From one output to the next in B, from one input to the next in A.
        rank: From one of the ranks to the next.
    """

    spec: TensorSpec
    member: int
    unit: int
    rank: int

    @staticmethod
    def of(axis: int, dtype: str, matrix: Matrix, rank: int, packing: str = RANK_MAJOR) -> Factor:
        """Return the factor of a weight on one axis.

        Args:
            axis: `IN` for A, [experts * rank, in] with the experts one behind the other; `OUT` for B,
                [out, rank * experts], packed as it is said.
            dtype: Its dtype.
            matrix: The weight's shape.
            rank: The rank for each expert.
            packing: `RANK_MAJOR`, or the columns of one expert together: no difference with one expert, or one rank.

        Examples:
            >>> from weighbridge.planning.factors.rectangles import OUT
            >>> Factor.of(OUT, "F32", Matrix(3, 5, 7, is_turned=False), rank=2)
            Factor(spec=TensorSpec(dtype='F32', shape=(5, 6)), member=1, unit=6, rank=3)
        """
        size, experts = matrix.size(axis), matrix.members
        if axis == IN:
            shape: Shape = (experts * rank, size)
            return Factor(TensorSpec(dtype, shape), rank * size, 1, size)
        member, step = (1, experts) if packing == RANK_MAJOR else (rank, 1)
        return Factor(TensorSpec(dtype, (size, rank * experts)), member, rank * experts, step)


class Scalar(NamedTuple):
    """A tensor of one element that has been read: its name in the file, its spec, and its bytes."""

    key: str
    spec: TensorSpec
    element: bytes


@dataclass(frozen=True, slots=True)
class Adapted:
    """A weight with factors.

    Args:
        matrix: The weight's shape; of a convolution, the window belongs to the inputs.
        kind: ``linear``, ``conv``, ``embedding``, or ``parameter`` for what is no weight of a module of its own.
        keys: Names of the factors in the file: of B, and of A.
        factors: How these lie: B, and A.
        strength: Rank and alpha.
        rows: The tensors with an entry for each output, by what they are: ``bias`` of B, DoRA's ``magnitude``.
        window: The axes of a convolution behind its inputs.
        part: What the names of its tensors begin with, in a dialect that has several such beginnings.
        alpha: The tensor that says alpha, where there is one.
    """

    matrix: Matrix
    kind: str
    keys: tuple[str, str]
    factors: tuple[Factor, Factor]
    strength: Strength
    rows: Mapping[str, tuple[str, TensorSpec]] = field(default_factory=dict)
    window: Shape = ()
    part: str = ""
    alpha: Scalar | None = None

    @property
    def shape(self) -> Shape:
        """The weight's shape as it is stored."""
        members, rows, columns, _ = self.matrix
        if self.window:
            return (rows, columns // prod(self.window), *self.window)
        return (members, rows, columns) if members > 1 or self.kind == "parameter" else (rows, columns)
