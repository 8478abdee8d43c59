"""What is done with names takes a bounded time: long ones are refused, and few are compared with each other."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from bounded import run_bounded

import weighbridge as wb
from weighbridge.base.keys import collapse, collapse_by_name, natural_key, nearest
from weighbridge.base.nearby import close_names
from weighbridge.base.specs import MAX_KEY_CHARACTERS, MAX_KEY_SEGMENTS, check_keys

LONGEST = {
    "one segment": "a" * MAX_KEY_CHARACTERS,
    "digits": "1" * MAX_KEY_CHARACTERS,
    "braces": "{" * MAX_KEY_CHARACTERS,
    "numbers in braces": "{1" * (MAX_KEY_CHARACTERS // 2),
    "indices": ".".join(["1"] * MAX_KEY_SEGMENTS),
    "words": ".".join(["layers"] * MAX_KEY_SEGMENTS),
    "empty segments": "." * (MAX_KEY_SEGMENTS - 1),
    "dashes": "_" * MAX_KEY_CHARACTERS,
    "backslashes": "\\" * MAX_KEY_CHARACTERS,
}
TOO_LONG = {
    "1,500 indices": ".".join(["1"] * 1500),
    "400 KB": "a" * 400_000,
    "400 KB of segments": "ab." * 133_000,
    "400 KB of braces": "{1" * 200_000,
}


def file_with(folder: Path, *keys: str) -> Path:
    """Write a safetensors file of one-byte tensors by hand."""
    entries = {key: {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n, key in enumerate(keys)}
    head = json.dumps(entries).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(len(keys)))
    return path


@pytest.mark.parametrize("key", TOO_LONG.values(), ids=TOO_LONG)
def test_g14_a_file_with_a_name_that_is_too_long_is_refused(key: str, tmp_path: Path) -> None:
    found = run_bounded("import sys\nreturn len(wb.open(sys.argv[1]).header)", file_with(tmp_path, "a", key))
    assert found.codes == ("name-too-long",)
    assert "model.safetensors" in found.text


@pytest.mark.parametrize("key", TOO_LONG.values(), ids=TOO_LONG)
def test_g14_so_is_an_inventory_a_state_dict_and_a_header(key: str, tmp_path: Path) -> None:
    path = tmp_path / "inventory.json"
    tensors = {key: {"dtype": "F32", "shape": [1]}}
    path.write_text(json.dumps({"format": "weighbridge-inventory", "version": 1, "tensors": tensors}))
    for make in (
        lambda: wb.open(path),
        lambda: wb.open({key: torch.zeros(1)}),
        lambda: wb.Header({key: wb.TensorSpec("F32", (1,))}),
    ):
        with pytest.raises(wb.CheckpointError) as caught:
            make()
        assert caught.value.code == "name-too-long"
        assert len(str(caught.value)) < 1000


def test_a_name_at_the_limit_is_handled(tmp_path: Path) -> None:
    check_keys(list(LONGEST.values()))
    for key in ("a" * (MAX_KEY_CHARACTERS + 1), "." * MAX_KEY_SEGMENTS):
        with pytest.raises(wb.CheckpointError):
            check_keys([key])
    keys = [key for key in LONGEST.values() if key.strip(".")]
    source = file_with(tmp_path, *keys)
    wb.convert(source, tmp_path / "out", [wb.WeightRenaming("weight", "kernel")])
    assert wb.verify(source, tmp_path / "out")


@pytest.mark.parametrize("key", LONGEST.values(), ids=LONGEST)
def test_g14_every_command_ends_soon_on_the_longest_names(key: str, tmp_path: Path) -> None:
    other = f"b{key[1:]}"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    paths = file_with(tmp_path / "one", key, "w"), file_with(tmp_path / "two", other, "w")
    found = run_bounded(
        """
        from weighbridge.cli.app import app
        import contextlib, io, sys
        one, two = sys.argv[1:]
        compared = ["verify", one, two], ["diff", one, two], ["plan", one, "llama", "--target", two]
        for words in (["inspect", one], ["inspect", "--tree", one], ["detect", one], *compared,
                      ["explain", one, "llama", "nothing"]):
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), \\
                 contextlib.redirect_stderr(io.StringIO()):
                app(words)
        return True
        """,
        *paths,
        seconds=60,
    )
    assert found.value is True


@pytest.mark.parametrize("key", LONGEST.values(), ids=LONGEST)
def test_g14_names_at_the_limit_are_shown_and_compared_in_a_moment(key: str) -> None:
    found = run_bounded(
        f"""
        from weighbridge.base.keys import collapse, collapse_by_name, nearest, natural_key, by_name
        from weighbridge.base.nearby import close_names
        keys = [{key!r}[:-k] for k in range(1, 50)]
        shown = [len(f(keys)) for f in (collapse, collapse_by_name, by_name)]
        return bool(shown and nearest({key!r}, keys, least=0) and close_names({key!r}, keys, alike=0.1))
        """,
        seconds=20,
    )
    assert found.value is True


def test_many_indices_in_one_name_are_shown_as_they_are() -> None:
    keys = [".".join(["1"] * 40 + [str(last)]) for last in range(3)]
    assert collapse(keys) == sorted(collapse(keys), key=natural_key) == keys
    assert collapse_by_name(keys) == keys
    few = [f"{'1.' * 15}{last}" for last in range(3)]
    assert collapse(few) == [f"{'1.' * 15}{{0..2}}"]


def test_long_names_are_compared_by_their_ends() -> None:
    names = [f"{letter * 3000}.weight" for letter in "abc"]
    assert nearest(f"{'b' * 3000}.wieght", names, 1) == [names[1]]
    assert close_names(f"{'b' * 3000}.wieght", names) == [names[1]]


# Rules that write names


@pytest.mark.parametrize("rules", [40, 300])
def test_g14_a_rule_that_doubles_a_name_ends_in_an_error(rules: int) -> None:
    found = run_bounded(f"""
        source = wb.Header({{"a.w": wb.TensorSpec("F32", (2,))}})
        mapping = [wb.WeightRenaming("^{{x:**}}$", "{{x}}." + "b" * k + "{{x}}") for k in range({rules})]
        return len(wb.plan(source, mapping).target)
    """)
    assert found.codes == ("plan-failed", "name-too-long")


# Reports


@pytest.mark.parametrize(("same_shape", "partial"), [(True, True), (False, False)])
def test_g14_a_report_of_2000_unlike_names_takes_a_moment(same_shape: bool, partial: bool) -> None:
    found = run_bounded(
        f"""
        import random, string
        chance = random.Random(0)
        def name():
            return ".".join("".join(chance.choices(string.ascii_lowercase, k=8)) for _ in range(5))
        def header():
            return wb.Header({{name(): wb.TensorSpec("F32", (2 if {same_shape} else k,)) for k in range(2000)}})
        rules = [wb.WeightRenaming("^{{x:**}}$", "new.{{x}}")] if {partial} else [wb.WeightRenaming("q", "z")]
        return len(wb.plan(header(), rules, header(), partial={partial}, layout="mapped").steps)
        """,
        seconds=20,
    )
    assert found.codes[0] == "plan-failed"
    if not partial:
        assert len(found.codes) == 4001
        assert "nearest sources: " in found.text


def test_g14_a_report_of_1000_incomplete_groups_takes_a_moment() -> None:
    found = run_bounded(
        """
        names = [f"layers.{i}.experts.{k}.gate_{i * 7919 % 1009}.weight" for i in range(1000) for k in range(2)]
        source = wb.Header({name: wb.TensorSpec("F32", (2,)) for name in names})
        stack = [wb.MergeModulelist(0), wb.Concatenate(1)]
        lanes = ["experts.*.gate_{n:int}.weight", "experts.*.up_{n:int}.weight"]
        return len(wb.plan(source, [wb.WeightConverter(lanes, "experts.{n}", stack)]).steps)
        """,
        seconds=20,
    )
    assert found.codes == ("plan-failed", "group-incomplete")


def test_a_report_of_few_names_has_the_nearest_for_each() -> None:
    wanted = wb.Header({f"{word}.weight": wb.TensorSpec("F32", (2,)) for word in ("norm", "head", "embed")})
    given = wb.Header({f"{word}.wieght": wb.TensorSpec("F32", (2,)) for word in ("norm", "head", "embed")})
    with pytest.raises(wb.PlanError) as caught:
        wb.plan(given, [wb.WeightRenaming("q", "z")], wanted)
    assert len(caught.value.problems) == 6
    assert all("nearest" in problem.got for problem in caught.value.problems)
