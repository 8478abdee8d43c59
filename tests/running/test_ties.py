"""Tied weights (A3): one value for one storage, whoever asks for it; members of a group go by their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

import weighbridge as wb
from weighbridge.integrations import transformers as wbt

# ---- one comparison for load, state_dict, stream and write ----


class Tied(torch.nn.Module):
    """As many names as are asked for, all of one parameter, and one weight beside them."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2, bias=False) for name in (*names, "other")})
        for name in names[1:]:
            self.parts[name].weight = self.parts[names[0]].weight


def numbers(start: float, *shape: int) -> torch.Tensor:
    return (torch.arange(float(torch.Size(shape).numel())) + start).reshape(shape)


def runs(plan: wb.Plan, model: torch.nn.Module, out: Path) -> dict[str, Callable[[], Any]]:
    """All that can be done with a plan."""
    return {
        "load_into": lambda: plan.load_into(model),
        "state_dict": plan.state_dict,
        "stream": plan.stream,
        "write": lambda: plan.write(out),
    }


RUNS = ("load_into", "state_dict", "stream", "write")


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("stored", [False, True], ids=["bound", "from json"])
def test_a_tied_target_never_gets_two_values(run: str, stored: bool, tmp_path: Path) -> None:
    """A3: `state_dict`, `stream` and `write` gave both values; a plan that was stored knows of the tie, too."""
    model = Tied("embed", "head")
    source = {"parts.embed.weight": numbers(0, 2, 3), "parts.head.weight": numbers(9, 2, 3)}
    source["parts.other.weight"] = numbers(20, 2, 3)
    plan = wb.plan(source, [], target=model)
    if stored:
        plan = wb.Plan.bind(wb.Plan.from_json(plan.to_json()), source)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(wb.PlanError) as caught:
        runs(plan, model, tmp_path / "out")[run]()
    assert caught.value.codes == ("tie-differs",)
    assert not (tmp_path / "out").exists()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("run", RUNS)
def test_the_hint_of_a_differing_tie_can_be_followed(run: str, tmp_path: Path) -> None:
    """A3: what the hint says to drop leaves one value, and the run ends."""
    model = Tied("embed", "head", "tail")
    source = {f"parts.{name}.weight": numbers(start, 2, 3) for name, start in (("embed", 0), ("head", 9), ("tail", 9))}
    source["parts.other.weight"] = numbers(20, 2, 3)
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, source, [])
    (problem,) = caught.value.problems
    dropped = eval(problem.hint.partition("drop=")[2].partition("]")[0] + "]")
    plan = wb.plan(source, [], target=model, drop=dropped)
    runs(plan, model, tmp_path / "out")[run]()
    assert plan.state_dict()["parts.head.weight"].equal(source["parts.embed.weight"])


@pytest.mark.parametrize("run", RUNS)
def test_equal_values_of_a_tied_target_are_given_under_each_name(run: str, tmp_path: Path) -> None:
    model = Tied("embed", "head", "tail")
    value = numbers(0, 2, 3)
    source = {"parts.head.weight": value, "parts.tail.weight": value.clone(), "parts.other.weight": numbers(9, 2, 3)}
    plan = wb.plan(source, [], target=model)
    made = runs(plan, model, tmp_path / "out")[run]()
    held = {
        "load_into": model.state_dict,
        "state_dict": lambda: made,
        "stream": lambda: dict(made),
        "write": lambda: load_file(tmp_path / "out" / "model.safetensors"),
    }[run]()
    assert all(held[f"parts.{name}.weight"].equal(value) for name in ("embed", "head", "tail"))
    fates = {key: fate.name for key, fate in plan.target_fates()}
    assert fates["parts.embed.weight"] == "tied"


