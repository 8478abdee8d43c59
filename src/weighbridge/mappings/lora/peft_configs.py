"""An `adapter_config.json` of PEFT: what it says of a module, and what it must say when modules have other names.

Its entries are evaluated over names of modules, as PEFT does it, and never rewritten as text. Where an old entry says
the right thing of the new names it stays; else the names stand there one by one.

Source: `get_pattern_key` and `check_target_module_exists` of PEFT 0.21.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from weighbridge.base.errors import PatternError, PlanError
from weighbridge.mappings.lora.ranks import Number, Strength
from weighbridge.pattern.expressions import Expression, Steps

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_STEM: Final = "adapter_model"

PLAIN_STARTS: Final = ("gaussian", "eva", "orthogonal")
"""Ways of PEFT to begin an adapter that leave the weights as they are; others take from them what it begins with."""

_VARIANTS: Final = (
    *("use_qalora", "use_bdlora", "layer_replication", "trainable_token_indices", "arrow_config", "kasa_config"),
    *("monteclora_config", "velora_config", "megatron_config"),
)
"""Members that, where they are set, give a module more than two factors, or factors of something else."""

_LISTED: Final = ("exclude_modules", "layers_to_transform", "layers_pattern")
"""Members that narrow `target_modules`; nothing is left to narrow where the names stand there one by one."""


_PACKING: Final = "lora_B_layout"
_PACKINGS: Final = "unsloth_fused_expert_lora"
RANK_MAJOR: Final = "rank_major"
GROUPED: Final = "grouped_by_expert"
ORDERS: Final = (RANK_MAJOR, GROUPED)
"""How the columns of B lie for fused experts: as PEFT has them, and as Unsloth had them before it said so."""


_NOTHING: Final = type(None)
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "r": (int, _NOTHING),
    "lora_alpha": (int, float, _NOTHING),
    "rank_pattern": (dict, _NOTHING),
    "alpha_pattern": (dict, _NOTHING),
    "target_modules": (str, list, _NOTHING),
    "target_parameters": (list, _NOTHING),
    "modules_to_save": (list, _NOTHING),
    _PACKINGS: (dict, _NOTHING),
}
"""The members that are read, and what each may be; inside of lists there are texts."""

_INNER: Final[dict[str, type | tuple[type, ...]]] = {
    "rank_pattern": int,
    "alpha_pattern": (int, float),
    _PACKINGS: object,
}


class Modules(NamedTuple):
    """What has factors, with how strong these are: modules, and parameters that are no weight of a module of their own.

    Args:
        linear: The modules.
        parameters: The parameters.
    """

    linear: Mapping[str, Strength]
    parameters: Mapping[str, Strength]


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The configuration of an adapter.

    Args:
        form: What its file holds.
    """

    form: Mapping[str, Any]
    _expressions: dict[str, Expression] = field(default_factory=dict, init=False, repr=False, compare=False)
    _steps: Steps = field(default_factory=Steps, init=False, repr=False, compare=False)

    def _expression(self, text: str) -> Expression:
        """Return an expression, which is read once; all share what they may cost."""
        if text not in self._expressions:
            self._expressions[text] = Expression(text, self._steps)
        return self._expressions[text]

    def check(self) -> None:
        """Check that each member that is read is of its kind.

        Raises:
            PlanError: `adapter-invalid`.
        """
        for name, kinds in _KINDS.items():
            value = self.form.get(name)
            parts = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
            inner = _INNER.get(name, str)
            if not isinstance(value, kinds) or not all(isinstance(part, inner) for part in parts):
                raise _invalid(name, repr(value)[:200])
        patterns = [*(self.form.get("rank_pattern") or ()), *(self.form.get("alpha_pattern") or ())]
        whole = self.form.get("target_modules")
        patterns += [whole] if isinstance(whole, str) else []
        for pattern in (*patterns, *(self.form.get("modules_to_save") or ())):
            try:
                self._expression(pattern)
            except PatternError as problem:
                raise _invalid(pattern, problem.got) from None

    def refuse_variants(self) -> None:
        """Refuse what is no plain pair of factors for each module.

        Raises:
            PlanError: `adapter-inexact`.
        """
        kind = str(self.form.get("peft_type", "")).upper()
        if kind != "LORA":
            raise _no_factors("this adapter has no factors", f"peft_type {kind!r}")
        found = next((name for name in _VARIANTS if self.form.get(name)), None)
        if found is not None:
            raise _no_factors("what this adapter adds to a weight is not the product of two factors alone", found)
        start = self.form.get("init_lora_weights")
        if isinstance(start, str) and not start.startswith(PLAIN_STARTS):
            raise _no_factors("this adapter was begun with a part of the weights", f"init_lora_weights {start!r}")

    @property
    def is_turned(self) -> bool:
        """Whether linear weights are stored with a row for each input."""
        return bool(self.form.get("fan_in_fan_out"))

    def strength(self, module: str) -> Strength:
        """Return the rank and alpha that a module has, as PEFT reads them.

        Examples:
            >>> config = PeftConfig({"r": 8, "lora_alpha": 16, "rank_pattern": {"k_proj": 2}})
            >>> config.strength("layers.0.k_proj"), config.strength("layers.0.xk_proj").rank
            (Strength(rank=2, alpha=16, is_rooted=False), 8)
        """
        rank: int = self._pick(self.form.get("rank_pattern"), module, self.form.get("r") or 8)
        alpha: Number = self._pick(self.form.get("alpha_pattern"), module, self.form.get("lora_alpha", 8))
        return Strength(rank, alpha, bool(self.form.get("use_rslora")))

    def parameters_of(self, module: str) -> list[str]:
        """Return the parameters of a module that have factors, where these belong to no module of their own.

        Examples:
            >>> PeftConfig({"target_parameters": ["experts.down_proj"]}).parameters_of("layers.0.mlp.experts")
            ['down_proj']
        """
        if self._is_target(module):
            return []
        pairs = (entry.rpartition(".")[::2] for entry in self.form.get("target_parameters") or ())
        return sorted({name for owner, name in pairs if not owner or f".{module}".endswith(f".{owner}")})

    def packing(self, parameter: str, declared: str | None) -> str:
        """Return how the columns of B lie for the experts of a parameter.

        Unsloth packed them in its own way before it wrote so into the configuration, which names PEFT's version all the
        same.

        Args:
            parameter: The parameter.
            declared: What a caller says.

        Raises:
            PlanError: `adapter-packing` where nothing says it, or one thing is said here and another there.
        """
        marks = _table(_table(self.form, _PACKINGS), "parameters")
        said = _table(marks, parameter.rpartition(".")[2]).get(_PACKING) or self.form.get(_PACKING)
        if said is None and declared is None and self._is_of_peft():
            return RANK_MAJOR
        found = {each for each in (said, declared) if each is not None}
        if len(found) == 1 and found <= set(ORDERS):
            return found.pop()
        what = "the order of the experts in lora_B is not said" if not found else "the order of lora_B is not clear"
        hint = f'declare it: lora_B_layout="{RANK_MAJOR}" as of PEFT, "{GROUPED}" as of earlier versions of Unsloth'
        got = ", ".join(map(str, found)) or f"neither {_PACKING} nor a version of PEFT alone in {CONFIG_NAME}"
        raise PlanError("adapter-packing", what, where=parameter, got=got, hint=hint)

    def _is_of_peft(self) -> bool:
        """Tell whether PEFT wrote the adapter, and nothing says that Unsloth trained it."""
        traces = self.form.get("auto_mapping"), self.form.get("base_model_name_or_path")
        return bool(self.form.get("peft_version")) and "unsloth" not in str(traces).lower()

    def follow(self, before: Modules, after: Modules, saved: Mapping[str, Collection[str]]) -> dict[str, Any]:
        """Return what the file holds when modules have other names, ranks and alphas.

        Args:
            before: What has factors now.
            after: What will have some.
            saved: For each key of a model's tensor that is saved whole, the keys that it will have.
        """
        form = dict(self.form)
        if set(before.linear) != set(after.linear):
            form["target_modules"] = sorted(after.linear)
            form |= {name: None for name in _LISTED if form.get(name)}
        if set(before.parameters) != set(after.parameters):
            form["target_parameters"] = sorted(after.parameters) or None
        if form.get("modules_to_save"):
            form["modules_to_save"] = self._saved_modules(form["modules_to_save"], saved)
        every = {**after.linear, **after.parameters}
        if any(self.strength(name) != strength for name, strength in every.items()):
            first = self.strength("")
            form["rank_pattern"] = _pattern({name: each.rank for name, each in every.items()}, first.rank)
            form["alpha_pattern"] = _pattern({name: each.alpha for name, each in every.items()}, first.alpha)
        return self._packed(form) if after.parameters or before.parameters else form

    def _is_target(self, module: str) -> bool:
        """Tell whether `target_modules` names a module."""
        entries = self.form.get("target_modules")
        if isinstance(entries, str):
            return entries != "all-linear" and self._expression(entries).is_whole(module)
        return any(f".{module}".endswith(f".{entry}") for entry in entries or ())

    def _pick(self, patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
        pairs = (patterns or {}).items()
        found = (value for key, value in pairs if self._expression(rf"(.*\.)?({key})$").starts(module))
        return next(found, default)

    def _saved_modules(self, entries: Iterable[str], moved: Mapping[str, Collection[str]]) -> list[str]:
        """Say which modules are saved whole under their new names: entries that still fit the same tensors stay."""
        kept: list[str] = []
        every = {key for keys in moved.values() for key in keys}
        for entry in entries:
            old = [key for key in moved if self._is_below(entry, key)]
            new = {key for each in old for key in moved[each]}
            is_right = {key for key in every if self._is_below(entry, key)} == new
            kept += [entry] if is_right else sorted({key.rpartition(".")[0] for key in new})
        return list(dict.fromkeys(kept))

    def _is_below(self, entry: str, key: str) -> bool:
        """Tell whether a tensor belongs to a module that an entry of `modules_to_save` names."""
        return self._expression(rf"(^|.*\.){entry}($|\..*)").starts(key.rpartition(".")[0])

    def _packed(self, form: dict[str, Any]) -> dict[str, Any]:
        """Say how fused experts are packed, where it would not be clear; PEFT has no dropout for them."""
        marked = [name for name in (_PACKING, _PACKINGS) if name in form]
        form = {name: value for name, value in form.items() if name not in marked}
        if form.get("target_parameters") and (marked or not self._is_of_peft()):
            form[_PACKING] = RANK_MAJOR
        if form.get("target_parameters") and form.get("lora_dropout"):
            form["lora_dropout"] = 0.0
        return form


def commonest(strengths: Iterable[Strength], roles: Collection[str] = ()) -> PeftConfig:
    """Return a configuration that says no more than the rank and the alpha of most modules.

    Args:
        strengths: Those of all modules.
        roles: What the modules have beside their factors: ``bias`` of B, DoRA's ``magnitude``.

    Examples:
        >>> commonest([Strength(2, 4), Strength(2, 4), Strength(3, 3)], ["bias"]).form
        {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 4, 'lora_bias': True}
    """
    (rank, alpha), _ = Counter((each.rank, each.alpha) for each in strengths).most_common(1)[0]
    said = {name: True for role, name in (("magnitude", "use_dora"), ("bias", "lora_bias")) if role in roles}
    return PeftConfig({"peft_type": "LORA", "r": rank, "lora_alpha": alpha, **said})


def _table(form: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = form.get(name)
    return found if isinstance(found, dict) else {}


def _pattern(values: Mapping[str, Number], default: Number) -> dict[str, Number]:
    """Return an entry for each module that has not the default, longer names first: PEFT takes the first that fits."""
    if all(value == default for value in values.values()):
        return {}
    named = sorted(values, key=lambda name: (-name.count("."), name))
    # A module of the default needs its entry where that of a shorter name would fit it as well.
    shorter = [name for name in named if values[name] != default]
    kept = [name for name in named if values[name] != default or any(name.endswith(f".{other}") for other in shorter)]
    return {re.escape(name): values[name] for name in kept}


def _invalid(where: str, got: str) -> PlanError:
    return PlanError("adapter-invalid", f"{CONFIG_NAME} cannot be read here", where=where, got=got)


def _no_factors(what: str, got: str) -> PlanError:
    hint = "merge the adapter into its model with PEFT, and convert that"
    return PlanError("adapter-inexact", what, where=CONFIG_NAME, got=got, hint=hint)
