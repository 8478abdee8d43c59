"""The page of a plan, in a real browser where one is installed: what it shows, what it answers, what it must not do.

The browser is driven over a pipe; nothing listens on a port, and every page is a file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, strategies as st
from safetensors.numpy import save_file

import weighbridge as wb
from weighbridge.base.keys import natural_key
from weighbridge.planning.plan_options import Options
from weighbridge.reporting.report_page import SCRIPTS, failure_page
from weighbridge.reporting.report_page.packing import MAX_DEPTH, pack_numbers, pack_tree

sys.path.insert(0, str(ROOT))

from bench.browser import Browser, Size, find_browser
from bench.inventories import DeepSeek, deepseek, deepseek_mapping

Spec = wb.TensorSpec
EVIL = '</script><img src=x onerror="window.broken=1"><!-- .weight'
HIDING = "hidden.\u202e\ud800\n.weight"


def specs() -> dict[str, wb.TensorSpec]:
    found = {"head.weight": Spec("BF16", (11, 8)), "body.rotary.inv_freq": Spec("F32", (3,))}
    for layer in range(6):
        name = f"body.layers.{layer}"
        found |= {
            f"{name}.{part}.weight": Spec("BF16", (rows, 8)) for part, rows in zip("qkv", (12, 4, 4), strict=True)
        }
        found[f"{name}.fused.weight"] = Spec("F32", (15, 7))
        found[f"{name}.turned.weight"] = Spec("F32", (3, 5))
        found[f"{name}.norm.gamma"] = Spec("BF16", (8,))
        for expert in range(20):
            found[f"{name}.experts.{expert}.gate.weight"] = Spec("F32", (6, 5))
            found[f"{name}.experts.{expert}.up.weight"] = Spec("F32", (6, 5))
    return found


MAPPING = wb.Mapping(
    [
        wb.WeightRenaming("^body", "model.body"),
        wb.WeightRenaming("norm.gamma", "norm.weight"),
        wb.WeightRenaming("never.there", "nor.here"),
        wb.WeightConverter(
            ["q.weight", "k.weight", "v.weight"], "qkv.weight", [wb.Concatenate(dim=0, sizes=(12, 4, 4))]
        ),
        wb.WeightConverter("fused.weight", ["a.weight", "b.weight", "c.weight"], [wb.Chunk(dim=0)]),
        wb.WeightConverter("turned.weight", "straight.weight", [wb.Transpose(0, 1)]),
        wb.WeightConverter(
            ["experts.*.gate.weight", "experts.*.up.weight"],
            "experts.gate_up",
            [wb.MergeModulelist(dim=0), wb.Concatenate(dim=1)],
        ),
    ],
    name="every kind",
    drop=(wb.Drop("inv_freq", why="the model makes it"),),
)


@pytest.fixture(scope="module")
def plan() -> wb.Plan:
    return wb.plan(wb.Header(specs()), MAPPING)


@pytest.fixture(scope="module")
def large_plan() -> wb.Plan:
    return wb.plan(deepseek(DeepSeek()), deepseek_mapping())


# What is packed comes out again


def unpack_numbers(packed: list[int]) -> list[int]:
    numbers = packed[:1]
    for difference, times in zip(packed[1::2], packed[2::2], strict=True):
        numbers += [numbers[-1] + difference * (number + 1) for number in range(times)]
    return numbers


def unfold(children: list[Any], nodes: list[Any], path: str = "") -> Iterator[tuple[str, int]]:
    """Yield the keys of a packed tree with their kinds, in order."""
    for name, reference in zip(children[::2], children[1::2], strict=True):
        names = [name] if isinstance(name, str) else [f"{name[0] + n}{name[2]}" for n in range(name[1])]
        for each in names:
            if reference < 0:
                yield path + each, -1 - reference
            else:
                yield from unfold(nodes[reference], nodes, f"{path}{each}.")


@given(st.lists(st.integers(-(10**12), 10**12)))
def test_numbers_come_out_again(numbers: list[int]) -> None:
    assert unpack_numbers(pack_numbers(numbers)) == numbers


SEGMENTS = st.sampled_from(["", "0", "1", "2", "3", "03", "7", "a", "b", "\u0663", "<", "a b"])


@given(st.dictionaries(st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join), st.integers(0, 2), max_size=60))
def test_trees_come_out_again(kinds: dict[str, int]) -> None:
    packed = pack_tree(kinds)
    form = json.loads(json.dumps(packed.to_dict()))
    found = list(unfold(form["root"], form["nodes"]))
    assert dict(found) == kinds
    assert tuple(key for key, _ in found) == packed.keys


def test_tree_is_in_natural_order() -> None:
    keys = [f"layers.{number}.w" for number in (10, 9, 2)] + ["head", "norm.w", "norm.b"]
    assert list(pack_tree(dict.fromkeys(keys, 0)).keys) == sorted(keys, key=natural_key)


def test_tree_of_a_key_with_very_many_dots() -> None:
    key = "." * 100_000
    assert list(unfold(pack_tree({key: 0, "a": 0}).root, [])) == [(key, 0), ("a", 0)]
    assert len(pack_tree({key: 0, key + "b": 0}).nodes) <= MAX_DEPTH


def facts_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    facts: dict[str, Any] = json.loads(found[1])
    return facts


@pytest.mark.parametrize("which", ["plan", "large_plan", "moved", "inverse"])
def test_page_holds_every_tensor_and_every_step(which: str, request: pytest.FixtureRequest) -> None:
    made = {"moved": moving_plan, "inverse": lambda: moving_plan().inverse(lossy=True)}
    found: wb.Plan = made[which]() if which in made else request.getfixturevalue(which)
    facts = facts_of(found.to_html())
    sides = [list(unfold(facts[side]["root"], facts[side]["nodes"])) for side in ("source", "target")]
    for side, fates in zip(sides, (found.source_fates(), found.target_fates()), strict=True):
        assert {key: facts["kinds"][kind][3] for key, kind in side} == {key: fate.name for key, fate in fates}
    columns = [unpack_numbers(column) for column in facts["steps"]]
    patterns = [unpack_numbers(pattern) for pattern in facts["patterns"]]
    steps = []
    for row in zip(*columns, strict=True):
        places = zip(sides, row[2::2], row[3::2], strict=True)
        steps.append(tuple(tuple(side[first + n][0] for n in patterns[each]) for side, first, each in places))
    assert steps == [(step.sources, step.targets) for step in found.steps]


def test_page_is_a_function_of_the_set_of_keys(plan: wb.Plan) -> None:
    turned = wb.plan(wb.Header(dict(reversed(specs().items()))), MAPPING)
    assert turned.to_html() == plan.to_html()


def test_page_of_90427_keys_is_small(large_plan: wb.Plan) -> None:
    assert len(large_plan.source) == 90_427
    assert len(large_plan.to_html().encode()) < 500_000


def test_page_of_keys_without_a_pattern_is_within_the_limit() -> None:
    """The worst case: random names, which nothing can make shorter; 90,000 of them are six times as many."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = {
        f"block.{number * 2_654_435_761 % 2**32:08x}.{letters[number % 26] * 8}.weight" for number in range(15_000)
    }
    page = wb.plan(
        wb.Header(dict.fromkeys(names, Spec("F32", (2, 3)))), [wb.WeightRenaming("^block", "model")]
    ).to_html()
    assert len(names) == 15_000
    assert len(page.encode()) < 15_000_000 / 6


