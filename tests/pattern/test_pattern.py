"""Laws of the key-pattern language, with a matcher that tries everything as the twin of the compiled one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings, strategies as st

from weighbridge.base.errors import PatternError
from weighbridge.base.keys import expand, families, is_sound
from weighbridge.pattern import Match, Pattern, check_rewrite, invert, is_one_way, rewrite
from weighbridge.pattern.indices import PLAIN, Form
from weighbridge.pattern.syntax import (
    Capture,
    Chars,
    Choice,
    Edge,
    Guard,
    Maybe,
    Node,
    Nodes,
    Reference,
    Text,
)

laws = settings(max_examples=1000, deadline=None)
seeds = st.integers(0, 2**48)
parse = Pattern.parse


# ------------------------------------------------------------------------------------------------ the twin


class Reading(NamedTuple):
    """One way to read a part of a key: where it stops, what is captured, how its outer parts bound it."""

    stop: int
    captures: dict[str, str]
    first: str = ""
    last: str = ""

    def consume(self, size: int, first: str, last: str) -> Reading:
        return Reading(self.stop + size, self.captures, self.first or first, last)


def readings(nodes: Nodes, key: str, now: Reading) -> Iterator[Reading]:
    """Read a sequence in every possible way, in the order of preference."""
    if not nodes:
        yield now
        return
    for after in read_node(nodes[0], key, now):
        yield from readings(nodes[1:], key, after)


def read_node(node: Node, key: str, now: Reading) -> Iterator[Reading]:
    match node:
        case Text(text):
            if key.startswith(text, now.stop):
                sides = ["open" if text[at] in "._" else "closed" for at in (0, -1)]
                yield now.consume(len(text), *sides)
        case Chars(members, repeat):
            yield from read_chars(members, repeat, key, now)
        case Choice(branches):
            for branch in branches:
                yield from readings(branch, key, now)
        case Maybe(body):
            yield from readings(body, key, now)
            yield now
        case Capture():
            yield from read_capture(node, key, now)
        case Reference():
            yield from read_reference(node, key, now)
        case Edge(at_end):
            if now.stop == (len(key) if at_end else 0):
                yield now
        case Guard(body, ahead, negative):
            starts = [now.stop] if ahead else range(now.stop + 1)
            found = any(
                ahead or end.stop == now.stop
                for start in starts
                for end in readings(body, key, Reading(start, now.captures))
            )
            if found != negative:
                yield now


def read_chars(members: str, repeat: str, key: str, now: Reading) -> Iterator[Reading]:
    accepts = re.compile("[0-9]" if members == r"\d" else members, re.DOTALL).fullmatch
    most = len(key) if repeat in ("+", "*") else 1
    size = 0
    while size < most and now.stop + size < len(key) and accepts(key[now.stop + size]):
        size += 1
    for taken in range(size, 0, -1):
        yield now.consume(taken, "closed", "closed")
    if repeat in ("?", "*"):
        yield now


def read_capture(node: Capture, key: str, now: Reading) -> Iterator[Reading]:
    if node.form != PLAIN:
        run = DIGITS.match(key, now.stop)
        words = [int(word) for word in node.words] or candidates(node.form, run)
        found = [index for index in words if run and spelled(node.form, index) == run[0]]
        if run and found:
            held = {**now.captures, node.name: str(found[0]), f"text of {node.name}": run[0]}
            held |= {f"form of {node.name}": node.form} if node.form.divisor else {}
            yield now._replace(captures=held).consume(len(run[0]), "closed", "closed")
        return
    for after in readings(node.body, key, now):
        yield after._replace(captures={**after.captures, node.name: key[now.stop : after.stop]})


def read_reference(node: Reference, key: str, now: Reading) -> Iterator[Reading]:
    """Read a capture's text once more, or the half of an index that its capture has left out."""
    first = now.captures.get(f"form of {node.name}", node.form)
    other = f"text of {node.name}{node.form}"
    if first == node.form or other in now.captures:
        text = now.captures[other] if first != node.form else capture_text(now, node.name)
        for after in read_node(Text(text), key, now):
            yield now.consume(after.stop - now.stop, "closed", "closed")
        return
    run = DIGITS.match(key, now.stop)
    known = DIGITS.match(capture_text(now, node.name))
    for index in candidates(first, known) if node.form.is_rest else candidates(node.form, run):
        if run and (spelled(first, index), spelled(node.form, index)) == (capture_text(now, node.name), run[0]):
            held = {**now.captures, node.name: str(index), other: run[0]}
            yield now._replace(captures=held).consume(len(run[0]), "closed", "closed")


DIGITS = re.compile("(?<![0-9])[0-9]+")


def candidates(form: Form, run: re.Match[str] | None) -> Iterable[int]:
    """Name the indices that may have been written as these digits: for the rest of a division, the first of them."""
    number = int(run[0]) if run else 0
    if form.divisor and not form.is_rest:
        return range(number * form.divisor, (number + 1) * form.divisor)
    return (number - form.offset,) if number >= form.offset else ()


