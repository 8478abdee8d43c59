"""What `weighbridge inspect` says about a checkpoint, as values, text, tables and JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from weighbridge.api.configurations import config_beside, config_of
from weighbridge.base.file_names import RECEIPT_NAME
from weighbridge.base.keys import collapse, counted, natural_key
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.cli.inspecting.quantised import quantisation_hints
from weighbridge.cli.printing import visible
from weighbridge.mappings.lora.peft_configs import CONFIG_NAME
from weighbridge.mappings.schemes.said import BESIDE
from weighbridge.reporting.costs import format_bytes
from weighbridge.storage import Checkpoint
from weighbridge.storage.formats.memory import HeaderCheckpoint
from weighbridge.storage.joined import JoinedCheckpoint
from weighbridge.storage.remote.addresses import is_elsewhere
from weighbridge.storage.remote.folders import find_beside
from weighbridge.studies.detection import Detection, detect

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_TIES: Final = 8
"""Ties that a summary names."""

_BRACES: Final = re.compile(r"\\.|\{((?:\\.|[^\\}])*)\}")
_COMMA: Final = re.compile(r"(?:\\.|[^\\,])+")


class Row(NamedTuple):
    """Tensors of one spec whose keys make one line."""

    keys: str
    tensors: int
    spec: TensorSpec

    @property
    def size_bytes(self) -> int:
        """Size of all tensors of the row."""
        return self.tensors * self.spec.size_bytes


def count_keys(line: str) -> int:
    """Count the keys that a line of `collapse` stands for.

    Examples:
        >>> count_keys("layers.{0..3,5}.{down,up}"), count_keys("norm")
        (10, 1)
    """
    count = 1
    for braces in _BRACES.finditer(line):
        if braces[1] is not None:
            count *= sum(map(_span, _COMMA.findall(braces[1])))
    return count


def _span(item: str) -> int:
    first, dots, last = item.partition("..")
    return int(last) - int(first) + 1 if dots else 1


def collapsed_rows(header: Header) -> list[Row]:
    """Write a header in few rows, in natural order of their first keys."""
    by_spec: defaultdict[TensorSpec, list[str]] = defaultdict(list)
    for key, spec in header.items():
        by_spec[spec].append(key)
    rows = [Row(line, count_keys(line), spec) for spec, keys in by_spec.items() for line in collapse(keys)]
    return sorted(rows, key=lambda row: natural_key(re.sub(r"\{([^,.}]*)[^}]*\}", r"\1", row.keys)))


def single_rows(header: Header) -> list[Row]:
    """Write a header with a row for each tensor, in natural order."""
    return [Row(key, 1, header[key]) for key in sorted(header, key=natural_key)]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint, described from its headers.

    Args:
        checkpoint: What is described.
        full: Give each tensor a row of its own.
    """

    checkpoint: Checkpoint
    full: bool = False

    @property
    def header(self) -> Header:
        """Specs of all tensors."""
        return self.checkpoint.header

    @property
    def format(self) -> str:
        """What kind of files it is: ``safetensors``, ``torch`` or ``inventory``; for several files each kind once."""
        return ", ".join(sorted(set(_formats(self.checkpoint))))

    @property
    def files(self) -> list[tuple[str, int]]:
        """Name and size in bytes of each file, the index included."""
        return [(str(file["name"]), int(file["size_bytes"])) for file in self.checkpoint.fingerprint()]

    @property
    def config(self) -> Any:
        """The content of its `config.json`, if there is one."""
        return config_of(self.checkpoint, None)

    @property
    def family(self) -> Detection:
        """The family that its names belong to; the rules are not tried for that."""
        return detect(self.header, self.config, reasons=False)

    @property
    def quantisation(self) -> tuple[str, ...]:
        """What says that its weights are quantised."""
        beside = {name: config_beside(self.checkpoint, name) for name in BESIDE}
        return quantisation_hints(self.header, self.config, beside)

    @property
    def rows(self) -> list[Row]:
        """The table of keys."""
        return single_rows(self.header) if self.full else collapsed_rows(self.header)

    def own_specs(self) -> Iterator[TensorSpec]:
        """Yield the specs of all tensors but those that share another one's storage."""
        yield from (spec for key, spec in self.header.items() if key not in self.header.ties)

    def dtypes(self) -> dict[str, dict[str, int]]:
        """Count tensors, parameters and bytes by dtype, the largest first; tied ones once."""
        found: dict[str, dict[str, int]] = {}
        for spec in self.own_specs():
            entry = found.setdefault(spec.dtype, {"tensors": 0, "parameters": 0, "size_bytes": 0})
            entry["tensors"] += 1
            entry["parameters"] += spec.numel
            entry["size_bytes"] += spec.size_bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]["size_bytes"]))

    def summary(self) -> Iterator[tuple[str, str]]:
        """Yield what there is to say before the table, as (label, text)."""
        dtypes = self.dtypes()
        yield "place", self.checkpoint.where
        yield "format", self._format_text()
        family = self.family.summary()
        if family:
            yield "family", family
        yield from self._adapter_texts()
        yield "tensors", f"{len(self.header):,}"
        yield "params", f"{_total(dtypes, 'parameters'):,}"
        yield "bytes", format_bytes(_total(dtypes, "size_bytes"))
        for code, of in dtypes.items():
            yield "dtype", f"{code}: {counted(of['tensors'], 'tensor')}, {format_bytes(of['size_bytes'])}"
        yield from (("quantised", hint) for hint in self.quantisation)
        yield from self._tie_texts()
        yield from (("metadata", f"{name} = {text}") for name, text in self.header.metadata.items())
        yield from (("note", note) for note in self._notes())
        if self.full:
            yield from (("file", f"{name}  {format_bytes(size_bytes)}") for name, size_bytes in self.files)

    @property
    def adapter(self) -> dict[str, Any] | None:
        """What the configuration of an adapter says of it; None for anything else."""
        said = config_beside(self.checkpoint, CONFIG_NAME)
        if not isinstance(said, Mapping):
            return None
        targets = said.get("target_modules")
        listed = [targets] if isinstance(targets, str) else targets if isinstance(targets, list) else []
        kind, base, rank = (said.get(name) for name in ("peft_type", "base_model_name_or_path", "r"))
        return {"kind": kind, "base": base, "rank": rank, "targets": sorted(map(str, listed))}

    def _adapter_texts(self) -> Iterator[tuple[str, str]]:
        adapter = self.adapter
        if adapter is not None:
            words = {"kind": "", "rank": "rank ", "base": "of "}
            said = [f"{word}{adapter[name]}" for name, word in words.items() if adapter[name]]
            yield (
                "adapter",
                ", ".join([*said, *([f"on {', '.join(adapter['targets'])}"] if adapter["targets"] else [])]),
            )

    def _format_text(self) -> str:
        index = self.checkpoint.index
        count = len(self.files) - (index is not None)
        return f"{self.format}, {count} {'file' if count == 1 else 'files'}" + (f" under {index.name}" if index else "")

    def _tie_texts(self) -> Iterator[tuple[str, str]]:
        ties = list(self.header.ties.items())
        for key, first in ties if self.full else ties[:SHOWN_TIES]:
            yield "tied", f"{key} = {first}"
        if len(ties) > SHOWN_TIES and not self.full:
            yield "tied", f"… and {len(ties) - SHOWN_TIES} more"

    def _notes(self) -> Iterator[str]:
        yield from self.checkpoint.notes
        if _was_written(self.checkpoint.where):
            yield "made by weighbridge: `weighbridge revert` brings back what it came from"

    def lines(self) -> Iterator[str]:
        """Yield the description as text; the keys stand last, so that none must be cut."""
        yield from (f"{label:<9} {text}" for label, text in self.summary())
        yield ""
        yield from self._table_lines()

    def _table_lines(self, *, titled: bool = False) -> Iterator[str]:
        table = [(f"{row.tensors:,}", str(row.spec), format_bytes(row.size_bytes), row.keys) for row in self.rows]
        table = [("tensors", "dtype, shape", "bytes", "keys"), *table] if titled else table
        widths = [max((len(cells[column]) for cells in table), default=0) for column in range(3)]
        for count, spec, size, keys in table:
            yield f"{count:>{widths[0]}}  {spec:<{widths[1]}}  {size:>{widths[2]}}  {keys}"

    def pretty(self) -> Iterator[RenderableType]:
        """Yield the description for a terminal: no line is cut, however narrow it is, so that keys can be copied."""
        from rich.text import Text

        for label, text in self.summary():
            yield Text.assemble((f"{label:<9} ", "bold"), visible(text))
        yield Text()
        for number, line in enumerate(self._table_lines(titled=True)):
            if number == 0:
                yield Text(line, style="bold")
                yield Text("─" * len(line), style="dim")
                continue
            row = Text(visible(line))
            row.highlight_regex(r"^ *[\d,]+", "dim")
            row.highlight_regex(r"(?<=  )[A-Z]+\d*\w* \[[\d, ]*\]", "cyan")
            yield row

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        dtypes, index, family = self.dtypes(), self.checkpoint.index, self.family
        return {
            "place": self.checkpoint.where,
            "format": self.format,
            "files": [{"name": name, "size_bytes": size_bytes} for name, size_bytes in self.files],
            "index": index.name if index else None,
            "family": _family_form(family),
            "adapter": self.adapter,
            "quantisation": list(self.quantisation),
            "tensors": len(self.header),
            "parameters": _total(dtypes, "parameters"),
            "size_bytes": _total(dtypes, "size_bytes"),
            "dtypes": dtypes,
            "ties": dict(self.header.ties),
            "metadata": dict(self.header.metadata),
            "notes": list(self._notes()),
            "rows": [
                {"keys": row.keys, "tensors": row.tensors, **spec_form(row.spec), "size_bytes": row.size_bytes}
                for row in self.rows
            ],
        }


