"""The checks of one class, in order, each with what the ones before it found; their outcomes make the class's line.

resolved    there is a mapping for the class
saved       a model that was never loaded is saved: each name is proven to come back
names       that file has the names and shapes of the library's own
library     the file that the library itself writes is read, all of it, and saved as it was
again       so is the file that was saved at first
runtime     the model's own names are read as they are
head        the file of the base model is read into this model, saved, and read again
base        the file of this model is read into the base model, saved, and read again
values      small models with all values distinct: what both write, and what both read, is equal
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, Literal

from transformers import PreTrainedModel

from sweeping import configurations, outcomes, values
from sweeping.classes import Named, is_always_run, model_class
from sweeping.headers import Subject, differences
from sweeping.outcomes import NONE, OK, SKIPPED, Outcome, attempt, finding

FILES: Final = ("resolved", "saved", "names", "library", "again")
HEADERS: Final = (*FILES, "runtime", "head", "base")
CHECKS: Final = (*HEADERS, "values")


Values = Literal["all", "some", "none"]
"""Of which classes values are compared; some are those that the tests run, and those with a converter."""


def judge(
    named: Named, *, by_value: Values = "all", quick: bool = False, names: tuple[str, ...] = HEADERS
) -> dict[str, Any] | None:
    """Return the line of a class; None if it is no model.

    Args:
        named: The class.
        by_value: Whether values are compared.
        quick: See `configurations.build`.
        names: The checks of names and shapes that are run.
    """
    began = time.monotonic()
    kind = model_class(named)
    if kind is None:
        return None
    line: dict[str, Any] = {"class": named.name, "family": named.family, "built": OK}
    try:
        model, small = configurations.build(kind, quick=quick)
    except Exception as refused:
        line["built"] = outcomes.said(refused)
    else:
        line |= {"type": model.config.model_type, "tensors": len(model.state_dict())}
        line |= {"layers": small.layers if small else None}
        judged = _Class(kind, model, small)
        line |= judged.run(names)
        if by_value == "all" or (by_value == "some" and (is_always_run(named) or judged.converts())):
            line |= judged.run(("values",))
    return {**line, "seconds": round(time.monotonic() - began, 2)}


class _Class:
    """One class, and what the checks have found so far."""

    def __init__(self, kind: Any, model: Any, small: Any) -> None:
        self.kind, self.model, self.small = kind, model, small
        base = model.base_model
        self.has_base = base is not model and isinstance(base, PreTrainedModel)
        self.prefix = f"{model.base_model_prefix}."
        self.subject: Any = None
        self.inner: Any = None
        self.ours: Any = None
        self.theirs: Any = None
        self.found: dict[str, Outcome] = {}

    def run(self, names: tuple[str, ...]) -> Mapping[str, Outcome]:
        """Run checks by their names."""
        for name in names:
            self.found[name] = attempt(getattr(self, f"check_{name}"))
        return self.found

    def converts(self) -> bool:
        """Tell whether the mapping does more than rename."""
        return self.subject is not None and bool(self.subject.mapping.converters)

    def check_resolved(self) -> Outcome:
        self.subject = Subject(self.model)
        return OK

    def check_saved(self) -> Outcome:
        if self.subject is None:
            return SKIPPED
        self.ours = self.subject.saved_by_us()
        return finding("as the library saves it", differences(self.subject.published(), self.ours))

    def check_names(self) -> Outcome:
        if self.subject is None:
            return SKIPPED
        self.theirs = self.subject.saved_by_library()
        return finding("differs", differences(self.ours, self.theirs)) if self.ours is not None else SKIPPED

    def check_library(self) -> Outcome:
        if self.theirs is None:
            return SKIPPED
        found = self._read(self.theirs)
        if found != OK or not self.subject.read(self.theirs).is_read_as_the_library_does():
            return found
        return {"code": "as the library reads it"}

    def check_again(self) -> Outcome:
        if self.ours is None:
            return SKIPPED
        return self._read(self.ours)

    def check_runtime(self) -> Outcome:
        if self.subject is None:
            return SKIPPED
        loaded = self.subject.read(self.subject.held)
        moved = [step.sources[0] for step in loaded.plan.steps if step.sources != step.targets]
        return finding("moved", {"moved": moved, "missing": loaded.missing()})

    def _read(self, header: Any) -> Outcome:
        """Read a file whole, and see that it would be saved as it was."""
        loaded = self.subject.read(header)
        found = finding("incomplete", {"missing": loaded.missing(), "left": loaded.left()})
        if found != OK:
            return found
        return finding("other way back", differences(self.subject.written_back(loaded), header))

    def _base(self) -> Any:
        """Make the base model, by itself: inside a head model it may be another one in parts."""
        if self.inner is None:
            base = self.model.base_model
            self.inner = Subject(configurations.make(type(base), base.config))
        return self.inner

    def _has_another_base(self) -> bool:
        """Tell whether the base model is made otherwise inside the head model: its tensors have other shapes there."""
        whole = self.subject.held
        return any(whole.specs.get(self.prefix + key, spec) != spec for key, spec in self._base().held.items())

    def check_head(self) -> Outcome:
        if not self.has_base or self.subject is None:
            return SKIPPED if self.has_base else NONE
        if self._has_another_base():
            return NONE
        base = self._base()
        header = base.saved_by_library()
        loaded = self.subject.read(header, partial=True)
        apart = self._apart(base, header)
        found = finding(
            "incomplete",
            {
                "missing": [key for key in loaded.missing() if key.removeprefix(self.prefix) in base.held],
                "left": [key for key in loaded.left() if key not in apart],
            },
        )
        if found != OK:
            return found
        return self._saved_again(self.subject, header, loaded)

    def _apart(self, base: Any, header: Any) -> set[str]:
        """Return the keys of the base model's file that the head model has no place for, as it has no such part."""
        there = {self.prefix + key for key in base.held} & set(self.subject.held)
        steps = base.read(header).plan.steps
        return {
            key
            for step in steps
            if there.isdisjoint(self.prefix + target for target in step.targets)
            for key in step.sources
        }

    def check_base(self) -> Outcome:
        if not self.has_base or self.theirs is None:
            return SKIPPED if self.has_base else NONE
        if self._has_another_base():
            return NONE
        base = self._base()
        loaded = base.read(self.theirs, partial=True)
        missing = [key for key in loaded.missing() if self.prefix + key in self.subject.held]
        found = finding("incomplete", {"missing": missing})
        if found != OK:
            return found
        return self._saved_again(base, self.theirs, loaded)

    def _saved_again(self, subject: Subject, header: Any, loaded: Any) -> Outcome:
        """Save what was loaded in part: all that has a place is in the file, which is read whole."""
        saved = subject.written_back(loaded)
        again = subject.read(saved)
        lost = sorted(set(header) - set(saved) - set(loaded.left()))
        return finding("not read again", {"lost": lost, "missing": again.missing(), "left": again.left()})

    def check_values(self) -> Outcome:
        return values.compare(self.kind, self.model, self.small)