# Nothing of it runs that is not the page's own


class Tags(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def hostile_plan() -> wb.Plan:
    found = {EVIL: Spec("F32", (2,)), HIDING: Spec("F32", (2,)), "$script ${facts} &amp;": Spec("F32", (2,))}
    return wb.plan(wb.Header(found), wb.Mapping([wb.WeightRenaming("weight", "<b>")], name="<i>&name</i>"))


def test_keys_are_text_and_nothing_else() -> None:
    parser = Tags()
    parser.feed(hostile_plan().to_html())
    names = [tag for tag, _ in parser.found]
    assert {"img", "b", "i"}.isdisjoint(names)
    assert names.count("script") == 2
    assert not any(name.startswith("on") or name in ("src", "href") for _, found in parser.found for name in found)


def test_page_asks_for_nothing(plan: wb.Plan) -> None:
    """No address stands in it but the name of the SVG format."""
    assert set(re.findall(r"https?://[^\s\"']+", plan.to_html())) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in plan.to_html()


def test_notebooks_get_a_small_table(large_plan: wb.Plan) -> None:
    shown = large_plan._repr_html_()
    assert shown == large_plan.report._repr_html_()
    assert len(shown) < 3_000
    assert "90,427 -&gt; 1,571 tensors" in shown
    assert "<script" not in shown
    assert "<i>" not in hostile_plan()._repr_html_()


def test_every_part_of_the_script_is_used() -> None:
    folder = Path(wb.__file__).parent / "reporting" / "report_page"
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)


# The command

