"""Checkpoints loaded by processes through transformers, by us and by the library itself, and what is wrong of it.

    python tests/rank_loads.py RANKS MODES WAYS FOLDER SUBJECTS      with commas between modes, and between ways

A subject is a case of the corpus or the name of a family of `made_families`, whose checkpoint is made in the folder.
Forks of one process that has imported transformers load one subject after the other; what they find is printed as a
line of JSON for each subject, mode and way. What a process holds is compared with what torch puts there of the tensors
that one process loads. With `meshes` among the subjects, four processes that nobody answers load one model on several
meshes, say which parts of each tensor they hold and what they read, and save it. With `saves` among them, the processes
save what they load, as `rank_saves` says.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from corpus import Case, worst_output
from counting import Counting
from drawn_parts import held_of
from made_families import FAMILIES, publish
from rank_saves import language, save, save_all
from torch.distributed.tensor import DTensor, distribute_tensor

import weighbridge as wb
from weighbridge.integrations import transformers as wbt
from weighbridge.integrations.transformers_loading import Load, converted_by
from weighbridge.planning.plan_options import Options

MODES: Final = {
    "fsdp": ("fsdp_size",),
    "tp": ("tp_size",),
    "ep": ("fsdp_size", "ep_size"),
    "pp": ("pp_size",),
}
"""How a model is spread, and what the library's configuration says to be as many as there are processes."""

WAYS: Final[dict[str, Callable[..., Any]]] = {
    "weighbridge": wbt.from_pretrained,
    "transformers": lambda kind, path, **arguments: kind.from_pretrained(path, **arguments),
}


class Subject(NamedTuple):
    """A checkpoint and the class of its model; of a case of the corpus, also that."""

    name: str
    kind: Any
    path: Path
    case: Case | None = None

    @staticmethod
    def of(name: str, folder: Path) -> Subject:
        """Find a case of the corpus by its name, or a family that was made in the folder."""
        import transformers

        if name not in FAMILIES:
            case = Case.named(name)
            return Subject(name, getattr(transformers, case.facts["class"]), case.path, case)
        config = json.loads((folder / name / "config.json").read_text())
        return Subject(name, getattr(transformers, config["architectures"][0]), folder / name)


def differing(model: Any, wanted: dict[str, torch.Tensor], tolerance: float = 0) -> list[str]:
    """List what this process holds otherwise than by the tensors of one process, or lacks if the model is no stage."""
    found = dict(model.state_dict())
    wrong = [key for key, tensor in found.items() if key not in wanted or not _is_held(tensor, wanted[key], tolerance)]
    is_stage = getattr(model, "_pp_stage", None) is not None
    return wrong if is_stage else [*wrong, *sorted(wanted.keys() - found.keys())]