def spelled(form: Form, index: int) -> str | None:
    number = index + form.offset
    if form.divisor:
        number = divmod(number, form.divisor)[form.is_rest]
    return format(number, f"0{form.digits}d" if form.digits else "d") if number >= 0 else None


def capture_text(now: Reading, name: str) -> str:
    return now.captures.get(f"text of {name}", now.captures[name])


def whole_readings(pattern: Pattern, key: str, start: int) -> Iterator[Reading]:
    """Read from one place, as far as whole segments allow."""
    begins = start == 0 or key[start - 1] == "."
    for end in readings(pattern.nodes, key, Reading(start, {})):
        ends = end.stop == len(key) or key[end.stop] == "."
        start_holds = begins if end.first == "closed" else end.first == "open" or begins or start == len(key)
        if start_holds and (ends or end.last != "closed"):
            yield end


def naive_match(pattern: Pattern, key: str) -> Match | None:
    for start in range(len(key) + 1):
        for end in whole_readings(pattern, key, start):
            captures = {name: text for name, text in end.captures.items() if " of " not in name}
            return Match(start, end.stop, captures)
    return None


# --------------------------------------------------------------------------------------------- random patterns and keys

WORDS = ["a", "b", "ab", "a_b", "hc_", "_b", "q_proj", "0", "1", "12", "a1"]
SEGMENTS = [*WORDS[:5], "q_proj", "hc_a", "0", "1", "2", "10", "12", "21", "007", "a1", "w_2", "x"]
VARIABLES = [
    "{i}",
    "{n:int}",
    "{p:q|k|a}",
    "{path:**}",
    "{m+1}",
    "{m-1}",
    r"(\d+)",
    "(a|b|hc_)",
    r"(.+)",
    r"([^.]+)",
    "*",
]
VARIABLES += ["{k:02}", "{k+1:03}", "{k//2}.{k%2}", "{k%3}_{k//3:02}", "{k+2:0|1}", "{k:0|1|12}"]
VARIABLES += [r"(a\.\d+)", r"(\w+)", "(a.|b.)", r"([a-c]+)"]
LOOSE = [r"\w+", "[^.]+", r"\d+", ".+", "(?:a|b)", "(?:a.)?", "[ab]", "[0-9]", r"[a-z0-9_]*", r"\d", "(?:1|a)"]
GUARDS = [
    "(?!a)",
    "(?!b.)",
    "(?<!a)",
    r"(?<!a\.)",
    "(?=a|0)",
    r"(?!\w)",
    r"(?<!a\.1\.)",
    r"(?<=a|b\.)",
    "(?!(?:a|x).)",
    "(?!1)",
]
REPEATS = [r"\1", "{i}", "{n}"]


def random_pattern(rng: random.Random, pools: list[list[str]]) -> Pattern:
    """Write a pattern from the grammar, trying again where the parts do not fit together."""
    while True:
        parts = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 4))]
        text = parts[0]
        for part in parts[1:]:
            text += (rng.choice([".", ".", ".", r"\.", "_", ""])) + part
        text = rng.choice(["", "", "", "^", ".", "(^|a.)"]) + text + rng.choice(["", "", "", "$", ".", "_"])
        try:
            pattern = parse(text)
            pattern.match("a")
        except PatternError:
            continue
        return pattern


def sample(nodes: Nodes, rng: random.Random, held: dict[str, str]) -> str:
    """Write a text that a tree probably matches."""
    return "".join(sample_node(node, rng, held) for node in nodes)


def sample_node(node: Node, rng: random.Random, held: dict[str, str]) -> str:
    match node:
        case Text(text):
            return text
        case Chars(members, repeat):
            pool = rng.choice(SEGMENTS) if members != "." else rng.choice(["a.1", "a", "12", "b.a.0"])
            fits = "".join(char for char in pool if re.fullmatch(members, char))
            return (fits or rng.choice("a10")) if repeat in ("+", "*") else (fits or "1")[:1]
        case Choice(branches):
            return sample(rng.choice(branches), rng, held)
        case Maybe(body):
            return rng.choice([sample(body, rng, held), ""])
        case Capture(name, body, form) if form != PLAIN:
            held[name] = rng.choice(node.words or ["0", "1", "2", "3", "7", "12"])
            return spelled(form, int(held[name])) or "0"
        case Capture(name, body):
            held[name] = sample(body, rng, held)
            return held[name]
        case Reference(name, form):
            return held.get(name, "a") if form == PLAIN else spelled(form, int(held.get(name, "1"))) or "0"
        case _:
            return ""


def random_key(rng: random.Random, pattern: Pattern) -> str:
    around = ["", *SEGMENTS]
    left, right = rng.choice(["", rng.choice(around) + "."]), rng.choice(["", "." + rng.choice(around), "a"])
    middle = (
        sample(pattern.nodes, rng, {}) if rng.random() < 0.8 else ".".join(rng.choices(SEGMENTS, k=rng.randint(1, 5)))
    )
    return rng.choice([left, left, rng.choice(around) + ".1."]) + middle + right