MAPS = """
from weighbridge import Mapping, WeightRenaming
GOOD = Mapping([WeightRenaming("gamma", "weight")], name="good")
BAD = Mapping([WeightRenaming("gamma", "wait")], name="bad")
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weighbridge", *arguments]
    path = os.pathsep.join([str(Path(wb.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "maps.py").write_text(MAPS)
    for name, key in (("source", "norm.gamma"), ("target", "norm.weight")):
        save_file({key: np.ones(4, np.float32)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_command_writes_a_page(there: Path) -> None:
    ran = run(there, "plan", "source.safetensors", "maps.py:GOOD", "--html", "page.html", "--json")
    assert ran.returncode == 0, ran.stderr
    facts = facts_of((there / "page.html").read_text("utf-8"))
    assert facts["hash"] == json.loads(ran.stdout)["hash"]
    assert facts["errors"] == []


def test_command_writes_a_page_though_the_plan_fails(there: Path) -> None:
    arguments = ("plan", "source.safetensors", "maps.py:BAD", "--target", "target.safetensors", "--html", "page.html")
    ran = run(there, *arguments, "--json")
    assert ran.returncode == 3, ran.stderr
    facts = facts_of((there / "page.html").read_text("utf-8"))
    codes = [error["code"] for error in facts["errors"]]
    assert codes == ["plan-failed", "target-missing", "source-unplaced"]
    assert [kind[3] for kind in facts["kinds"]] == ["unplaced", "missing"]
    assert json.loads(ran.stdout)["error"]["code"] == "plan-failed"


def test_command_overwrites_no_page(there: Path) -> None:
    (there / "page.html").write_text("mine")
    ran = run(
        there, "plan", "source.safetensors", "maps.py:GOOD", "--html", "page.html", "--out", "plan.json", "--json"
    )
    assert (ran.returncode, json.loads(ran.stdout)["error"]["code"]) == (5, "destination-exists")
    assert (there / "page.html").read_text() == "mine"
    assert not (there / "plan.json").exists()


def test_declared_exceptions_count_in_a_failed_plan() -> None:
    source = wb.Header({"norm.gamma": Spec("F32", (4,)), "extra": Spec("F32", (2,))})
    target = wb.Header({"norm.weight": Spec("F32", (4,))})
    mapping = wb.Mapping([wb.WeightRenaming("gamma", "wait")])
    with pytest.raises(wb.PlanError) as failed:
        wb.plan(source, mapping, target, drop=["extra"])
    facts = facts_of(failure_page(failed.value, mapping, source, target, Options(drop=["extra"])))
    assert {kind[3] for kind in facts["kinds"]} == {"dropped", "unplaced", "missing"}


# In a browser


class Page:
    """A page in the browser, with what a person does to it."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self.browser = browser
        self.path = path

    def texts(self, selector: str) -> list[str]:
        return self.value(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def text(self, selector: str) -> str:
        [found] = self.texts(selector)
        return found

    def value(self, expression: str) -> Any:
        return self.browser.evaluate(expression)

    def search(self, query: str) -> str:
        self.value("document.activeElement.blur()")
        self.browser.press("/")
        if query:
            self.browser.type(query)
        else:
            self.browser.press("Escape")
        return self.text("#found")

    def click(self, selector: str, text: str = "", *, only_point: bool = False) -> None:
        """Move the mouse to the first element that a selector and a text name, and click."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        find = f"{found}.find(e => e.textContent.includes({json.dumps(text)}))"
        self.value(f"(window.met = {find}).scrollIntoView({{block: 'nearest'}})")
        box = self.value("window.met.getBoundingClientRect().toJSON()")
        self.browser.point(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, click=not only_point)

    def pick(self, side: str, query: str) -> None:
        """Search for a tensor of one side, select it, and forget the search."""
        self.search(query)
        self.click(f"#{side} .tensor")
        self.search("")

    def focus(self) -> str:
        return self.value("document.activeElement.id")

    def active(self, side: str) -> str:
        return self.value(
            f"document.getElementById(document.getElementById('{side}').getAttribute('aria-activedescendant')).querySelector('.name').textContent"
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("needs Chromium: install it, or name one in WEIGHBRIDGE_BROWSER")
    with Browser(program) as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open pages given as text; at the end nothing may have been complained about, and nothing asked for."""
    paths: list[Path] = []

    def open_page(text: str, size: Size = Size(1400, 900), *, dark: bool = False) -> Page:  # noqa: B008
        paths.append(tmp_path / "page.html")
        paths[-1].write_text(text, encoding="utf-8")
        browser.open(paths[-1], size, dark=dark)
        return Page(browser, paths[-1])

    yield open_page
    assert browser.complaints() == []
    assert browser.requests() == [paths[-1].resolve().as_uri()]


@pytest.fixture(scope="module")
def page_text(plan: wb.Plan) -> str:
    return plan.to_html()


@pytest.fixture
def page(opened: Callable[..., Page], page_text: str) -> Page:
    return opened(page_text)


@pytest.fixture(scope="module")
def failed_text() -> str:
    bad = specs()
    del bad["body.layers.3.k.weight"]
    target = wb.plan(wb.Header(specs()), MAPPING).target
    wanted = wb.Header({**target, "model.body.bias": Spec("F32", (3,))})
    with pytest.raises(wb.PlanError) as failed:
        wb.plan(wb.Header(bad), MAPPING, wanted)
    return failure_page(failed.value, MAPPING, wb.Header(bad), wanted)


def test_page_opens_with_a_summary(page: Page, plan: wb.Plan) -> None:
    assert page.text("#title") == "every kind"
    assert page.text("#verdict") == "fits, lossy · read as mapped"
    values = page.texts(".value")
    assert values[0].startswith(f"{len(plan.source)} tensors")
    assert values[1].startswith(f"{len(plan.target)} tensors")
    assert values[2] == "lossy"
    fates = {side: dict(counts) for side, counts in plan.report.fates().items()}
    shown = dict(text.rsplit(" ", 1) for text in page.texts(".fates button"))
    assert {fate: int(number) for fate, number in shown.items()} == fates["source"] | fates["target"]
    assert page.text(".rules li.unused p") == "did not fire"
    assert "the model makes it" in page.text("#inspector")


def test_rules_say_how_many_keys_they_moved(page: Page, plan: wb.Plan) -> None:
    told = page.texts(".rules p")
    for number, text in enumerate(told):
        moved = sum(len(step.sources) for step in plan.steps if number in step.rules)
        assert text.startswith(f"{moved} source" if moved else "did not fire")
    assert len(told) == len(MAPPING)


def test_rows_are_collapsed_and_indices_are_one_row(page: Page) -> None:
    names = page.texts("#source .name")
    assert names == ["body", "layers", "rotary.inv_freq", "head.weight"]
    page.click("#source .row", "layers")
    page.click("#source .row", "{0..5}")
    assert page.texts("#source .name")[1:9] == ["layers", "{0..5}", *"012345"]
    page.click("#source .row", "{0..5}")
    assert page.texts("#source .name") == ["body", "layers", "{0..5}", "rotary.inv_freq", "head.weight"]


@pytest.mark.parametrize("query", ["q.weight", "layers.*.up", "LAYERS.?.norm", "*experts*1?.gate*", "[", "no such"])
def test_search_finds_what_a_pattern_says(page: Page, plan: wb.Plan, query: str) -> None:
    pattern = f"*{query.lower()}*".replace("[", "[[]")
    counts = [sum(fnmatchcase(key.lower(), pattern) for key in side) for side in (plan.source, plan.target)]
    words = [f"{n} {side}{'s' * (n != 1)}" for n, side in zip(counts, ("source", "target"), strict=True)]
    assert page.search(query) == " · ".join(words)


def test_search_finds_fates_and_rules(page: Page, plan: wb.Plan) -> None:
    assert page.search("fate:dropped") == "1 source · 0 targets"
    assert page.texts("#source .tensor .name") == ["rotary.inv_freq"]
    assert page.texts("#target .empty") == ["no match"]
    page.browser.press("Escape")
    moved = [step for step in plan.steps if 4 in step.rules]
    assert page.search("rule:5 layers.1.") == f"1 source · {len(moved[0].targets)} targets"


def test_search_shows_all_of_what_it_finds(opened: Callable[..., Page], page_text: str, plan: wb.Plan) -> None:
    page = opened(page_text, Size(1400, 12_000))
    page.search("layers")
    assert len(page.texts("#source .tensor")) == sum("layers" in key for key in plan.source)
    page.search("")
    assert page.texts("#source .tensor .name") == ["rotary.inv_freq", "head.weight"]


def test_selecting_a_target_lights_its_sources(page: Page) -> None:
    page.pick("target", "layers.2.qkv")
    assert page.texts("#target .selected .name") == ["qkv.weight"]
    assert page.texts("#source .lit .name") == ["k.weight", "q.weight", "v.weight"]
    assert page.value("document.querySelectorAll('#target .lit').length") == 0
    assert [text[0] for text in page.texts("#inspector .rule")] == ["1", "4"]


def test_selecting_a_source_lights_its_targets(page: Page) -> None:
    page.pick("source", "layers.2.fused")
    assert page.texts("#target .lit .name") == ["a.weight", "b.weight", "c.weight"]
    assert page.texts("#source [aria-selected=true] .name") == ["fused.weight"]


def test_modules_say_how_many_tensors_are_lit_inside(page: Page) -> None:
    page.pick("target", "layers.2.experts.gate_up")
    rows = page.texts("#source .lit-within .name")
    assert rows[:4] == ["body", "layers", "{0..5}", "2"]
    assert page.texts("#source .lit-count")[:4] == ["40"] * 4


def test_pointing_lights_up_and_leaves_again(page: Page) -> None:
    page.click("#source .tensor", "head.weight", only_point=True)
    assert page.texts("#target .lit .name") == ["head.weight"]
    page.click("#title", only_point=True)
    assert page.texts("#target .lit .name") == []


@pytest.mark.parametrize(
    ("side", "key"),
    [
        ("target", "model.body.layers.2.qkv.weight"),
        ("target", "model.body.layers.2.b.weight"),
        ("target", "model.body.layers.2.straight.weight"),
        ("source", "body.layers.2.fused.weight"),
        ("source", "body.layers.2.experts.17.up.weight"),
        ("source", "head.weight"),
    ],
)
def test_copies_are_told_as_explain_tells_them(page: Page, plan: wb.Plan, side: str, key: str) -> None:
    page.pick(side, key)
    explained = plan.explain(key)
    assert page.text("#inspector pre").split("\n") == list(explained.copies)
    assert len(page.texts(".tried li")) == len(explained.tried)
    assert [tried.rule for tried in explained.tried if tried.outcome == "fired"] == [
        f"rule {text[0]}  {text[1:]}" for text in page.texts("#inspector .rule")
    ]


def padded_plan() -> wb.Plan:
    """Rows that come and go, and a part that no tensor has."""
    specs = {
        "wte": Spec("F32", (11, 3)),
        "padded": Spec("F32", (16, 3)),
        "q": Spec("BF16", (4,)),
        "v": Spec("BF16", (4,)),
    }
    rules = [
        wb.WeightConverter("wte", "embed", [wb.Pad(0, 16, value=-1)]),
        wb.WeightConverter("padded", "exact", [wb.Trim(0, 11)]),
        wb.WeightConverter(["q", "v"], "qkv", [wb.InsertConstant(1, (4,)), wb.Concatenate(0)]),
    ]
    return wb.plan(wb.Header(specs), rules)


@pytest.mark.parametrize(
    ("side", "key", "fate"),
    [
        ("target", "embed", "padded"),
        ("source", "wte", "moved"),
        ("source", "padded", "trimmed"),
        ("target", "exact", "filled"),
        ("target", "qkv", "padded"),
    ],
)
def test_declared_values_are_told_as_explain_tells_them(
    opened: Callable[..., Page], side: str, key: str, fate: str
) -> None:
    plan = padded_plan()
    page = opened(plan.to_html())
    page.pick(side, key)
    assert page.text("#inspector pre").split("\n") == list(plan.explain(key).copies)
    assert page.text("#inspector .fate") == fate
    assert "padded[11:16, :] = 0, cut off" in page.text("#summary")


def equal_plan() -> wb.Plan:
    """Tensors that must be equal, and one that is shared."""
    specs = {f"layers.{i}.table": Spec("F32", (8,)) for i in range(3)} | {"embed.weight": Spec("F32", (4, 3))}
    rules = [
        wb.WeightConverter("layers.*.table", "table.weight", [wb.MergeEqual()]),
        wb.WeightConverter("embed.weight", ["embed.weight", "head.weight"], [wb.Repeat()]),
    ]
    return wb.plan(wb.Header(specs), rules)


@pytest.mark.parametrize(
    ("side", "key", "lit"),
    [
        ("source", "layers.1.table", ["table.weight"]),
        ("source", "embed.weight", ["embed.weight", "head.weight"]),
        ("target", "table.weight", ["0.table", "1.table", "2.table"]),
        ("target", "head.weight", ["embed.weight"]),
    ],
)
def test_equal_tensors_are_shown_once_and_told_as_explain_tells_them(
    opened: Callable[..., Page], side: str, key: str, lit: list[str]
) -> None:
    plan = equal_plan()
    page = opened(plan.to_html())
    page.pick(side, key)
    assert page.text("#inspector pre").split("\n") == list(plan.explain(key).copies)
    other = "target" if side == "source" else "source"
    assert len(page.texts(f"#{other} .lit .name")) == len(lit)
    explained = plan.explain(key)
    assert len(page.texts("#inspector .keys li")) == len(explained.sources) + len(explained.targets)
    assert "layers.{0..2}.table -> table.weight" in page.text("#summary")


def moving_plan() -> wb.Plan:
    """Movements that no single box can hold, a cast, and a tied target."""
    source = {
        "turn.weight": Spec("F32", (16, 6)),
        "mix.weight": Spec("F32", (6, 5)),
        "kernel.weight": Spec("F32", (4, 3, 2, 5, 7)),
        "heads.weight": Spec("F32", (12, 5)),
        "part.weight": Spec("F32", (9, 4)),
        "swap.weight": Spec("F32", (8, 3)),
        "tokens.weight": Spec("BF16", (7, 3)),
        "empty.weight": Spec("F32", (0, 3)),
        "scalar": Spec("F32", ()),
    }
    mapping = wb.Mapping([
        wb.WeightConverter("turn.weight", "turned.weight", [wb.PermuteForRope(num_heads=2)]),
        wb.WeightConverter("mix.weight", "mixed.weight", [wb.Interleave(0)]),
        wb.WeightConverter("swap.weight", "swapped.weight", [wb.Reorder(0, (1, 2, 0), (1, 3, 4))]),
        wb.WeightConverter("part.weight", "parts.weight",
                           [wb.Split(0, (3, 6)), wb.On([1], wb.Interleave(0)), wb.Concatenate(0)]),
        wb.WeightConverter("kernel.weight", "flat.weight", [wb.Conv3dToLinear(3, (2, 5, 7)), wb.Transpose(0, 1)]),
        wb.WeightConverter("heads.weight", "grouped.weight", [wb.Rearrange("(h two d) c -> (two h d) c", two=2, h=3)]),
    ])  # fmt: skip
    found = wb.plan(wb.Header(source), mapping, dtype="F32")
    target = wb.Header({**found.target, "head.weight": Spec("F32", (7, 3))}, ties={"head.weight": "tokens.weight"})
    return wb.plan(wb.Header(source), mapping, target, dtype="F32")


def test_every_movement_has_a_diagram(opened: Callable[..., Page]) -> None:
    plan = moving_plan()
    page = opened(plan.to_html())
    drawn = {}
    for key in plan.target:
        page.pick("target", key)
        drawn[key] = page.value("document.querySelectorAll('.diagram rect').length")
        assert len(page.texts("#inspector pre")) == (key != "head.weight")
    plain = {key for key, boxes in drawn.items() if not boxes}
    assert plain == {"tokens.weight", "head.weight", "empty.weight", "scalar"}
    assert all(boxes >= 2 for key, boxes in drawn.items() if key not in plain)


def test_rows_that_change_their_order_are_drawn_as_runs(opened: Callable[..., Page]) -> None:
    page = opened(moving_plan().to_html())
    page.pick("target", "mixed")
    assert page.texts(".diagram .tick") == ["0:3", "3:6"]
    assert page.texts(".diagram .region") == [" [0:5:2, :]", " [1:6:2, :]"]


def test_casts_and_ties_are_told(opened: Callable[..., Page]) -> None:
    page = opened(moving_plan().to_html())
    page.pick("target", "head.weight")
    assert "It shares its storage with tokens.weight." in page.text("#inspector")
    page.pick("source", "tokens")
    assert "BF16 is cast to F32." in page.text("#inspector")
    assert page.text("#inspector p .fate") == "computed"


def test_tensors_of_a_quantised_weight_are_told_with_it(opened: Callable[..., Page]) -> None:
    found = {"norm.weight": Spec("F32", (3,))}
    for name in ("q", "k"):
        found |= {f"{name}.weight": Spec("F8_E4M3", (4, 6)), f"{name}.weight_scale_inv": Spec("F32", (2, 3))}
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 2]}}
    join = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])
    page = opened(wb.plan(wb.Header(found), [join], config=config).to_html())
    page.pick("source", "k.weight_scale")
    assert "rules name that one, and all that is stored for it goes along" in page.text("#inspector")
    assert page.texts("#inspector .stored li") == ["q.{weight,weight_scale_inv}"]
    assert "q.weight → qk.weight" in page.text("#inspector .tried")
    page.pick("source", "norm")
    assert "Quantised weight" not in page.text("#inspector")


