"""Load a model whose file holds its tensors as they are, and make the plan of it when somebody asks for the plan.

Where a file has the very names, shapes and dtypes of a model, and no rule of anybody sees one of its keys, there is one
plan: each tensor is the one of its name. Then nothing that plans are made of has to be imported, and the library's
table of rules, which takes it longer than the model, does not have to be built. All of this is known, not guessed, once
the library has made the model; where it is not so, the same load goes on through a plan.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from weighbridge.base.errors import RegistryError
from weighbridge.integrations.as_it_lies.conversion_place import SparedRules, sparing_rules, taking_over
from weighbridge.mappings.families import MODULES, TEXTS_OF_RULES
from weighbridge.mappings.known_tables import KnownTable, read_known_table
from weighbridge.mappings.registered_names import REGISTERED, shipped_names
from weighbridge.models.without_plans.loaded_models import Loaded, remember_later
from weighbridge.models.without_plans.plain_models import PlainModel, read_plain_model
from weighbridge.storage.formats.torch_tensors import bytes_of, dtype_of
from weighbridge.storage.plain_directories import PlainDirectory, list_plain_names, read_plain_directory

if TYPE_CHECKING:
    from weighbridge.integrations.transformers_loading import Load

_LIBRARY: Final = "transformers"
_CONFIG: Final = "config.json"

_UNDERSTOOD: Final = frozenset({"attn_implementation"})
"""Arguments of the library's that change nothing of what is loaded."""

_OF_OTHER_LOADS: Final = frozenset({"adapter_config.json", "hf_quant_config.json", "quantize_config.json"})
"""Files that say that the weights are of an adapter, or quantised."""

_SAYS_CODES: Final = b"quantization"
"""What stands in a configuration that speaks of quantised weights."""

_NUMBERS: Final = frozenset({"BF16", "BOOL", "F16", "F32", "F64", "I16", "I64"})
"""Dtypes that are never codes of something else."""


def load_as_it_lies(model_class: Any, path: str | Path | None, dtype: Any, arguments: Mapping[str, Any]) -> Any:
    """Load a model as the library does, without a plan if its file needs none; None where it is not loaded here.

    Args:
        model_class: A model class of the library, or one of its `Auto` classes.
        path: Directory of the checkpoint, or a name on the hub.
        dtype: As in the library.
        arguments: The library's own arguments.

    Raises:
        WeighbridgeError: As a load through a plan, where it came to that.
    """
    is_heard = logging.getLogger("weighbridge").isEnabledFor(logging.INFO)
    if path is None or is_heard or not _UNDERSTOOD.issuperset(arguments) or torch.is_inference_mode_enabled():
        return None
    return _AsItLies(path, dtype).run(model_class, arguments) if _may_lie_so(path) else None


def _may_lie_so(path: str | Path) -> bool:
    """Tell whether a directory has plain weights of one model, as far as names and the configuration say it."""
    names = list_plain_names(path)
    if names is None or _CONFIG not in names or not _OF_OTHER_LOADS.isdisjoint(names):
        return False
    try:
        return _SAYS_CODES not in (Path(path) / _CONFIG).read_bytes()
    except OSError:
        return False


class _Given(NamedTuple):
    """What was given to the library.

    Args:
        tensors: The tensors by name.
        twins: For each weight that the file lacks, the one that it is tied to.
        directory: Where they lie.
        config: The configuration that the model was made with.
        dtype: What the library makes its weights in.
    """

    tensors: dict[str, torch.Tensor]
    twins: dict[str, str]
    directory: PlainDirectory
    config: Any
    dtype: torch.dtype