def random_target(rng: random.Random, source: Pattern) -> Pattern:
    """Write a target of the source's captures, most of them, in any order, between literals."""
    references = []
    for capture in source.captures:
        forms = ["{0}-1", "{0}+1", "{0}+2", "{0}:02", "{0}+1:03", "{0}//2}}.{{{0}%2"]
        form = rng.choice(forms) if capture.is_number and rng.random() < 0.4 else ""
        if capture.is_star:
            references.append("*")
        else:
            name = capture.name
            plain = f"\\{name}" if name.isdigit() else f"{{{name}}}"
            references.append(f"{{{form.format(name)}}}" if form else plain)
    rng.shuffle(references)
    text = rng.choice(["", "a.", "hc_", "_b.", "."]) + rng.choice([".", "_", ".b."]).join(references)
    text += rng.choice([".", ".b", "b", "_", "", "1"])
    try:
        target = parse(text)
        check_rewrite(source, target)
    except PatternError:
        return parse("a.b")
    return target


def random_rule(rng: random.Random, pools: list[list[str]]) -> tuple[Pattern, Pattern]:
    while True:
        source = random_pattern(rng, pools)
        target = random_target(rng, source)
        try:
            check_rewrite(source, target)
        except PatternError:
            continue
        return source, target


EVERYTHING = [WORDS, VARIABLES, VARIABLES, LOOSE, GUARDS, REPEATS]
INVERTIBLE = [WORDS, VARIABLES, VARIABLES, GUARDS[:4]]


# ------------------------------------------------------------------------------------------------ laws


@laws
@given(seeds)
def test_canonical_text_reads_back(seed: int) -> None:
    """Parsing the canonical text gives the same pattern, and the text again."""
    pattern = random_pattern(random.Random(seed), EVERYTHING)
    again = parse(str(pattern))
    assert again == pattern
    assert str(again) == str(pattern)
    assert hash(again) == hash(pattern)


@settings(max_examples=1500, deadline=None)
@given(seeds)
def test_match_agrees_with_trying_everything(seed: int) -> None:
    rng = random.Random(seed)
    pattern = random_pattern(rng, EVERYTHING)
    for _ in range(3):
        key = random_key(rng, pattern)
        assert pattern.match(key) == naive_match(pattern, key), (pattern.text, key)
        assert pattern.match(key, literal=True) == naive_match(pattern, key)


@laws
@given(seeds)
def test_guard_restricts_only(seed: int) -> None:
    """A guard in front or behind never lets a pattern match what it does not match without it."""
    rng = random.Random(seed)
    pattern = random_pattern(rng, [WORDS, VARIABLES])
    guard = rng.choice(GUARDS)
    at = rng.choice([0, *(1 for node in pattern.nodes[:1] if node == Edge(at_end=False))])
    guarded = Pattern((*pattern.nodes[:at], *parse(guard).nodes, *pattern.nodes[at:]), "")
    key = random_key(rng, pattern)
    if guarded.match(key) is not None:
        assert pattern.match(key) is not None


@settings(max_examples=1500, deadline=None)
@given(seeds)
def test_inverse_gives_back_the_span(seed: int) -> None:
    """Where a rewritten span can be read in one way only, the inverse matches there and writes what stood there."""
    rng = random.Random(seed)
    source, target = random_rule(rng, INVERTIBLE)
    assume(not is_one_way(source, target))
    new_source, new_target = invert(source, target)
    key = random_key(rng, source)
    match = source.match(key)
    rewritten = rewrite(source, target, key)
    if match is None or rewritten is None:
        return
    if all(isinstance(node, Guard | Edge) for node in source.nodes):
        # what was put in is taken away, and what is left is the whole key, if there is anything left
        assert not key or rewrite(new_source, new_target, rewritten) == key, (source.text, target.text, key, rewritten)
        return
    span = key[match.start : match.stop]
    stop = match.start + len(rewritten) - (len(key) - len(span))
    ends = [end for end in whole_readings(new_source, rewritten, match.start) if end.stop == stop]
    alike = {tuple(sorted(end.captures.items())) for end in ends}
    if target_has_guards(new_source):  # a boundary added for the way back may look at a neighbour that was no boundary
        assume(ends)
    assert ends, (source.text, target.text, str(new_source), key, rewritten)
    if len(alike) == 1:
        captures = {name: text for name, text in ends[0].captures.items() if " of " not in name}
        assert new_target.fill(captures) == span, (source.text, target.text, key, rewritten)
    back = new_source.match(rewritten)
    if back is not None and (back.start, back.stop) == (match.start, stop) and len(alike) == 1:
        assert rewrite(new_source, new_target, rewritten) == key


def target_has_guards(pattern: Pattern) -> bool:
    return any(isinstance(node, Guard) for node in pattern.nodes)