def test_diagram_shows_what_lands_where(page: Page) -> None:
    page.pick("target", "layers.2.qkv")
    assert page.texts(".diagram .source") == ["q.weight", "k.weight", "v.weight"]
    assert page.texts(".diagram .tick") == ["0:12", "12:16", "16:20"]
    heights = page.value(
        "[...document.querySelectorAll('.diagram g rect:nth-of-type(2)')].map(r => +r.getAttribute('height'))"
    )
    assert heights == [96, 32, 32]


def test_diagram_of_many_sources_is_capped_and_shows_the_one_in_question(page: Page) -> None:
    page.pick("source", "layers.2.experts.11.up")
    assert page.texts(".diagram .tick") == ["0", "1", "2", "11", "19"]
    assert page.texts(".diagram .gap") == ["⋯ 8 more", "⋯ 7 more"]
    assert page.texts(".diagram .asked .source") == ["11.up.weight"]
    assert page.texts(".diagram .asked .inside") == ["6:12"]


def test_diagram_of_a_divided_source_names_its_targets(page: Page) -> None:
    page.pick("source", "layers.2.fused")
    assert page.texts(".diagram .source") == ["a.weight", "b.weight", "c.weight"]
    assert page.texts(".diagram .tick") == ["0:5", "5:10", "10:15"]


