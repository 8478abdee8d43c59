"""Tensors that accelerate keeps elsewhere, in memory or in files, and puts into a module each time that it runs.

A hook that offloads a module leaves tensors on the meta device in it, and asks a map for the values. What the map
holds in memory is the model's own, and can be read and set; what it reads from files can be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from weighbridge.base.errors import CheckpointError
from weighbridge.base.specs import Header
from weighbridge.models.wrappers import Branch
from weighbridge.storage.formats.memory import HeaderCheckpoint, TensorsCheckpoint
from weighbridge.storage.formats.safetensors_files import open_safetensors_file
from weighbridge.storage.formats.torch_tensors import read_bytes, spec_of
from weighbridge.storage.lookup import check_range
from weighbridge.storage.protocol import Checkpoint

if TYPE_CHECKING:
    from weighbridge.storage.joined import JoinedCheckpoint


class Stored(NamedTuple):
    """A tensor of a safetensors file: the file, and the key there."""

    path: Path
    key: str


class Kept(NamedTuple):
    """A tensor that a hook keeps elsewhere.

    Args:
        stand_in: What the module has in its place, with its dtype and its shape.
        weights: Tensors by name, some of them read when they are asked for.
        name: Which of them it is; empty where there is none, so that the module cannot run.
        stored: Where it is stored, if that is a safetensors file.
    """

    stand_in: torch.Tensor
    weights: Mapping[str, Any]
    name: str = ""
    stored: Stored | None = None

    @property
    def slot(self) -> tuple[dict[str, Any], str] | None:
        """What holds it in memory, and under which name; None where what the module gets is something else."""
        if not isinstance(self.weights, dict) or not self.name:
            return None
        held: torch.Tensor = self.weights[self.name]
        is_alike = held.dtype == self.stand_in.dtype and held.shape == self.stand_in.shape
        return (self.weights, self.name) if is_alike else None

    @property
    def identity(self) -> object:
        """What two tensors have in common that are the same one."""
        return self.stored or (id(self.weights), self.name or id(self.stand_in))

    def tensor(self, where: str) -> torch.Tensor:
        """Return the values that the module gets when it runs, in its dtype.

        Args:
            where: What to call it in a message.

        Raises:
            CheckpointError: `data-missing` where there are none, or of another shape.
        """
        try:
            found: torch.Tensor | None = self.weights[self.name].detach() if self.name else None
        except (KeyError, OSError) as problem:
            raise _lost(where, self.stand_in, str(problem)) from problem
        if found is None or found.is_meta or found.shape != self.stand_in.shape:
            raise _lost(where, self.stand_in, "nothing" if found is None else f"{list(found.shape)} on {found.device}")
        return found.to(self.stand_in.dtype)


def _lost(where: str, stand_in: torch.Tensor, got: str) -> CheckpointError:
    what, expected = "this tensor was offloaded, and is not where it was left", str(list(stand_in.shape))
    hint = "load the model again; an offload folder is needed for as long as the model is"
    return CheckpointError("data-missing", what, where=where, expected=expected, got=got, hint=hint)


class Hooks:
    """The hooks of a model that offload modules.

    Args:
        tree: The modules of the model, with wrappers.
    """

    def __init__(self, tree: Iterable[Branch]) -> None:
        self._by_name = {part.name: hook for part in tree if (hook := _offloading(part.module)) is not None}

    def find(self, part: Branch, name: str) -> Kept | None:
        """Return a tensor of a module as it is kept elsewhere; None where the module holds it itself.

        Args:
            part: The module.
            name: What the module calls the tensor.
        """
        found = self._hook_of(part) if self._by_name else None
        if found is None or (name in part.module._buffers and not found[1].offload_buffers):
            return None
        path, hook = found
        stand_in: torch.Tensor = getattr(part.module, name)
        whole = ".".join(filter(None, (part.name, name)))
        return _look_up(stand_in, hook.weights_map, whole.removeprefix(f"{path}." if path else ""))

    def _hook_of(self, part: Branch) -> tuple[str, Any] | None:
        """Return the hook that offloads a module, and the path of the module that it is on."""
        segments = part.name.split(".") if part.name else []
        for depth in range(len(segments), -1, -1):
            path = ".".join(segments[:depth])
            hook = self._by_name.get(path)
            if hook is not None and (path == part.name or hook.place_submodules):
                return path, hook
        return None


def _offloading(module: torch.nn.Module) -> Any:
    """Return the hook of accelerate that offloads a module; None without one."""
    hook = vars(module).get("_hf_hook")
    return next((each for each in (hook, *getattr(hook, "hooks", ())) if getattr(each, "offload", False)), None)


def _look_up(stand_in: torch.Tensor, weights: Any, name: str) -> Kept:
    """Follow a name through the maps that accelerate puts around each other, without reading a tensor."""
    while hasattr(weights, "dataset") and hasattr(weights, "prefix"):
        weights, name = weights.dataset, f"{weights.prefix}{name}"
    held, index = getattr(weights, "state_dict", None), getattr(weights, "index", None)
    if isinstance(held, dict) and name in held:
        return Kept(stand_in, held, name)
    if isinstance(index, Mapping):
        entry = index.get(name, {})
        path = entry.get("safetensors_file")
        stored = Stored(Path(os.path.realpath(path)), entry.get("weight_name", name)) if path else None
        return Kept(stand_in, weights, name if name in index else "", stored)
    return Kept(stand_in, weights, name if name in weights else "")


# ---- as a source ----


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _GivenOut(HeaderCheckpoint):
    """Tensors that hooks give out, each made when it is asked for, and held by nobody."""

    kept: Mapping[str, Kept]

    @property
    def is_serial(self) -> bool:
        """True: a map of accelerate's opens a file for each tensor."""
        return True

    def tensor(self, key: str) -> torch.Tensor:
        self.extent(key)
        return self.kept[key].tensor(f"{self.where}: {key}")

    def read(self, key: str, start_byte: int, buffer: memoryview) -> None:
        tensor = self.tensor(key)
        check_range(key, self.header[key].size_bytes, start_byte, buffer.nbytes, self.where)
        read_bytes(tensor, start_byte, buffer)


