"""What a model holds, as a source and as a target alike.

A model holds its parameters and persistent buffers, and the extra state of its modules where that is a tensor, under
the names of its state dict, without those of wrappers. A hook may give a tensor another name there, or leave it out,
and the model holds it by that name, or not at all. What a hook makes itself can be read and not set: a model is saved
with it, and loaded without asking for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch

from weighbridge.algebra.held_parts import Part
from weighbridge.base.errors import PlanError, RegistryError, WeighbridgeError
from weighbridge.base.keys import layout_path
from weighbridge.base.specs import Header, TensorSpec
from weighbridge.models.adapters import Adapters, find_adapters
from weighbridge.models.kept_elsewhere import Hooks, Kept
from weighbridge.models.spread_tensors import Sharded, as_shards, look_into
from weighbridge.models.wrappers import Branch, branches
from weighbridge.storage.formats.tensor_kinds import kind_of
from weighbridge.storage.formats.torch_tensors import address_of, row_major, spec_of, tie_of

EXTRA_STATE: Final = "_extra_state"
"""The last part of the name of a module's extra state, as torch gives it."""


class Places(NamedTuple):
    """A tensor of a model, and where it is held.

    Args:
        tensor: The tensor; of one that is spread over processes, what this one holds.
        slots: Every slot of a module that holds it or another view of the very same elements.
        receive: Takes the values instead; None for what has slots.
        sharded: For a tensor that is spread over processes, that tensor and the part of it that is held.
        kept: For a tensor that a hook keeps elsewhere, where that is.
    """

    tensor: torch.Tensor
    slots: list[tuple[dict[str, Any], str]]
    receive: Callable[[torch.Tensor], object] | None = None
    sharded: Sharded | None = None
    kept: Kept | None = None

    @property
    def whole(self) -> torch.Tensor:
        """The tensor as the model has it."""
        return self.tensor if self.sharded is None else self.sharded.whole

    @property
    def seen(self) -> torch.Tensor:
        """The tensor that its module shows: a stand-in for one that is kept elsewhere."""
        return self.whole if self.kept is None else self.kept.stand_in

    def spec(self, key: str) -> TensorSpec:
        """Return the spec of the whole tensor."""
        found = spec_of(self.tensor, key)
        return found if self.sharded is None else TensorSpec(found.dtype, self.sharded.part.shape)