def test_whole_page_by_keyboard(page: Page) -> None:
    press, type_ = page.browser.press, page.browser.type
    press("/")
    assert page.focus() == "query"
    type_("layers.2.qkv")
    press("Enter")
    assert page.focus() == "target"  # nothing of the source matches
    press("End", "Enter")
    assert page.text("#inspector p.key") == "model.body.layers.2.qkv.weight"
    press("Escape")
    assert page.text("#inspector h2").startswith("Rules")
    press("Escape")
    assert page.value("document.getElementById('query').value") == ""
    press("Home")
    assert page.active("target") == "head.weight"
    press("ArrowDown", "ArrowRight", "ArrowRight")
    assert page.active("target") == "{0..5}"
    press("ArrowLeft", "ArrowLeft")
    assert page.active("target") == "model.body.layers"
    press("ArrowLeft")
    assert page.value("document.getElementById('target').querySelector('.active').ariaExpanded") == "false"
    press("PageDown")
    assert page.active("target") == page.texts("#target .name")[-1]


def test_tab_leads_from_the_search_through_both_trees(page: Page) -> None:
    page.browser.press("/")
    order = [page.focus()]
    for _ in range(30):
        page.browser.press("Tab")
        order.append(page.focus())
    named = [name for name in order if name in ("query", "theme", "source", "target")]
    assert named[:4] == ["query", "theme", "source", "target"]


