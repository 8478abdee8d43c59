"""Every error that weighbridge raises, with its code.

    WeighbridgeError
    ├── PatternError      ValueError     a key pattern cannot be read, or cannot be inverted
    ├── LayoutError       ValueError     an operation does not fit the shapes it is given
    ├── MappingError      ValueError     a mapping or a transform is wrong in itself
    ├── RegistryError     LookupError    a mapping's name is unknown, or taken
    ├── PlanError         ValueError     a mapping does not fit a checkpoint and a target
    ├── CheckpointError   ValueError     a source is damaged, unsafe or not a checkpoint
    ├── DestinationError  ValueError     an output cannot be written where it was asked for
    └── VerifyError       ValueError     bytes differ from what they must be

An error has a code from the closed set `CODES` and up to four lines under its headline: what was expected, what was
found, which rule is the cause, and what to try. Codes are stable; the words around them are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from weighbridge.base.secrets_of_addresses import without_secrets

CODES: Final[dict[str, str]] = {
    # patterns
    "pattern-syntax": "a key pattern cannot be read",
    "pattern-reference": "a pattern refers to a capture that its other side does not have",
    "pattern-costly": "matching a pattern against a key could take very long",
    "pattern-one-way": "the inverse of a pattern was asked for, and it has none",
    # layout algebra and operations
    "shape-mismatch": "an operation does not fit the shape of its tensor",
    "axis-out-of-range": "an axis, or an interval on it, lies outside the tensor",
    "split-unequal": "a tensor cannot be divided into the parts that were asked for",
    "operation-arity": "an operation was given, or must give, another number of tensors",
    "operation-argument": "an argument of an operation is not valid",
    "operation-config": "an operation needs a value of the model's configuration that is not there",
    "operation-one-way": "the inverse of an operation was asked for, and it has none",
    "layout-coverage": "elements of a tensor are written or read twice, or not at all",
    "layout-fragmented": "a tensor falls into more strided copies than can be handled",
    # mappings and the registry
    "mapping-invalid": "a transform or a mapping is wrong in itself",
    "mapping-duplicate-rule": "the same rule stands twice in one scope",
    "mapping-not-found": "no mapping is registered under this name",
    "mapping-exists": "a mapping is already registered under this name",
    "mapping-file": "a file does not hold the mapping that it was asked for",
    # plans
    "plan-failed": "a mapping does not fit a checkpoint and a target; all problems are listed",
    "plan-format": "a plan's JSON form cannot be read",
    "rule-overlap": "two rules claim the same key",
    "target-collision": "two sources land on one target",
    "target-missing": "nothing fills a target tensor",
    "source-unplaced": "a source tensor has no place in the target",
    "group-incomplete": "a group of tensors lacks members",
    "group-extra": "a group of tensors has members that the target has no room for",
    "group-duplicate": "two sources claim one place in a group",
    "index-out-of-range": "a rule cannot count or move an index of a key",
    "spec-mismatch": "a tensor's shape is not the target's",
    "dtype-mismatch": "tensors of different dtypes cannot become one tensor",
    "cast-overflow": "a value lies beyond the range of the dtype that it is cast to",
    "companion-unknown": "a quantised weight would be cast, or moved apart from what belongs to it",
    "companion-missing": "a quantised weight lacks what others, or the target, have with theirs",
    "companion-misaligned": "a rule cuts, or joins, within a block of what belongs to a quantised weight",
    "companion-fixed": "a rule would move elements within what is stored as one",
    "companion-differs": "what belongs to quantised weights that are joined differs",
    "scheme-ambiguous": "a quantised weight may be stored in two ways",
    "scheme-conflict": "the configuration and the tensors do not agree on how weights are quantised",
    "names-mixed": "a configuration names some parts of what becomes one module",
    "names-unmapped": "what a configuration says of modules cannot be said of those that they become",
    "adapter-invalid": "the files of an adapter do not fit each other, or its base",
    "adapter-module": "the module that an adapter's names mean cannot be told",
    "adapter-packing": "nothing says in which order a factor of fused experts is packed",
    "adapter-inexact": "a mapping has no exact equivalent for an adapter",
    "layout-ambiguous": "a checkpoint can be read in more than one layout",
    "already-converted": "a checkpoint was made by the very mapping that it is to be converted with",
    "rule-unused": "a rule, or a declared exception, names no tensor",
    "inverse-lossy": "the exact inverse of a plan was asked for, and part of it is lost",
    "inverse-unproven": "a key of an inverted mapping does not come back to itself",
    "source-unbound": "a plan does not know where to read",
    "tie-differs": "tensors that must be equal differ",
    "sources-differ": "sources that are to become one target differ",
    "padding-differs": "what is to be cut off does not hold the value that is declared for it",
    "parts-unclear": "it cannot be told which part of a tensor a process holds",
    "parts-mismatch": "parts of tensors are not those of the plan that is to be cut to them",
    "budget-too-small": "the memory budget cannot hold the smallest unit of work",
    # sources
    "checkpoint-not-found": "there is no checkpoint at this place",
    "checkpoint-ambiguous": "a place holds more than one checkpoint",
    "checkpoint-partial": "a file holds one rank's piece of its tensors",
    "file-truncated": "a file ends before its contents do",
    "header-too-large": "a header's length is beyond the limit or beyond the file",
    "header-invalid": "a header is not what its format demands",
    "header-duplicate-key": "a header names something twice",
    "name-too-long": "a tensor's name is longer than any that is handled",
    "dtype-unknown": "a dtype is not one of the format's",
    "tensor-bounds": "a tensor's bytes overlap, leave holes, or do not match its shape",
    "tensor-unsupported": "a tensor has no dense memory of its own",
    "index-invalid": "a shard index is not what its format demands",
    "index-mismatch": "a shard index and its shards disagree",
    "path-unsafe": "a path leaves the checkpoint's directory",
    "dcp-unsafe": "a distributed checkpoint holds more than tensors and what describes them",
    "dcp-unsupported": "a distributed checkpoint keeps its tensors in a form that is not read",
    "dcp-invalid": "a distributed checkpoint is damaged, or its chunks are not those of whole tensors",
    "pickle-unsafe": "a pickle holds more than tensors",
    "pickle-invalid": "a torch file cannot be read",
    "inventory-invalid": "a header inventory is not what its format demands",
    "tensor-not-found": "a checkpoint has no tensor of this name",
    "data-missing": "a header alone holds no tensor data",
    "source-changed": "a source is not what it was when the plan was made",
    "receipt-invalid": "an output's receipt is missing or cannot be read",
    "digests-missing": "an output's receipt holds no digests to compare with",
    "read-failed": "reading a file failed",
    "remote-denied": "what lies elsewhere may not be read, or written, with the credentials that were found",
    "remote-no-ranges": "a server sends whole files, and no parts of them",
    "machine-unsupported": "this machine keeps the bytes of a number in another order than the files",
    # destinations
    "destination-exists": "the destination is already there",
    "destination-unsafe": "the destination is the source, or lies inside it",
    "destination-no-room": "the destination has too little free space",
    "destination-busy": "another run is writing to the destination",
    "destination-unfinished": "an earlier run into the destination was stopped before its end",
    "resume-mismatch": "an unfinished output is not of the run that would go on with it",
    "ranks-disagree": "processes that belong together would not write, or load, the same",
    "rank-missing": "a process that belongs to others has failed, or has not come",
    "write-failed": "writing a file failed",
    "model-mismatch": "a model is not the one that a plan was made for",
    # other libraries
    "integration-version": "another library is not of a version that weighbridge understands",
    "integration-unsupported": "weighbridge does not do this for another library's models",
    # verification
    "verify-failed": "two checkpoints differ",
    "law-broken": "a mapping does not obey a law that was checked",
    # commands
    "usage": "a command's arguments do not fit together",
}
"""Each code with its one-line meaning."""


class WeighbridgeError(Exception):
    """Report one problem: what and where, expected, got, because, try.

    Args:
        code: One of `CODES`.
        what: What could not be done, as a short clause.
        where: The key, file or pattern that it happened at.
        expected: What would have been right.
        got: What was found instead, with the nearest existing names.
        because: The rule or step that asked for it.
        hint: One concrete thing to try.

    Examples:
        >>> print(PlanError("target-missing", "nothing fills this tensor", where="lm_head.weight"))
        target-missing: nothing fills this tensor @ lm_head.weight
    """

    _parts: ClassVar[tuple[str, ...]] = ("code", "what", "where", "expected", "got", "because", "hint")

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        got: str = "",
        because: str = "",
        hint: str = "",
    ) -> None:
        assert code in CODES, f"{code!r} is not one of the closed set of codes"
        super().__init__(without_secrets(what))
        self.code = code
        self.what = without_secrets(what)
        self.where = without_secrets(where)
        self.expected = without_secrets(expected)
        self.got = without_secrets(got)
        self.because = without_secrets(because)
        self.hint = without_secrets(hint)

    def __str__(self) -> str:
        return "\n".join([self.headline, *self.details()])

    @property
    def headline(self) -> str:
        """The first line: code, what, where."""
        return f"{self.code}: {self.what}" + (f" @ {self.where}" if self.where else "")

    def details(self) -> Iterable[str]:
        """Yield the lines under the headline."""
        named = ("expected", self.expected), ("got", self.got), ("because", self.because), ("try", self.hint)
        for name, text in named:
            for number, line in enumerate(without_secrets(text).splitlines() if text else ()):
                yield f"  {name if number == 0 else '':<9} {line}"

    def with_context(self, **context: str) -> WeighbridgeError:
        """Return the same error with the empty ones of its parts filled in from `context`."""
        state = self.to_dict()
        return type(self)._rebuild({**{k: v for k, v in context.items() if not state.get(k)}, **state}, self._extra())

    def to_dict(self) -> dict[str, str]:
        """Return the parts that are set, by name; the JSON form of the error."""
        return {name: without_secrets(text) for name in self._parts if (text := getattr(self, name))}

    def _extra(self) -> dict[str, Any]:
        """State that a subclass adds to the parts."""
        return {}

    @classmethod
    def _rebuild(cls, state: dict[str, str], extra: dict[str, Any]) -> WeighbridgeError:
        return cls(**state, **extra)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._rebuild, (self.to_dict(), self._extra())


class PatternError(WeighbridgeError, ValueError):
    """A key pattern cannot be read, or cannot be inverted."""


class LayoutError(WeighbridgeError, ValueError):
    """An operation does not fit the shapes it is given."""


class MappingError(WeighbridgeError, ValueError):
    """A mapping or a transform is wrong in itself."""


class RegistryError(WeighbridgeError, LookupError):
    """A mapping's name is unknown, or taken."""