class Extra(NamedTuple):
    """A module's extra state: what it is now, and the module that takes another one."""

    value: Any
    module: torch.nn.Module

    @property
    def is_tensor(self) -> bool:
        """Whether it can be written as it is."""
        return isinstance(self.value, torch.Tensor)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a model holds.

    Args:
        places: Parameters and persistent buffers by name; tied ones share their places.
        extra: Extra state by name, whatever it is.
        computed: Tensors that a hook makes for the state dict, and that nothing can be set by.
        aside: What is left aside, one sentence each.
        hidden: Parameters that a hook writes in a form of its own, and extra state that could be that of any module.
        adapters: The adapters in the model.
    """

    places: dict[str, Places]
    extra: dict[str, Extra]
    computed: dict[str, torch.Tensor]
    aside: tuple[str, ...]
    hidden: tuple[str, ...]
    adapters: Adapters

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of the model, one sentence each."""
        opaque = [f"{key}, {_kind(extra.value)}" for key, extra in self.extra.items() if not extra.is_tensor]
        words = [f"extra state that is no tensor, left aside: {', '.join(opaque[:4])}"] if opaque else []
        return (*self.adapters.notes, *self.aside, *words)

    def places_for(self, wanted: Header | None = None) -> dict[str, Places]:
        """Return the places of all that can be set.

        Args:
            wanted: What is to be set, if that is known: extra state comes in any shape, and where there was none.

        Raises:
            RegistryError: `integration-unsupported` for a model whose weights can be read and not set.
        """
        if self.kept:
            what = "these weights are kept in files until they are used, and would be read from there again"
            hint, where = "load the model before it is offloaded", ", ".join([*self.kept][:4])
            raise RegistryError("integration-unsupported", what, where=where, hint=hint)
        return self._settable(wanted)

    @property
    def kept(self) -> dict[str, Kept]:
        """What hooks keep elsewhere, but for what they hold in memory as it is."""
        places = self.places.items()
        return {key: place.kept for key, place in places if place.kept is not None and place.kept.slot is None}

    def _settable(self, wanted: Header | None) -> dict[str, Places]:
        if self.hidden:
            raise RegistryError(
                "integration-unsupported",
                "the model writes these parameters in a form of its own, which only its own code reads",
                where=", ".join(self.hidden[:4]),
                hint="load it with model.load_state_dict",
            )
        self.adapters.check_settable()
        found = dict(self.places)
        for key, extra in self.extra.items():
            is_wanted = wanted is not None and key in wanted
            if is_wanted or extra.is_tensor:
                held = extra.value if extra.is_tensor else torch.empty(0)
                found[key] = Places(held.detach(), [], extra.module.set_extra_state)
        return found

    def header(self, source: Header | None = None) -> Header:
        """Return the specs of all that can be set, and which of it is tied.

        Args:
            source: What it is set from: extra state takes the shape that it has there.
        """
        places = self._settable(source)
        specs: dict[str, TensorSpec] = {}
        ties: dict[str, str] = {}
        first: dict[int, str] = {}
        for key, place in places.items():
            takes_any = place.receive is not None and source is not None and key in source
            specs[key] = source[key] if takes_any and source is not None else place.spec(key)
            owner = first.setdefault(id(place.slots), key)
            if owner != key:
                ties[key] = ties[owner] = owner
        return Header(specs, ties=ties, loose=frozenset(self.extra.keys() & specs.keys()))

    def parts(self) -> dict[str, Part]:
        """Return which part of each tensor that can be set this process holds."""
        header = self.header()
        held = {key: place.sharded.part for key, place in self.places.items() if place.sharded is not None}
        return {key: held.get(key) or Part.whole(spec.shape) for key, spec in header.items()}

    def tensors(self, *, parts: bool = False) -> dict[str, torch.Tensor]:
        """Return all that can be read and is in memory, which is the model's; it takes no part in gradients.

        Of tensors that are spread over several processes it is what this one holds, if `parts` asks for that.

        Raises:
            RegistryError: `integration-unsupported` where adapters are merged into part of the model.
            CheckpointError: `tensor-unsupported` for a tensor that is spread over several processes.
        """
        self.adapters.check_readable()
        extra = {key: extra.value for key, extra in self.extra.items() if extra.is_tensor}
        kept = self.kept
        held = {key: place.tensor if parts else place.whole for key, place in self.places.items() if key not in kept}
        for key, tensor in held.items():
            kind_of(tensor, key)
        return {key: tensor.detach() for key, tensor in (held | extra | self.computed).items()}


