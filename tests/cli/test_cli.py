"""The command, run as a process on real files; its parts are called where a process would add nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import MAPPINGS, PAGE, SEGMENTS, documented, environment, fill, run, run_on_terminal, tensors
from forked import COMMAND, forks
from hypothesis import given, settings, strategies as st
from safetensors.numpy import load_file, save_file

import weighbridge
from weighbridge import Mapping, Plan, WeightRenaming
from weighbridge.base.errors import (
    CheckpointError,
    DestinationError,
    LayoutError,
    MappingError,
    PatternError,
    PlanError,
    RegistryError,
    VerifyError,
    WeighbridgeError,
)
from weighbridge.base.keys import collapse
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.cli.inspecting.inspection import collapsed_rows, count_keys, single_rows
from weighbridge.cli.mapping_argument import load_argument
from weighbridge.cli.printing import EXIT_CODES, error_text, exit_code, visible

COMMANDS = ("inspect", "detect", "plan", "explain", "convert", "revert", "verify", "diff", "infer", "new", "lint")
GROUPS = ("mapping",)


def sha256(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.name != "weighbridge.json")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `model` was converted to `out`; tests only read it."""
    folder = fill(tmp_path_factory.mktemp("converted"))
    ran = run(folder, "convert", "model", "out", "maps.py:FUSED", "--json")
    assert ran.status == 0, ran.err
    assert ran.form["destination"] == "out"
    assert set(ran.form) == (documented("plan") | {"destination", "files"}) - {"steps"}
    assert ran.form["files"] == ["config.json", "model.safetensors", "weighbridge.json"]
    assert (ran.form["source_tensors"], ran.form["target_tensors"], ran.form["exact"]) == (10, 7, True)
    return folder


# inspect


def test_inspect_prints_plain_lines(converted: Path) -> None:
    ran = run(converted, "inspect", "model")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.split("\n\n")[1].splitlines() == [
        "1  F32 [11, 5]  220 B  embed.weight",
        "3  F32 [4, 5]   240 B  layers.{0..2}.k.weight",
        "3  F16 [5]       30 B  layers.{0..2}.norm.gamma",
        "3  F32 [6, 5]   360 B  layers.{0..2}.q.weight",
    ]
    assert "metadata  format = pt" in ran.out.splitlines()


def test_inspect_gives_json(converted: Path) -> None:
    form = run(converted, "inspect", "out", "--json").form
    assert set(form) == documented("inspect")
    assert (form["format"], form["tensors"], form["parameters"], form["size_bytes"]) == ("safetensors", 7, 220, 850)
    assert form["dtypes"]["F16"] == {"tensors": 3, "parameters": 15, "size_bytes": 30}
    assert form["files"] == [
        {"name": "model.safetensors", "size_bytes": (converted / "out/model.safetensors").stat().st_size}
    ]
    assert "revert" in form["notes"][0]
    assert sum(row["tensors"] for row in form["rows"]) == 7


def test_inspect_full_has_a_row_for_each_tensor(converted: Path) -> None:
    ran = run(converted, "inspect", "model/model.safetensors", "--full")
    keys = [line.split()[-1] for line in ran.out.split("\n\n")[1].splitlines()]
    assert sorted(keys) == sorted(tensors())


def test_inspect_key_finds_the_bytes(converted: Path) -> None:
    form = run(converted, "inspect", "model", "--key", "layers.2.q.weight", "--json").form
    assert set(form) == documented("inspect --key")
    assert (form["dtype"], form["shape"], form["numel"], form["size_bytes"]) == ("F32", [6, 5], 30, 120)
    raw = Path(form["file"]).read_bytes()[form["offset"] : form["offset"] + form["size_bytes"]]
    assert raw == tensors()["layers.2.q.weight"].tobytes()


def test_inspect_key_names_the_nearest(converted: Path) -> None:
    ran = run(converted, "inspect", "model", "--key", "layers.2.q.wieght")
    assert ran.status == 4
    assert ran.err.startswith("tensor-not-found: ")
    assert "layers.2.q.weight" in ran.err