def _is_held(tensor: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    if isinstance(tensor, DTensor):
        spread = distribute_tensor(wanted.detach(), tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor, wanted = tensor.to_local(), spread.to_local()
    if tensor.dtype != wanted.dtype or tensor.shape != wanted.shape:
        return False
    return torch.allclose(tensor, wanted, rtol=tolerance, atol=tolerance) if tolerance else tensor.equal(wanted)


def load(subject: Subject, way: str, mode: str, wanted: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Load a subject in a mode, and say what is wrong; what a case's model computes is held to what is known of it."""
    from transformers.distributed import DistributedConfig

    sizes = dict.fromkeys(MODES[mode], dist.get_world_size())
    model = WAYS[way](subject.kind, subject.path, distributed_config=DistributedConfig(**sizes))
    found = {"wrong": differing(model, wanted), "tensors": len(wanted), "output": _output(subject, model, mode, way)}
    if (subject.name, mode, way) == TRAINED:
        alone = trained(subject.kind.from_pretrained(subject.path)).state_dict()
        found["trained"] = differing(trained(model), alone, 1e-6)
    return found


def _output(subject: Subject, model: Any, mode: str, way: str) -> float | str | None:
    if subject.case is None or not subject.case.computes_the_same:
        return None
    if mode == "pp":
        return _logits_differ(subject, model, way) if _has_full_stages(model) else None
    try:
        return worst_output(subject.case, model)
    except Exception as problem:
        return said(problem)


def _has_full_stages(model: Any) -> bool:
    """Tell whether each stage has a layer, and the model is one of a language: others leave some processes waiting."""
    layers = model.config.get_text_config().num_hidden_layers
    return type(model).__name__.endswith("ForCausalLM") and layers >= dist.get_world_size()


def _logits_differ(subject: Subject, model: Any, way: str) -> float:
    """Compute what a model of several stages gives in the end, which is its logits alone, and compare it."""
    alone = WAYS[way](subject.kind, subject.path)
    with torch.no_grad():
        return (model(WORDS).logits - alone(WORDS).logits).abs().max().item()


WORDS: Final = torch.arange(12).reshape(2, 6)
"""What a model of a language is given."""


TRAINED: Final = ("mixtral__MixtralForCausalLM", "fsdp", "weighbridge")
"""A subject that takes a step, and how it was loaded."""


def trained(model: Any) -> Any:
    """Take one step of gradient descent with a model of a language."""
    model(WORDS).logits.square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return model


def said(problem: BaseException) -> str:
    """Say what was raised, in a line."""
    return f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"


def find(subject: Subject, modes: list[str], ways: list[str]) -> Iterator[dict[str, Any]]:
    """Load a subject in each mode and way."""
    for way in ways:
        try:
            wanted = dict(WAYS[way](subject.kind, subject.path).state_dict())
        except Exception as problem:
            yield from ({"mode": mode, "way": way, "raised": f"alone: {said(problem)}"} for mode in modes)
            continue
        for mode in modes:
            try:
                found = load(subject, way, mode, wanted)
            except Exception as problem:
                found = {"raised": said(problem)}
            yield {"mode": mode, "way": way, **found}


def work(rank: int, world: int, modes: list[str], ways: list[str], folder: Path, names: list[str], saves: bool) -> None:
    """Be one of the processes; the first one prints what all have found."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    dist.init_device_mesh = cache(dist.init_device_mesh)  # each mesh has groups with threads of their own
    for name in names:
        for found in find(Subject.of(name, folder), modes, ways):
            _print_together(name, found, rank, world)
    if saves:
        _print_together("saves", save_all(rank, folder, make_language, trained), rank, world)
    os._exit(0)


def _print_together(name: str, found: dict[str, Any], rank: int, world: int) -> None:
    ranks: list[Any] = [None] * world
    dist.all_gather_object(ranks, found)
    if rank == 0:
        print(json.dumps({"name": name, "ranks": ranks}), flush=True)


# ---- four processes: their meshes are real, and nobody answers but to what is said of a save ----

MESHES: Final = {
    "rows": {"fsdp_size": 4},
    "rows of tensors": {"fsdp_size": 2, "tp_size": 2},
    "replicas": {"dp_replicate_size": 2, "fsdp_size": 2},
    "stages": {"pp_size": 4},
    "experts of rows": {"fsdp_size": 4, "ep_size": 2},
    "experts of tensors": {"fsdp_size": 2, "tp_size": 2, "ep_size": 4},
}
"""Meshes of four processes, and what the library's configuration says."""

LANGUAGE: Final = {
    "vocab_size": 51, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 6, "head_dim": 2, "max_position_embeddings": 16, "tie_word_embeddings": False,
    "moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
"""A model with experts, with sizes of which some are not dealt out evenly, and fewer layers than there are stages."""


def make_language(**changes: Any) -> Any:
    """Make that model."""
    import transformers

    torch.manual_seed(0)
    return transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**LANGUAGE | changes))


def publish_language(folder: Path) -> Path:
    """Write its checkpoint, that of one with tied weights, and one that lacks a weight."""
    wbt.save_pretrained(make_language(tie_word_embeddings=True), folder / "language tied")
    path = wbt.save_pretrained(make_language(), folder / "language")
    wb.convert(path, folder / "language without a router", [], drop=["model.layers.0.mlp.gate.weight"])
    return path


def load_on_mesh(folder: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """Load the model on a mesh, through a checkpoint that counts what is read."""
    from transformers import Qwen3MoeForCausalLM
    from transformers.distributed import DistributedConfig

    counting = Counting(wb.open(folder / "language"))
    loading = Load(counting, None, wbt.resolve, Options(), copy=True)
    with converted_by(loading.fill):
        config = DistributedConfig(**sizes)
        model = Qwen3MoeForCausalLM.from_pretrained(folder / "language", distributed_config=config)
    plan = wb.Plan.bind(loading.finish(model), counting)
    parts = wb.parts(model)
    alone = wbt.from_pretrained(Qwen3MoeForCausalLM, folder / "language")
    whole = alone.state_dict()
    save(model, folder / f"saved {'-'.join(sizes)}")
    found = {
        key: tensor.to_local() if isinstance(tensor, DTensor) else tensor for key, tensor in model.state_dict().items()
    }
    return {
        "wrong": [key for key, tensor in found.items() if not tensor.equal(held_of(whole[key], parts[key]))],
        "same plan": plan.hash == wb.loaded_plan(alone).hash,
        "read": counting.count,
        "said": plan.cut(parts).report.to_dict()["portion"],
        "parts": {key: part.to_dict() for key, part in parts.items()},
    }


def work_alone(rank: int, folder: Path) -> None:
    """Be one of four; each leaves a file of what it found, as lines that are written at once would be mixed up."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "4"}
    store = dist.FileStore(str(folder / "store of meshes"), 4)
    dist.init_process_group("fake", store=store, rank=rank, world_size=4)
    lines = []
    for mesh, sizes in MESHES.items():
        try:
            found = load_on_mesh(folder, sizes)
        except Exception:
            found = {"raised": traceback.format_exc()}
        lines.append(json.dumps({"mesh": mesh, "rank": rank, **found}))
    save(language(folder / "language", MESHES["stages"], dtype=torch.bfloat16), folder / "stages, rounded")
    (folder / f"meshes-{rank}.jsonl").write_text("\n".join(lines))
    os._exit(0)


def main(world: str, modes: str, ways: str, place: str, *names: str) -> None:
    import transformers

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = Path(place)
    for name in FAMILIES:
        if name in names:
            publish(name, folder)
    if {"meshes", "saves"} & {*names}:
        publish_language(folder)
    if "meshes" in names:
        fork(4, work_alone, folder)
        for path in sorted(folder.glob("meshes-*.jsonl")):
            print(path.read_text(), flush=True)
    subjects = [name for name in names if name not in ("meshes", "saves")]
    fork(int(world), work, int(world), modes.split(","), ways.split(","), folder, subjects, "saves" in names)


def fork(count: int, target: Callable[..., None], *words: Any) -> None:
    """Run a function in some forks of this process, with the number of each; wait for them."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=target, args=(rank, *words)) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
