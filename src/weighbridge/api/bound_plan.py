"""The public plan: the value that was planned, bound to what it reads, with all that can be asked of it and done.

What runs or prints a plan is loaded when it is asked for: planning alone needs none of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weighbridge.api.dequantised import computed_source
from weighbridge.api.joined_files import open_source
from weighbridge.api.renamed_configs import changed_files, check_writable
from weighbridge.base.errors import PlanError
from weighbridge.planning import plan as planned
from weighbridge.planning.config_names.changes import ConfigChange, changes_between
from weighbridge.planning.portions.cutting import Parts, check_makes_whole, cut, recut
from weighbridge.storage.remote.addresses import is_address, path_or_address

if TYPE_CHECKING:
    import torch

    from weighbridge.reporting.explanation import Explanation
    from weighbridge.reporting.report import Report
    from weighbridge.running.changed_files import FileChange
    from weighbridge.storage.places.directory import Extra
    from weighbridge.storage.protocol import Checkpoint


@dataclass(slots=True)
class Binding:
    """What a plan is bound to; no part of its value.

    Args:
        source: What it reads: a place, or an opened checkpoint. None if it is a way back, which reads what the plan
            there made, or if nobody has said.
        forward: The plan there, for a way back.
        origin: The checkpoint that the source's weights came from, for what the source itself has no place for: files
            beside the weights, and carried tensors.
        produced: Gives what the last run made; None as long as there was no run.
        read: What the last run read.
        config: The configuration that it was made with, which a model that is loaded through it remembers.
        changes: Files beside the weights that it writes anew; None as long as nobody has looked for any.
        weights: For tensors of an adapter, the weights that they belong to.
        whole: For a plan that was restricted, the one before.
    """

    source: Any = None
    forward: Plan | None = None
    origin: Checkpoint | None = None
    produced: Callable[[], Any] | None = None
    read: Checkpoint | None = None
    config: Any = None
    changes: tuple[FileChange, ...] | None = None
    weights: Mapping[str, str] | None = None
    whole: planned.Plan | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Plan(planned.Plan):
    """Everything that will happen, known before a byte moves; and the means to let it happen.

    Two plans are equal if they say the same, whatever they are bound to. A plan that `weighbridge.plan` made is bound
    to the checkpoint that it was made on; each method that runs it takes another `source`, which must hold the same.

    Its fields are those of the value, such as `mapping`, `steps`, `dropped`, `initialised`, `notes`, and `portion`.
    """

    binding: Binding = field(default_factory=Binding, init=False, compare=False)

    def __str__(self) -> str:
        return str(self.report)

    @classmethod
    def bind(cls, plan: planned.Plan, source: Any = None, *, origin: Checkpoint | None = None) -> Plan:
        """Bind a value to what it reads.

        Args:
            plan: What was planned; nothing that it may be bound to already is taken over.
            source: A path, an opened checkpoint, a state dict or a model.
            origin: See `Binding`.
        """
        made = cls(**{each.name: getattr(plan, each.name) for each in fields(planned.Plan)})
        made.binding.source, made.binding.origin = source, origin
        return made

    # ---- what it says ----

    @property
    def report(self) -> Report:
        """Fates, bytes, peak memory and reversibility, to print."""
        from weighbridge.reporting.report import Report
        from weighbridge.running.predicting.predicted_fetching import fetching_remarks
        from weighbridge.running.predicting.predicted_reads import predict_portion

        source = self.binding.source
        remarks = (*source.notes, *fetching_remarks(self, source)) if hasattr(source, "header") else ()
        return Report(self, remarks, self.config_changes, predict_portion(self))

    @property
    def config_changes(self) -> tuple[ConfigChange, ...]:
        """What changes in the configurations beside the weights, which name modules; see `docs/quantised.md`.

        Nothing of a plan for a model, which has a configuration of its own, and of one that is bound to nothing; if
        such a plan is written after all, its names are followed then.
        """
        return tuple(each for change in self.binding.changes or () for each in changes_between(*change))

    def explain(self, key: str) -> Explanation:
        """Explain one key of either side: every rule tried, what fired, the copies, the nearest names for a miss.

        Of a tensor of a quantised weight also which that is, and what changes of what configurations say of its module.
        """
        from weighbridge.reporting.explanation import explain

        return explain(self, key, self.binding.changes or (), self.binding.weights)

    def to_html(self) -> str:
        """Return one self-contained page: both layouts side by side, every rule, every tensor; see `docs/report.md`."""
        from weighbridge.reporting.report_page import plan_page

        return plan_page(self, self.config_changes)

    def _repr_html_(self) -> str:
        """Return the head of the report as a small table, for notebooks."""
        return self.report._repr_html_()

    @staticmethod
    def from_json(text: str | bytes) -> Plan:
        """Read a plan's JSON form, and prove it again; it is bound to nothing.

        Raises:
            PlanError: `plan-format`, `plan-failed`.
        """
        from weighbridge.planning.stored import read_plan_text

        return Plan.bind(read_plan_text(text))

    @staticmethod
    def from_dict(form: Any) -> Plan:
        """Read the form that `to_dict` gives, and prove the plan and its record of files again.

        Raises:
            PlanError: `plan-format`, `plan-failed`.
            MappingError: `mapping-invalid`.
            CheckpointError: `path-unsafe`.
        """
        from weighbridge.planning.stored import read_plan

        return Plan.bind(read_plan(form))

    # ---- other plans ----

    def inverse(self, source: Any = None, *, lossy: bool = False, keep_initialised: bool = False) -> Plan:
        """Return the recorded way back: every step turned round, and the files as they were; of a cut plan, cut too.

        Args:
            source: What to read: a model, a directory, a state dict. By default what this plan makes: what its last run
                made (the model that was loaded, the directory that was written, the state dict), which is looked up
                when the way back is run, and is an error if it is no longer there. If this plan has not run by then,
                what it would make of what it is bound to.
            lossy: Accept that part of the source is lost, instead of an error.
            keep_initialised: Carry the targets that were initialised under their own names, instead of leaving them
                out; the files are then new ones.

        Raises:
            PlanError: `inverse-lossy`.
        """
        way = partial(planned.Plan.inverse, lossy=lossy, keep_initialised=keep_initialised)
        made = Plan.bind(way(self) if self.portion is None else recut(self, way, is_turned=True), source)
        made.binding.forward, made.binding.config = self, self.binding.config
        if self.binding.changes is not None:
            made.binding.changes = tuple(change.inverse() for change in self.binding.changes)
        return made

    def restrict(self, only: str | Iterable[str]) -> Plan:
        """Return the plan for part of the targets, bound to the same source.

        Args:
            only: A text or several: a key each, or a pattern, in which `{0..3}` and `{0,2,5..7}` stand for each of
                these indices, `{down,up}` for each of these words, and `**` for one segment or more.

        Raises:
            PatternError: `pattern-syntax`.
            PlanError: `rule-unused` for a selection that names no target; `usage` for an adapter, which is one whole.
        """
        from weighbridge.planning.restricting import restrict

        if self.is_of_adapter:
            raise PlanError("usage", "an adapter is converted as a whole", hint="leave out the selection")
        change = partial(restrict, only=only)
        made = self._bound_alike(change(self) if self.portion is None else recut(self, change))
        made.binding.whole = self.binding.whole or (self if self.portion is None else self.portion.whole)
        return made

    def cut(self, target: Parts | None = None, *, source: Parts | None = None) -> Plan:
        """Return the plan for what one process of many holds, bound to the same source; see `docs/ranks.md`.

        Args:
            target: What is held of each target, such as `weighbridge.parts(model)`: the cut plan makes these parts.
            source: What is held of each source: the cut plan says which pieces of its targets come from that.

        Raises:
            PlanError: `parts-mismatch`, `plan-failed`; `usage` for a plan that is cut already, and without parts.
        """
        return self._bound_alike(cut(self, target, source=source))

    def _bound_alike(self, plan: planned.Plan) -> Plan:
        made = Plan.bind(plan, self.binding.source, origin=self.binding.origin)
        made.binding.forward, made.binding.config = self.binding.forward, self.binding.config
        made.binding.changes, made.binding.whole = self.binding.changes, self.binding.whole
        return made

    # ---- what can be done with it ----

    def stream(
        self, source: Any = None, *, copy: bool = False, device: Any = "cpu"
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the targets one at a time; see `weighbridge.running.results.stream`.

        Args:
            source: What to read, if not what the plan is bound to: a path, a state dict, a model.
            copy: Give every tensor memory of its own, read before it is given out. Otherwise one that a safetensors
                file holds as it is wanted is mapped: whoever writes into the file changes it, or ends the process.
            device: Where to make the tensors: a torch device, or its name.

        Raises:
            PlanError: `source-unbound`.
            CheckpointError: `source-changed` and the codes of reading.
        """
        from weighbridge.running.results import stream

        check_makes_whole(self)
        return stream(self, self.checkpoint(source), copy=copy, device=device)

    def state_dict(
        self,
        source: Any = None,
        *,
        copy: bool = False,
        device: Any = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return all targets as a state dict; tied ones share their storage.

        Args:
            source: As for `stream`.
            copy: As for `stream`.
            device: As for `stream`.
            progress: Called with the bytes read so far and the bytes to be read, by one thread at a time.

        Raises:
            As `stream`.
        """
        from weighbridge.running.results import state_dict

        check_makes_whole(self)
        made = state_dict(self, self.checkpoint(source), copy=copy, device=device, progress=progress)
        self.binding.produced = weakref.ref(made)
        return made

    def load_into(
        self,
        model: torch.nn.Module,
        source: Any = None,
        *,
        copy: bool = False,
        device: Any = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Put the targets into a model's parameters and persistent buffers; the model remembers the plan.

        Args:
            model: A model that the plan was made for, or one with the same tensors. They are set in place where device
                and dtype already fit, else replaced by tensors of the plan's dtype on the model's device.
            source: As for `stream`.
            copy: As for `stream`.
            device: Where to make tensors that are on the meta device now.
            progress: Called with the bytes loaded so far and the bytes in all, by one thread at a time.

        Returns:
            The plan's report.

        Raises:
            PlanError: `model-mismatch`, `tie-differs`, `source-unbound`, `dtype-mismatch`; nothing has been changed.
            CheckpointError: `source-changed` and `data-missing`, before anything is changed; the codes of reading,
                which may leave part of a model loaded that had values before, and a meta model as it was.
        """
        from weighbridge.models.module_loading import load_into

        check_makes_whole(self)
        source, config, whole = self.checkpoint(source), self.binding.config, self.binding.whole
        ran = load_into(
            self, model, source, copy=copy, device=device, progress=progress, config=config, unrestricted=whole
        )
        self.binding.produced = weakref.ref(model)
        return self.report if ran is self else self._bound_alike(ran).report

    def write(
        self, destination: str | Path, source: Any = None, *, beside: Sequence[Extra] = (), **options: Any
    ) -> Path | Any:
        """Write the targets as safetensors files into a new directory, or as one torch file, by the destination's name.

        ``to="dcp"`` makes the directory one of torch.distributed.checkpoint. See `directory_writing.write`,
        `torch_writing.write_torch_file` and `dcp_writing.write_dcp`.

        Args:
            destination: Directory to make, which must not exist, or be empty; or a torch file to make, whose name ends
                in `.pt`, `.pth`, `.bin` or `.ckpt`; or the address of a folder in a store, such as
                ``"s3://bucket/model"``, see `docs/remote.md`.
            source: As for `stream`.
            beside: Files to put beside the weights, each in the place of one that would be carried under its name.
            options: See `weighbridge.running.to_files.file_decisions.WriteOptions`: `name`, `max_shard_size`,
                `memory_budget`, `digests`, `resume`, `sync`, `link`, `to`, `under`, `part`, `progress`.

        Returns:
            The directory, the file, or the address. With `part`, it is there when all parts are done.

        Raises:
            PlanError: `source-unbound`, `budget-too-small`.
            CheckpointError: `source-changed` and the codes of reading; `dtype-unknown` for what torch cannot hold.
            DestinationError: `destination-exists`, `destination-unsafe`, `destination-no-room`, `destination-busy`,
                `destination-unfinished`, `resume-mismatch`, `ranks-disagree`, `write-failed`; `usage`.
        """
        from weighbridge.running.to_files.kinds_of_files import read_write_options, write_plan

        check_writable(self, self.binding.changes)
        destination = path_or_address(destination) if is_address(destination) else destination
        chosen = read_write_options(self, destination, options)
        checkpoint = self.checkpoint(source)
        origin = None if checkpoint.extras else self._origin()
        changes = changed_files(self, self.binding.changes, checkpoint, origin)
        made = write_plan(self, checkpoint, destination, chosen, origin, beside, changes)
        self.binding.produced = lambda: made
        return made

    # ---- what it reads ----

    def checkpoint(self, source: Any = None) -> Checkpoint:
        """Open what a run reads: the source given here, the one the plan is bound to, or what the plan there made.

        Args:
            source: As for `stream`.

        Raises:
            PlanError: `source-unbound`, `tie-differs`.
            CheckpointError: `source-changed` when the source does not have the tensors that the plan was made for.
        """
        from weighbridge.running.sources import check_source, complete
        from weighbridge.running.ties import check_standing_ties

        found = open_source(self._place(source), config=self.binding.config)
        if self.computed:
            found = computed_source(found, [key for _, keys in self.computed for key in keys], self.binding.config)
        is_way_back = self.binding.forward is not None or self.binding.origin is not None
        found = complete(self, found, self._origin) if is_way_back else found
        check_source(self, found)
        check_standing_ties(self, found)
        self.binding.read = found
        return found

    def _place(self, source: Any) -> Any:
        """Return what is to be opened."""
        place = self.binding.source if source is None else source
        if place is None and self.binding.forward is not None:
            place = self.binding.forward._made()
        if place is None:
            raise PlanError(
                "source-unbound",
                "this plan does not know where to read",
                hint="give the source: plan.write(out, source=...), with a path, a state dict or a model",
            )
        return place

    def _made(self) -> Any:
        """Return what the last run made; a plan that never ran stands for its own result."""
        if self.binding.produced is None:
            from weighbridge.running.sources import PlannedCheckpoint

            return PlannedCheckpoint(self, self.checkpoint())
        live = self.binding.produced()
        if live is None:
            raise PlanError(
                "source-unbound", "what the plan produced is gone", hint="give the source: plan.inverse(source=...)"
            )
        return live

    def _origin(self) -> Checkpoint | None:
        """Return the checkpoint at the start of a chain of ways back; None where it is not known."""
        if self.binding.origin is not None:
            return self.binding.origin
        if self.binding.forward is None:
            place = self.binding.source
            return None if place is None else open_source(place)
        return self.binding.forward.binding.read or self.binding.forward._origin()
