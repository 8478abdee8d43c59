"""The laws as one parametrised test, so that pytest shows a result for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from weighbridge.base.errors import MappingError, PlanError
from weighbridge.base.keys import nearest
from weighbridge.mappings.finding import AnyMapping
from weighbridge.testing import laws
from weighbridge.testing.sampling import MAX_BYTES
from weighbridge.testing.subjects import Model, Place, make_subject

LAWS: Final = MappingProxyType(
    {
        "coverage": "no parameter without a rule, no rule without a parameter",
        "lint": "the linter finds nothing",
        "order_independence": "the plan is the same whatever the order of the keys",
        "round_trip": "values come back through the plan, bit for bit",
        "inverse": "the mapping alone leads back to the published names and shapes",
        "save_back": "the published files come out again, byte for byte",
    }
)
"""The laws that `weighbridge_check` tests, in this order, each with what it says."""

NEED_A_PLAN: Final = frozenset(LAWS) - {"coverage", "lint"}
"""Laws that say nothing about a mapping which does not fit; a test of them is skipped where `coverage` fails for it."""


def weighbridge_check(
    mapping: AnyMapping | None,
    header: Place,
    model: Model = None,
    *,
    without: Collection[str] = (),
    allow: Collection[str] = (),
    optional: Collection[str] = (),
    lossy: bool = False,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> Callable[[str], None]:
    """Make a test of a mapping, to be put into a test file under a name that pytest collects.

    Nothing is opened, planned or made before the test runs.

    Args:
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file; None for what
            is registered for the model.
        header: A `Header`, a path of an inventory or a checkpoint, or a dict of tensors.
        model: A model, or a function without arguments that makes one (on the meta device); a header or path will do.
        without: Names of laws that are left out.
        allow: Codes of the linter's findings that are meant.
        optional: Source patterns of rules that need not be used by this header.
        lossy: Accept that a rule drops or rounds; `save_back` is left out then.
        max_bytes: Most bytes of tensors that a test makes.
        options: As for `weighbridge.plan`: `initialise`, `config`, `layout`, …

    Returns:
        A test function with a parameter for each law of `LAWS`, under the marker `weighbridge`.

    Raises:
        MappingError: `usage` for a law that is none.

    Examples:
        >>> from weighbridge import Header, TensorSpec, WeightRenaming
        >>> header = Header({"norm.gamma": TensorSpec("F32", (4,))})
        >>> test_norms = weighbridge_check([WeightRenaming("gamma", "weight")], header)
        >>> test_norms("coverage")
    """
    import pytest

    left_out = {*without, *(["save_back"] if lossy else [])}
    _refuse_unknown(left_out)
    check = _Check(mapping, header, model, allow, optional, lossy, max_bytes, options)

    def test(law: str) -> None:
        if law in NEED_A_PLAN and "coverage" not in left_out and not check.has_plan():
            pytest.skip("there is no plan to check: the test `coverage` says why")
        check.run(law)

    caller = sys._getframe(1)
    # pytest says where a test stands by its code: that is the author's line, not this one
    test.__code__ = test.__code__.replace(co_filename=caller.f_code.co_filename, co_firstlineno=caller.f_lineno)
    test.__module__ = str(caller.f_globals.get("__name__", __name__))
    return pytest.mark.weighbridge(pytest.mark.parametrize("law", [law for law in LAWS if law not in left_out])(test))


def _refuse_unknown(names: Collection[str]) -> None:
    unknown = sorted(set(names) - LAWS.keys())
    if unknown:
        near = ", ".join(nearest(unknown[0], list(LAWS)))
        raise MappingError(
            "usage",
            "this is no law",
            where=unknown[0],
            expected=", ".join(LAWS),
            got=f"nearest: {near}" if near else "",
        )


@dataclass(frozen=True, slots=True)
class _Check:
    """What a test was made with; see `weighbridge_check`."""

    mapping: AnyMapping | None
    header: Place
    model: Model
    allow: Collection[str]
    optional: Collection[str]
    lossy: bool
    max_bytes: int
    options: dict[str, Any]

    def has_plan(self) -> bool:
        """Tell whether the mapping fits the header and the model."""
        try:
            make_subject(self.mapping, self.header, self.model, self.options).plan()
        except PlanError:
            return False
        return True

    def run(self, law: str) -> None:
        """Check one law."""
        about = self.mapping, self.header, self.model
        match law:
            case "coverage":
                laws.check_coverage(*about, optional=self.optional, **self.options)
            case "lint":
                # a rule that matches nothing is what the coverage speaks of
                laws.check_lint(*about, allow={*self.allow, "never"})
            case "order_independence":
                laws.check_order_independence(*about, **self.options)
            case "round_trip":
                laws.check_round_trip(*about, lossy=self.lossy, max_bytes=self.max_bytes, **self.options)
            case "inverse":
                laws.check_inverse(*about, **self.options)
            case "save_back":
                laws.check_save_back(*about, max_bytes=self.max_bytes, **self.options)
            case _:
                _refuse_unknown([law])