@laws
@given(seeds)
def test_inverse_twice_rewrites_alike(seed: int) -> None:
    """The inverse of the inverse writes what the rule writes, wherever it still matches the same place."""
    rng = random.Random(seed)
    source, target = random_rule(rng, [WORDS, VARIABLES])
    assume(not is_one_way(source, target))
    inverse = invert(source, target)
    assume(not is_one_way(*inverse))
    again = invert(*inverse)
    key = random_key(rng, source)
    first, second = source.match(key), again[0].match(key)
    if first and second and first[:2] == second[:2] and list(first.captures.values()) == list(second.captures.values()):
        assert rewrite(*again, key) == rewrite(source, target, key)


@settings(max_examples=1500, deadline=None)
@given(seeds)
def test_collapsed_rewriting_equals_rewriting_each_key(seed: int) -> None:
    """A rule applied to a template says for each of its keys what the rule says for that key alone."""
    rng = random.Random(seed)
    rules = [random_rule(rng, EVERYTHING) for _ in range(2)]
    rules = [rule for rule in rules if rule[0].collapsible and rule[1].fills_templates]
    assume(rules)
    keys = {random_key(rng, source) for source, _ in rules for _ in range(6)}
    keep = frozenset[str]().union(*(source.literal_indices for source, _ in rules))
    for template, members in families(sorted(keys), keep).templates.items():
        for key, indices in members:
            assert through_template(template, indices, rules) == through_key(key, rules), (key, rules)


def through_key(key: str, rules: list[tuple[Pattern, Pattern]]) -> str:
    for source, target in rules:
        key = rewrite(source, target, key) or key
    return key


def through_template(template: str, indices: tuple[int, ...], rules: list[tuple[Pattern, Pattern]]) -> str:
    for done, (source, target) in enumerate(rules):
        written = rewrite(source, target, template) or template
        named = frozenset[str]().union(*(later.literal_indices for later, _ in rules[done + 1 :]))
        if expand(written, indices) is None or not is_sound(written, named):
            return through_key(expand(template, indices) or "", rules[done:])
        template = written
    return expand(template, indices) or ""


@laws
@given(seeds)
def test_collapsible_template_matches_where_keys_do(seed: int) -> None:
    rng = random.Random(seed)
    pattern = random_pattern(rng, EVERYTHING)
    assume(pattern.collapsible)
    keys = [random_key(rng, pattern) for _ in range(4)]
    for template, members in families(keys, pattern.literal_indices).templates.items():
        for key, _ in members:
            assert (pattern.match(template) is None) == (pattern.match(key) is None)


# ------------------------------------------------------------------------------------------------ examples

MATCHES = [
    ("weight", "q_proj.weight", (7, 13)),
    ("weight", "q_proj.weight_scale_inv", None),
    ("gate_up_proj", "mlp.experts.gate_up_proj_scale_inv", None),
    ("model", "pre_layer_proj_model.weight", None),
    ("model", "language_model.model.layers", (15, 20)),
    ("norm.", "layers.0.norm.weight", (9, 14)),
    ("norm.", "layers.0.q_norm.weight", None),
    ("norm.", "norm", None),
    (".attn.", "layers.0.attn.q.weight", (8, 14)),
    (".attn.", "attn.q.weight", None),
    ("hc_", "layers.0.hc_attn_fn", (9, 12)),
    ("^hc_{rest}", "hc_head_fn", (0, 10)),
    ("^(layers.|norm.)", "norm.weight", (0, 5)),
    ("^(layers.|norm)", "norm_1.weight", None),
    ("^", "a.b", (0, 0)),
    ("^(?!segmentation_head)", "segmentation_head.bias", None),
    ("(^|model.)layers.", "model.layers.0", (0, 13)),
    ("(^|model.)layers.", "layers.0", (0, 7)),
    ("(?<!layer)(?<!_)norm.", "a.norm.w", (2, 7)),
    (r"^model(?!\.(visual|projector))", "model.visual.w", None),
    (r"^model(?!\.(visual|projector))", "model.layers.w", (0, 5)),
    ("experts.*.w1", "layers.3.experts.17.w1.weight", (9, 22)),
    ("shard_*.weight", "shard_7.weight", (0, 14)),
    ("{a}.{b}.{a}", "x.y.x", (0, 5)),
    ("{a}.{b}.{a}", "x.y.z", None),
    (r"(q|k)_\1", "a.k_k", (2, 5)),
    ("{i+1}", "0", None),
    ("layers.{i+2}", "layers.1.layers.2", (9, 17)),
    ("(.+).self_attn", "encoder.layers.0.self_attn.q", (0, 26)),
    ("a.(?:b.)?c", "a.c", (0, 3)),
]


@pytest.mark.parametrize(("text", "key", "span"), MATCHES)
def test_match_covers_whole_segments(text: str, key: str, span: tuple[int, int] | None) -> None:
    match = parse(text).match(key)
    assert (match and (match.start, match.stop)) == span
    assert match == naive_match(parse(text), key)


