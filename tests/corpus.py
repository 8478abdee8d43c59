"""The corpus of checkpoints that an older version of a real library wrote: reading a case, and judging it.

A case is judged by facts that stand in its files, never by its name: see `judge`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping as MappingOf
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from conftest import CORPUS, ROOT

import weighbridge as wb
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.mappings import families
from weighbridge.mappings.registry import Registry
from weighbridge.models.resolve import resolve_config

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

SUBSET: Final = ROOT / "tests" / "data" / "corpus"
PLACE: Final = CORPUS if CORPUS.is_dir() and not os.environ.get("WEIGHBRIDGE_CORPUS_SUBSET") else SUBSET
"""Where the cases lie: the whole corpus beside the project, else the part of it that is kept with the tests."""

TOLERANCE: Final = 1e-4
"""Greatest difference of an output, relative to the greatest reference value (or to 1)."""

_DTYPES: Final = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "bool": "BOOL",
}


def built_in() -> Registry:
    """Return a registry with the built-in families and nothing else."""
    registry = Registry(use_entry_points=False)
    registry.provide(families.MODULES, families.load_family)
    return registry


REGISTRY: Final = built_in()


def case_names(place: Path = PLACE) -> list[str]:
    """Names of the cases, in alphabetical order."""
    return sorted(path.name for path in (place / "cases").glob("*") if path.is_dir())


def some_of(items: list[T], every: int) -> list[T]:
    """Return the first of every so many; all of them where the search profile has time for them."""
    return items if os.environ.get("HYPOTHESIS_PROFILE") == "search" else items[::every]


@dataclass(frozen=True)
class Case:
    """One checkpoint of the corpus, with what is known of it."""

    path: Path

    @staticmethod
    def named(name: str, place: Path = PLACE) -> Case:
        return Case(place / "cases" / name)

    def _read(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return content

    @cached_property
    def facts(self) -> dict[str, Any]:
        return self._read("case.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._read("config.json")

    @cached_property
    def expected(self) -> dict[str, Any]:
        return self._read("expected.json")

    @property
    def has_place(self) -> bool:
        """Whether the runtime model has a place for every weight: a load that is not clean computes something else."""
        peer = self.facts["peer"]
        return bool(peer["loads_clean"] or peer["forward_equal"])

    @property
    def computes_the_same(self) -> bool:
        """Whether the runtime class computes what the older one did; one was mended in between."""
        return bool(self.facts["peer"]["forward_equal"])

    @property
    def has_published_names(self) -> bool:
        """Whether the file holds the names that are published today; some were written under older ones on purpose."""
        return "on disk" not in self.facts.get("note", "")

    def mapping(self) -> wb.Mapping:
        """Return the mapping that the configuration alone resolves to."""
        return resolve_config({**self.config, "architectures": [self.facts["class"]]}, REGISTRY)

    def target(self) -> Header:
        """Return the runtime layout that is expected, as a header."""
        specs = {
            key: TensorSpec(_DTYPES[dtype.removeprefix("torch.")], tuple(shape))
            for key, (shape, dtype, _) in self.expected["state_dict"].items()
        }
        ties: dict[str, str] = {}
        for group in self.expected.get("ties", ()):
            present = next(key for key in group if key in specs)
            for key in group:
                specs.setdefault(key, specs[present])
                ties[key] = present
        return Header(specs, ties=ties)

    def distinct(self) -> Header:
        """Return the runtime layout without the second names of tied tensors and without what no file holds."""
        second = {key for group in self.expected.get("ties", ()) for key in group[1:]}
        left_out = second | set(self.expected.get("not_from_checkpoint", ()))
        return Header({key: spec for key, spec in self.target().specs.items() if key not in left_out})

    def files(self) -> dict[str, bytes]:
        """Return the checkpoint's own files, by name."""
        return {path.name: path.read_bytes() for path in sorted(self.path.glob("model*.safetensors*"))}


def wrong_values(case: Case, found: MappingOf[str, torch.Tensor]) -> list[str]:
    """List the keys whose bytes are not those expected; those that no checkpoint holds aside."""
    from weighbridge.storage.formats.torch_tensors import bytes_of

    new = set(case.expected.get("not_from_checkpoint", ()))
    wanted = {key: digest for key, (_, _, digest) in case.expected["state_dict"].items() if key not in new}
    return [
        key
        for key, digest in wanted.items()
        if key not in found or hashlib.sha256(bytes_of(found[key])).hexdigest() != digest
    ]


def damaged_case(name: str) -> Case:
    """Return a damaged or unusual checkpoint; it has no expectations of its own."""
    return Case(PLACE / "negative" / name)