def test_rows_tell_assistive_technology_where_they_are(page: Page) -> None:
    assert page.value("[...document.querySelectorAll('[role=tree]')].map(e => e.id)") == ["source", "target"]
    page.click("#source .row", "layers")
    read = """[...document.querySelectorAll("#source [role=treeitem]")]
        .map(e => ["level", "posinset", "setsize", "expanded"].map(name => e.getAttribute(`aria-${name}`)))"""
    assert page.value(read) == [
        ["1", "1", "2", "true"],
        ["2", "1", "2", "true"],
        ["3", "1", "1", "false"],
        ["2", "2", "2", None],
        ["1", "2", "2", None],
    ]


BRIGHTNESS = """[document.body, document.querySelector(".side")].map(e =>
    getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 3)"""


def test_colours_follow_the_system_and_the_button(page: Page) -> None:
    assert min(page.value(BRIGHTNESS)) > 230
    page.browser.prefer(dark=True)
    assert max(page.value(BRIGHTNESS)) < 50
    page.click("#theme")
    assert min(page.value(BRIGHTNESS)) > 230


def test_dark_page_is_dark_from_the_start(opened: Callable[..., Page], page_text: str) -> None:
    assert max(opened(page_text, dark=True).value(BRIGHTNESS)) < 50


CONTRAST = """(() => {
  const part = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(v => part(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
  };
  const texts = ".name, .spec, .fate, .quiet, button, h2, .value, small, .lit-count, footer, #verdict";
  return [...document.querySelectorAll(texts)]
    .filter(e => e.offsetParent)
    .map(e => [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a))
    .reduce((least, [a, b]) => Math.min(least, (a + 0.05) / (b + 0.05)), 21);
})()"""
"""The least contrast of a text with what is behind it, as WCAG 2.1 reckons it."""


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_the_contrast_that_wcag_asks_for(opened: Callable[..., Page], page_text: str, dark: bool) -> None:
    page = opened(page_text, dark=dark)
    page.pick("target", "layers.2.qkv")
    assert page.value(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [320, 400, 699])