REWRITES = [
    ("q_proj", "qkv_proj", "a.q_proj.weight", "a.qkv_proj.weight"),
    ("q_proj", "q_proj.q_proj", "q_proj.q_proj", "q_proj.q_proj.q_proj"),
    ("norm0", "norm1", "blocks.0.norm0.norm1", "blocks.0.norm1.norm1"),
    ("^model.", "", "model.layers.0", "layers.0"),
    ("^", "model.", "layers.0", "model.layers.0"),
    (r"^language_model\.model", "model.language_model", "language_model.model.norm", "model.language_model.norm"),
    (r"(encoder|decoder)\.norm", r"\1.layer_norm", "a.decoder.norm.w", "a.decoder.layer_norm.w"),
    (r"attn_queries\.{i:int}", "layers.{i+1}.query", "attn_queries.9", "layers.10.query"),
    (r"attn_queries\.(\d+)", "layers.{1+1}.query", "attn_queries.9", "layers.10.query"),
    ("layers.{i:int}", "blocks.{i-1}", "layers.0", None),
    ("layers.{i:int}", "blocks.{i-1}", "layers.01", None),
    ("experts.*.w.*", "e.*.b.*", "experts.4.w.7", "e.4.b.7"),
    (r"^vision\.(.+)", r"^model\.vision\.\1(?!x)$", "vision.a.b", "model.vision.a.b"),
    ("layer_{i:02}-model", "layers.{i}", "layer_07-model.w", "layers.7.w"),
    ("layer_{i:02}-model", "layers.{i}", "layer_123-model.w", "layers.123.w"),
    ("layer_{i:02}-model", "layers.{i}", "layer_7-model.w", None),
    ("layer_{i:02}-model", "layers.{i}", "layer_007-model.w", None),
    ("layers.{i:int}", "layer_{i:02}-model", "layers.7.w", "layer_07-model.w"),
    ("h.{i+3:02}", "layers.{i}", "h.02", None),
    ("h.{i+3:02}", "layers.{i}", "h.04", "layers.1"),
    ("blocks.{i:int}", "stages.{i//4}.{i%4}", "blocks.11.w", "stages.2.3.w"),
    ("stages.{i//4}.{i%4}", "blocks.{i}", "stages.2.3.w", "blocks.11.w"),
    ("stages.{i%4}.of.{i//4}", "blocks.{i}", "stages.3.of.2.w", "blocks.11.w"),
    ("stages.{i//4}.{i%4}", "blocks.{i}", "stages.2.4.w", None),
    ("a.{i//2}.{i%2}.{i//2}", "b.{i}", "a.3.1.3", "b.7"),
    ("a.{i//2}.{i%2}.{i//2}", "b.{i}", "a.3.1.2", None),
    ("a.{i//2}.{i%2}.{i%2}", "b.{i}", "a.3.1.1", "b.7"),
    ("norm.{i:0|1}", "norm.{i+2}", "norm.1.w", "norm.3.w"),
    ("norm.{i:0|1}", "norm.{i+2}", "norm.2.w", None),
    ("norm.{i+2:0|1}", "norm.{i}", "norm.3.w", "norm.1.w"),
    ("norm.{i+2:0|1}", "norm.{i}", "norm.4.w", None),
    ("norm.(0|1)", "norm.{1-1}", "norm.0", None),
]


@pytest.mark.parametrize(("source", "target", "key", "written"), REWRITES)
def test_rewrite_replaces_one_match_once(source: str, target: str, key: str, written: str | None) -> None:
    assert rewrite(parse(source), parse(target), key) == written


INVERSES = [
    ("^h.{i:int}.ln_{n:int}", "layers.{i}.norm{n}", "^layers.{i:int}.norm{n:int}", "h.{i}.ln_{n}"),
    (r"a\.(x|y)\.(\d+)", r"b.\2.\1", r"b.(\d+).(x|y)", r"a.\2.\1"),
    (r"q\.(\d+)", "l.{1+1}.q", "l.{n1+1}.q", "q.{n1}"),
    ("^a.{i+1}.b$", "c.{i-1}", "^c.{i-1}$", "a.{i+1}.b"),
    ("a.*.b.*", "c.*.d.*", "c.*.d.*", "a.*.b.*"),
    ("a.{i:02}", "b.{i}", "b.{i:int}", "a.{i:02}"),
    ("a.{i:int}", "b{i:03}", "b{i:03}", "a.{i}"),
    ("a.{i:int}", "b.{i%2}.{i//2}", "b.{i%2}.{i//2}", "a.{i}"),
    ("a.{i//2}.{i%2}", "b.{i+1}", "b.{i+1}", "a.{i//2}.{i%2}"),
    ("a.{i:0|1}", "b.{i+2}", "b.{i+2:0|1}", "a.{i}"),
    ("a.(0|1)", "b.{1+2}", "b.{n1+2:0|1}", "a.{n1}"),
    ("mtp.{i:int}", "layers.{i+text_config.depth}", "layers.{i+text_config.depth}", "mtp.{i}"),
    ("a.{x}.{x}", "b.{x}", "b.{x}", "a.{x}.{x}"),
    ("a.{x:p|q}", "{x}.c.{x}", "{x:p|q}.c.{x}", "a.{x}"),
    (r"(?<!m\.)layers(?!\.9)", "m.layers", "m.layers", "layers"),
    ("(^|model.)norm.", r"\1final_norm.", "(^|model.)final_norm.", r"\1norm."),
    ("hc", "hc_", "hc_(?![^.])", "hc"),
    ("layers.*.w", r"layers\.*_x", r"layers\.*_x", "layers.*.w"),
]


