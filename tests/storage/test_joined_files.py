"""Several files as one source: which files a pattern names, what their keys are called, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import run
from safetensors.torch import load_file, save_file

import weighbridge as wb


def value(*numbers: int) -> torch.Tensor:
    """Return a tensor that tells its file."""
    return torch.arange(6.0).view(2, 3) + 100 * sum(1000**place * number for place, number in enumerate(numbers))


def write(path: Path, **tensors: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def write_ranks(folder: Path, numbers: Any, name: str = "rank_{}.pt") -> Path:
    for number in numbers:
        write(folder / name.format(number), w=value(int(number)), b=torch.full((int(number) % 99 + 1,), float(number)))
    return folder


def refusal(place: Any, **options: Any) -> wb.WeighbridgeError:
    with pytest.raises(wb.WeighbridgeError) as caught:
        wb.open(place, **options)
    return caught.value


# Names


@pytest.mark.parametrize(
    ("names", "pattern", "prefixes"),
    [
        (["rank_{}.pt"], "rank_{r}.pt", ["rank_{}."]),
        (["consolidated.{:02}.pth"], "consolidated.{r}.pth", ["consolidated.{:02}."]),
        (["consolidated.{:02}.pth"], "consolidated.{r:02}.pth", ["consolidated.{:02}."]),
        (["layer_{:02}-model_states.pt"], "layer_{i:02}-model_states.pt", ["layer_{:02}-model_states."]),
        (["{}.safetensors"], "{r:int}.safetensors", ["{}."]),
        (["rank_{}/model.bin"], "rank_{r}/model.bin", ["rank_{}.model."]),
        (["rank_{}/a.pt", "rank_{}/b.pt"], "rank_{r}/{part}.pt", ["rank_{}.a.", "rank_{}.b."]),
        (["rank_{}/model.safetensors"], "rank_{r}", ["rank_{}."]),
    ],
)
def test_keys_begin_with_the_names_of_their_files(
    tmp_path: Path, names: list[str], pattern: str, prefixes: list[str]
) -> None:
    wanted = {}
    for number in range(12):
        for place, (name, prefix) in enumerate(zip(names, prefixes, strict=True)):
            write(tmp_path / name.format(number), w=value(number, place))
            wanted[f"{prefix.format(number)}w"] = value(number, place)
    write(tmp_path / "other.pt", w=value(99))
    checkpoint = wb.open(tmp_path / pattern)
    assert list(checkpoint.header) == list(wanted)
    assert all(checkpoint.tensor(key).equal(tensor) for key, tensor in wanted.items())
    assert wb.verify(str(tmp_path / pattern), wanted)
    assert "are read as one: r is {0..11}" in checkpoint.notes[0].replace("i is", "r is")


def test_a_dict_says_what_keys_begin_with(tmp_path: Path) -> None:
    write_ranks(tmp_path, range(3))
    write(tmp_path / "ema.pt", w=value(77))
    write(tmp_path / "more.pt", other=value(78))
    place = {f"{tmp_path}/rank_{{r:int}}.pt": "ranks.{r+1}", tmp_path / "ema.pt": "ema.", tmp_path / "more.pt": ""}
    found = wb.open(place)
    assert sorted(found.header) == sorted(
        [*(f"ranks.{n}.{name}" for n in (1, 2, 3) for name in "wb"), "ema.w", "other"]
    )
    assert found.tensor("ranks.3.w").equal(value(2))
    assert found.tensor("ema.w").equal(value(77))
    assert refusal({tmp_path / "rank_{r}.pt": "{s}."}).code == "pattern-reference"
    assert refusal({tmp_path / "rank_{r:int}.pt": "{r-1}."}).code == "index-mismatch"


def test_a_dict_of_tensors_is_still_one_and_a_path_that_is_there_no_pattern(tmp_path: Path) -> None:
    assert list(wb.open({"a": value(1)}).header) == ["a"]
    write(tmp_path / "rank_{r}.pt", w=value(5))
    write_ranks(tmp_path, range(2))
    assert list(wb.open(tmp_path / "rank_{r}.pt").header) == ["w"]
    assert list(wb.open({tmp_path / "rank_{r}.pt": "x."}).header) == ["x.w"]
    write_ranks(tmp_path / "{odd} (1)", range(2))
    write_ranks(tmp_path / "even", range(3))
    assert len(wb.open(tmp_path / "{odd} (1)" / "rank_{r}.pt").header) == 4
    assert len(wb.open({tmp_path / "{odd} (1)" / "rank_1.pt": ""}).header) == 2


def test_entries_and_ties_of_each_file(tmp_path: Path) -> None:
    for number in range(2):
        shared = value(number)
        torch.save({"model": {"w": shared, "v": shared}, "ema": {"w": -shared}}, tmp_path / f"rank_{number}.pt")
    place = f"{tmp_path}/rank_{{r}}.pt"
    assert refusal(place).code == "checkpoint-ambiguous"
    for found in (wb.open(f"{place}::model"), wb.open(place, entry="model")):
        assert found.header.ties == {"rank_0.w": "rank_0.v", "rank_1.w": "rank_1.v"}
        assert found.tensor("rank_1.w").equal(value(1))
    out = wb.convert(f"{place}::model", tmp_path / "out.pth")
    loaded = torch.load(out, weights_only=True)
    assert loaded["rank_1.w"].data_ptr() == loaded["rank_1.v"].data_ptr()


# What is missing


@pytest.mark.parametrize(
    ("numbers", "name", "pattern", "got"),
    [
        ([0, 1, 3], "rank_{}.pt", "rank_{r}.pt", "3, without r=2"),
        ([2, 3], "rank_{}.pt", "rank_{r}.pt", "2, without r=1"),
        (range(3), "rank_{}.pt", "rank_{r:0..3}.pt", "3, without r=3"),
        ([1, 2, 3], "rank_{}.pt", "rank_{r:0..3}.pt", "3, without r=0"),
        (["00", "01"], "c.{}.pth", "c.{r:00..03}.pth", "2, without r=02; r=03"),
        ([2, 10], "layer_{}.pt", "layer_{i}.pt", "2, without i=1; i=3; i=4; i=5; i=6 and 3 more"),
        ([0, 1], "rank_{}_of_3.pt", "rank_{r}_of_3.pt", "2"),
        ([0, 1], "rank_{}_of_3.pt", "rank_{r}_of_{n}.pt", "2"),
        ([0, 20250101], "run_{}.pt", "run_{r}.pt", "2, without r=1; r=2; r=3; r=4; r=5 and 20250095 more"),
    ],
)
def test_a_missing_file_is_noticed(tmp_path: Path, numbers: Any, name: str, pattern: str, got: str) -> None:
    problem = refusal(write_ranks(tmp_path, numbers, name) / pattern)
    assert (problem.code, problem.got) == ("index-mismatch", got)
    ran = run(tmp_path, "convert", pattern, "out")
    assert ran.status == 4, ran.err
    assert not (tmp_path / "out").exists()


def test_a_number_that_says_how_many_there_are_is_no_other_file(tmp_path: Path) -> None:
    write_ranks(tmp_path, range(3), "rank_{}_of_3.pt")
    assert len(wb.open(tmp_path / "rank_{r}_of_{n}.pt").header) == 6
    assert len(wb.open(tmp_path / "rank_{r}_of_3.pt").header) == 6


def test_one_file_of_a_grid_is_missed(tmp_path: Path) -> None:
    for layer in range(3):
        for rank in range(2):
            write(tmp_path / f"layer_{layer}-model_{rank}.pt", w=value(layer, rank))
    pattern = tmp_path / "layer_{i}-model_{r}.pt"
    assert len(wb.open(pattern).header) == 6
    (tmp_path / "layer_1-model_1.pt").unlink()
    assert refusal(pattern).got == "5, without i=1, r=1"
    (tmp_path / "layer_1-model_0.pt").unlink()
    assert refusal(pattern).got == "4, without i=1, r=0; i=1, r=1"
    assert len(wb.open(tmp_path / "layer_{i:0,2}-model_{r}.pt").header) == 4


def test_parts_that_are_named_may_have_numbers_of_their_own(tmp_path: Path) -> None:
    write_ranks(tmp_path, range(2), "encoder_{}.pt")
    write_ranks(tmp_path, range(3), "decoder_{}.pt")
    assert len(wb.open(tmp_path / "{part}_{r}.pt").header) == 10
    write(tmp_path / "encoder_3.pt", w=value(1))
    assert refusal(tmp_path / "{part}_{r}.pt").got == "3, without r=2"
    assert refusal(tmp_path / "{part:encoder|head}_{r:0..1}.pt").got == "2, without part=head, r=0; part=head, r=1"


@pytest.mark.parametrize(
    ("there", "pattern", "config", "code", "got"),
    [
        (range(7), "rank_{r:0..world-1}.pt", {"world": 8}, "index-mismatch", "7, without r=7"),
        (range(9), "rank_{r:0..world-1}.pt", {"world": 8}, "index-mismatch", "'rank_8.pt'"),
        (range(1, 4), "rank_{r:1..world}.pt", {"world": 4}, "index-mismatch", "3, without r=4"),
        (range(3), "rank_{r:0..world+1}.pt", {"world": 2}, "index-mismatch", "3, without r=3"),
        (range(3), "rank_{r:0,2..p.world}.pt", {"p": {"world": 3}}, "index-mismatch", "2, without r=3"),
        (range(2), "rank_{r:1..world-1}.pt", {"world": 1}, "index-mismatch", "world is 1"),
        (range(2), "rank_{r:0..world-1}.pt", {"world_size": 2}, "operation-config", "nothing; nearest: world_size"),
        (range(2), "rank_{r:0..world-1}.pt", {"world": "2"}, "operation-config", "'2'"),
    ],
)
def test_the_configuration_says_how_many_there_are(
    tmp_path: Path, there: Any, pattern: str, config: Any, code: str, got: str
) -> None:
    write_ranks(tmp_path, there)
    for refused in (refusal(tmp_path / pattern, config=config), refusal({tmp_path / pattern: "{r}."}, config=config)):
        assert (refused.code, refused.got) == (code, got)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert refusal(tmp_path / pattern).got == got
    ran = run(tmp_path, "convert", pattern, "out")
    assert ran.status != 0
    assert not (tmp_path / "out").exists()


def test_a_number_of_files_is_given_in_every_way(tmp_path: Path) -> None:
    """By the one that is given, a file, the settings of a command, or the file beside the weights."""
    write_ranks(tmp_path, [f"{number:02}" for number in range(11)])
    pattern, rules = "rank_{r:00..mesh.ranks-1}.pt", [wb.WeightConverter("rank_*.w", "w", [wb.Concatenate(0)])]
    (tmp_path / "other.json").write_text('{"mesh": {"ranks": 11}}')
    for config in ({"mesh": {"ranks": 11}}, str(tmp_path / "other.json")):
        plan = wb.plan(tmp_path / pattern, rules, config=config)
        assert plan.state_dict()["w"].equal(torch.cat([value(number) for number in range(11)]))
    assert run(tmp_path, "convert", pattern, "out", "--set", "mesh.ranks=11").status == 0
    assert run(tmp_path, "convert", pattern, "less", "--set", "mesh.ranks=12").status == 4
    refused = run(tmp_path, "convert", pattern, "more", "--set", "mesh.ranks=11", "--set", "mesh.rank=1")
    assert "no rule asks for this" in refused.err
    (tmp_path / "config.json").write_text('{"mesh": {"ranks": 11}}')
    assert len(wb.open(tmp_path / pattern).header) == 22
    assert wb.verify(tmp_path / pattern, tmp_path / "rank_{r}.pt")
    back = wb.revert(tmp_path / "out", tmp_path / "back")
    assert wb.verify(back, tmp_path / pattern)


def test_gaps_that_are_meant_are_said(tmp_path: Path) -> None:
    write_ranks(tmp_path, ["02", "03", "04", "10"], "layer_{}.pt")
    found = wb.open(tmp_path / "layer_{i:02..04,10}.pt")
    assert [key for key in found.header if key.endswith("w")] == [f"layer_{n}.w" for n in ("02", "03", "04", "10")]
    rules = [wb.WeightRenaming("^layer_{i:02}", "layers.{i-2}")]
    assert wb.plan(found, rules).state_dict()["layers.8.w"].equal(value(10))


@pytest.mark.parametrize(
    ("names", "pattern", "code", "got"),
    [
        (["rank_1.pt", "rank_01.pt", "rank_0.pt"], "rank_{r}.pt", "checkpoint-ambiguous", "rank_01.pt and rank_1.pt"),
        (["rank_0.pt", "rank_old.pt"], "rank_{r}.pt", "checkpoint-ambiguous", "'0', 'old'"),
        (
            ["layer_00.pt", "layer_1.pt"],
            "layer_{i:02}.pt",
            "index-mismatch",
            "'1', for {i:02}, has fewer than 2 digits",
        ),
        (["a.pt"], "rank_{r}.pt", "checkpoint-not-found", "'a.pt'"),
        (["a.pt"], "nowhere/rank_{r}.pt", "checkpoint-not-found", "no directory nowhere"),
        (["a.pt"], "rank_{r.pt", "pattern-syntax", None),
    ],
)
def test_what_cannot_be_one_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], pattern: str, code: str, got: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names:
        write(tmp_path / name, w=value(1))
    problem = refusal(pattern)
    assert problem.code == code
    assert got is None or problem.got == got


def test_two_files_that_give_one_key_are_both_named(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", w=value(1), x=value(2))
    write(tmp_path / "b.pt", w=value(3), y=value(4))
    problem = refusal({f"{tmp_path}/{{part}}.pt": ""})
    assert (problem.code, problem.got) == ("checkpoint-ambiguous", "a.pt and b.pt both give w")
    (tmp_path / "b.pt").unlink()
    write(tmp_path / "b.pt", y=value(4))
    assert sorted(wb.open({f"{tmp_path}/{{part}}.pt": ""}).header) == ["w", "x", "y"]


def test_a_rank_s_piece_stays_partial_and_a_damaged_file_damaged(tmp_path: Path) -> None:
    write_ranks(tmp_path, range(2), "shard_{}.safetensors")
    info = {"DCP_SHARDING_INFO": json.dumps({"w": {"saved_offsets": [2, 0]}})}
    save_file({"w": value(1)}, tmp_path / "shard_1.safetensors", metadata=info)
    assert refusal(tmp_path / "shard_{r}.safetensors").code == "checkpoint-partial"
    (tmp_path / "shard_1.safetensors").write_bytes(b"\x01\x02")
    assert refusal(tmp_path / "shard_{r}.safetensors").code == "file-truncated"


# Plans


SHARDS = 3
DIM, HIDDEN, VOCAB = 4, 6, 9


def meta_shards(folder: Path) -> dict[str, torch.Tensor]:
    """Write a model as Meta publishes it, and return it whole: rows or columns of a matrix, by its name, lie apart."""
    dice = torch.Generator().manual_seed(1)
    whole = {"tok_embeddings.weight": torch.randn(VOCAB, DIM * SHARDS, generator=dice)}
    for layer in range(2):
        whole[f"layers.{layer}.attention.wq.weight"] = torch.randn(DIM * SHARDS, DIM * SHARDS, generator=dice)
        whole[f"layers.{layer}.attention.wo.weight"] = torch.randn(DIM * SHARDS, DIM * SHARDS, generator=dice)
        whole[f"layers.{layer}.feed_forward.w2.weight"] = torch.randn(DIM * SHARDS, HIDDEN * SHARDS, generator=dice)
    for rank in range(SHARDS):
        dims = {key: int(any(name in key for name in ("wo", "w2", "tok"))) for key in whole}
        shard = {key: tensor.chunk(SHARDS, dims[key])[rank].clone() for key, tensor in whole.items()}
        torch.save(shard, folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text('{"dim": 12}')
    return whole


META = """
name: meta
transforms:
  - rename: ^consolidated.{r:02}
    to: ranks.{r}
  - convert: ^ranks.*.layers.{i}.attention.wq.weight
    to: model.layers.{i}.self_attn.q_proj.weight
    with: [Concatenate: {dim: 0}]
  - convert: ^ranks.*.layers.{i}.{part:attention.wo|feed_forward.w2}.weight
    to: model.layers.{i}.{part}.weight
    with: [Concatenate: {dim: 1}]
  - convert: ^ranks.*.tok_embeddings.weight
    to: model.embed_tokens.weight
    with: [Concatenate: {dim: 1}]