def test_inspect_writes_an_inventory(converted: Path, tmp_path: Path) -> None:
    """From the header alone the same plan is made as from the checkpoint; nothing is overwritten."""
    file = tmp_path / "header.json.gz"
    assert run(converted, "inspect", "model", "--inventory", str(file)).status == 0
    assert weighbridge.open(file).header == weighbridge.open(converted / "model").header
    before = file.read_bytes()
    again = run(converted, "inspect", "model", "--inventory", str(file))
    assert (again.status, again.err.split(":")[0]) == (5, "destination-exists")
    assert file.read_bytes() == before
    assert "usage: an inventory has another name" in run(converted, "inspect", "model", "--inventory", "x.txt").err


def test_inspect_loads_nothing_heavy(converted: Path) -> None:
    script = """
import sys
sys.argv = ["weighbridge", "inspect", "model"]
from weighbridge.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
unwanted = {"numpy", "rich", "torch", "weighbridge.planning.compiling", "weighbridge.running", "weighbridge.cli.pages"}
print(*sorted(unwanted & set(sys.modules)), "loaded")
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=converted, env=environment(), check=True, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1].split() == ["loaded"]


def test_keys_cannot_control_the_terminal(tmp_path: Path) -> None:
    save_file({"a.\x1b[2J\u202e[red]b": np.zeros(2, np.float32)}, tmp_path / "odd.safetensors")
    assert r"a.\x1b[2J\u202e[red]b" in run(tmp_path, "inspect", "odd.safetensors").out
    assert r"a.\x1b[2J\u202e[red]b" in run_on_terminal(tmp_path, "inspect", "odd.safetensors").out


@settings(max_examples=1000, deadline=None)
@given(st.sets(st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join), max_size=12))
def test_count_keys_counts_what_collapse_covers(keys: set[str]) -> None:
    assert sum(map(count_keys, collapse(keys))) == len(keys)


@settings(max_examples=1000, deadline=None)
@given(
    st.dictionaries(
        st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join),
        st.sampled_from([TensorSpec("F32", (2, 3)), TensorSpec("F16", (5,)), TensorSpec("F4", (3,))]),
        max_size=12,
    )
)
def test_rows_hold_every_tensor(specs: dict[str, TensorSpec]) -> None:
    header = Header(specs)
    for rows in (collapsed_rows(header), single_rows(header)):
        assert sum(row.tensors for row in rows) == len(header)
        assert sum(row.size_bytes for row in rows) == header.size_bytes


# plan, explain


def test_plan_prints_the_report(converted: Path) -> None:
    ran = run(converted, "plan", "model", "maps.py:FUSED", "--target", "out")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("plan      fused: 10 -> 7 tensors")
    assert "layers.{0..2}.qk.weight   F32 [10, 5]" in ran.out.splitlines()


def test_plan_gives_json_and_a_file(there: Path) -> None:
    ran = run(there, "plan", "model", "maps.py:FUSED", "--drop", "embed.{any:**}", "--out", "plan.json", "--json")
    plan = Plan.from_json((there / "plan.json").read_text())
    assert set(ran.form) == documented("plan")
    assert ran.form["hash"] == plan.hash
    assert ran.form["fates"]["source"] == {"moved": 9, "dropped": 1}
    again = run(there, "plan", "model", "maps.py:FUSED", "--out", "plan.json", "--json")
    assert (again.status, again.form["error"]["code"]) == (5, "destination-exists")


def test_plan_is_cut_to_the_parts_of_a_file(there: Path) -> None:
    whole = weighbridge.plan(there / "model", load_argument(f"{there}/maps.py:FUSED"))
    rows = {key: weighbridge.Part.whole(spec.shape) for key, spec in whole.target.items()}
    key = "layers.0.qk.weight"
    shape = whole.target[key].shape
    rows[key] = weighbridge.Part(shape, (((0, 1),), *(((0, size),) for size in shape[1:])))
    (there / "parts.json").write_text(json.dumps({name: part.to_dict() for name, part in rows.items()}))
    ran = run(there, "plan", "model", "maps.py:FUSED", "--parts", "parts.json", "--out", "cut.json", "--json")
    assert ran.form["portion"]["whole"] == whole.hash
    assert ran.form["portion"]["held_bytes"] < ran.form["portion"]["whole_bytes"]
    assert Plan.from_json((there / "cut.json").read_text()) == whole.cut(rows)
    assert "portion   holds " in run(there, "plan", "model", "maps.py:FUSED", "--parts", "parts.json").out


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[", "plan-format"),
        ("[]", "plan-format"),
        ('{"norm.gamma": {}}', "plan-format"),
        ('{"norm.gamma": {"shape": [3], "axes": [[[0, 9]]]}}', "axis-out-of-range"),
        ("{}", "parts-mismatch"),
        (None, "checkpoint-not-found"),
    ],
)
def test_a_file_without_parts_is_refused_by_its_name(there: Path, text: str | None, code: str) -> None:
    if text is not None:
        (there / "parts.json").write_text(text)
    ran = run(there, "plan", "model", "maps.py:FUSED", "--parts", "parts.json", "--json")
    assert (ran.status, ran.form["error"]["code"]) != (0, "")
    assert ran.form["error"]["code"] == code
    assert code == "parts-mismatch" or "parts.json" in ran.form["error"]["where"]
    both = run(there, "plan", "model", "--parts", "parts.json", "--html", "page.html", "--json")
    assert both.form["error"]["code"] == "usage"
    assert not (there / "page.html").exists()


def test_plan_that_does_not_fit_lists_every_problem(converted: Path) -> None:
    ran = run(converted, "plan", "model", "maps.py:make", "--target", "out", "--json")
    error = ran.form["error"]
    assert (ran.status, error["code"]) == (3, "plan-failed")
    assert {problem["code"] for problem in error["problems"]} == {"target-missing", "source-unplaced"}
    assert 'the mapping "make"' in error["what"]


def test_plan_with_options_fits(converted: Path) -> None:
    options = "--target", "out", "--partial", "--layout", "mapped", "--base-prefix", "model", "--dtype", "target"
    ran = run(converted, "plan", "model", "maps.py:HALF", *options, "--quiet")
    assert ran == (0, "", "")


def test_explain_shows_rules_and_copies(converted: Path) -> None:
    ran = run(converted, "explain", "model", "maps.py:FUSED", "layers.1.qk.weight")
    assert ran.status == 0
    assert "  layers.1.qk.weight[6:10, :] <- layers.1.k.weight[:, :]" in ran.out.splitlines()
    assert "fired: layers.1.q.weight -> layers.1.qk.weight" in ran.out


def test_explain_of_a_missing_key_names_the_nearest(converted: Path) -> None:
    ran = run(converted, "explain", "model", "maps.py:FUSED", "layers.1.norm.gama", "--json")
    assert ran.status == 0
    assert set(ran.form) == documented("explain")
    assert ran.form["sides"] == []
    assert ran.form["nearest"][0] == "layers.1.norm.gamma"


def test_explain_works_where_the_plan_fails(converted: Path) -> None:
    arguments = "explain", "model", "maps.py:HALF", "layers.0.q.weight", "--target", "out"
    form = run(converted, *arguments, "--json").form
    assert form["error"]["code"] == "plan-failed"
    assert form["explanation"]["sides"] == ["source"]
    assert form["explanation"]["rules"][0]["outcome"] == "no match"
    assert "layers.0.qk.weight" in form["explanation"]["nearest"]
    ran = run(converted, *arguments)
    assert ran.status == 3
    assert ran.err.startswith("plan-failed: ")
    assert "rule 1  WeightRenaming(norm.gamma -> norm.weight)" in ran.out


def test_explain_of_a_target_that_nothing_fills_names_what_is_produced(converted: Path) -> None:
    form = run(converted, "explain", "model", "maps.py:HALF", "layers.0.qk.weight", "--target", "out", "--json").form
    assert form["explanation"]["sides"] == ["target"]
    assert {"layers.0.q.weight", "layers.0.k.weight"} <= set(form["explanation"]["nearest"])


def test_explain_names_the_rules_that_overlap(there: Path) -> None:
    (there / "both.py").write_text(
        'from weighbridge import *\nBOTH = [WeightConverter("q.weight", "a", [Transpose(0, 1)]),'
        ' WeightConverter("layers.{i}.q.weight", "layers.{i}.b", [Transpose(0, 1)])]'
    )
    ran = run(there, "explain", "model", "both.py:BOTH", "layers.0.q.weight", "--json")
    assert ran.status == 3
    assert ran.form["error"]["problems"][0]["code"] == "rule-overlap"


# convert, revert, verify


def test_convert_and_revert_give_the_same_bytes(converted: Path) -> None:
    ran = run(converted, "revert", "out", "back")
    assert ran.status == 0
    assert ran.out.startswith("wrote     back: 10 tensors")
    assert sha256(converted / "back") == sha256(converted / "model")
    assert run(converted, "verify", "model", "back") == (0, "equal: 10 tensors, 850 bytes compared\n", "")


def test_revert_says_of_the_way_back_what_is_so(there: Path) -> None:
    """The restored files need none, also where a cast was undone; without what was lost, new ones have their own."""
    (there / "few.yaml").write_text("drop: [{pattern: norm.gamma}]\n")
    for out, mapping, *options in (("wide", "maps.py:HALF", "--dtype", "F64"), ("few", "few.yaml")):
        assert run(there, "convert", "model", out, mapping, *options, "--quiet").status == 0
    restored = run(there, "revert", "wide", "back")
    assert restored == (0, "wrote     back: 10 tensors, 850 B\n", "")
    assert sha256(there / "back") == sha256(there / "model")
    assert not (there / "back" / "weighbridge.json").exists()
    lossy = run(there, "revert", "few", "part", "--lossy")
    assert lossy.out.splitlines()[1:] == ["way back  weighbridge revert part BACK"]
    assert run(there, "revert", "part", "again", "--quiet").status == 0
    assert run(there, "verify", "few", "again").out.startswith("equal: 7 tensors")


def test_convert_without_a_mapping_keeps_the_names(there: Path) -> None:
    given = tensors()
    small = {key: array for key, array in given.items() if not key.startswith("layers.1")}
    ran = run(there, "convert", "model", "out", "--dtype", "F64", "--drop", "^layers.1", "--max-shard-size", "none")
    assert (ran.status, ran.err) == (0, "")
    made = load_file(there / "out" / "model.safetensors")
    assert made.keys() == small.keys()
    assert all((made[key] == small[key]).all() for key in small)
    weighbridge.convert(there / "model", there / "again", dtype="F64", drop="^layers.1", max_shard_size=None)
    assert (there / "again" / "model.safetensors").read_bytes() == (there / "out" / "model.safetensors").read_bytes()
    assert run(there, "convert", "model", "same", "--quiet").status == 0
    assert run(there, "revert", "same", "back", "--quiet").status == 0
    assert sha256(there / "back") == sha256(there / "model")
    assert "0 transforms: 10 -> 10 tensors" in run(there, "plan", "model").out
    assert run(there, "convert", "model", "fused", "maps.py:FUSED", "--quiet").status == 0
    lost = run(there, "plan", "model", "--target", "fused")
    assert lost.status == exit_code(PlanError("plan-failed", ""))
    assert "name the MAPPING that leads to the target" in lost.err


def test_convert_takes_a_dtype_by_pattern_and_names_what_it_cannot_hold(there: Path) -> None:
    given = tensors()
    save_file(given | {"embed.weight": given["embed.weight"].astype(np.float32) + 1e30}, there / "large.safetensors")
    casts = "--dtype", "F16", "--dtype", "layers.{0,2}.q=F64"
    ran = run(there, "convert", "large.safetensors", "out", "maps.py:HALF", *casts)
    assert (ran.status, (there / "out").exists()) == (exit_code(PlanError("cast-overflow", "")), False)
    assert "cast-overflow: a value lies beyond the range" in ran.err
    assert run(there, "convert", "large.safetensors", "out", "maps.py:HALF", *casts, "--allow-overflow").status == 0
    made = load_file(there / "out" / "model.safetensors")
    assert {key for key, array in made.items() if array.dtype == np.float64} == {
        "layers.0.q.weight",
        "layers.2.q.weight",
    }
    assert np.isinf(made["embed.weight"]).all()
    wrong = run(there, "plan", "large.safetensors", "maps.py:HALF", "--dtype", "F16", "--dtype", "nothing=F32")
    assert "rule-unused: this dtype is asked for no target @ nothing" in wrong.err


def test_convert_writes_shards_of_the_size_asked_for(there: Path) -> None:
    ran = run(there, "convert", "model", "out", "maps.py:FUSED", "--max-shard-size", "250", "--memory", "64", "--json")
    shards = [name for name in ran.form["files"] if name.endswith(".safetensors")]
    assert len(shards) == 4
    held = {key: value for name in shards for key, value in load_file(there / "out" / name).items()}
    given = tensors()
    for i in range(3):
        fused = np.concatenate([given[f"layers.{i}.q.weight"], given[f"layers.{i}.k.weight"]])
        assert (held[f"layers.{i}.qk.weight"] == fused).all()


def test_convert_in_reverse(converted: Path) -> None:
    ran = run(converted, "convert", "out", "reversed", "maps.py:FUSED", "--reverse", "--target", "model", "--quiet")
    assert ran == (0, "", "")
    assert run(converted, "verify", "reversed", "model", "--json").form["equal"] is True


def test_verify_says_what_differs_and_where(there: Path) -> None:
    changed = tensors()
    changed["layers.1.q.weight"][4, 3] += 1
    changed["layers.2.k.weight"] = changed["layers.2.k.weight"].astype(np.float64)
    changed["more"] = changed.pop("embed.weight")
    save_file(changed, there / "other.safetensors")
    ran = run(there, "verify", "model", "other.safetensors")
    assert (ran.status, ran.err) == (1, "")
    assert "layers.1.q.weight F32 [6, 5]: 1 of 30 elements differ, first at [4, 3]" in ran.out.splitlines()
    assert "layers.2.k.weight: F32 [4, 5] against F64 [4, 5]" in ran.out.splitlines()
    assert "only in the first:  embed.weight" in ran.out.splitlines()


def test_verify_gives_json(there: Path) -> None:
    changed = tensors()
    changed["layers.2.k.weight"] = changed["layers.2.k.weight"].astype(np.float64)
    changed["more"] = changed.pop("embed.weight")
    save_file(changed, there / "other.safetensors")
    ran = run(there, "verify", "model", "other.safetensors", "--json", "--quiet")
    assert (ran.status, set(ran.form)) == (1, documented("verify"))
    assert (ran.form["only_first"], ran.form["only_second"]) == (["embed.weight"], ["more"])
    assert [found["key"] for found in ran.form["differences"]] == ["layers.2.k.weight"]


# errors


FAILURES = [
    (("plan",), 2, "usage"),
    (("plan", "model", "--reverse"), 2, "usage"),
    (("convert", "model", "maps.py:HALF"), 2, "usage"),
    (("convert", "model", "qwen3_moe"), 2, "usage"),
    (("plan", "model", "maps.py:HALF", "--layout", "sideways"), 2, "usage"),
    (("plan", "model", "maps.py:HALF", "--dtype", "F99"), 2, "usage"),
    (("plan", "model", "maps.py:HALF", "--dtype", "I64"), 2, "usage"),
    (("plan", "model", "maps.py:HALF", "--dtype", "F16", "--dtype", "**=F32"), 2, "usage"),
    (("convert", "model", "new", "maps.py:HALF", "--max-shard-size", "5XB"), 2, "usage"),
    (("convert", "model", "maps.py:HALF", "new"), 2, "usage"),
    (("convert", "model", "maps.yaml", "new"), 2, "usage"),
    (("plan", "model", "map.yaml"), 2, "mapping-file"),
    (("plan", "model", "maps.py:HALF", "--only", "layers.0.q", "layers.1.q"), 2, "usage"),
    (("plan", "model", "maps.yamll"), 2, "mapping-not-found"),
    (("plan", "model", "no_such_mapping"), 2, "mapping-not-found"),
    (("plan", "model", "maps.py:NOWHERE"), 2, "mapping-file"),
    (("plan", "model", "maps.py:HALF", "--drop", "a.{"), 3, "pattern-syntax"),
    (("inspect", "nowhere"), 4, "checkpoint-not-found"),
    (("verify", "model", "short.safetensors"), 4, "file-truncated"),
    (("revert", "model", "new"), 4, "receipt-invalid"),
    (("convert", "model", "full", "maps.py:HALF"), 5, "destination-exists"),
    (("convert", "model", "model/new", "maps.py:HALF"), 5, "destination-unsafe"),
    (("revert", "model", "full"), 5, "destination-exists"),
]


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("failing"))
    (folder / "full").mkdir()
    (folder / "full" / "notes.txt").write_text("mine")
    raw = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(raw[:-1])
    return folder


@pytest.mark.parametrize(
    ("arguments", "status", "code"), FAILURES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_failure_has_its_status_and_code(failing: Path, arguments: tuple[str, ...], status: int, code: str) -> None:
    before = sorted(failing.rglob("*"))
    ran = run(failing, *arguments, "--json")
    assert (ran.status, ran.form["error"]["code"], ran.err) == (status, code, "")
    assert ran.form["error"]["what"]
    assert sorted(failing.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "model", "maps.py:HALF", "new"), "try       model new maps.py:HALF"),
        (("convert", "model", "new.json", "maps.pi"), "try       model maps.pi new.json"),
        (("plan", "model", "map.py:HALF"), "got       no map.py in .; nearest: maps.py"),
        (("plan", "model", "maps.py:HALF", "--only", "layers.0.q", "layers.1.q"), "Quote a pattern: "),
        (("plan", "model", "maps.yaml"), "got       no maps.yaml in .; nearest: maps.py"),
        (("plan", "model", "./maps.pi"), "nearest: maps.py"),
        (("plan", "model", "short.safetensors"), "got       short.safetensors is no mapping file by its name"),
        (("inspect", "modle"), "got       no modle in .; nearest: model"),
    ],
)
def test_a_slip_in_the_arguments_is_named(failing: Path, arguments: tuple[str, ...], words: str) -> None:
    before = sorted(failing.rglob("*"))
    ran = run(failing, *arguments)
    assert words in ran.err, ran.err
    assert "remove" not in ran.err
    assert sorted(failing.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "status", "start"),
    [
        (("nonsense",), 2, "Usage: weighbridge"),
        (("plan", "model", "no_such_mapping", "--quiet"), 2, "mapping-not-found: "),
    ],
)
def test_failure_is_text_on_stderr(failing: Path, arguments: tuple[str, ...], status: int, start: str) -> None:
    ran = run(failing, *arguments)
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.startswith(start)


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (WeighbridgeError("usage", "-"), 2),
        (MappingError("mapping-file", "-"), 2),
        (RegistryError("mapping-exists", "-"), 2),
        (MappingError("mapping-invalid", "-"), 3),
        (PatternError("pattern-one-way", "-"), 3),
        (LayoutError("operation-one-way", "-"), 3),
        (PlanError("inverse-lossy", "-"), 3),
        (CheckpointError("path-unsafe", "-"), 4),
        (DestinationError("write-failed", "-"), 5),
        (DestinationError("usage", "-"), 2),
        (VerifyError("verify-failed", "-"), 1),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_each_kind_of_error_has_a_status(problem: WeighbridgeError, status: int) -> None:
    assert exit_code(problem) == status
    assert status in EXIT_CODES


def test_full_error_text_lists_every_problem() -> None:
    problems = [PlanError("target-missing", "nothing", where=f"key.{i}") for i in range(30)]
    problem = PlanError("plan-failed", "no", got="much", problems=problems)
    assert error_text(problem) == str(problem)
    assert error_text(problem, full=True).count("target-missing") == 30
    assert error_text(problem, full=True).startswith("plan-failed: no\n  got       much\n  target-missing")


@given(st.text())
def test_visible_text_is_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert shown.isprintable()
    assert text.isprintable() <= (shown == text)


# mapping files


def test_mapping_argument_reads_each_form(tmp_path: Path) -> None:
    file = tmp_path / "maps.py"
    file.write_text(MAPPINGS)
    fused = load_argument(f"{file}:FUSED")
    assert (fused.name, len(fused)) == ("fused", 2)
    assert load_argument(str(file)) == fused
    assert load_argument(f"{file}:HALF") == Mapping([WeightRenaming("norm.gamma", "norm.weight")], name="HALF")
    assert load_argument(f"{file}:make").name == "make"
    (tmp_path / "fused.json").write_text(json.dumps(fused.to_dict()))
    assert load_argument(str(tmp_path / "fused.json")) == fused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fused.json", "maps.py"]


def test_mapping_file_imports_its_neighbours_and_leaves_no_path(tmp_path: Path) -> None:
    (tmp_path / "weighbridge_test_neighbour.py").write_text("NAME = 'norm.gamma'")
    file = tmp_path / "maps.py"
    file.write_text(
        "import weighbridge as wb\nfrom weighbridge_test_neighbour import NAME\n"
        "print('to stderr')\nM = [wb.WeightRenaming(NAME, 'b')]"
    )
    before = list(sys.path)
    try:
        assert len(load_argument(f"{file}:M")) == 1
    finally:
        sys.modules.pop("weighbridge_test_neighbour", None)
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "name", "code", "where", "got"),
    [
        ("x = 1\ny = 1 / 0\n", "y", "mapping-file", ":2", "ZeroDivisionError: division by zero"),
        ("x = 1\n\nif:\n", "x", "mapping-file", ":3", "SyntaxError"),
        ("def f():\n    return g()\ndef g():\n    return {}['a']\n", "f", "mapping-file", ":4", "KeyError: 'a'"),
        ("import sys\nsys.exit(3)\n", "x", "mapping-file", ":2", "SystemExit: 3"),
        ("import no_such_module_at_all\n", "x", "mapping-file", ":1", "ModuleNotFoundError"),
        ("def f(a):\n    return a\n", "f", "mapping-file", "", "TypeError"),
        ("M = 7\n", "M", "mapping-file", ":M", "int: 7"),
        ("M = 'text'\n", "M", "mapping-file", ":M", "str: 'text'"),
        ("M = [1]\n", "M", "mapping-invalid", "", "1"),
        ("import weighbridge\nM = [weighbridge.Mapping([])]\n", "M", "mapping-invalid", "", "Mapping"),
        ("import weighbridge\nHERE = weighbridge.Mapping([])\n", "THERE", "mapping-file", ":THERE", "HERE"),
        ("import weighbridge\nA = B = weighbridge.Mapping([])\n", "", "mapping-file", "", "A, B"),
        ("A = 1\n", "", "mapping-file", "", "none"),
        ("\x00", "x", "mapping-file", "", "null bytes"),
    ],
    ids=range(14),
)
def test_wrong_mapping_file_is_named_with_its_line(
    tmp_path: Path, text: str, name: str, code: str, where: str, got: str
) -> None:
    file = tmp_path / "maps.py"
    file.write_text(text)
    with pytest.raises(WeighbridgeError) as caught:
        load_argument(f"{file}:{name}" if name else str(file))
    assert caught.value.code == code
    assert where in caught.value.where
    assert got in caught.value.got


def test_pattern_error_in_a_mapping_file_keeps_its_code_and_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "maps.py"
    file.write_text("import weighbridge as wb\n\nM = [wb.WeightRenaming('a.{', 'b')]\n")
    with pytest.raises(PatternError) as caught:
        load_argument(f"{file}:M")
    assert "line 3 of" in str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("a.json", None), ("b.json", "{"), ("c.json", "[]"), ("d.py:M", None)])
def test_unreadable_mapping_file_is_an_error(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(MappingError) as caught:
        load_argument(str(tmp_path / name))
    assert caught.value.code == "mapping-file"


def test_registered_name_of_another_package_is_found(there: Path) -> None:
    shipped = there / "site" / "shipped-1.dist-info"
    shipped.mkdir(parents=True)
    (shipped / "METADATA").write_text("Metadata-Version: 2.1\nName: shipped\nVersion: 1\n")
    (shipped / "entry_points.txt").write_text("[weighbridge.mappings]\nshipped_norms = shipped:HALF\n")
    (there / "site" / "shipped.py").write_text(MAPPINGS)
    ran = run(there, "plan", "model", "shipped_norms", "--json", PYTHONPATH=str(there / "site"))
    assert ran.form["mapping"] == "shipped_norms"
    rows = run(there, "mapping", "list", "--json", PYTHONPATH=str(there / "site")).form["mappings"]
    row = {"name": "shipped_norms", "kind": "entry point", "origin": "shipped", "module": "shipped:HALF"}
    assert row in rows


# terminals, pipes, signals


def test_terminal_gets_a_table_and_a_progress_bar(there: Path) -> None:
    ran = run_on_terminal(there, "inspect", "model")
    assert ran.status == 0
    assert "\x1b[" in ran.out
    assert "─" in ran.out
    ran = run_on_terminal(there, "convert", "model", "out", "maps.py:FUSED")
    assert ran.status == 0
    assert "\x1b[?25l" in ran.out  # the cursor is hidden while a bar moves
    assert ran.out.index("converting") < ran.out.index("wrote")
    assert "\x1b[?25h" in ran.out
    ran = run_on_terminal(there, "plan", "model", "nowhere")
    assert (ran.status, ran.out.startswith("\x1b[31m\x1b[1mmapping-not-found")) == (2, True)


def test_no_color_makes_a_terminal_plain(there: Path) -> None:
    ran = run_on_terminal(there, "inspect", "model", NO_COLOR="1")
    assert (ran.status, "\x1b" in ran.out) == (0, False)
    assert ran.out.replace("\r\n", "\n") == run(there, "inspect", "model").out


def test_reader_that_goes_away_sees_no_traceback(there: Path) -> None:
    many = {f"layers.{i}.weight_{i % 97}": np.zeros(1, np.float32) for i in range(6000)}
    save_file(many, there / "many.safetensors")
    command = f"{shlex.quote(sys.executable)} -m weighbridge inspect many.safetensors --full | head -n 1"
    ran = subprocess.run(command, shell=True, cwd=there, env=environment(), capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("place     many.safetensors\n", "")


def test_output_without_a_place_is_an_error(converted: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which this system lacks")
    command = [sys.executable, "-m", "weighbridge", "inspect", "model"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            command, cwd=converted, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ran.returncode, ran.stderr.splitlines()[0]) == (
        5,
        "write-failed: the output cannot be printed @ <stdout>",
    )


STOPPING = """
import os, signal, sys