@pytest.mark.parametrize(("source", "target", "new_source", "new_target"), INVERSES)
def test_invert_swaps_captures_and_references(source: str, target: str, new_source: str, new_target: str) -> None:
    assert invert(parse(source), parse(target)) == (parse(new_source), parse(new_target))


ONE_WAY = [
    ("layers.*.w", "w"),
    (r"layers.\d+.w", "w"),
    ("(?:a|b).w", "w"),
    ("(?:a.)?w$", "w"),
    ("(a|b).w", "w"),
    (".attn", "attn"),
    ("attn.", "attn"),
    ("model.", ""),
    ("{a}.{b}", "{a}{b}"),
    ("{i:int}.a", "{i}.{i+1}"),
    ("a.{i+1}", "b{i}0"),
    ("a.{i:int}", "b.{i//2}"),
    ("a.{i:int}", "b.{i%2}"),
    ("a.{i:int}", "b.{i//2}.{i%3}"),
    ("a.{i:int}", "b.{i//2}{i%2}"),
    ("a.{i:int}", "b.{i//2}.{i%2}.{i}"),
    ("a.{i:0|1}.{p}", "b.{i+2}{p}"),
    ("$", "a"),
    ("^", "a"),
    ("^", ".a"),
]


@pytest.mark.parametrize(("source", "target"), ONE_WAY)
def test_invert_refuses_what_is_lost(source: str, target: str) -> None:
    with pytest.raises(PatternError) as caught:
        invert(parse(source), parse(target))
    assert caught.value.code == "pattern-one-way"
    assert is_one_way(parse(source), parse(target)) == caught.value.what


def test_free_stars_invert_a_merge() -> None:
    """An index that an operation merges away is a free star of the way back."""
    source, target = parse("experts.*.w1"), parse("experts.w1")
    new_source, new_target = invert(source, target, free_stars=True)
    assert (str(new_source), str(new_target)) == ("experts.w1", "experts.*.w1")
    check_rewrite(new_source, new_target, free_stars=True)
    assert new_target.fill({"*1": "5"}) == "experts.5.w1"
    with pytest.raises(PatternError, match="nothing binds"):
        check_rewrite(new_source, new_target)


# each valid pattern beside its nearest invalid ones
NEIGHBOURS: list[tuple[str, list[tuple[str, int]]]] = [
    ("a.*.b", [("a.**.b", 2), ("a.*b", 2), (r"\d**", 3)]),
    (r"\d+", [(r"\d+?", 3), (r"\d{2}", 2), (r"\s+", 0), (r"\D", 0), ("+", 0)]),
    ("(a|b)", [("(a|b", 0), ("a|b)", 3), ("(a|b)*", 5), ("(a|b)?", 5), ("((a)|b)", 1), ("(a(b))", 0)]),
    ("(?:a)?", [("(?:a)+", 5), ("(?:(a))?", 0), ("(?:(a)|b)", 3), ("(?P<x>a)", 0), ("(?i)a", 0)]),
    ("(?<!a|bc)d", [(r"(?<!\d+)d", 0), ("(?<!a(?:b)?)d", 0), ("(?<a)d", 0), ("(?!a)*d", 5)]),
    (
        "{i:int}",
        [("{i:float}", 3), ("{i", 0), ("i}", 1), ("{i:int}.{i:**}", 8), ("{i:int}+", 7), ("{1}", 0), ("{}", 0)],
    ),
    ("{i+1}", [("{i+1:**}", 2), ("{i+999}", 2), ("{i+}", 0), ("{i*2}", 0)]),
    ("{i+1:0|1}", [("{i+1:a|b}", 2), ("{i+1:00|1}", 2), ("{i//2:0|1}", 2)]),
    ("{i//2:02}", [("{i//1}", 4), ("{i%257}", 3), ("{i//n}", 4), ("{i:01}", 3), ("{i:019}", 3), ("{i:2}", 3)]),
    ("{p:q|k}", [("{p:q}", 3), ("{p:q|}", 3), ("{p:q|(k)}", 3)]),
    ("[a-c]", [("[c-a]", 1), ("[a-c", 0), ("[]", 0), ("[^]", 0), ("a]", 1)]),
    ("^a$", [("a^", 1), ("$a", 0), ("a\\", 1)]),
    (r"(?!(?:a|b))(c)", [("(?!(a|b))(c)", 9), (r"(?!\1)(c)", 3)]),
    ("é", [("\ue000", 0)]),
]