"""


def hub_names(whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {"attention.wq": "self_attn.q_proj", "tok_embeddings": "embed_tokens"}
    made = {}
    for key, tensor in whole.items():
        for old, new in renamed.items():
            key = key.replace(old, new)
        made[f"model.{key}"] = tensor
    return made


def test_consolidated_shards_are_joined_by_ordinary_converters(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    wanted = hub_names(meta_shards(tmp_path / "meta"))
    (tmp_path / "meta.yaml").write_text(META)
    place = "meta/consolidated.{r}.pth"
    ran = run(tmp_path, "convert", place, "out", "meta.yaml", "--digests")
    assert ran.status == 0, ran.err
    assert "note      3 files are read as one: r is {0..2}" in ran.out
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert made.keys() == wanted.keys()
    assert all(made[key].equal(wanted[key]) for key in wanted)
    assert (tmp_path / "out" / "params.json").is_file()
    receipt = json.loads((tmp_path / "out" / "weighbridge.json").read_text())
    assert receipt["source"]["where"] == place
    assert [file["name"] for file in receipt["source"]["files"]] == [f"consolidated.0{n}.pth" for n in range(3)]
    assert run(tmp_path, "verify", "out").status == 0
    assert run(tmp_path, "revert", "out", "back").status == 0
    assert run(tmp_path, "verify", "back", place).status == 0
    assert run(tmp_path, "diff", place, "out", "--through", "meta.yaml").status == 0
    told = run(tmp_path, "explain", place, "meta.yaml", "model.layers.1.self_attn.q_proj.weight")
    assert "[8:12, :] <- consolidated.02.layers.1.attention.wq.weight[:, :]" in told.out
    assert [file["name"] for file in run(tmp_path, "inspect", place, "--json").form["files"]] == [
        f"consolidated.0{n}.pth" for n in range(3)
    ]
    assert run(tmp_path, "plan", place, "meta.yaml", "--html", "plan.html").status == 0


def test_a_plan_reads_its_files_again_and_refuses_them_when_they_changed(tmp_path: Path) -> None:
    whole = meta_shards(tmp_path)
    mapping = wb.Mapping.from_yaml(META)
    place = str(tmp_path / "consolidated.{r:00..02}.pth")
    plan = wb.plan(place, mapping)
    wanted = hub_names(whole)
    state = plan.state_dict()
    assert all(state[key].equal(wanted[key]) for key in wanted)
    back = plan.inverse().state_dict(state)
    assert wb.verify(back, place)
    assert all(plan.state_dict(place)[key].equal(wanted[key]) for key in wanted)
    torch.save({"w": value(1)}, tmp_path / "consolidated.01.pth")
    with pytest.raises(wb.CheckpointError) as caught:
        plan.state_dict()
    assert caught.value.code == "source-changed"
    (tmp_path / "consolidated.01.pth").unlink()
    assert refusal(place).got == "2, without r=01"


def test_rank_10_comes_after_rank_2_and_bytes_come_straight_from_the_files(tmp_path: Path) -> None:
    write_ranks(tmp_path, range(11), "rank_{}.safetensors")
    rules = [
        wb.WeightConverter("^rank_*.w", "w", [wb.Concatenate(0)]),
        wb.WeightConverter("^rank_*.b", "b", [wb.Concatenate(0)]),
    ]
    out = wb.convert(str(tmp_path / "rank_{r}.safetensors"), tmp_path / "out", rules)
    made = load_file(out / "model.safetensors")
    assert made["w"].equal(torch.cat([value(number) for number in range(11)]))
    assert made["b"].equal(torch.cat([torch.full((n + 1,), float(n)) for n in range(11)]))
    extent = wb.open(tmp_path / "rank_{r}.safetensors").extent("rank_10.w")
    assert extent is not None
    assert extent.path.name == "rank_10.safetensors"


LAYERS = wb.Mapping(
    [
        wb.WeightRenaming("^layer_00-model_states", "embed"),
        wb.WeightConverter(
            [f"^layer_{{i+1:02}}-model_states.{name}" for name in ("q", "k")], "layers.{i}.qk", [wb.Concatenate(0)]
        ),
    ],
    name="layers",
)


def test_layers_of_files_of_their_own_are_one_model_and_come_back(tmp_path: Path) -> None:
    files = {0: {"w": value(7)}} | {n: {"q.w": value(n), "k.w": value(n, 1)[:1].clone()} for n in range(1, 12)}
    for number, tensors in files.items():
        write(tmp_path / f"layer_{number:02}-model_states.pt", **tensors)
    wanted = {f"layers.{n - 1}.qk.w": torch.cat([value(n), value(n, 1)[:1]]) for n in range(1, 12)}
    wanted["embed.w"] = value(7)
    place = str(tmp_path / "layer_{i:02}-model_states.pt")
    in_memory = {f"layer_{n:02}-model_states.{key}": each for n, own in files.items() for key, each in own.items()}
    for source in (place, in_memory):
        plan = wb.plan(source, LAYERS)
        made = plan.state_dict()
        assert made.keys() == wanted.keys()
        assert all(made[key].equal(wanted[key]) for key in wanted)
        assert wb.verify(plan.inverse().state_dict(made), in_memory)
    out = wb.convert(place, tmp_path / "out", LAYERS)
    assert wb.verify(out, wanted)
    assert wb.verify(wb.revert(out, tmp_path / "back"), place)
    derived = wb.plan(out, LAYERS.inverse(), wb.open(place).header).state_dict()
    assert wb.verify(derived, in_memory)


def test_a_model_is_loaded_from_several_files_and_saved_as_they_were_named(tmp_path: Path) -> None:
    write(tmp_path / "encoder.pt", weight=value(1))
    write(tmp_path / "decoder.pt", weight=value(2))
    model = torch.nn.Module()
    model.encoder = torch.nn.Linear(3, 2, bias=False)
    model.decoder = torch.nn.Linear(3, 2, bias=False)
    place = str(tmp_path / "{part:encoder|decoder}.pt")
    wb.load(model, place, [])
    assert model.encoder.weight.equal(value(1))
    assert model.decoder.weight.equal(value(2))
    assert wb.verify(wb.save(model, tmp_path / "saved"), place)