def damaged_names() -> list[str]:
    """Names of the damaged and unusual checkpoints."""
    return sorted(path.name for path in (PLACE / "negative").iterdir() if path.is_dir())


def misplaced_values(case: Case, found: MappingOf[str, torch.Tensor]) -> list[str]:
    """List the keys of another class's model whose bytes are those of none of the case's tensors of a like name.

    The names of two classes of one family differ in front only.
    """
    from weighbridge.storage.formats.torch_tensors import bytes_of

    wanted = {key: digest for key, (_, _, digest) in case.expected["state_dict"].items()}
    for group in case.expected.get("ties", ()):
        wanted |= dict.fromkeys(group, next(wanted[key] for key in group if key in wanted))
    wrong = []
    for key, value in found.items():
        alike = {digest for other, digest in wanted.items() if _alike(key, other)}
        if hashlib.sha256(bytes_of(value)).hexdigest() not in alike:
            wrong.append(key)
    return wrong


def _alike(first: str, second: str) -> bool:
    """Whether one name is the end of the other, the first part of either left aside."""
    ends = [f".{name.partition('.')[2]}" if name.count(".") > 1 else f".{name}" for name in (first, second)]
    return f".{first}".endswith(ends[1]) or f".{second}".endswith(ends[0])


@dataclass(frozen=True)
class CrossLoad:
    """A load of one class's checkpoint into another class, with what another library makes of it."""

    source: str
    target_class: str
    loaded: int
    avoidably_missing: int


def cross_loads() -> list[CrossLoad]:
    """Return the cross-class loads of the cases that are there."""
    listed = json.loads((PLACE / "cross.json").read_text(encoding="utf-8"))
    present = set(case_names())
    return [
        CrossLoad(
            entry["source"],
            entry["target_class"],
            entry["peer"]["loaded_with_source_bytes"],
            entry["peer"]["avoidably_missing"],
        )
        for entry in listed
        if entry["source"] in present
    ]


def build_model(class_name: str, path: Path, *, own_config: bool = False) -> torch.nn.Module:
    """Make a model of a class by a directory's configuration, with new weights.

    Args:
        class_name: A class of the transformers library.
        path: Directory with a `config.json`.
        own_config: Read it as the class's own configuration, whatever model type it names.
    """
    import transformers

    kind = getattr(transformers, class_name)
    reader = kind.config_class if own_config else transformers.AutoConfig
    model: torch.nn.Module = kind(reader.from_pretrained(path, attn_implementation="eager"))
    return model.eval()


def untie_unlike(model: torch.nn.Module, case: Case) -> None:
    """Give parameters that the class ties, but whose values differ in the case's checkpoint, storages of their own.

    The library does the same when it loads: a tie that the checkpoint contradicts is none.
    """
    import torch

    held = {key for group in case.expected.get("ties", ()) for key in group}
    seen: set[int] = set()
    for key, value in list(model.named_parameters(remove_duplicate=False)):
        path, _, name = key.rpartition(".")
        if id(value) in seen and key not in held and key in case.expected["state_dict"]:
            setattr(model.get_submodule(path), name, torch.nn.Parameter(value.detach().clone()))
        seen.add(id(value))


def worst_output(case: Case, model: torch.nn.Module) -> float:
    """Run a model on a case's inputs; return the greatest difference, where `TOLERANCE` is the greatest allowed."""
    import torch
    from safetensors.torch import load_file

    inputs = load_file(case.path / "inputs.safetensors")
    extra = case.path / "inputs_b_extra.safetensors"
    if extra.is_file():
        inputs |= load_file(extra)
    with torch.no_grad():
        outputs = model(**inputs, **case.facts.get("forward_kwargs", {}))
    given = dict(_flat(outputs))
    wanted = load_file(case.path / "outputs.safetensors")
    unlike = set(case.facts["peer"]["not_comparable"])
    for kind in ("image", "video"):
        if f"{kind}_hidden_states" in wanted.keys() - given.keys():  # transformers 5.24 has them elsewhere, one by one
            pooled = outputs[f"{kind}_outputs"].pooler_output
            given[f"{kind}_hidden_states"] = pooled if isinstance(pooled, torch.Tensor) else torch.cat(list(pooled))
    return max(_difference(given[name], value) for name, value in wanted.items() if name not in unlike)


def _flat(outputs: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a model's output by its dotted name."""
    import torch

    for name, value in outputs.items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif hasattr(value, "items"):
            yield from _flat(value, f"{prefix}{name}.")


def _difference(given: torch.Tensor, wanted: torch.Tensor) -> float:
    if given.shape != wanted.shape:
        return float("inf")
    scale = max(1.0, wanted.abs().max().item())
    return (given.float() - wanted).abs().max().item() / scale