@pytest.mark.parametrize(
    ("valid", "text", "column"), [(valid, text, column) for valid, near in NEIGHBOURS for text, column in near]
)
def test_parse_shows_the_place_it_cannot_read(valid: str, text: str, column: int) -> None:
    parse(valid)
    with pytest.raises(PatternError) as caught:
        parse(text)
    assert caught.value.code == "pattern-syntax"
    assert caught.value.got == f"{text}\n{' ' * column}^"


def test_parse_error_text_is_aligned() -> None:
    with pytest.raises(PatternError) as caught:
        parse("layers.(a|b")
    assert str(caught.value) == (
        "pattern-syntax: this parenthesis is not closed\n  got       layers.(a|b\n" + " " * 19 + "^"
    )


REFERENCES = [
    ("a", r"\1"),
    ("(a|b)", r"\2"),
    ("{x}", "{y}"),
    ("(a|b)", "(a|b)"),
    ("a", r"\d+"),
    ("a", "(?:b|c)"),
    ("a.*", "b.*.*"),
    ("{x}", "{x+1}"),
    ("{x}", "{x:02}"),
    ("{x:a|b}", "{x+1}"),
    ("{x:0|1}", "{x:02}"),
    ("{x:0|1}", "{x//2}.{x%2}"),
    ("{x:**}", "{x%2}"),
    ("{x:a|b}", "{x:int}"),
    (r"\1(a)", "b"),
]


@pytest.mark.parametrize(("source", "target"), REFERENCES)
def test_check_rewrite_refuses_unbound_references(source: str, target: str) -> None:
    with pytest.raises(PatternError) as caught:
        check_rewrite(parse(source), parse(target))
    assert caught.value.code == "pattern-reference"


AMBIGUOUS = ["", "(?!a)", "(?:a)?", "{i:int}.{i+1}", r"(^|a.)b\1", "(?:a.)?(?:.b|c)"]
AMBIGUOUS += ["{i//2}", "a.{i%2}.b", "{i//2}.{i%3}"]


@pytest.mark.parametrize("source", AMBIGUOUS)
def test_check_rewrite_refuses_unclear_sources(source: str) -> None:
    with pytest.raises(PatternError) as caught:
        check_rewrite(parse(source), parse("b"))
    assert caught.value.code == "pattern-syntax"


COLLAPSIBLE = [
    ("layers.{i:int}.w", True),
    ("experts.*.w1", True),
    (r"(layers\.\d+)\.attn", True),
    ("(.+).self_attn", True),
    (r"(?<!_)(?<!\w)norm.", True),
    ("layers.0.w", True),
    ("layers.{i-1}.w", True),
    ("layers.{i+1}.w", False),
    ("layers.[0-4].w", False),
    (r"layers.\d.w", False),
    ("{a}{b}", False),
    ("{a}.{a}", False),
    ("layers.1{a}", False),
    ("layers.(?!1)", False),
    (r"(?<!1)\.attn", False),
    (r"(?<!layers\.1)\.attn", True),
]


@pytest.mark.parametrize(("text", "collapsible"), COLLAPSIBLE)
def test_collapsible_sees_what_depends_on_digits(text: str, collapsible: bool) -> None:
    assert parse(text).collapsible == collapsible


def test_pattern_reports_its_parts() -> None:
    pattern = parse(r"a.*.{n:int}.{w}.{p:x|y}.{t:**}.(b|c).(\d+).(d\d).*")
    assert [(capture.name, capture.kind) for capture in pattern.captures] == [
        ("*1", "int"),
        ("n", "int"),
        ("w", "word"),
        ("p", "choice"),
        ("t", "any"),
        ("1", "choice"),
        ("2", "int"),
        ("3", "mixed"),
        ("*2", "int"),
    ]
    assert pattern.stars == 2
    assert parse("layers.12.conv2d(?!.3)").literal_indices == {"12", "2", "3"}


def test_literal_key_keeps_reserved_characters() -> None:
    """A key with a private-use character is matched as it is when it is said to be literal."""
    pattern = parse("layers.{i:int}")
    assert pattern.match("layers.\ue000") is not None
    assert pattern.match("layers.\ue000", literal=True) is None
    assert rewrite(parse("layers"), parse("h"), "layers.\ue000", literal=True) == "h.\ue000"


def test_parse_is_cached() -> None:
    assert parse("a.b") is parse("a.b")
    assert parse("a.b") == parse(r"a\.b")