class PlanError(WeighbridgeError, ValueError):
    """A mapping does not fit a checkpoint and a target.

    Args:
        problems: Every single problem, each an error with a code of its own; empty for a single problem.
    """

    shown_problems: ClassVar[int] = 12

    def __init__(self, code: str, what: str, *, problems: Iterable[WeighbridgeError] = (), **parts: str) -> None:
        super().__init__(code, what, **parts)
        self.problems = tuple(problems)

    def details(self) -> Iterable[str]:
        """Yield the error's own lines, then each problem, indented; at most `shown_problems`, some of each code."""
        yield from super().details()
        shown = self._shown()
        for number in sorted(shown):
            yield "  " + str(self.problems[number]).replace("\n", "\n  ")
        hidden = [problem.code for number, problem in enumerate(self.problems) if number not in shown]
        for code in dict.fromkeys(hidden):
            yield f"  … and {hidden.count(code)} more of {code}"
        if hidden:
            yield "  … the error's `problems` are all of them"

    def _shown(self) -> set[int]:
        """Choose the problems to print: the codes take turns, so that none is hidden behind another one's many."""
        turns: dict[str, int] = {}
        order = []
        for number, problem in enumerate(self.problems):
            turns[problem.code] = turns.get(problem.code, -1) + 1
            order.append((turns[problem.code], number))
        return {number for _, number in sorted(order)[: self.shown_problems]}

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the problems, each once, in order of appearance."""
        return tuple(dict.fromkeys(problem.code for problem in self.problems))

    def _extra(self) -> dict[str, Any]:
        return {"problems": self.problems}


class CheckpointError(WeighbridgeError, ValueError):
    """A source is damaged, unsafe or not a checkpoint."""


class DestinationError(WeighbridgeError, ValueError):
    """An output cannot be written where it was asked for."""


class VerifyError(WeighbridgeError, ValueError):
    """Bytes differ from what they must be."""


for _error in (
    WeighbridgeError,
    PatternError,
    LayoutError,
    MappingError,
    RegistryError,
    PlanError,
    CheckpointError,
    DestinationError,
    VerifyError,
):
    _error.__module__ = "weighbridge"  # tracebacks and pickles name the place that people import them from
