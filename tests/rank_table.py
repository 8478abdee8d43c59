"""Print a table of the corpus and of ten families made for it, loaded by several processes through transformers.

Run it as `python tests/rank_table.py [RANKS] [TEXT]`; with a text, only the subjects whose names contain it.

    fsdp, tp, ep, pp   what the processes hold when a model is spread by rows, by tensors, by experts and by stages: our
                       word, and that of the library's own loader. `right`: in each process what torch puts there of the
                       tensors that one process loads, and outputs as they were published; else how many tensors are
                       `wrong`, `raises`, or `-` where a class has no plan for it

Below it stands why what raises raises; and as a table of Markdown, which is part of `docs/ranks.md`, what the library
loads wrongly and says nothing of.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Final

import transformers
from corpus import TOLERANCE, Case, case_names
from made_families import FAMILIES
from rank_loads import MODES, WAYS

Found = dict[tuple[str, str, str], list[dict[str, Any]]]
"""What each process found, by subject, mode and way."""

BY: Final = {"fsdp": "rows (FSDP2)", "tp": "tensors", "ep": "experts, and rows", "pp": "stages"}


def main(ranks: str = "2", text: str = "") -> int:
    """Print the table; return 1 if something of ours is wrong, or raises where the library's own loader is right."""
    names = [name for name in (*case_names(), *FAMILIES) if text in name]
    found = load_all(ranks, names)
    rows = [("subject", *MODES), *((name, *(cell(found, name, mode) for mode in MODES)) for name in names)]
    print_columns(rows)
    print_totals(found)
    print_reasons(found)
    print_wrong(found, names)
    return int(any(is_amiss(found, name, mode) for name in names for mode in MODES))


def load_all(ranks: str, names: Iterable[str]) -> Found:
    """Let the processes load all subjects in all ways."""
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        script = __file__.replace("rank_table", "rank_loads")
        command = [sys.executable, script, ranks, ",".join(MODES), ",".join(WAYS), folder, *names]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for line in map(json.loads, filter(lambda line: line.startswith("{"), done.stdout.splitlines())):
        first = line["ranks"][0]
        found[line["name"], first["mode"], first["way"]] = line["ranks"]
    return found


# ---- judging ----


def word(ranks: list[dict[str, Any]], mode: str) -> str:
    """Say in a word what became of a load."""
    raised = {rank["raised"] for rank in ranks if "raised" in rank}
    if raised:
        return "-" if all(is_without_plan(reason, mode) for reason in raised) else "raises"
    if keys := wrong_keys(ranks):
        return f"{len(keys)} wrong"
    outputs = [rank["output"] for rank in ranks if isinstance(rank["output"], float)]
    return "right" if max(outputs, default=0.0) <= TOLERANCE else "outputs wrong"


def wrong_keys(ranks: list[dict[str, Any]]) -> set[str]:
    return {key for rank in ranks for key in rank.get("wrong", ())}


def is_without_plan(raised: str, mode: str) -> bool:
    """Tell whether the library has no plan to spread a class so; of stages it says what the class lacks for them."""
    return f"has no `{mode}_plan`" in raised or (mode == "pp" and raised.startswith("AttributeError"))


def cell(found: Found, name: str, mode: str) -> str:
    words = [word(found[name, mode, way], mode) for way in WAYS]
    return words[0] if len(set(words)) == 1 else " / ".join(words)


def is_amiss(found: Found, name: str, mode: str) -> bool:
    """Tell whether ours is not right though it could be; what has no place in the model is refused by us alone."""
    ours, theirs = (word(found[name, mode, way], mode) for way in WAYS)
    is_refused = ours == "raises" and name not in FAMILIES and not Case.named(name).has_place
    return "wrong" in ours or (ours == "raises" and theirs == "right" and not is_refused)


# ---- printing ----


def print_columns(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_totals(found: Found) -> None:
    totals: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (_, mode, way), ranks in found.items():
        kind = word(ranks, mode)
        totals[mode, way]["wrong" if "wrong" in kind else kind] += 1
    print()
    for (mode, way), counts in sorted(totals.items()):
        print(f"{mode:5} {way:13}", ", ".join(f"{counts[kind]} {kind}" for kind in ("right", "wrong", "raises", "-")))


def print_reasons(found: Found) -> None:
    """Print why loads raise, and why models that were loaded compute nothing, each reason with its subjects."""
    reasons: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for (name, mode, way), ranks in found.items():
        if reason := reason_of(ranks, mode):
            reasons[reason][name, mode].append(way)
    for reason, where in sorted(reasons.items()):
        print(f"\n{reason}")
        for (name, mode), ways in where.items():
            print(f"    {name} {mode}" + (f", {ways[0]} alone" if len(ways) < len(WAYS) else ""))


def reason_of(ranks: list[dict[str, Any]], mode: str) -> str:
    output = ranks[0].get("output")
    if word(ranks, mode) == "raises":
        return f"raises {next(rank['raised'] for rank in ranks if 'raised' in rank)}"
    return f"computes nothing: {output}" if isinstance(output, str) else ""


def print_wrong(found: Found, names: Iterable[str]) -> None:
    library = f"transformers {transformers.__version__}"
    print(f"\n| model | what becomes of its tensors | spread by | {library} | weighbridge |")
    print("|---|---|---|---|---|")
    for name in names:
        rules = FAMILIES.get(name, "a case of the corpus")
        for mode in MODES:
            ours, theirs = (found[name, mode, way] for way in WAYS)
            if keys := wrong_keys(theirs):
                print(f"| {name} | {rules} | {BY[mode]} | {said(theirs, keys)} | {word(ours, mode)} |")


def said(ranks: list[dict[str, Any]], keys: set[str]) -> str:
    """Say how many tensors are wrong, and by how much outputs are, relative to the greatest."""
    output = ranks[0]["output"]
    beside = f"; outputs differ by {output:.0%}" if isinstance(output, float) else ""
    return f"{len(keys)} of {ranks[0]['tensors']} tensors wrong{beside}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
