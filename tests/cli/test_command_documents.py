"""The JSON documents of the commands, field by field against the tables of docs/command.md; completion; words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import PACKAGES, PAGE, environment, fill, run
from corpus import Case
from typer.testing import CliRunner

from weighbridge.cli.app import app
from weighbridge.cli.command_options import mapping_names
from weighbridge.cli.wording import in_options
from weighbridge.mappings import families

KINDS = {
    "text": str,
    "integer": int,
    "number": (int, float),
    "true or false": bool,
    "object": dict,
    "list": list,
    "null": type(None),
}

DOCUMENTS = {
    "inspect": ("inspect", "model"),
    "inspect --stats": ("inspect", "model", "--stats", "layers.0.q.weight"),
    "inspect --tree": ("inspect", "model", "--tree"),
    "detect": ("detect", "model"),
    "plan": ("plan", "model", "maps.py:FUSED"),
    "explain": ("explain", "model", "maps.py:FUSED", "layers.0.qk.weight"),
    "verify": ("verify", "model", "other"),
    "diff": ("diff", "model", "other"),
    "infer": ("infer", "model", "other"),
    "new": ("new", "model", "other"),
    "lint": ("lint", "odd.py:ODD"),
    "mapping list": ("mapping", "list"),
    "An error": ("plan", "model", "maps.py:HALF", "--target", "out"),
}
"""For each table of the page, a command whose document has its form."""


def fields(title: str) -> dict[str, str]:
    """Return the documented fields under a heading, each with its type."""
    section = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None, title
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section[1], re.MULTILINE))


def complaints(value: Any, path: str, known: dict[str, str]) -> Iterator[str]:
    """Yield what of a document is not as the table says."""
    kinds = known.get(path, "").removesuffix(", optional")
    if kinds in ("branch", "error", "mapping", "any"):
        return  # of the same form as what it is in, or as a mapping file, or of any
    if kinds:
        allowed = [word for word in KINDS if re.search(rf"\b{word}\b", kinds)]
        if not any(
            isinstance(value, KINDS[word]) and isinstance(value, bool) <= (KINDS[word] is bool) for word in allowed
        ):
            yield f"{path} is no {kinds}: {value!r}"
    if isinstance(value, list):
        for entry in value:
            yield from complaints(entry, f"{path}[]", known)
    elif isinstance(value, dict) and any(name.startswith(f"{path}.*") for name in known):
        for entry in value.values():
            yield from complaints(entry, f"{path}.*", known)
    elif isinstance(value, dict):
        yield from _object_complaints(value, path, known)
    elif not kinds:
        yield f"{path} is in no table"


def _object_complaints(value: dict[str, Any], path: str, known: dict[str, str]) -> Iterator[str]:
    start = f"{path}." if path else ""
    inside = {name.removeprefix(start): kind for name, kind in known.items() if name.startswith(start)}
    needed = {re.split(r"[.\[]", name)[0] for name, kind in inside.items() if not kind.endswith("optional")}
    yield from (f"{start}{name} is missing" for name in sorted(needed - value.keys()))
    for name, entry in value.items():
        yield from complaints(entry, start + name, known)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints that differ in all that can differ, and one that was converted."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = fill(tmp_path_factory.mktemp("documents"))
    held = load_file(folder / "model" / "model.safetensors")
    held["layers.0.q.weight"] = held["layers.0.q.weight"] * np.float32("nan")
    held["layers.1.q.weight"] = held["layers.1.q.weight"].T.copy()
    held["new.weight"] = held.pop("embed.weight")
    (folder / "odd.py").write_text(
        'from weighbridge import WeightRenaming\nODD = [WeightRenaming(["a.w", "b.w"], "c.w")]\n'
    )
    (folder / "other").mkdir()
    save_file(held, folder / "other" / "model.safetensors")
    return folder


def answer(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Run a command in this process; return its document."""
    monkeypatch.chdir(folder)
    ran = CliRunner().invoke(app, [*arguments, "--json"])
    return json.loads(ran.stdout, parse_constant=pytest.fail)