# A shell starts what it runs in the background with this one ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)

def hook(event, arguments, sent=[]):
    name = str(arguments[0]) if event == "open" else ""
    if ".weighbridge-" in name and name.endswith(".safetensors") and not sent:
        sent.append(event)
        os.kill(os.getpid(), signal.{name})

sys.addaudithook(hook)
"""


@pytest.mark.parametrize(("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_stopped_conversion_leaves_nothing(there: Path, name: str, status: int, word: str) -> None:
    """The mapping file sends the signal as soon as the first file of the output is opened."""
    (there / "stop.py").write_text(STOPPING.format(name=name) + MAPPINGS)
    before = sorted(there.rglob("*"))
    ran = run(there, "convert", "model", "deep/out", "stop.py:FUSED", "--json")
    assert (ran.status, ran.form["error"]["code"]) == (status, word)
    assert sorted(there.rglob("*")) == before


# help and documentation


def test_help_lists_commands_and_statuses(tmp_path: Path) -> None:
    ran = run(tmp_path, "--help")
    assert ran.status == 0
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"^ +{code}  {re.escape(meaning)}", ran.out, re.MULTILINE)
    assert re.findall(r"^│ ([a-z]+) ", ran.out, re.MULTILINE) == [*COMMANDS, *GROUPS]
    assert run(tmp_path, "--version").out.startswith("weighbridge ")


def test_a_misspelt_command_is_compared_with_all_of_them(tmp_path: Path) -> None:
    assert "Did you mean 'convert'?" in run(tmp_path, "convrt").err
    assert "No such command 'zzz'." in run(tmp_path, "zzz").err


def test_help_of_a_command_lists_its_options(tmp_path: Path) -> None:
    ran = run(tmp_path, "convert", "--help", COLUMNS="120")
    assert ran.status == 0
    for option in ("--json", "--quiet", "--target", "--drop", "--reverse", "--max-shard-size", "--memory"):
        assert f" {option} " in ran.out


def test_page_lists_the_commands_and_statuses() -> None:
    assert re.findall(r"^\| `weighbridge ([a-z]+) ", PAGE, re.MULTILINE) == [*COMMANDS, *GROUPS]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_page_shows_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's Python blocks make the files; each console block holds commands and all that they print."""
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "command.md", "exec"), {})
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, expected = shown.partition("\n")
            module, *words = shlex.split(line)
            printed = forks(COMMAND).run(module, words, tmp_path, environment(), as_one=True)
            assert printed.out.decode() == expected, line


def test_a_mapping_in_json_says_what_to_check_as_the_yaml_file_does(there: Path) -> None:
    """JSON has no comments, so that what values leave open would be lost in the file."""
    norms = {f"old.{name}.scale": np.ones(4, np.float32) for name in ("first", "second")}
    save_file(norms, there / "old.safetensors")
    save_file({key.replace("old", "new"): value for key, value in norms.items()}, there / "new.safetensors")
    for name in ("found.yaml", "found.json"):
        assert run(there, "infer", "old.safetensors", "new.safetensors", "-o", name, "--quiet").status in (0, 6)
    comments = json.loads((there / "found.json").read_text())["comments"]
    written = [line for lines in (comments["head"], *comments["rules"], comments["tail"]) for line in lines]
    text = (there / "found.yaml").read_text()
    assert sorted(written) == sorted(line.strip()[2:] for line in text.splitlines() if line.strip().startswith("# "))
    assert any(line.startswith("CHECK: ") for line in written)
    assert weighbridge.load_mapping(there / "found.json") == weighbridge.load_mapping(there / "found.yaml")
