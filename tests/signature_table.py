"""Print the module `weighbridge.mappings.families.signatures`: the names that the tensors of each model type have.

Run it as `python tests/signature_table.py > signatures.py`, with transformers installed and the corpus beside the
project. Names come from the corpus's checkpoints, and from the library's own models on the meta device, in the runtime
layout, and from there through the inverse of the family's mapping.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from textwrap import fill
from typing import Any, Final, NamedTuple

from corpus import PLACE, REGISTRY, Case, case_names

import weighbridge as wb
from weighbridge.base.keys import by_name, collapse
from weighbridge.mappings import families
from weighbridge.models.resolve import resolve

CLASSES: Final = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForImageClassification", "AutoModel")
"""Classes that are made of each model type."""

TIED: Final = {"lm_head.weight", "language_model.lm_head.weight", "text_model.lm_head.weight"}
"""Names that are left out of a file, or of a model, where they are tied to another tensor."""

MOST: Final = 110
"""Length of the longest name of the table, in characters."""

UNBROKEN: Final[dict[str, Any]] = {"break_long_words": False, "break_on_hyphens": False}

HEAD: Final = '''"""Names of the tensors of each model type, as data: in the published layout, and at runtime.

Written by `tests/signature_table.py`. A line without a mark begins a model type, with the prefix that its head models
have; the names that follow are without it. `*` stands for an index, and a set in braces for each of its words. Marks:

    +  names that all known checkpoints of the type have, as they are published
    ?  names that only some of them have
    =  as +, at runtime; left out where nothing differs
    ~  as ?, at runtime
"""

# ruff: noqa: E501 (one name is longer than a line)

from __future__ import annotations

from typing import Final

SIGNATURES: Final = """\\'''


class Names(NamedTuple):
    """Names of the tensors of one checkpoint, indices left out, in both layouts."""

    published: frozenset[str]
    runtime: frozenset[str]


def names_of_case(case: Case) -> Names:
    """Return the names of a case of the corpus."""
    runtime = [key for key in case.target() if key not in case.expected.get("not_from_checkpoint", ())]
    return Names(frozenset(by_name(wb.open(case.path).header)), frozenset(by_name(runtime)))


def names_of_type(model_type: str) -> Iterator[Names]:
    """Yield the names of the library's models of a type."""
    import torch
    import transformers

    for kind in CLASSES:
        config = shrink(transformers.AutoConfig.for_model(model_type))
        try:
            with torch.device("meta"):
                model = getattr(transformers, kind).from_config(config)
            yield names_of_model(model)
        except (ValueError, ImportError, TypeError, AttributeError, RuntimeError):
            continue  # no such class, no model from the defaults, a part that is not installed, or no proven inverse


def shrink(config: Any) -> Any:
    """Leave a model few layers and experts; their names are alike."""
    for name in ("num_hidden_layers", "num_experts", "num_local_experts", "n_routed_experts"):
        if getattr(config, name, None):
            setattr(config, name, 4)
    for name in ("text_config", "vision_config"):
        if getattr(config, name, None) is not None:
            shrink(getattr(config, name))
    return config


def names_of_model(model: Any) -> Names:
    """Return a model's names at runtime, and those that its mapping's inverse gives them."""
    mapping = resolve(model, REGISTRY)
    runtime = {key: wb.TensorSpec("F32", tuple(value.shape)) for key, value in model.state_dict().items()}
    back = wb.plan(wb.Header(runtime), mapping.inverse(), config=model.config, layout="mapped")
    return Names(frozenset(by_name(back.target)), frozenset(by_name(runtime)))


def main() -> int:
    """Print the module."""
    assert "tests" not in PLACE.parts, "the whole corpus is needed, and not the part that is kept with the tests"
    found: dict[str, list[Names]] = {}
    for name in case_names():
        case = Case.named(name)
        if case.has_published_names:
            found.setdefault(case.config["model_type"], []).append(names_of_case(case))
    for model_type in families.MODULES:
        if model_type[0].islower():
            found.setdefault(model_type, []).extend(names_of_type(model_type))
    print(HEAD)
    for model_type in sorted(found):
        if found[model_type]:
            print_entry(model_type, found[model_type])
    print('"""')
    print('"""The table; see above."""')
    return 0


def print_entry(model_type: str, names: list[Names]) -> None:
    prefix = REGISTRY.find(model_type).base_prefix
    print(f"{model_type} {prefix}".rstrip())
    layouts = [layout(held, prefix) for held in zip(*names, strict=True)]
    for marks, texts in zip(("+?", "=~"), dict.fromkeys(layouts), strict=False):
        for mark, text in zip(marks, texts, strict=True):
            if text:
                print(fill(text, 118, initial_indent=f"{mark} ", subsequent_indent=f"{mark} ", **UNBROKEN))


def layout(held: Iterable[frozenset[str]], prefix: str) -> tuple[str, str]:
    """Write the names that all checkpoints have, and those that only some have."""
    bare = [frozenset(name.removeprefix(f"{prefix}.") if prefix else name for name in names) for names in held]
    common = frozenset.intersection(*bare) - TIED
    return spelled(common), spelled(frozenset.union(*bare) - common)


def spelled(names: Iterable[str]) -> str:
    return " ".join(word for line in collapse(names) for word in shortened(line))


def shortened(line: str) -> list[str]:
    """Write a long line as several, each with a part of its last set of words."""
    start, brace, rest = line.rpartition("{")
    inside, _, end = rest.partition("}")
    words = inside.split(",")
    if len(line) <= MOST or not brace or len(words) < 2:
        return [line]
    parts = words[: len(words) // 2], words[len(words) // 2 :]
    return [
        short
        for part in parts
        for short in shortened(start + (f"{{{','.join(part)}}}" if len(part) > 1 else part[0]) + end)
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