def test_narrow_page_is_stacked_and_does_not_scroll_sideways(
    opened: Callable[..., Page], page_text: str, width: int
) -> None:
    page = opened(page_text, Size(width, 800))
    page.pick("source", "layers.2.experts.11.up")
    assert page.value("document.documentElement.scrollWidth") <= width
    boxes = page.value(
        "['source', 'target', 'inspector'].map(id => document.getElementById(id).getBoundingClientRect().toJSON())"
    )
    assert [box["width"] > width - 60 for box in boxes] == [True] * 3
    assert boxes[0]["bottom"] <= boxes[1]["top"] <= boxes[1]["bottom"] <= boxes[2]["top"]


def test_printed_page_is_not_cut(page: Page) -> None:
    page.browser.prefer(dark=False, media="print")
    page.browser.settle()
    assert page.value("getComputedStyle(document.querySelector('.search')).display") == "none"
    assert page.value("getComputedStyle(document.querySelector('#source')).overflowY") == "visible"
    assert page.value("getComputedStyle(document.querySelector('.row')).position") == "static"
    assert page.value("document.querySelector('footer').getBoundingClientRect().top") >= page.value(
        "document.querySelector('#inspector').getBoundingClientRect().bottom"
    )


def test_paper_has_all_open_rows_and_light_colours(opened: Callable[..., Page], page_text: str) -> None:
    page = opened(page_text, Size(1400, 500), dark=True)
    page.search("layers")
    rows = page.value("parseInt(document.querySelector('#target .space').style.height) / 22")
    drawn = len(page.texts("#target .row"))
    page.value("dispatchEvent(new Event('beforeprint'))")
    assert drawn < len(page.texts("#target .row")) == rows
    assert min(page.value(BRIGHTNESS)) > 230
    page.value("dispatchEvent(new Event('afterprint'))")
    assert len(page.texts("#target .row")) == drawn
    assert max(page.value(BRIGHTNESS)) < 50