@pytest.mark.parametrize("names", list(permutations(("a", "m.b", "z"))), ids="-".join)
@pytest.mark.parametrize("odd", range(3))
def test_one_member_of_three_that_differs_is_found_in_every_order(names: tuple[str, ...], odd: int) -> None:
    """A3: three members; whichever differs, and whatever the order of names in the file."""
    ties = dict.fromkeys(names, names[0])
    spec = wb.TensorSpec("F32", (2, 3))
    target = wb.Header(dict.fromkeys(names, spec), ties=ties)
    source = {name: numbers(9.0 * (number == odd), 2, 3) for number, name in enumerate(names)}
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(source, [], target=target).state_dict()
    assert caught.value.codes == ("tie-differs",)
    assert len(caught.value.problems) == 1
    source[names[odd]] = source[names[odd - 1]]
    assert set(wb.plan(source, [], target=target).state_dict()) == set(names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_values_are_compared_by_their_bytes(dtype: torch.dtype) -> None:
    """A3: nan is equal to itself, and zero is not minus zero: what is compared is what would be written."""
    spec = wb.open({"a": torch.zeros(4, dtype=dtype)}).header["a"]
    target = wb.Header({"a": spec, "b": spec}, ties={"b": "a"})
    value = torch.tensor([0, 1, 1, 0], dtype=dtype)
    other = value.clone()
    if dtype != torch.bool:
        value[1] = other[1] = float("nan")
    wb.plan({"a": value, "b": other}, [], target=target).state_dict()
    changed = torch.tensor([-0.0, 1, 1, 0]) if dtype == torch.float32 else ~value if dtype == torch.bool else -value
    with pytest.raises(wb.PlanError):
        wb.plan(
            {"a": value.nan_to_num(1.0) if dtype != torch.bool else value, "b": changed}, [], target=target
        ).state_dict()


def test_large_ties_are_compared_through_rules_and_files(tmp_path: Path) -> None:
    """A3: values longer than what is compared at a time, one of them transposed on the way, one cast."""
    big = torch.randn(700, 701)
    save_file({"a": big, "b.t": big.T.contiguous()}, tmp_path / "model.safetensors")
    spec = wb.TensorSpec("F32", (700, 701))
    target = wb.Header({"a": spec, "b": spec}, ties={"b": "a"})
    rules = [wb.WeightConverter("b.t", "b", [wb.Transpose(0, 1)])]
    plan = wb.plan(tmp_path, rules, target=target)
    assert plan.state_dict()["b"].equal(big)
    assert plan.restrict("b").state_dict()["b"].equal(big)
    big[-1, -1] += 1
    save_file({"a": big, "b.t": torch.randn(701, 700)}, tmp_path / "model.safetensors")
    with pytest.raises(wb.PlanError):
        wb.plan(tmp_path, rules, target=target).write(tmp_path / "out")


def test_a_plan_for_a_tied_model_does_not_leave_an_untied_one_half_loaded() -> None:
    """A3: a target that a plan leaves to its twin is not filled where the model holds another parameter there."""
    value = numbers(0, 2, 3)
    source = {"parts.embed.weight": value, "parts.other.weight": value + 1}
    for more in ({}, {"parts.head.weight": value.clone()}):
        plan = wb.plan(source | more, [], target=Tied("embed", "head"))
        untied = Tied("embed", "head")
        untied.parts["head"] = torch.nn.Linear(3, 2, bias=False)
        with pytest.raises(wb.PlanError) as caught:
            plan.load_into(untied)
        assert caught.value.code == "model-mismatch"


def test_a_stored_plan_with_a_strange_pair_is_refused() -> None:
    """A3: the pairs of a plan are proven like the rest of it."""
    source = {"parts.embed.weight": numbers(0, 2, 3), "parts.head.weight": numbers(0, 2, 3)}
    source["parts.other.weight"] = numbers(20, 2, 3)
    plan = wb.plan(source, [], target=Tied("embed", "head"))
    assert plan.twins == (("parts.head.weight", "parts.embed.weight"),)
    for pair in (("parts.head.weight", "nobody"), ("parts.head.weight",) * 2):
        form = plan.to_dict() | {"twins": [list(pair)]}
        with pytest.raises(wb.PlanError):
            wb.Plan.from_dict(form)
    assert plan.inverse().twins == ()


# ---- members of a group that the library's classes declare ----


def bart() -> BartForConditionalGeneration:
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 6, "decoder_ffn_dim": 6}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 9}
    tokens = {"vocab_size": 11, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    return BartForConditionalGeneration(BartConfig(**sizes, **heads, **tokens, forced_eos_token_id=2))


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=6, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )


MODELS = {
    "bart": (bart, ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")),
    "t5": (t5, ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")),
}


def held_patterns() -> Iterator[str]:
    """Which of the four members a file holds, and which of these are equal; each pattern once, whatever the letters."""
    for letters in product("-ABC", repeat=4):
        first = list(dict.fromkeys(letter for letter in letters if letter != "-"))
        if first and first == sorted(first) and first[0] == "A" and first in (["A"], ["A", "B"], ["A", "B", "C"]):
            yield "".join(letters)


def expected(pattern: str) -> str | None:
    """Say what each member is, by the classes' own words; None where nobody knows.

    Both embeddings are `shared`, so `shared` is what one of them is; the head comes last, as it may be untied.
    """
    shared, encoder, decoder, head = pattern
    if shared == "-":
        inner = {encoder, decoder} - {"-"}
        if len(inner) > 1:
            return None
        shared = inner.pop() if inner else head
    return "".join(shared if letter == "-" else letter for letter in (shared, encoder, decoder, head))


@pytest.fixture(scope="module", params=list(MODELS))
def family(request: pytest.FixtureRequest) -> tuple[Any, dict[str, torch.Tensor], list[str]]:
    make, paths = MODELS[request.param]
    torch.manual_seed(0)
    model = make()
    names = [f"{path}.weight" for path in paths]
    return model, {key: tensor.clone() for key, tensor in model.state_dict().items()}, names


def write_members(model: Any, state: dict[str, torch.Tensor], names: list[str], pattern: str, out: Path) -> Any:
    values = {letter: torch.randn(11, 8) for letter in "ABC"}
    held = {name: values[letter].clone() for name, letter in zip(names, pattern, strict=True) if letter != "-"}
    out.mkdir()
    kept = {key: tensor for key, tensor in state.items() if key not in names}
    save_file(kept | held, out / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(out)
    return values


@pytest.mark.parametrize("pattern", list(held_patterns()))
def test_members_of_a_tied_group_are_sorted_by_value(family: Any, pattern: str, tmp_path: Path) -> None:
    """A3: BART and T5 with every choice of members in the file: values, report, and the file again from the model."""
    model, state, names = family
    values = write_members(model, state, names, pattern, tmp_path / "model")
    wanted = expected(pattern)
    if wanted is None:
        with pytest.raises(wb.PlanError) as caught:
            wbt.from_pretrained(type(model), tmp_path / "model")
        assert caught.value.codes == ("tie-differs",)
        assert caught.value.problems[0].where == names[0]
        return
    loaded = wbt.from_pretrained(type(model), tmp_path / "model")
    held = loaded.state_dict()
    assert [held[name].equal(values[letter]) for name, letter in zip(names, wanted, strict=True)] == [True] * 4
    for key, fate in wb.loaded_plan(loaded).target_fates():
        if fate.name == "tied":
            assert loaded.get_parameter(key) is loaded.get_parameter(fate.by)
    for key, twin in loaded.all_tied_weights_keys.items():
        assert loaded.get_parameter(key) is loaded.get_parameter(twin)
    out = wbt.save_pretrained(loaded, tmp_path / "out")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_the_hint_of_an_undecided_member_can_be_followed(name: str, tmp_path: Path) -> None:
    """A3: two values for a weight that the file lacks: the error says how to decide."""
    make, paths = MODELS[name]
    model, names = make(), [f"{path}.weight" for path in paths]
    values = write_members(model, dict(model.state_dict()), names, "-AB-", tmp_path / "model")
    with pytest.raises(wb.PlanError) as caught:
        wbt.from_pretrained(type(model), tmp_path / "model")
    hint = caught.value.problems[0].hint
    dropped = eval(hint.partition("drop=")[2].removesuffix(" (--drop)"))
    loaded = wbt.from_pretrained(type(model), tmp_path / "model", drop=dropped)
    assert dropped == [f"^{names[1]}$"]
    assert all(loaded.state_dict()[key].equal(values["B"]) for key in names)


@pytest.mark.parametrize("name", MODELS)
def test_a_live_tie_takes_one_value_and_refuses_two(name: str, tmp_path: Path) -> None:
    """A3: `load` into a model whose weights are one parameter; three of four names in the file, or two that differ."""
    make, paths = MODELS[name]
    model, names = make(), [f"{path}.weight" for path in paths]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    values = write_members(model, state, names, "-AAA", tmp_path / "equal")
    wb.load(model, tmp_path / "equal", [])
    assert all(model.state_dict()[key].equal(values["A"]) for key in names)
    write_members(model, state, names, "--AB", tmp_path / "two")
    with pytest.raises(wb.PlanError) as caught:
        wb.load(model, tmp_path / "two", [])
    assert caught.value.codes == ("tie-differs",)
    assert all(model.state_dict()[key].equal(values["A"]) for key in names)


def test_zeros_of_two_signs_are_two_values(tmp_path: Path) -> None:
    """A3: the library ties what compares as equal; what is loaded is what the file says, byte for byte."""
    model, names = t5(), [f"{path}.weight" for path in MODELS["t5"][1]]
    write_members(model, dict(model.state_dict()), names, "A--A", tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    stored = {key: tensor.clone() for key, tensor in stored.items()}
    stored["shared.weight"][0, 0], stored["lm_head.weight"][0, 0] = 0.0, -0.0
    save_file(stored, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    loaded = wbt.from_pretrained(type(model), tmp_path / "model")
    assert loaded.lm_head.weight is not loaded.shared.weight
    assert loaded.lm_head.weight[0, 0].signbit().item() is True
    assert loaded.decoder.embed_tokens.weight is loaded.shared.weight
    assert loaded.shared.weight[0, 0].signbit().item() is False


class Chain(T5ForConditionalGeneration):
    """A class whose ties are a chain, the last link of which a file may hold alone."""

    _tied_weights_keys = {  # noqa: RUF012
        "lm_head.weight": "decoder.embed_tokens.weight",
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "encoder.embed_tokens.weight": "shared.weight",
    }


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [("A---", "AAAA"), ("-A--", "AAAA"), ("--A-", "AAAA"), ("---A", "AAAA"), ("A--B", "AAAB"), ("AA-B", "AAAB")],
)
def test_a_chain_of_ties_is_one_group(pattern: str, wanted: str, tmp_path: Path) -> None:
    """A3: where the library leaves a link untied, so that a weight would be random."""
    model, names = t5(), [f"{path}.weight" for path in MODELS["t5"][1]]
    values = write_members(model, dict(model.state_dict()), names, pattern, tmp_path / "model")
    loaded = wbt.from_pretrained(Chain, tmp_path / "model")
    held = loaded.state_dict()
    assert [held[name].equal(values[letter]) for name, letter in zip(names, wanted, strict=True)] == [True] * 4
    assert len({id(loaded.get_parameter(name)) for name in names}) == len(set(wanted))


@given(st.data())
def test_the_order_of_declared_ties_decides_nothing(data: st.DataObject) -> None:
    """A3: classes are a function of the set of declared pairs and of the values, not of an order."""
    from weighbridge.integrations.transformers_ties import Bond, join_bonds
    from weighbridge.running.ties import Value

    keys = data.draw(st.permutations("abcde"))
    pairs = data.draw(st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), min_size=1, max_size=7))
    near = [data.draw(st.integers(0, 2)) for _ in pairs]
    bonds = [Bond((-depth, False), *pair) for pair, depth in zip(pairs, near, strict=True) if pair[0] != pair[1]]
    spec = wb.TensorSpec("F32", (1,))
    from weighbridge.planning.program import Program
    from weighbridge.planning.steps import Step

    letters = {key: data.draw(st.sampled_from("-xy")) for key in keys}
    classes = [
        [Value(Step((key,), (key,), Program.identity(spec), "moved"), 0) for key in keys if letters[key] == letter]
        for letter in "xy"
    ]
    outcomes = []
    for order in (bonds, bonds[::-1]):
        ties, problems = join_bonds(order, {}, [classes])
        groups = {frozenset(key for key in ties if ties[key] == first) for first in ties.values()}
        outcomes.append((groups, {problem.where for problem in problems} != set()))
        for group in groups if not problems else ():
            assert len({letters[key] for key in group} - {"-"}) < 2
    assert outcomes[0] == outcomes[1]