# Sources and targets that the table of transformers 5.23 has, one of each shape.
PEER_SOURCES = [
    r"^embed_tokens\.",
    r"\.attn\.",
    r"layer\.",
    r"hc_",
    r"\.hc_pre\.hc_",
    r"^",
    r"vision_tower.layers.linear_(\d+)",
    r"(vision_tower\.layers\.\d+)\.ln_1\.",
    r"\.attn\.(q_l2_clip|k_l2_clip|k_sconv)\.",
    r"(convolution|sconv)\.weight(?!_)",
    r"(q|k|v)_input_norm",
    r"mlp.experts.*.gate_proj.weight",
    r"^model(?!\.(language_model|vit|vision_tower))",
    r"(?<!psp_modules\.[0-9]\.1\.)bn\.",
    r"encoder.patch_embeddings.(\d+).",
    r"vision_tower.encoder.blocks.(\d+).norm0",
    r"\.experts.*.w1.weight",
    r"\.block_sparse_moe\.(experts|gate|shared_experts)\.",
    r"^vision_model\.(.+)",
    r"(?<!image_vit\.)transformer\.(?!ln_f\.|blocks\.)",
    r"^model(?!(\.visual|\.projector|\.language_model))",
    r"^model\.(?:(?!language_model\.))(.+)",
    r"(^|model\.)embed_tokens\.",
    r"^(?:(?!timm_model\.))(.+)",
    r"(?<!model\.)layer.",
    r"tracker_model.(.+)",
    r"encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
    r"(?<!decoder\.)(?<!text_model\.)(?<!layer)(?<!_)norm\.",
    r"(?<!vision_model.encoder\.)(?<!vision_tower.encoder\.)layers.",
    r"speech_encoder\.(conv2d[123]|conv_out)\.",
    r"(blocks\.\d+\.mlp)\.fc1\.",
    r"^(layers\.|embed_tokens\.|norm\.)",
    r"(?<!_)(?<!\w)norm\.",
    r"^(?!segmentation_head)",
    r"projector.stages.0.0.m.(\d+).cv1.conv",
    r"encoder\.(.+)\.self_attn\.linear_q",
    r"ngram_embedding.shard_*.weight",
    r"^layers\.(\d+)\.(?!(?:mtp_block|enorm|hnorm|eh_proj|post_norm)\.)",
    r"\.(feed_forward|shared_experts)\.w1\.",
    r".weight_g",
]
PEER_TARGETS = [
    r"\1.layernorm_before.",
    r".self_attn.\1.",
    r"\1_input_layernorm",
    r"vit.layers.\1.layer_norm1.",
    r"model\.language_model\.\1",
    r"vlm\.\1",
    r"\1.",
    r"^model\.audio_tower\.asr_encoder\.",
    r"^word_timestamp_head\.",
    r".\1.gate_proj.",
    r"mlp.experts.gate_up_proj",
    r".hc_",
]


@pytest.mark.parametrize("text", [*PEER_SOURCES, *PEER_TARGETS])
def test_parse_reads_what_users_have(text: str) -> None:
    pattern = parse(text)
    assert parse(str(pattern)) == pattern


@pytest.mark.parametrize("text", PEER_SOURCES)
def test_peer_source_matches_like_its_twin(text: str) -> None:
    pattern, rng = parse(text), random.Random(7)
    keys = [random_key(rng, pattern) for _ in range(40)]
    matches = [pattern.match(key) for key in keys]
    assert matches == [naive_match(pattern, key) for key in keys]
    assert any(matches)


NEAR_FAULTS = [
    ("layer_{i:02}.w", "layer_7.w", "'7', for {i:02}, has fewer than 2 digits"),
    ("layer_{i:02}.w", "layer_007.w", "'007', for {i:02}, has more leading zeros than could be written back"),
    ("a.{i//2}.{i%2}", "a.3.2", "'2', for {i%2}, is not less than 2"),
    ("a.{i//2}.{i%2}", "a.03.1", "'03', for {i//2}, has leading zeros, which could not be written back"),
    ("a.{i//2}.{i%2}", "b.3.2", ""),
    ("a.{i+2:0|1}", "a.7", ""),
]


@pytest.mark.parametrize(("text", "key", "fault"), NEAR_FAULTS)
def test_index_that_keeps_a_source_from_matching_is_named(text: str, key: str, fault: str) -> None:
    pattern = parse(text)
    assert pattern.match(key) is None
    assert pattern.near_fault(key, None) == fault


def test_offset_that_is_a_name_is_a_number_once_it_is_bound() -> None:
    source, target = parse("mtp.{i:int}"), parse("layers.{i+text_config.depth}")
    assert target.names == ("text_config.depth",)
    back, _ = invert(source, target)
    for pattern in (target, back):
        with pytest.raises(PatternError, match=r"`text_config\.depth` is a number of the configuration"):
            pattern.match("layers.7") if pattern is back else pattern.fill({"i": "1"})
    found = {"text_config.depth": 5}.__getitem__
    assert target.bind(found).fill({"i": "2"}) == "layers.7"
    match = back.bind(found).match("layers.7")
    assert match is not None
    assert match.captures == {"i": "2"}
    assert back.bind(found).match("layers.4") is None
    assert source.bind(found) is source