def test_hostile_keys_are_shown_and_do_nothing(opened: Callable[..., Page]) -> None:
    page = opened(hostile_plan().to_html())
    assert page.value("window.broken") is None
    assert page.value("document.images.length") == 0
    assert page.texts("#source .name") == ["$script ${facts} &amp;", EVIL, "hidden.\\u{202e}\\u{d800}\\u{a}.weight"]
    page.click("#source .tensor", "onerror")
    assert page.text("#inspector p.key") == EVIL
    assert page.text("#title") == "<i>&name</i>"
    assert page.value("window.broken") is None


def test_policy_stops_scripts_that_are_not_the_page_s_own(browser: Browser, page: Page) -> None:
    add = "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s)"
    page.value(f"(() => {{ {add} }})()")
    assert page.value("window.broken") is None
    [complaint] = browser.complaints()
    assert "Content Security Policy" in complaint
    browser.events = [event for event in browser.events if event.get("method") == "Network.requestWillBeSent"]


def test_failed_plan_shows_errors_first(opened: Callable[..., Page], failed_text: str) -> None:
    page = opened(failed_text)
    assert page.text("#verdict").startswith("does not fit")
    assert page.texts("#errors .code") == ["plan-failed", "group-incomplete", "target-missing"]
    tops = page.value(
        "['errors', 'summary', 'source'].map(id => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert page.texts("#errors article:nth-of-type(2) dt") == ["expected", "got", "because", "try"]
    assert "a group of tensors lacks members" in page.texts("#errors details p")[1]
    assert "2 unplaced" not in page.text("#summary")
    assert {"unplaced 2", "missing 2"} <= set(page.texts(".fates button"))


def test_error_leads_to_its_tensors(opened: Callable[..., Page], failed_text: str) -> None:
    page = opened(failed_text)
    page.click("#errors article:nth-of-type(3) button", "show in the trees")
    assert page.text("#found") == "0 sources · 1 target"
    page.click("#target .tensor", "bias")
    assert page.text("#inspector .fate") == "missing"


def test_error_without_a_plan_or_a_target_has_a_page(opened: Callable[..., Page]) -> None:
    source = wb.Header({"a.weight": Spec("F32", (2,)), "b.weight": Spec("F32", (2,))})
    mapping = wb.Mapping([wb.WeightRenaming("a.weight", "c"), wb.WeightRenaming("b.weight", "c")])
    with pytest.raises(wb.PlanError) as failed:
        wb.plan(source, mapping)
    page = opened(failure_page(failed.value, mapping, source))
    assert page.texts("#errors .code")[0] == failed.value.code
    assert page.texts("#source .name") == ["a.weight", "b.weight"]


def test_empty_plan_has_a_page(opened: Callable[..., Page]) -> None:
    page = opened(wb.Plan(wb.Mapping([]), ()).to_html())
    assert page.texts(".empty") == ["no tensors", "no tensors"]
    page.browser.press("Tab", "Tab", "ArrowDown", "Enter", "End")


def test_90427_keys_take_few_elements(opened: Callable[..., Page], large_plan: wb.Plan) -> None:
    page = opened(large_plan.to_html())
    assert page.texts(".value")[0].startswith("90,427 tensors")
    page.pick("target", "model.layers.60.mlp.experts.gate_up_proj ")
    assert set(page.texts("#source .lit-count")) >= {"512"}
    page.pick("source", "model.layers.60.mlp.experts.255.up_proj.weight_")
    assert page.texts("#target .lit .name") == ["gate_up_proj_scale_inv"]
    assert page.value("document.querySelectorAll('[role=treeitem]').length") < 150
    assert page.value("document.querySelectorAll('*').length") < 1_500