def take_stock(model: torch.nn.Module) -> Holdings:
    """Find out what a model holds.

    Raises:
        CheckpointError: `tensor-unsupported` for a tensor without dense memory of its own; `tensor-bounds` for one
            whose memory was freed.
        PlanError: `parts-unclear` for one that is spread over processes, if it does not say which part is here.
        RegistryError: `integration-unsupported` for a wrapper that is known and not understood, and for values that a
            hook changes on their way into the state dict.
    """
    tree = list(branches(model))
    is_fsdp = as_shards(branch.module for branch in tree)
    hooks = Hooks(tree)
    places: dict[str, Places] = {}
    held: dict[object, list[Places]] = {}
    problems: list[WeighbridgeError] = []
    for part in tree:
        for slots, name, tensor in _slots(part.module) if part.inner is None else ():
            key = f"{part.path}.{name}" if part.path else name
            try:
                kept = hooks.find(part, name)
                found = places[key] = _places_of(tensor, key, held, is_fsdp=is_fsdp, kept=kept)
            except PlanError as problem:
                problems.append(problem)
                continue
            slot = (slots, name) if kept is None else kept.slot
            found.slots.extend([] if slot is None else [slot])
    if problems:
        what = "it cannot be told which parts of the model this process holds"
        raise PlanError("parts-unclear", what, problems=problems)
    aside = tuple(_asides(tree))
    adapters = find_adapters(tree)
    if not any(map(_has_own_state_dict, (part.module for part in tree))):
        return Holdings(places, {}, {}, aside, (), adapters)
    named = dict(_named(_state_dict(model), tree))
    renamed, missing, moved = _follow_names(places, named)
    free = {key: value for key, value in named.items() if key not in renamed}
    states = list(_extra_states(free, tree, moved))
    extra = {key: Extra(free[key], module) for key, module in states if key}
    computed = {key: value for key, value in free.items() if key not in extra and isinstance(value, torch.Tensor)}
    opaque = [f"{key}, {_kind(value)}" for key, value in free.items() if key not in extra and key not in computed]
    aside += (f"no tensors, left aside: {', '.join(opaque[:4])}",) if opaque else ()
    hidden = tuple(key for key in missing if any(other.startswith(_module_of(key)) for other in computed))
    aside += (f"not in the state dict, left aside: {', '.join(missing[:4])}",) if missing and not hidden else ()
    hidden += tuple(filter(_is_extra, computed)) if len(extra) < len(states) else ()
    return Holdings(renamed, extra, computed, aside, hidden, adapters)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _module_of(key: str) -> str:
    path, dot, _ = key.rpartition(".")
    return path + dot


