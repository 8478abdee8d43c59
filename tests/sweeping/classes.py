"""Find the public model classes of the installed transformers library, without importing what is not asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from weighbridge.mappings.families import MODULES

_OURS: Final = {name.replace("-", "_") for name in MODULES}


class Named(NamedTuple):
    """A class that may be a model: its name, its family's folder, its module, and its bases as they are written."""

    name: str
    family: str
    module: str
    bases: str = ""


def names() -> list[Named]:
    """Return the classes of all the library's `modeling_` modules, in the order of the folders."""
    return list(_read_sources())


@cache
def _read_sources() -> tuple[Named, ...]:
    import transformers

    root = Path(transformers.__file__).parent / "models"
    return tuple(
        Named(name, path.parent.name, f"transformers.models.{path.parent.name}.{path.stem}", bases)
        for path in sorted(root.glob("*/modeling_*.py"))
        for name, bases in re.findall(r"^class ([A-Za-z]\w*)\((.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def model_class(named: Named) -> Any:
    """Import a class; None if it is no model that can be made from a configuration and run."""
    import torch
    from transformers import PreTrainedModel

    found = getattr(import_module(named.module), named.name, None)
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel) or found.__module__ != named.module:
        return None
    runs = found.forward is not torch.nn.Module.forward or "generate" in vars(found)
    return found if found.config_class is not None and runs else None


def is_ours(named: Named) -> bool:
    """Tell whether a class is of a family that comes with weighbridge."""
    return named.name in MODULES or named.family in _OURS


def is_tenth(named: Named) -> bool:
    """Tell whether a class is of the tenth that is always looked at, whatever else is."""
    return hashlib.sha256(named.name.encode()).digest()[0] % 10 == 0


def is_always_run(named: Named) -> bool:
    """Tell whether the tests run a class: all of our families, and a tenth of the others."""
    return is_ours(named) or is_tenth(named)


def chosen(named: Iterable[Named], only: str = "", *, as_tests: bool = False) -> Iterator[Named]:
    """Yield the classes that were asked for: those of the names or families that are listed, or what the tests run."""
    words = {word for word in only.split(",") if word}
    for each in named:
        if (not words or words & {each.name, each.family}) and (not as_tests or is_always_run(each)):
            yield each