def _formats(checkpoint: Checkpoint) -> Iterator[str]:
    if isinstance(checkpoint, JoinedCheckpoint):
        for part in checkpoint.parts:
            yield from _formats(part.checkpoint)
    elif checkpoint.images:
        yield "safetensors"
    else:
        yield "inventory" if isinstance(checkpoint, HeaderCheckpoint) else "torch"


def _total(dtypes: dict[str, dict[str, int]], name: str) -> int:
    return sum(entry[name] for entry in dtypes.values())


def spec_form(spec: TensorSpec) -> dict[str, Any]:
    """Return the JSON form of a spec."""
    return {"dtype": spec.dtype, "shape": list(spec.shape)}


def describe_tensor(checkpoint: Checkpoint, key: str, *, measured: bool = False) -> dict[str, Any]:
    """Describe one tensor: its spec, where its bytes lie, and if asked for what values it has.

    Raises:
        CheckpointError: `tensor-not-found`, and to measure it the codes of reading.
        WeighbridgeError: `usage` for values that cannot be measured.
    """
    extent = checkpoint.extent(key)
    spec = checkpoint.header[key]
    place = {"file": str(extent.path), "offset": extent.offset} if extent else {"file": None, "offset": None}
    tied = checkpoint.header.ties.get(key)
    form = {"key": key, **spec_form(spec), "numel": spec.numel, "size_bytes": spec.size_bytes, **place, "tied_to": tied}
    if measured:
        from weighbridge.cli.inspecting.measuring import measure

        form["statistics"] = measure(checkpoint, key).to_dict()
    return form