@pytest.mark.parametrize("title", DOCUMENTS)
def test_document_has_the_fields_of_its_table(title: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if title == "An error" and not (there / "out").exists():
        answer(there, monkeypatch, "convert", "model", "out", "maps.py:FUSED")
    document = answer(there, monkeypatch, *DOCUMENTS[title])
    assert list(complaints(document, "", fields(title))) == []
    assert title != "lint" or document["findings"]


def test_what_a_configuration_says_otherwise_is_in_the_document_of_a_plan(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(there / "model", tmp_path / "model")
    said = {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["layers.0.q"]}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(said))
    (tmp_path / "maps.py").write_text('from weighbridge import WeightRenaming\nONE = [WeightRenaming("q", "query")]\n')
    document = answer(tmp_path, monkeypatch, "plan", "model", "maps.py:ONE")
    assert list(complaints(document, "", fields("plan"))) == []
    assert [change["after"] for change in document["config_changes"]] == [["layers.0.query"]]


def test_document_of_a_conversion_is_that_of_a_plan(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: kind for name, kind in fields("plan").items() if not name.startswith("steps")}
    known |= {"destination": "text", "files[]": "text"}
    converted = answer(there, monkeypatch, "convert", "model", "new/out", "maps.py:FUSED", "--only", "layers.{0..1}.**")
    assert list(complaints(converted, "", known)) == []
    assert converted["target_tensors"] == 4
    assert converted["lossy_reasons"] == ["4 tensors dropped: --only layers.{0..1}.**"]
    refused = answer(there, monkeypatch, "revert", "new/out", "new/back")
    assert (refused["error"]["code"], refused["error"]["hint"].startswith("give --lossy")) == ("inverse-lossy", True)
    back = answer(there, monkeypatch, "revert", "new/out", "new/back", "--lossy")
    assert list(complaints(back, "", known)) == []


def test_families_and_candidates_have_the_fields_of_their_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.named("qwen3_moe__Qwen3MoeForCausalLM__12experts_tied").path
    for title in ("inspect", "detect"):
        document = answer(case, monkeypatch, title, ".")
        assert list(complaints(document, "", fields(title))) == []
    assert document["candidates"][0]["rules"]


def test_explanation_of_the_way_back(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--reverse` explains the inverse, with the layout that it leads to as the target."""
    if not (there / "out").exists():
        answer(there, monkeypatch, "convert", "model", "out", "maps.py:FUSED")
    arguments = "explain", "out", "maps.py:FUSED", "layers.1.k.weight", "--reverse", "--target", "model"
    found = answer(there, monkeypatch, *arguments)
    assert (found["sides"], found["sources"]) == (["target"], ["layers.1.qk.weight"])
    assert found["copies"] == ["layers.1.k.weight[:, :] <- layers.1.qk.weight[6:10, :]"]
    assert found["diagrams"][0].startswith("layers.1.qk.weight  F32 [10, 5]")


def test_explanation_of_a_failed_plan_names_the_incomplete_group(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = {"layers.0.q.weight": {"dtype": "F32", "shape": [6, 5]}}
    form = {"format": "weighbridge-inventory", "version": 1, "tensors": specs}
    (there / "half.json").write_text(json.dumps(form))
    found = answer(there, monkeypatch, "explain", "half.json", "maps.py:FUSED", "layers.0.k.weight")
    assert (found["error"]["code"], found["error"]["problems"][0]["code"]) == ("plan-failed", "group-incomplete")
    assert found["explanation"]["group"] == [
        "layers.0.qk.weight, of rule 2, is incomplete",
        "  q.weight  1 of 1",
        "  k.weight  0 of 1; missing",
    ]


@pytest.mark.parametrize("title", DOCUMENTS)
def test_check_of_documents_can_fail(title: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = answer(there, monkeypatch, *DOCUMENTS[title])
    known = fields(title)
    assert any("is in no table" in text for text in complaints({**document, "strange": 1}, "", known))
    name = next(iter(document))
    del document[name]
    assert list(complaints(document, "", known)) == [f"{name} is missing"]


# completion and words


def test_completion_knows_commands_and_mappings(tmp_path: Path) -> None:
    for words, wanted in (("weighbridge di", "diff"), ("weighbridge plan model qwen3_", "qwen3_moe")):
        changes = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        ran = run(tmp_path, _WEIGHBRIDGE_COMPLETE="complete_bash", **changes)
        assert wanted in ran.out.split()
    assert set(mapping_names("qwen3_")) >= {name for name in families.MODULES if name.startswith("qwen3_")}
    assert mapping_names("no such") == []
    assert PACKAGES in environment()["PYTHONPATH"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pass lossy=True (revert --lossy) to go back", "give --lossy to revert to go back"),
        (
            'declare the layout: layout="mapped" or layout="as is"',
            'declare the layout: --layout mapped or --layout "as is"',
        ),
        ('declare layout="mapped" if they are not', "declare --layout mapped if they are not"),
        ("carry=[...] or drop=[...], or partial=True (--carry, --drop, --partial)", "--carry or --drop, or --partial"),
        ("initialise=[...], or partial=True (--initialise, --partial)", "--initialise or --partial"),
        ("go on with resume=True", "go on with --resume"),
        (
            "add num_heads to the model's configuration, or pass config= with it",
            "give --set num_heads=NUMBER, or --config with a file that has it",
        ),
        (
            "take one of these names; list(checkpoint.header) has all",
            "take one of these names; weighbridge inspect --full lists all",
        ),
        ("plan.inverse(), or weighbridge revert", "weighbridge revert"),
        ("nothing to replace", "nothing to replace"),
    ],
)
def test_hints_name_options_and_not_arguments(text: str, words: str) -> None:
    assert in_options(text) == words


def test_every_hint_of_the_library_is_an_option_for_the_command() -> None:
    """No argument that is an option of the command is left in a hint once it was put into the command's words."""
    package = Path(PACKAGES) / "weighbridge"
    texts = [path.read_text("utf-8") for path in package.rglob("*.py") if "cli" not in path.parts]
    hints = [hint for text in texts for hint in re.findall(r"""hint=f?(?:"([^"\n]*)"|'([^'\n]*)')""", text)]
    # No command saves a live model, nor puts anything into a registry.
    said = [in_options(one or other) for one, other in hints if not re.search("published|stages", one + other)]
    assert len(said) > 20
    assert [hint for hint in said if re.search(r"\b\w+=(?:True|\[|\")", hint) and "overwrite" not in hint] == []
