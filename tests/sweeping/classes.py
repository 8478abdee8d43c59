"""Find the public model classes of the installed transformers library, without importing what is not asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class Named(NamedTuple):
    """A class that may be a model: its name, its family's folder, and the module that holds it."""

    name: str
    family: str
    module: str


def names() -> list[Named]:
    """Return the classes of all the library's `modeling_` modules, in the order of the folders."""
    return list(_read_sources())


@cache
def _read_sources() -> tuple[Named, ...]:
    import transformers

    root = Path(transformers.__file__).parent / "models"
    return tuple(
        Named(name, path.parent.name, f"transformers.models.{path.parent.name}.{path.stem}")
        for path in sorted(root.glob("*/modeling_*.py"))
        for name in re.findall(r"^class ([A-Za-z]\w*)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
        if not re.search("Pre[tT]rainedModel$|Pretrained\w*Model$", name)
    )


def model_class(named: Named) -> Any:
    """Import a class; None if it is no model that can be made from a configuration."""
    from transformers import PreTrainedModel

    found = getattr(import_module(named.module), named.name, None)
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    return found if is_model and found.config_class is not None and found.__module__ == named.module else None


def tenth(name: str) -> bool:
    """Tell whether a class belongs to the tenth that is always looked at."""
    return hashlib.sha256(name.encode()).digest()[0] % 10 == 0


def chosen(named: list[Named], only: str = "", is_tenth: bool = False) -> Iterator[Named]:
    """Yield the classes that were asked for: those of the names or families that are listed, or a tenth of all."""
    words = {word for word in only.split(",") if word}
    for each in named:
        if (not words or words & {each.name, each.family}) and (not is_tenth or tenth(each.name)):
            yield each