class _AsItLies:
    """One load through the library.

    Args:
        path: Directory of the checkpoint.
        dtype: As in the library.
    """

    def __init__(self, path: str | Path, dtype: Any) -> None:
        self._path, self._dtype = path, dtype
        self._plain: PlainModel | None = None
        self._table: KnownTable | None = None
        self._given: _Given | None = None
        self._load: Load | None = None

    def run(self, model_class: Any, arguments: Mapping[str, Any]) -> Any:
        """Let the library load a model; None where it has to be loaded again, through a plan.

        Whatever the library complains of, a load through a plan says in its own words.
        """
        try:
            with taking_over(self._convert), sparing_rules(self._may_have_rules):
                found = model_class.from_pretrained(self._path, config=None, dtype=self._dtype, **arguments)
        except Exception:
            if self._load is not None:
                raise
            return None
        if self._load is not None:
            self._load.finish(found)
            return found
        given = self._given
        if given is None or not _holds(found, given):
            return None
        remember_later(found, partial(_plan, type(found), given.config, given.dtype, given.directory))
        return found

    def _may_have_rules(self, model: Any) -> bool:
        """Tell whether somebody may have rules for the checkpoints of a model, or of a model inside it."""
        found, table = read_plain_model(model, _LIBRARY), read_known_table()
        if found is None or table is None or not found.model_names.isdisjoint(table.names):
            return True
        if not (found.class_names | found.model_names).isdisjoint(REGISTERED | shipped_names()):
            return True
        if any(name in MODULES and name not in TEXTS_OF_RULES for name in found.model_names):
            return True
        self._plain, self._table = found, table
        return False

    def _convert(self, original: Any, model: Any, state_dict: Any, load_config: Any, on_disk: Any) -> Any:
        """Give the library the tensors of the file as they lie there, or else what a plan makes of them."""
        if self._given is not None:
            raise RegistryError("integration-unsupported", "this class loads several models", got=type(model).__name__)
        is_ours = str(load_config.pretrained_model_name_or_path) == str(self._path)
        if is_ours and self._load is None and on_disk is None and _is_told_nothing(load_config):
            self._given = self._find(model, state_dict, load_config.dtype)
        if self._given is not None:
            return original(model, self._given.tensors, replace(load_config, weight_mapping=[]), None)
        from weighbridge.integrations.as_it_lies.later_plans import planned_load
        from weighbridge.integrations.transformers_loading import convert_by

        rules = load_config.weight_mapping
        if isinstance(rules, SparedRules):
            load_config = replace(load_config, weight_mapping=rules.find())
        self._load = self._load or planned_load(self._path, self._dtype)
        return convert_by(self._load.fill, original, model, state_dict, load_config, on_disk)

    def _find(self, model: Any, keys: Collection[str], dtype: torch.dtype) -> _Given | None:
        """Return the tensors of the file, if they are the model's as they lie there, beyond doubt."""
        plain, table = self._plain, self._table
        twins = None if plain is None else _twins(model, plain.tensors, keys)
        if plain is None or table is None or twins is None or _sees(plain, table, model.base_model_prefix, keys):
            return None
        directory = read_plain_directory(self._path)
        if directory is None or not _are_same(directory, plain.tensors, keys):
            return None
        tensors = directory.tensors()
        return None if tensors is None else _Given(tensors, twins, directory, deepcopy(model.config), dtype)


def _plan(kind: type[Any], config: Any, dtype: torch.dtype, directory: PlainDirectory) -> Loaded:
    """Make the plan that a model would have been loaded through."""
    from weighbridge.integrations.as_it_lies.later_plans import plan_of

    return plan_of(kind, config, dtype, directory)


def _is_told_nothing(load_config: Any) -> bool:
    """Tell whether the library is to put each tensor on the CPU as it is, and has looked for no rules."""
    nothing = (
        load_config.device_map,
        load_config.device_mesh,
        load_config.hf_quantizer,
        load_config.disk_offload_folder,
    )
    is_plain = all(each is None for each in nothing) and not load_config.dtype_plan
    return is_plain and not load_config.ignore_mismatched_sizes and isinstance(load_config.weight_mapping, SparedRules)


def _twins(model: Any, held: Collection[str], keys: Collection[str]) -> dict[str, str] | None:
    """Return for each weight that the file lacks the one that it is tied to; None where ties say something else."""
    declared = dict(getattr(model, "all_tied_weights_keys", None) or {})
    there = set(keys)
    missing = {key for key in held if key not in there}
    is_clear = (
        declared.keys() == missing and there.issuperset(declared.values()) and len(there) + len(missing) == len(held)
    )
    return declared if is_clear else None


def _sees(plain: PlainModel, table: KnownTable, prefix: str, keys: Collection[str]) -> bool:
    """Tell whether a rule that all models have, or one of a family, may see a key, with the base prefix or without."""
    texts = {text for name in plain.model_names for text in TEXTS_OF_RULES.get(name, ())}
    lines = "\n".join(name for key in keys for name in (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")))
    return any(text in lines for text in texts) or any(re.search(each, lines, re.MULTILINE) for each in table.patterns)


def _are_same(directory: PlainDirectory, held: Mapping[str, torch.Tensor], keys: Collection[str]) -> bool:
    """Tell whether the files hold these keys, each in the dtype and shape that the model has."""
    specs = directory.specs
    return specs.keys() == set(keys) and all(
        spec.dtype in _NUMBERS and dtype_of(spec.dtype) == held[key].dtype and spec.shape == held[key].shape
        for key, spec in specs.items()
    )


def _holds(model: Any, given: _Given) -> bool:
    """Tell whether each weight has the bytes of its file, and ties are made.

    Memory that was given out and never written to through torch is proof. Everything else, such as a bias that the
    library has put into memory of its own to pad it, is compared with the file.
    """
    held = dict(_tensors(model))
    moved = [key for key, tensor in given.tensors.items() if key not in held or not _is_untouched(held[key], tensor)]
    read = given.directory.tensors() if moved else {}
    are_equal = read is not None and all(key in held and _are_equal(held[key], read[key]) for key in moved)
    are_tied = are_equal and all(held.get(key) is held[twin] for key, twin in given.twins.items())
    return are_tied and given.directory.is_unchanged()


def _is_untouched(found: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Tell whether a weight is the memory of a tensor, and was not written to through torch."""
    is_same = (found.data_ptr(), found.dtype, found.shape) == (tensor.data_ptr(), tensor.dtype, tensor.shape)
    return is_same and found.is_contiguous() and not found.is_inference() and found._version == 0


def _are_equal(found: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Tell whether two tensors are the same bytes."""
    is_alike = (found.device, found.dtype, found.shape) == (tensor.device, tensor.dtype, tensor.shape)
    return is_alike and bytes_of(found.detach()) == bytes_of(tensor)


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)