def tensor_lines(form: dict[str, Any]) -> Iterator[str]:
    """Write what `describe_tensor` found as text."""
    yield f"key       {form['key']}"
    yield f"spec      {TensorSpec(form['dtype'], tuple(form['shape']))}"
    yield f"elements  {form['numel']:,}"
    yield f"bytes     {form['size_bytes']:,}"
    if form["file"] is not None:
        yield f"file      {form['file']}"
        yield f"offset    {form['offset']:,}"
    if form["tied_to"] is not None:
        yield f"tied to   {form['tied_to']}"
    if "statistics" in form:
        from weighbridge.cli.inspecting.measuring import statistics_lines

        yield from statistics_lines(form["statistics"])


def _family_form(family: Detection) -> dict[str, Any] | None:
    best = family.best
    if best is None and family.config_type:
        return {"name": family.config_type, "layout": None, "score": None, "tied": []}
    if best is None:
        return None
    return {"name": best.name, "layout": best.layout, "score": round(best.score, 4), "tied": list(family.tied)}


def _was_written(where: str) -> bool:
    """Tell whether a receipt lies in the folder that was opened."""
    if is_elsewhere(where):
        return find_beside(where, RECEIPT_NAME) is not None
    return (Path(where).expanduser() / RECEIPT_NAME).is_file()
