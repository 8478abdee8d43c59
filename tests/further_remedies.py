"""More mistakes with the same codes and other hints: each with what made it, and what following its hint means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from provocations import NORMS, checkpoint, header, numbers, sharded
from remedies import command, mapping_file, saved
from safetensors.torch import save_file

import weighbridge as wb


class Further(NamedTuple):
    """A name, what goes wrong, the words of the hint, and what they tell to do."""

    name: str
    mistake: Callable[[Path], object]
    words: str
    remedy: Callable[[Path], object]
    unfollowable: str = ""


def rename(source: str, target: str = "new") -> Callable[[Path], object]:
    return lambda folder: wb.WeightRenaming(source, target)


def convert(operation: Any, shape: tuple[int, ...], to: Any = None) -> Callable[[Path], object]:
    return lambda folder: wb.plan(header(old=shape), [wb.WeightConverter("old", "new", [operation])], target=to)


PATTERNS: tuple[tuple[str, str, str, str], ...] = (
    ("(ab)+", "write (?:...)? for a part that may be missing", "(?:ab)?c", "new"),
    ("a)", r"write \) for the character itself", r"a\)", "new"),
    ("a+", r"write \+ for the character itself", r"a\+", "new"),
    ("a^b", r"write \^ for the character itself", r"a\^b", "new"),
    (r"a\s", r"the escapes are \d, \w, \1 and \ before punctuation", r"a\w", "new"),
    ("(a)*", "only classes repeat", "aa", "new"),
    ("a**", "write {path:**} for any text", "a{path:**}", "new.{path}"),
    ("(?>a)", "the groups are ( (?: (?= (?! (?<= (?<!", "(?:a)", "new"),
    ("(a(b))", "write (?:...) for the outer one", "(?:a(b))", "new"),
)
"""A source that cannot be read, words of the hint, and the source and target that follow it."""


def patterns() -> Iterator[Further]:
    for wrong, words, right, target in PATTERNS:
        yield Further(f"pattern {wrong}", rename(wrong), words, rename(right, target))


def operations() -> Iterator[Further]:
    square = header(new=(3, 3))
    yield Further(
        "a square that may be turned",
        convert(wb.Transpose(0, 1, check_dims=True), (3, 3), square),
        "Transpose without check_dims, or no Transpose",
        convert(wb.Transpose(0, 1), (3, 3), square),
    )
    yield Further(
        "a reshape back",
        lambda folder: wb.WeightConverter("old", "new", [wb.Reshape((4, 6))]).inverse(),
        "give it a source_shape",
        lambda folder: wb.WeightConverter("old", "new", [wb.Reshape((4, 6), (8, 3))]).inverse(),
    )
    yield Further(
        "a rearrangement back",
        lambda folder: wb.WeightConverter("old", "new", [wb.Rearrange("a b c -> a (b c)")]).inverse(),
        "give a length for 'b'",
        lambda folder: wb.WeightConverter("old", "new", [wb.Rearrange("a b c -> a (b c)", b=2)]).inverse(),
    )
    yield Further(
        "a converter without operations",
        lambda folder: wb.WeightConverter("old", "new", []),
        "names alone: WeightRenaming",
        rename("old"),
    )
    yield from _configurations()
    yield from _prefixes()
    yield Further(
        "a rule that takes what the target wants as it is",
        lambda folder: wb.plan(header(a__gamma=(4,), b__gamma=(4,)), NORMS, header(a__weight=(4,), b__gamma=(4,))),
        "narrow rule 1: the target wants 1 of its sources by their own names, such as b.gamma",
        lambda folder: wb.plan(
            header(a__gamma=(4,), b__gamma=(4,)),
            [wb.WeightRenaming("a.gamma", "a.weight")],
            header(a__weight=(4,), b__gamma=(4,)),
        ),
    )
    yield Further(
        "a bias that no layer has",
        lambda folder: wb.plan(ATTENTION, [_fused("{leaf}")]),
        "narrow the rule to the tensors that have all parts",
        lambda folder: wb.plan(ATTENTION, [_fused("weight")]),
    )
    yield Further(
        "a bias that no layer has",
        lambda folder: wb.plan(ATTENTION, [_fused("{leaf}")]),
        "else check that all shards are present",
        lambda folder: wb.plan(header(**WHOLE), [_fused("{leaf}")]),
    )
    yield from _without_a_side()
    yield Further(
        "a rename of two names",
        lambda folder: wb.WeightRenaming(["a", "b"], ["c", "d"]),
        "use GroupWeightRename to rename several names at once",
        lambda folder: wb.GroupWeightRename(["a", "b"], ["c", "d"]),
    )


WHOLE = {f"l__{i}__{part}__{leaf}": (4,) for i in range(3) for part in "qkv" for leaf in ("weight", "bias")}
ATTENTION = header(**{name: shape for name, shape in WHOLE.items() if not name.endswith("k__bias")})


NESTED = wb.Header({f"model.language_model.{i}.{part}": wb.TensorSpec("F32", (4,)) for i in range(3) for part in "qkv"})
BESIDE = wb.Header({**NESTED.specs, "model.vision.w": wb.TensorSpec("F32", (2,))})
FLAT = wb.Header({f"model.{i}.{part}": wb.TensorSpec("F32", (4,)) for i in range(3) for part in "qkv"})
UNDER = [wb.WeightRenaming("^model.language_model", "model")]


def _fused(leaf: str) -> wb.WeightConverter:
    return wb.WeightConverter([f"{part}.{leaf}" for part in "qkv"], f"qkv.{leaf}", [wb.Concatenate(0)])


HEADS = wb.Mapping([wb.WeightConverter("old", "new", [wb.PermuteForRope()])], name="heads")


def _configurations() -> Iterator[Further]:
    """A configuration that is there, and does not say how many heads there are (E)."""
    for config, change in (({"n_head": 2}, "add num_attention_heads to"), ({"num_attention_heads": 0}, "correct")):
        yield Further(
            "a configuration without the number",
            lambda folder, config=config: wb.plan(header(old=(12, 5)), HEADS, config=config),
            change,
            lambda folder, config=config: wb.plan(
                header(old=(12, 5)), HEADS, config=config | {"num_attention_heads": 2}
            ),
        )
    yield Further(
        "a config.json without the number",
        lambda folder: wb.plan(_configured(folder, '{"n_head": 2}'), HEADS),
        "the model's configuration, or pass config= with it",
        lambda folder: wb.plan(_configured(folder, '{"n_head": 2, "num_attention_heads": 2}'), HEADS),
    )
    for words, follow in (
        ("put a whole config.json in its place", lambda folder: _configured(folder, '{"num_attention_heads": 2}')),
        ("or pass config=", lambda folder: folder / "model"),
    ):
        yield Further(
            "a config.json that was cut off",
            lambda folder: wb.plan(_configured(folder, '{"num_attention_heads": 2'), HEADS),
            words,
            lambda folder, words=words, follow=follow: wb.plan(
                follow(folder), HEADS, config={"num_attention_heads": 2} if "pass" in words else None
            ),
        )


def _configured(folder: Path, text: str) -> Path:
    path = folder / "model"
    if not path.exists():
        saved(folder, "model", old=(12, 5))
    (path / "config.json").write_text(text)
    return path


def _prefixes() -> Iterator[Further]:
    """A sub-model under another path (E)."""
    words = "put WeightRenaming('^model.language_model', 'model') before the other rules"
    yield Further(
        "a sub-model under another path",
        lambda folder: wb.plan(NESTED, [], FLAT),
        f"{words}: with it everything fits",
        lambda folder: wb.plan(NESTED, UNDER, FLAT),
    )
    for declared in ({"drop": ["^model.vision"]}, {"carry": ["^model.vision"]}, {"partial": True}):
        yield Further(
            "a sub-model under another path, beside another one",
            lambda folder: wb.plan(BESIDE, [], FLAT),
            f"{words}: with it every target is filled, and 1 source is left over;\ndeclare what may be left over",
            lambda folder, declared=declared: wb.plan(BESIDE, UNDER, FLAT, **declared),
        )
    yield Further(
        "a sub-model under another path, in the command",
        lambda folder: wb.plan(_written(folder, "nested", NESTED), [], _written(folder, "flat", FLAT)),
        words,
        lambda folder: command(
            *("plan", folder / "nested", mapping_file(folder, wb.Mapping(UNDER, name="under"))),
            *("--target", folder / "flat"),
        ),
    )


def _written(folder: Path, name: str, header: wb.Header) -> Path:
    return saved(folder, name, **{key.replace(".", "__"): spec.shape for key, spec in header.specs.items()})


def _without_a_side() -> Iterator[Further]:
    """Names of which a part is taken away, or which are put behind something (E)."""
    compiled = header(_orig_mod__a__w=(2,), b___orig_mod__w=(2,))
    for wrong, right in (("_orig_mod", "_orig_mod.{rest:**}"), (r"^_orig_mod\.", "^_orig_mod.{rest:**}")):
        words = f"to take it away, capture what stays: '{right}' -> '{{rest}}',"
        yield Further("a name that loses a part", rename(wrong, ""), words, _reads(compiled, right, "{rest}"))
    yield Further(
        "a name that loses its end",
        rename("raw$", ""),
        "to take it away, capture what stays: '{rest:**}.raw$' -> '{rest}'",
        _reads(header(a__raw=(2,)), "{rest:**}.raw$", "{rest}"),
    )
    yield Further(
        "a name that loses its start",
        rename("^_orig_mod", ""),
        "or PrefixChange(prefix_to_remove='_orig_mod') at the start alone",
        lambda folder: wb.PrefixChange(prefix_to_remove="_orig_mod").inverse(),
    )
    yield Further(
        "every name gets a start",
        rename("", "model"),
        "to put it in front of every name: PrefixChange(prefix_to_add='model')",
        lambda folder: wb.PrefixChange(prefix_to_add="model"),
    )


def _reads(header: wb.Header, source: str, target: str) -> Callable[[Path], object]:
    def follow(folder: Path) -> object:
        made = wb.plan(header, [wb.WeightRenaming(source, target)])
        assert any(step.rules for step in made.steps)
        return made

    return follow


def sources() -> Iterator[Further]:
    meta = {"w": torch.empty(3, device="meta")}
    yield Further(
        "a meta tensor is run",
        lambda folder: wb.plan(meta, []).state_dict(),
        "materialise the model first",
        lambda folder: wb.plan({"w": torch.empty_like(meta["w"], device="cpu")}, []).state_dict(),
    )
    yield Further(
        "a directory above the one with the weights",
        _open_above,
        "open the directory that holds the weights",
        lambda folder: wb.open(folder / "deep" / "inner"),
    )
    yield Further(
        "an entry of safetensors", _open_an_entry, "leave out the entry", lambda folder: wb.open(folder / "model")
    )
    yield Further(
        "two dicts of a torch file", _open_two_dicts, "ckpt.pt::", lambda folder: wb.open(f"{folder}/ckpt.pt::ema")
    )
    yield Further("a link to the outside", _open_a_link, "put the file itself there", _put_the_file_there)
    yield Further("a link to the outside", _open_a_link, "open the place where it is", _open_where_it_is)
    yield Further(
        "memory past the cache", _open_memory_direct, "leave out direct=True", lambda folder: wb.open(header(a=(2,)))
    )


def _open_above(folder: Path) -> object:
    (folder / "deep").mkdir()
    return wb.open(saved(folder, "deep/inner", a=(2,)).parent)


def _open_an_entry(folder: Path) -> object:
    return wb.open(f"{checkpoint(folder)}/model.safetensors::ema")


def _open_two_dicts(folder: Path) -> object:
    torch.save({"model": {"w": numbers(2)}, "ema": {"w": numbers(2) + 1}}, folder / "ckpt.pt")
    return wb.open(folder / "ckpt.pt")


def _open_a_link(folder: Path) -> object:
    (folder / "elsewhere").mkdir()
    save_file({"b.weight": numbers(2)}, folder / "elsewhere" / "x.safetensors")
    shard = sharded(folder) / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.symlink_to(folder / "elsewhere" / "x.safetensors")
    return wb.open(folder / "model")


def _put_the_file_there(folder: Path) -> object:
    shard = folder / "model" / "model-00002-of-00002.safetensors"
    shard.unlink()
    (folder / "elsewhere" / "x.safetensors").rename(shard)
    return wb.open(folder / "model")


def _open_where_it_is(folder: Path) -> object:
    return wb.open(folder / "elsewhere" / "x.safetensors")


def _open_memory_direct(folder: Path) -> object:
    return wb.open({"a": numbers(2)}, direct=True)


def fresh() -> torch.nn.Module:
    """A model that was never loaded, whose weights have the names that a rule reads."""
    return torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(3)})


def loaded() -> torch.nn.Module:
    """The same, loaded from a file of such names."""
    model = fresh()
    wb.load(model, {"norm.weight": numbers(3), "norm.bias": numbers(3)}, [])
    return model


def narrower() -> torch.nn.Module:
    """The same, whose weights have another size now."""
    model = loaded()
    model["norm"] = torch.nn.LayerNorm(2)
    return model


def _back_through_its_plan(folder: Path) -> object:
    model = narrower()
    return wb.loaded_plan(model).inverse().write(folder / "out")


def joined(rows: int) -> torch.nn.Module:
    """A model with a weight that was joined of two and one rows, and has another number of them now."""
    rules = [wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])]
    model = torch.nn.ModuleDict({"qk": torch.nn.Linear(2, 3, bias=False)})
    wb.load(model, {"q.weight": numbers(2, 2), "k.weight": numbers(1, 2)}, rules)
    model["qk"].weight = torch.nn.Parameter(numbers(rows, 2))
    return model


RENAMED_TWICE = [wb.WeightRenaming("gamma", "weight"), wb.WeightRenaming("weight", "kernel")]


def models() -> Iterator[Further]:
    own_names = 'layout="as is" saves it under its own names'
    yield Further(
        "a fresh model is saved by rules that do not lead to it",
        lambda folder: wb.save(fresh(), folder / "out", RENAMED_TWICE),
        own_names,
        lambda folder: wb.save(fresh(), folder / "out", RENAMED_TWICE, layout="as is"),
    )
    for words, layout in ((own_names, "as is"), ('layout="as loaded" saves it as it came', "as loaded")):
        yield Further(
            "a loaded model is saved by rules that do not lead to it",
            lambda folder: wb.save(loaded(), folder / "out", RENAMED_TWICE),
            words,
            lambda folder, layout=layout: wb.save(loaded(), folder / "out", layout=layout),
        )
    yield Further(
        "a model that has changed goes back through its plan",
        _back_through_its_plan,
        "a model that has changed since it was loaded is saved as it is by\nsave(model, out)",
        lambda folder: wb.save(narrower(), folder / "out"),
    )
    for words, mapping, options in (
        ('layout="as is" saves the model under its own names', None, {"layout": "as is"}),
        ("save(model, out, mapping) through other rules", [], {}),
    ):
        yield Further(
            "what was joined of unequal parts has another size now",
            lambda folder: wb.save(joined(5), folder / "out"),
            words,
            lambda folder, mapping=mapping, options=options: wb.save(joined(5), folder / "out", mapping, **options),
        )
    for words, mapping, options in (
        ('layout="published" saves the model through its mapping, which takes them', None, {"layout": "published"}),
        ("a mapping\nthat is given: save(model, out, mapping)", NORMS, {}),
    ):
        yield Further(
            "an option of a plan for a model that has one",
            lambda folder: wb.save(loaded(), folder / "out", drop="norm.bias"),
            words,
            lambda folder, mapping=mapping, options=options: wb.save(
                loaded(), folder / "out", mapping, drop="norm.bias", **options
            ),
        )
    for words, layout in (
        ('layout="published" saves it through a mapping', "published"),
        ('layout="as is" under its own names', "as is"),
    ):
        yield Further(
            "a new model is saved as it was loaded",
            lambda folder: wb.save(fresh(), folder / "out", layout="as loaded"),
            words,
            lambda folder, layout=layout: wb.save(fresh(), folder / "out", NORMS, layout=layout),
        )
    rules = [wb.WeightRenaming("third", "norm")]
    yield Further(
        "a model is loaded in part",
        lambda folder: wb.load(fresh(), {"norm.weight": numbers(3)}, rules),
        "initialise=[...]",
        lambda folder: wb.load(fresh(), {"norm.weight": numbers(3)}, rules, initialise=["norm.bias"]),
    )
    yield Further(
        "a model was trained since one tensor was shared",
        lambda folder: wb.save(_untied_and_trained(), folder / "wrong"),
        'save the model under its own names by layout="as is"',
        lambda folder: wb.save(_untied_and_trained(), folder / "right", layout="as is"),
    )
    yield Further(
        "the same, saved otherwise",
        lambda folder: wb.save(_untied_and_trained(), folder / "wrong"),
        "or through other rules",
        lambda folder: wb.save(
            _untied_and_trained(), folder / "right", mapping=[wb.WeightRenaming("table.weight", "embed.weight")]
        ),
    )
    yield Further(
        "a model on the meta device lacks values",
        lambda folder: wb.load(_meta(), {"norm.weight": numbers(3)}, [], partial=True),
        "make the model on a real device, or give the missing tensors",
        lambda folder: wb.load(_meta(), {"norm.weight": numbers(3), "norm.bias": numbers(3)}, [], partial=True),
    )
    yield Further(
        "what a plan produced is gone",
        _run_what_is_gone,
        "give the source: plan.inverse(source=...)",
        lambda folder: wb.plan(checkpoint_once(folder), NORMS).inverse(source=_renamed()).state_dict(),
    )


def _untied_and_trained() -> torch.nn.Module:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2, bias=False) for name in ("embed", "head")})
    wb.load(
        model,
        {"table.weight": numbers(2, 3)},
        [wb.WeightConverter("table.weight", ["embed.weight", "head.weight"], [wb.Repeat()])],
    )
    with torch.no_grad():
        model["head"].weight += 1
    return model


def _meta() -> torch.nn.Module:
    with torch.device("meta"):
        return fresh()


def checkpoint_once(folder: Path) -> Path:
    return folder / "model" if (folder / "model").exists() else checkpoint(folder)


def _renamed() -> dict[str, torch.Tensor]:
    return {f"{name}.weight": numbers(4) for name in ("first", "second")}


def _run_what_is_gone(folder: Path) -> object:
    plan = wb.plan(checkpoint_once(folder), NORMS)
    made = torch.nn.Module()
    for name in ("first", "second"):
        made.add_module(name, torch.nn.Module())
        made.get_submodule(name).register_parameter("weight", torch.nn.Parameter(numbers(4)))
    plan.load_into(made)
    del made
    return plan.inverse().state_dict()


def commands() -> Iterator[Further]:
    yield Further(
        "a list of rules as a text",
        lambda folder: wb.Mapping("fix.yaml"),
        "weighbridge.load_mapping(path) reads a mapping file",
        lambda folder: wb.load_mapping(mapping_file(folder, NORMS)),
    )
    yield Further(
        "an inverse whose names could be the old ones already",
        lambda folder: wb.plan(
            header(a__weight=(2,)), wb.Mapping([wb.WeightRenaming("(?<!x)weight", "weight")]).inverse()
        ),
        'declare layout="mapped" if they are not',
        lambda folder: wb.plan(
            header(a__weight=(2,)), wb.Mapping([wb.WeightRenaming("(?<!x)weight", "weight")]).inverse(), layout="mapped"
        ),
    )
    yield Further(
        "a directory without digests is verified",
        lambda folder: wb.verify(wb.convert(checkpoint(folder), folder / "out", NORMS)),
        "compare with another checkpoint: weighbridge verify A B",
        lambda folder: command("verify", folder / "out", folder / "out"),
    )


def numbers_for_codes() -> Iterator[Further]:
    """A dtype for all tensors, where the scales are of other blocks than the configuration says."""
    codes, scales = torch.ones(4, 4).to(torch.float8_e4m3fn), torch.ones(1, 1)
    tensors = {"q.weight": codes, "q.weight_scale_inv": scales}

    def plan(block: int, dtype: str | None) -> Callable[[Path], object]:
        said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [block, block]}}
        return lambda folder: wb.plan(tensors, [], dtype=dtype, config=said)

    leave = "leave the codes as they are, without a dtype= (--dtype) for all tensors"
    correct = "or correct the configuration: config=, or --config FILE"
    yield Further("numbers of other blocks", plan(2, "BF16"), leave, plan(2, None))
    yield Further("numbers by a corrected configuration", plan(2, "BF16"), correct, plan(4, "BF16"))


def scales_left() -> Iterator[Further]:
    """Weights that hold no codes, with scales beside them."""
    both = {f"{name}.{ending}": numbers(2, 2) for name in "qk" for ending in ("weight", "weight_scale")}
    join = wb.WeightConverter(["q.weight", "k.weight"], "qk.weight", [wb.Concatenate(0)])

    def plan(rules: list[Any], **options: Any) -> Callable[[Path], object]:
        return lambda folder: wb.plan(both, rules, **options)

    rename, leave = "rename the whole module", "leave out what numbers have no use for: drop (--drop)"
    names = "plan by names only, where these are parameters like any other: companions=False (--no-companions)"
    yield Further("numbers beside scales", plan([join]), rename, plan([wb.WeightRenaming("^q", "query")]))
    yield Further("scales that are left out", plan([join]), leave, plan([join], drop=["weight_scale"]))
    yield Further("parameters of such a name", plan([join]), names, plan([join], companions=False))


def metadata_of_absent_tensors() -> Iterator[Further]:
    """What torchao's metadata says of tensors that another shard has."""
    specs = {"q._weight_qdata": wb.TensorSpec("I8", (2, 4)), "q._weight_scale": wb.TensorSpec("F32", (2, 1))}
    norm = {"norm.weight": wb.TensorSpec("F32", (4,))}
    said = json.dumps({"_type": "Int8Tensor", "_data": {"block_size": [1, 4]}})
    of_q = {"q.weight": said, "tensor_names": '["q.weight"]'}
    of_both = {"q.weight": said, "norm.weight": '{"_type": "Tensor"}', "tensor_names": '["q.weight", "norm.weight"]'}

    def rename(specs: dict[str, wb.TensorSpec], metadata: dict[str, str]) -> Callable[[Path], object]:
        return lambda folder: wb.plan(wb.Header(specs, metadata), [wb.WeightRenaming("^q", "query")])

    anew = "write the file anew with what its metadata says of the tensors that it has"
    yield Further("metadata of absent tensors", rename(specs, of_both), anew, rename(specs, of_q))
    together = "let what belongs to a weight go along: leave out companions=False (--no-companions)"
    found = wb.Header(specs, of_q)
    yield Further(
        "metadata that stays behind",
        lambda folder: wb.plan(found, [wb.WeightRenaming("^q", "query")], companions=False),
        together,
        lambda folder: wb.plan(found, [wb.WeightRenaming("^q", "query")]),
    )
    shards = "take all shards together"
    yield Further("one shard of two", rename(specs, of_both), shards, rename(specs | norm, of_both))


FURTHER: tuple[Further, ...] = (
    *(*patterns(), *operations(), *sources(), *models(), *commands(), *numbers_for_codes()),
    *(*scales_left(), *metadata_of_absent_tensors()),
)
