"""Print a table of the corpus: what is inferred for every case from its two layouts alone, and whether that is right.

Run it as `python tests/infer_table.py [TEXT]`; with a text, only the cases whose names contain it.

    values     targets that the inferred plan gives bit for bit, of all that there are
    rules      rules of the inferred mapping, and the number of different names (indices aside) that it is about
    open       tensors that stayed unexplained
"""

from __future__ import annotations

import sys
import warnings
from typing import Final, NamedTuple

from corpus import Case, case_names

import weighbridge as wb
from weighbridge.storage import open_checkpoint
from weighbridge.studies.inference import Inferred, infer_mapping
from weighbridge.studies.inference.proving import is_equal
from weighbridge.studies.inference.tensor_facts import mask

HEADINGS: Final = ("case", "values", "rules", "open", "verdict")


class Judged(NamedTuple):
    """What came of one case.

    Args:
        found: What was inferred.
        right: Number of targets that came out bit for bit.
        total: Number of targets.
        names: Number of different names on the source's side, indices aside.
    """

    found: Inferred
    right: int
    total: int
    names: int

    @property
    def is_exact(self) -> bool:
        """Whether the mapping is general, gives all of the target, and leaves nothing open."""
        rules = sum(len(transform.source_patterns) for transform in self.found.mapping)
        return self.right == self.total and self.found.is_complete and rules <= self.names


def runtime_layout(case: Case) -> dict[str, object]:
    """Return the tensors of a case in the runtime layout, without those that no checkpoint holds."""
    made = wb.plan(case.path, case.mapping(), target=case.target(), config=case.config).state_dict()
    new = set(case.expected.get("not_from_checkpoint", ()))
    return {key: tensor for key, tensor in made.items() if key in case.expected["state_dict"] and key not in new}


def judge(case: Case) -> Judged:
    """Infer a case's mapping, and use it as anybody would: plan with it, run the plan, compare."""
    wanted = open_checkpoint(runtime_layout(case))
    found = infer_mapping(wb.open(case.path), wanted)
    plan = wb.plan(case.path, found.mapping, target=wanted, partial=not found.is_complete, **found.options)
    made = plan.state_dict()
    right = sum(key in made and is_equal(made[key], wanted, key) for key in wanted.header)
    right = right if set(made) == set(wanted.header) else 0
    return Judged(found, right, len(wanted.header), len({mask(key) for key in wb.open(case.path).header}))


def main(text: str = "") -> int:
    """Print the table; return 1 if fewer than nine in ten are exact."""
    names = [name for name in case_names() if text in name and Case.named(name).has_place]
    exact = 0
    print("  ".join(HEADINGS))
    for name in names:
        judged = judge(Case.named(name))
        exact += judged.is_exact
        cells = (f"{judged.right}/{judged.total}", f"{len(judged.found.mapping)}/{judged.names}")
        print(f"{name:<72}  {cells[0]:>9}  {cells[1]:>7}  {len(judged.found.unexplained):>4}",
              "exact" if judged.is_exact else "NOT EXACT", sep="  ")  # fmt: skip
    print(f"\n{exact} of {len(names)} exact")
    return 0 if exact >= 0.9 * len(names) else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main(*sys.argv[1:2]))