def with_kept(held: TensorsCheckpoint, kept: Mapping[str, Kept]) -> JoinedCheckpoint:
    """Add to a model's tensors those that are read from files when they are asked for.

    Args:
        held: Those that are in memory.
        kept: Those that hooks keep in files.

    Raises:
        CheckpointError: The codes of opening a file.
    """
    from weighbridge.storage.joined import JoinedCheckpoint, Part

    own = {key: spec_of(each.stand_in, key) for key, each in kept.items()}
    first: dict[object, str] = {}
    twins = {key: first.setdefault(kept[key].identity, key) for key in sorted(kept)}
    ties = {key: twin for key, twin in twins.items() if key != twin}
    files: dict[Path, Checkpoint] = {each.path: open_safetensors_file(each.path) for each in _stored(kept)}
    owners: dict[str, tuple[Checkpoint, str]] = {key: (held, key) for key in held.header}
    given: dict[str, Kept] = {}
    for key, each in kept.items():
        if each.stored is not None and files[each.stored.path].header.specs.get(each.stored.key) == own[key]:
            owners[key] = files[each.stored.path], each.stored.key
        else:
            given[key] = each
    others = _GivenOut(held.where, Header({key: own[key] for key in given}), kept=given)
    owners |= {key: (others, key) for key in given}
    parts = [Part("in memory", "", held), Part("given out", "", others)]
    parts += [Part(path.name, "", files[path]) for path in sorted(files)]
    header = Header({**held.header.specs, **own}, ties={**held.header.ties, **ties})
    return JoinedCheckpoint(held.where, header, tuple(parts), owners, notes=held.notes)


def _stored(kept: Mapping[str, Kept]) -> Iterator[Stored]:
    return (each.stored for each in kept.values() if each.stored is not None)
