"""The functions that most users need, each a short walk through the rooms: open, plan, run, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.api.adapter_plans import (
    Adapter,
    AdapterOptions,
    plan_adapter,
    read_adapter,
    take_options,
    undo_changes,
)
from weighbridge.api.bound_plan import Plan
from weighbridge.api.configurations import config_for, notes_on, with_states_of
from weighbridge.api.conversions import compile_by_receipt, find_conversion
from weighbridge.api.dequantised import read_codes, say_computed
from weighbridge.api.opened_places import Place, open
from weighbridge.api.renamed_configs import follow_names
from weighbridge.api.settings import refuse_unasked
from weighbridge.api.states.optimizer_states import find_training
from weighbridge.api.states.state_plans import plan_training, weights_of
from weighbridge.base.errors import CheckpointError, PlanError
from weighbridge.base.keys import collapse
from weighbridge.base.secrets_of_addresses import without_secrets
from weighbridge.base.specs import Header
from weighbridge.base.spelling import exact_pattern
from weighbridge.mappings.bound_offsets import bind_offsets
from weighbridge.mappings.exception_rules import Carry, exception_rules
from weighbridge.mappings.finding import AnyMapping, find_mapping, refuse_swapped
from weighbridge.mappings.mapping import Mapping, as_mapping
from weighbridge.mappings.registry import default_registry
from weighbridge.mappings.wrapped_names import look_through
from weighbridge.models.model_sources import is_live, is_model
from weighbridge.models.resolve import resolve as resolve_model
from weighbridge.planning.casts.dtype_policies import read_policy
from weighbridge.planning.compiling import compile_plan
from weighbridge.planning.grouped.weights import Saying
from weighbridge.planning.plan import DEFAULT_BUDGET_BYTES, Plan as CompiledPlan
from weighbridge.planning.plan_options import Options, read_options
from weighbridge.storage.joined import JoinedCheckpoint
from weighbridge.storage.remote.addresses import path_or_address

if TYPE_CHECKING:
    import torch

    from weighbridge.storage.protocol import Checkpoint

_LOG: Final = logging.getLogger(__name__)


def resolve(model: torch.nn.Module) -> Mapping:
    """Return the mapping of a model's checkpoints, from what is registered and the families that come along.

    Args:
        model: The model; it may be on the meta device, and wrapped.

    Returns:
        One ordered mapping: the model's own transforms, then those of the models inside it, each under its path.
    """
    return resolve_model(model)


def register(name: str, mapping: AnyMapping, *, overwrite: bool = False) -> Mapping:
    """Put a mapping under a class name or a `model_type` in the default registry; the class name wins.

    Args:
        name: Class name (`LlavaModel`) or model type (`llava`).
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file, which is read now.
        overwrite: Replace what is registered under this name.

    Raises:
        RegistryError: `mapping-exists`, `mapping-not-found`.
        MappingError: As `load_mapping`.
    """
    return default_registry.register(name, find_mapping(mapping), overwrite=overwrite)


def plan(checkpoint: Place, mapping: AnyMapping = (), target: Place = None, **options: Any) -> Plan:
    """Compile a mapping against a checkpoint's headers into a proven plan.

    Args:
        checkpoint: What to read: a path, an opened checkpoint, a dict of tensors, a model or a `Header`.
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file.
        target: What is wanted: a model (on the meta device is fine), a `Header`, a checkpoint or a path; None to take
            whatever the mapping gives. Names and shapes must be the target's; a dtype stays the source's, which a
            note says where the target's is another, unless ``dtype="target"`` asks for a cast.
        options: See `weighbridge.planning.plan_options.Options`: `partial`, `drop`, `carry`, `initialise`, `dtype`,
            `layout`, `base_prefix`, `config`, `companions`, `config_names`. For an adapter, which the mapping of its
            model moves: `config`, and see `weighbridge.api.adapter_plans.AdapterOptions`: `base`, `block_diagonal`,
            `lora_B_layout`, `adapter_prefix`.

    Returns:
        The plan; it remembers the checkpoint, so that it can be run at once.

    Raises:
        PlanError: `plan-failed` with every problem found, `layout-ambiguous`, `inverse-unproven`; `adapter-invalid`,
            `adapter-inexact` and `adapter-module` for an adapter.
        RegistryError: `mapping-not-found`.
        CheckpointError: As `open`.
        WeighbridgeError: `usage` for an option that is none.

    Examples:
        >>> from weighbridge import TensorSpec, WeightRenaming
        >>> header = Header({"norm.gamma": TensorSpec("F32", (4,))})
        >>> list(plan(header, [WeightRenaming("gamma", "weight")]).target)
        ['norm.weight']
    """
    source = open(checkpoint, config=options.get("config"))
    asked = source.asked if isinstance(source, JoinedCheckpoint) else ()
    found = as_mapping(find_mapping(mapping))
    given, options = take_options(options)
    adapter = read_adapter(source, found, given, target)
    if adapter is not None:
        return _plan_adapter(checkpoint, adapter, found, given, options)
    is_given = options.get("config") is not None
    options["config"] = config_for(options.get("config"), source, target, checkpoint)
    found = bind_offsets(found, options["config"])
    wanted, notes, computed, there = _target_of(target, source.header)
    options["dtype"] = read_policy(options.get("dtype"))
    source, told, of_codes = read_codes(source, options, wanted, is_given=is_given)
    saying = with_states_of(told, there)
    recorded = find_conversion(source, found) if options.get("layout", "auto") == "auto" else None
    if recorded is not None and found.forward is not None:
        wanted = recorded.source if wanted is None and recorded.is_exact else wanted
    elif recorded is not None and wanted is not None:
        options["layout"] = "as is"
    if computed:
        options["carry"] = (*exception_rules(Carry, options.get("carry", ())), *computed)
    training = find_training(source.header) if wanted is None and found.transforms else None
    compiling = _compiling(source, found, wanted, saying, read_options(options))
    compiled = compiling(source.header) if training is None else plan_training(training, compiling)
    if recorded is not None and wanted is None and any(step.rules for step in compiled.steps):
        raise _converted_already(source, found)
    refuse_unasked(options["config"], asked)
    said = (*(source.notes if is_live(checkpoint) else ()), *notes_on(options["config"]), *notes, *of_codes)
    made = _bind(replace(compiled, notes=(*compiled.notes, *said)), source, options, target)
    made.binding.weights = weights_of(training) if training is not None else None
    return made


def _compiling(
    source: Checkpoint, mapping: Mapping, wanted: Header | None, saying: Saying | None, options: Options
) -> Callable[[Header], CompiledPlan]:
    """Return what compiles a mapping against a header: that of the source, or of the weights in it."""

    def compiled(header: Header) -> CompiledPlan:
        return compile_by_receipt(
            lambda rules, chosen: compile_plan(
                header, rules, wanted, files=source.files, options=chosen, saying=saying
            ),
            look_through(mapping, header, wanted),
            source,
            options,
        )

    return compiled


def _bind(compiled: CompiledPlan, source: Checkpoint, options: dict[str, Any], target: Place) -> Plan:
    """Bind a plan to what it reads, and to what it changes beside the weights; a model has its own configuration."""
    made = Plan.bind(say_computed(compiled, source), source)
    made.binding.config = options["config"]
    if not options.get("config_names", True):
        made.binding.changes = ()
    elif not is_model(target):
        made.binding.changes = follow_names(made, source.extras)
    return made


def _plan_adapter(
    place: Place, adapter: Adapter, mapping: Mapping, given: AdapterOptions, options: dict[str, Any]
) -> Plan:
    recorded = find_conversion(adapter.source, mapping) if mapping.forward is None else None
    if recorded is not None:
        raise _converted_already(adapter.source, mapping)
    return plan_adapter(adapter, mapping, given, options, place)


def _converted_already(source: Checkpoint, mapping: Mapping) -> PlanError:
    return PlanError(
        "already-converted",
        "this was made by the very mapping that it is to be converted with",
        where=source.where,
        got=f'its receipt names the mapping "{mapping.name}"' if mapping.name else "its receipt has the same rules",
        hint='weighbridge revert takes it back; layout="as is" takes it as it is, layout="mapped" runs the rules again',
    )


class _Wanted(NamedTuple):
    """What a plan is to reach.

    Args:
        header: Its specs.
        notes: What is to be said of it.
        computed: What a model's hooks make, which is carried.
        checkpoint: What holds it, if that is a checkpoint.
    """

    header: Header | None
    notes: tuple[str, ...] = ()
    computed: tuple[Carry, ...] = ()
    checkpoint: Checkpoint | None = None


def _target_of(target: Place, source: Header) -> _Wanted:
    if target is None or isinstance(target, Header):
        return _Wanted(target)
    if not is_model(target):
        found = _layout_at(target)
        return _Wanted(found.header, checkpoint=found)
    from weighbridge.models.holdings import take_stock

    held = take_stock(target)
    computed = (Carry(exact_pattern(key), "made by a hook of the model") for key in held.computed if key in source)
    return _Wanted(held.header(source), held.notes, tuple(computed))


def _layout_at(target: Place) -> Checkpoint:
    try:
        return open(target)
    except CheckpointError as problem:
        if problem.code == "checkpoint-not-found" and isinstance(target, str | Path) and _is_directory(target):
            problem.hint = (
                "a target gives names and shapes, which no configuration holds: take the model itself, a checkpoint,\n"
                "or the inventory of one, which weighbridge inspect CHECKPOINT --inventory header.json writes"
            )
        raise


def _is_directory(place: str | Path) -> bool:
    there = path_or_address(place)
    return isinstance(there, Path) and there.is_dir()


def convert(
    source: Place,
    destination: str | Path,
    mapping: AnyMapping | None = None,
    *,
    target: Place = None,
    reverse: bool = False,
    only: str | Iterable[str] | None = None,
    name: str | None = None,
    max_shard_size: int | str | None = "5GB",
    memory_budget: int = DEFAULT_BUDGET_BYTES,
    digests: bool = False,
    resume: bool = False,
    sync: bool = True,
    link: str = "never",
    to: str = "safetensors",
    under: str = "",
    direct: bool = False,
    part: tuple[int, int] | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Path:
    """Convert a checkpoint into a new directory, or into one torch file.

    Args:
        source: What to read.
        destination: Directory to make, which must not exist, or be empty; or a torch file to make, whose name ends in
            `.pt`, `.pth`, `.bin` or `.ckpt`.
        mapping: A mapping, a list of transforms, a registered name, or the path of a mapping file; None to leave all
            names as they are, for another dtype, other shards, or a part of the tensors.
        target: Layout to reach, as for `plan`.
        reverse: Use the inverse of the mapping; each key is proven to come back.
        only: Write only the targets that this selection names; see `Plan.restrict`. What they do not need is dropped.
        name: Name of the new weight files without its ending, such as ``"diffusion_pytorch_model"``; shards and index
            are named after it. None for ``"model"``.
        max_shard_size: Largest size of a shard, in bytes or as text such as ``"5GB"``; None for a single file.
        memory_budget: Size of the buffers that are held at a time, in bytes.
        digests: Record the SHA-256 of every new tensor in the receipt, so that `verify` can check the output by itself.
        resume: Go on with what an earlier run of the same arguments left unfinished; if this one is stopped, leave
            what it has written for the next. Every byte is compared with what it must be.
        sync: Wait until the disk holds everything before the directory appears; see `Plan.write`.
        link: ``"share"`` or ``"hard"`` to have new files share blocks with the source's, or be the same where nothing
            in them changes; see `weighbridge.running.to_files.file_decisions.WriteOptions`.
        to: ``"dcp"`` to make the directory one of torch.distributed.checkpoint, which any number of ranks can load.
        under: For such a directory, the dict that the tensors are to be in, such as ``"model"``.
        direct: Read the source past the page cache; see `open`. The new files are written through it.
        part: Write one part of the output, as one of several processes that share it: number and count, such as
            ``(3, 16)`` with numbers from 0, or ``"auto"`` for what torchrun, Slurm or MPI say. Each is given the same
            other arguments; one that was stopped is run again. See `docs/many-processes.md`.
        progress: Called with the bytes written so far and the bytes in all.
        options: As for `plan`.

    Returns:
        The directory, or the file; a receipt in it is all that `revert` needs. With `part`, it is there when all parts
        are done.

    Raises:
        PlanError, RegistryError, CheckpointError: As `plan`.
        DestinationError: `destination-exists`, `destination-unsafe`, `destination-no-room`, `destination-busy`,
            `destination-unfinished`, `resume-mismatch`, `ranks-disagree`, `write-failed`, `usage`.
    """
    refuse_swapped(source, destination, mapping)
    found = find_mapping(() if mapping is None else mapping)
    found = as_mapping(found).inverse() if reverse else found
    opened = open(source, direct=True, config=options.get("config")) if direct else source
    made = plan(opened, found, target, **options)
    made = made if only is None else made.restrict(only)
    files: dict[str, Any] = {"name": name, "max_shard_size": max_shard_size, "memory_budget": memory_budget}
    kind: dict[str, Any] = {"digests": digests, "link": link, "to": to, "under": under, "part": part}
    return made.write(destination, resume=resume, sync=sync, progress=progress, **files, **kind)


def revert(
    source: str | Path, destination: str | Path, *, lossy: bool = False, direct: bool = False, **options: Any
) -> Path:
    """Undo a conversion by the receipt in its output: the files it came from, byte for byte.

    What was changed in the output since goes back with its values of now. Where the receipt holds digests, the output
    is compared with them first, and the log warns of tensors that were changed.

    Args:
        source: A directory that `convert`, `Plan.write` or `save` made.
        destination: Directory to make.
        lossy: Go back without what a rule dropped, and with rounded values where a cast was narrow.
        direct: Read the source past the page cache; see `open`.
        options: As for `Plan.write`: `memory_budget`, `resume`, `sync`, `link`, `to`, `under`, `part`, `progress`.

    Returns:
        The directory.

    Raises:
        CheckpointError: `receipt-invalid`, `source-changed`.
        PlanError: `inverse-lossy`.
        DestinationError: As `convert`.
    """
    plan = plan_revert(source, lossy=lossy, direct=direct)
    for note in plan.notes:
        _LOG.warning("%s: %s", without_secrets(str(source)), note)
    return plan.write(destination, **options)


def plan_revert(source: str | Path, *, lossy: bool = False, direct: bool = False) -> Plan:
    """Return the plan that undoes the conversion that an output's receipt records.

    Its notes say what was changed in the output since, where the receipt holds digests: every tensor is read for that.

    Raises:
        CheckpointError: `receipt-invalid`.
        PlanError: `inverse-lossy`.
    """
    from weighbridge.running.receipt import read_receipt

    place = path_or_address(source)
    checkpoint = open(place, direct=direct)
    receipt = read_receipt(place)
    back = receipt.plan.inverse(lossy=lossy)
    # What the model alone was to initialise is in no file, so a file does not lose it.
    dropped = tuple(fated for fated in back.dropped if fated.key in checkpoint.header)
    notes = _changed_since(place) if receipt.digests is not None else ()
    changes, said = undo_changes(place, receipt.changed)
    # The other notes are about the way there.
    made = Plan.bind(replace(back, dropped=dropped, notes=(*notes, *said)), checkpoint)
    made.binding.changes = changes
    return made


def _changed_since(output: Path | str) -> tuple[str, ...]:
    """Say which tensors of an output are not what its receipt says; what goes back is no longer what it came from."""
    from weighbridge.studies.verification import check_output

    found = check_output(output)
    changed = [difference.key for difference in found.differences]
    if not changed:
        return ()
    names = ", ".join(collapse(changed)[:3])
    tensors = "1 tensor is" if len(changed) == 1 else f"{len(changed):,} tensors are"
    return (f"{tensors} not what was written here, by the receipt's digests: {names}; the values of now go back",)