def _slots(module: torch.nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    hidden = module._non_persistent_buffers_set
    for slots in (module._parameters, module._buffers):
        for name, tensor in slots.items():
            if tensor is not None and name not in hidden:
                yield slots, name, tensor


def _places_of(
    tensor: torch.Tensor, key: str, held: dict[object, list[Places]], *, is_fsdp: bool, kept: Kept | None = None
) -> Places:
    """Return the places of a tensor, old ones if it is tied; only tensors at one address are compared."""
    slot = None if kept is None else kept.slot
    if kept is not None and slot is None:
        there = held.setdefault(kept.identity, [])
        there += [] if there else [Places(kept.stand_in.detach().to("meta"), [], kept=kept)]
        return there[0]
    tensor = tensor if slot is None else slot[0][slot[1]]
    sharded = look_into(tensor, key, by_fsdp=is_fsdp)
    local = tensor if sharded is None else sharded.local
    kind_of(local, key)
    there = held.setdefault(address_of(local) or id(tensor), [])
    for places in there:
        if places.whole is tensor or _is_same(places.tensor, local):
            return places
    there.append(Places(local, [], sharded=sharded, kept=kept))
    return there[-1]


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors are the same elements of one storage."""
    return one is other or ((tie := tie_of(one)) is not None and tie == tie_of(other))


def _asides(tree: Iterable[Branch]) -> Iterator[str]:
    """Say which tensors wrappers other than adapters hold for themselves."""
    for part in tree:
        own = [name for _, name, _ in _slots(part.module)] if part.inner is not None else []
        if own and type(part.module).__module__.partition(".")[0] != "peft":
            kind = type(part.module).__name__
            yield f"{', '.join(own[:4])} of {kind}, which is no part of the model inside: left aside"


# ---- what the state dict says besides ----


def _has_own_state_dict(module: torch.nn.Module) -> bool:
    """Tell whether a module's state dict may be something else than its parameters and persistent buffers."""
    plain, kind = torch.nn.Module, type(module)
    names = ("state_dict", "_save_to_state_dict", "get_extra_state")
    is_hooked = module._state_dict_hooks or module._state_dict_pre_hooks or "state_dict" in vars(module)
    return bool(is_hooked) or any(getattr(kind, name) is not getattr(plain, name) for name in names)


def _state_dict(model: torch.nn.Module) -> Mapping[str, Any]:
    try:
        return model.state_dict(keep_vars=True)
    except TypeError:
        return model.state_dict()


def _named(state: Mapping[str, Any], tree: Iterable[Branch]) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a state dict by their names in the layout; those of wrappers' own tensors are left out."""
    by_name = {part.name: part for part in tree}
    for key, value in state.items():
        name = _layout_name(key, by_name)
        if name is not None:
            yield name, value


def _layout_name(key: str, by_name: Mapping[str, Branch]) -> str | None:
    segments = key.split(".")
    depth = next(depth for depth in range(len(segments) - 1, -1, -1) if ".".join(segments[:depth]) in by_name)
    part, rest = by_name[".".join(segments[:depth])], segments[depth:]
    module = part.module
    own = {*module._modules} if len(rest) > 1 else {*module._parameters, *module._buffers}
    if part.inner is not None and rest[0] in own:
        return None
    return ".".join(filter(None, (part.path, layout_path(".".join(rest)))))


class _Followed(NamedTuple):
    """Tensors by their names in the state dict, the names of those that are not in it, and the names that differ."""

    places: dict[str, Places]
    missing: list[str]
    moved: dict[str, str]


def _follow_names(places: Mapping[str, Places], named: Mapping[str, Any]) -> _Followed:
    """Give tensors the names that they have in the state dict."""
    free = {key: value for key, value in named.items() if key not in places and isinstance(value, torch.Tensor)}
    found: dict[str, Places] = {}
    missing: list[str] = []
    moved: dict[str, str] = {}
    for key, place in places.items():
        if key in named:
            _refuse_changed(key, place, named[key])
            found[key] = place
            continue
        alias = next((other for other, value in free.items() if _is_same(value, place.seen)), None)
        if alias is None:
            missing.append(key)
        else:
            del free[alias]
            found[alias] = place
            moved[key] = alias
    return _Followed(found, missing, moved)


def _refuse_changed(key: str, place: Places, value: Any) -> None:
    """Refuse a tensor that a hook replaces by another one, but for a copy of one that is not spread."""
    tensor = place.seen
    if not isinstance(value, torch.Tensor) or _is_same(value, tensor):
        return
    is_alike = value.dtype == tensor.dtype and value.shape == tensor.shape and place.sharded is None
    is_copy = is_alike and (tensor.is_meta or value.is_meta or torch.equal(_bytes(value), _bytes(tensor)))
    if not is_copy:
        raise RegistryError(
            "integration-unsupported",
            "a hook changes this tensor on its way into the state dict",
            where=key,
            expected=f"{tensor.dtype} {list(tensor.shape)}",
            got=f"{value.dtype} {list(value.shape)}" + (", other values" if is_alike else ""),
            hint="give model.state_dict() in the place of the model, or load it with model.load_state_dict",
        )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return row_major(tensor).view(-1).view(torch.uint8)


def _extra_states(
    free: Mapping[str, Any], tree: Iterable[Branch], moved: Mapping[str, str]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield each module that takes extra state, with the name of that; empty where the state dict has none."""
    plain, left = torch.nn.Module, set(filter(_is_extra, free))
    for part in tree:
        if part.inner is not None or type(part.module).set_extra_state is plain.set_extra_state:
            continue
        names = (f"{place}{EXTRA_STATE}" for place in _places_in_state(part.path, moved))
        key = next((name for name in names if name in left), "")
        left.discard(key)
        yield key, part.module


def _is_extra(key: str) -> bool:
    return key.rpartition(".")[2] == EXTRA_STATE


def _places_in_state(path: str, moved: Mapping[str, str]) -> Iterator[str]:
    """Yield where a module may be in the state dict: at its path, or where a hook takes what is in it, or around it."""
    segments = [f"{segment}." for segment in path.split(".") if segment]
    yield "".join(segments)
    for depth in range(len(segments), -1, -1):
        around, inside = "".join(segments[:depth]), "".join(segments[depth:])
        for key, alias in moved.items():
            rest = key.removeprefix(around)
            if key.startswith(around) and f".{alias}".endswith(f".{rest}"):
                yield alias.removesuffix(rest) + inside
