"""Print a table of the corpus: what every checkpoint gives in its real model, and whether a save gives the file back.

Run it as `python tests/corpus_table.py [TEXT]`; with a text, only the cases whose names contain it.

    values      tensors with the expected bytes, of all that are expected
    outputs     greatest difference to what the older version computed, relative; `other` where the class was changed
    back        whether load-then-save gives the original file, byte for byte
    peer        the same three for the library's own loader: `+` right, `-` wrong
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Final, NamedTuple

from corpus import REGISTRY, TOLERANCE, Case, build_model, case_names, untie_unlike, worst_output, wrong_values

import weighbridge as wb
from weighbridge.models.resolve import resolve

HEADINGS: Final = ("case", "class", "kind", "values", "outputs", "back", "peer")


class Row(NamedTuple):
    """One line of the table.

    Args:
        cells: What stands in it.
        is_right: Whether everything is as it must be; a refusal where the model has no place for a weight included.
    """

    cells: tuple[str, ...]
    is_right: bool


def main(text: str = "") -> int:
    """Print the table; return 1 if any case is wrong."""
    names = [name for name in case_names() if text in name]
    rows = [judge(Case.named(name)) for name in names]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *(row.cells for row in rows), strict=True)]
    for cells in (HEADINGS, *(row.cells for row in rows)):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    right = sum(row.is_right for row in rows)
    peer = sum(row.cells[-1] == "+++" for row in rows)
    print(f"\n{right} of {len(rows)} right; the library's own loader: {peer}")
    return 0 if right == len(rows) else 1


def judge(case: Case) -> Row:
    """Load a case into its model, run it, and save it again."""
    facts = case.facts
    start = (case.path.name, facts["class"], facts["conversion_kind"])
    peer = "".join("-+"[bool(facts["peer"][key])] for key in ("loads_clean", "forward_equal", "round_trip_exact"))
    model = build_model(facts["class"], case.path)
    untie_unlike(model, case)
    try:
        plan = wb.plan(case.path, resolve(model, REGISTRY), target=model)
    except wb.PlanError as refused:
        return Row((*start, "refused", ", ".join(refused.codes), "", peer), not case.has_place)
    plan.load_into(model)
    wrong, total = len(wrong_values(case, model.state_dict())), len(case.expected["state_dict"])
    total -= len(case.expected.get("not_from_checkpoint", ()))
    worst = worst_output(case, model) if case.computes_the_same else None
    with tempfile.TemporaryDirectory() as folder:
        out = plan.inverse(model).write(Path(folder) / "back")
        is_same = all((out / name).read_bytes() == content for name, content in case.files().items())
    outputs = "other" if worst is None else f"{worst:.1e}"
    cells = (*start, f"{total - wrong}/{total}", outputs, "exact" if is_same else "differs", peer)
    return Row(cells, not wrong and is_same and (worst or 0) <= TOLERANCE and case.has_place)


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    sys.exit(main(*sys.argv[1:2]))
