"""Dialects of names in configurations: which modules an entry means, as the readers of each format have it.

Entries are never rewritten as text: they are evaluated over names of modules, and others are spelled for the modules
that they mean. Class names, such as `Linear`, mean no module by its name.

Sources: `quantizers/quantizers_utils.py` and `integrations/hqq.py` of transformers 5.23, `utils/match.py` of
compressed-tensors 0.20, `quantization/config.py` of gptqmodel 7.7 (`dynamic_get`), `FqnToConfig` of torchao 0.18,
`models/base.py` of autoawq 0.2.7, and the standard library's `fnmatch` for ModelOpt.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple


class Reading(NamedTuple):
    """What an entry means: modules that one of these is true of.

    Args:
        name: The module's own name.
        start: A regular expression that matches at the start of its name.
        ending: What its name ends with.
        plain: What its name begins with, up to the end of a segment; a dot stands for any character, as in expressions.
        is_of_weight: Whether the expression may mean the name of the module's weight as well.
    """

    name: str | None = None
    start: str | None = None
    ending: str | None = None
    plain: str | None = None
    is_of_weight: bool = False


class Dialect(NamedTuple):
    """How entries name modules.

    Args:
        title: Whose dialect it is.
        read: Says what an entry means.
        name: Spells a module's name, as the first argument has it, in the manner of an entry that is replaced, which is
            the second one; the plainest spelling comes first.
        form: Spells all modules of a form, whose segments `INDEX` stand for any number, in the manner of an entry;
            nothing where that entry is no pattern.
        rank: Tells which of several entries that mean a module decides: that of the lowest rank, and then the first.
        leaves_out: Tells whether an entry takes the modules that it means out, whatever stands beside it.
    """

    title: str
    read: Callable[[str], Reading]
    name: Callable[[str, str], tuple[str, ...]]
    form: Callable[[str, str], str | None] = lambda form, entry: None
    rank: Callable[[str], int] = lambda entry: 0
    leaves_out: Callable[[str], bool] = lambda entry: False


INDEX: Final = "\0"
"""A segment of a form that stands for any number."""

_PLAIN: Final = re.compile(r"[\w.\-]*")
_MARK: Final = "re:"


def may_be_name(entry: str) -> bool:
    """Tell whether an entry may be the name of a module: a word of a class begins with a capital, and has no dots.

    Examples:
        >>> [may_be_name(entry) for entry in ("lm_head", "model.norm", "Linear", "re:.*gate", "visual*")]
        [True, True, False, False, False]
    """
    return bool(entry) and _PLAIN.fullmatch(entry) is not None and ("." in entry or not entry[0].isupper())


def _number_pattern(form: str) -> str:
    return r"\d+".join(map(re.escape, form.split(INDEX)))


def _itself(module: str, entry: str) -> tuple[str, ...]:
    return (module,)


def _is_expression(entry: str) -> bool:
    return entry.startswith(_MARK)


# ---- whole names, and expressions behind a mark ----


def _read_marked(entry: str) -> Reading:
    return Reading(start=entry.removeprefix(_MARK)) if _is_expression(entry) else Reading(entry)


def _read_marked_whole(entry: str) -> Reading:
    if entry == "_default":
        return Reading(start="")
    if not _is_expression(entry):
        return Reading(entry.removesuffix(".weight"))
    return Reading(start=rf"(?:{entry.removeprefix(_MARK)})\Z", is_of_weight=True)


def _marked_form(form: str, entry: str) -> str | None:
    return f"{_MARK}{_number_pattern(form)}$" if _is_expression(entry) else None


def _rank_of_torchao(entry: str) -> int:
    return 3 if entry == "_default" else 2 if _is_expression(entry) else 0 if entry.endswith(".weight") else 1


EXACT: Final = Dialect("whole names", Reading, _itself)

COMPRESSED_TENSORS: Final = Dialect("compressed-tensors", _read_marked, _itself, _marked_form)

TORCHAO: Final = Dialect("torchao", _read_marked_whole, _itself, _marked_form, _rank_of_torchao)


# ---- transformers ----


def _read_transformers(entry: str) -> Reading:
    if _PLAIN.fullmatch(entry) and entry[-1:] not in (".", ""):
        return Reading(plain=entry, ending=entry)
    return Reading(start=rf"(?:{entry})(?:(?<=\.)|(?=\.|\Z))", ending=entry)


def _name_in_transformers(module: str, entry: str) -> tuple[str, ...]:
    return module, f"{re.escape(module)}$"


def _form_in_transformers(form: str, entry: str) -> str | None:
    return None if _PLAIN.fullmatch(entry) else f"{_number_pattern(form)}$"


TRANSFORMERS: Final = Dialect("transformers", _read_transformers, _name_in_transformers, _form_in_transformers)

ENDING: Final = Dialect("endings of names", lambda entry: Reading(ending=entry), _itself)


# ---- wildcards, parts of names, and segments ----


def _read_wildcards(entry: str) -> Reading:
    return Reading(start=fnmatch.translate(entry)) if set(entry) & set("*?[") else Reading(entry)


def _wildcard_form(form: str, entry: str) -> str | None:
    return form.replace(INDEX, "*") if set(entry) & set("*?[") else None


def _read_part(entry: str) -> Reading:
    return Reading(start=rf".*{re.escape(entry)}")


def _read_segments(entry: str) -> Reading:
    return Reading(entry, ending=f".{entry}")


def _last_segments(module: str, entry: str) -> tuple[str, ...]:
    """Name a module by what stands behind the last number, as within a block."""
    return re.split(r"(?:^|\.)\d+\.", module)[-1], module


def _read_below(entry: str) -> Reading:
    return Reading(start=rf"{re.escape(entry)}(?:\.|\Z)")


def _blocks_above(module: str, entry: str) -> tuple[str, ...]:
    """Name what the blocks lie in that a module is a part of."""
    return (re.split(r"\.\d+(?:\.|\Z)", module)[0],)


WILDCARDS: Final = Dialect("fnmatch", _read_wildcards, _itself, _wildcard_form)

PART: Final = Dialect("parts of names", _read_part, _itself)

SEGMENTS: Final = Dialect("last segments", _read_segments, _last_segments)

BLOCKS: Final = Dialect("the list of blocks", _read_below, _blocks_above)


# ---- GPTQ and HQQ ----

_SIGNS: Final = ("+:", "-:")


def _sign(entry: str) -> str:
    return next((sign for sign in _SIGNS if entry.startswith(sign)), "")


def _is_negative(entry: str) -> bool:
    return _sign(entry) == "-:"


def _read_signed(entry: str) -> Reading:
    return Reading(start=entry.removeprefix(_sign(entry)))


def _signed_name(module: str, entry: str) -> tuple[str, ...]:
    return (f"{_sign(entry)}^{re.escape(module)}$",)


def _signed_form(form: str, entry: str) -> str | None:
    return f"{_sign(entry)}^{_number_pattern(form)}$"


GPTQ: Final = Dialect("GPTQModel", _read_signed, _signed_name, _signed_form, leaves_out=_is_negative)

_NO_TAG: Final = r"(?:model|layers|\d+)"


def _tag(module: str) -> str:
    return ".".join(part for part in module.split(".") if part not in ("model", "layers") and not part.isnumeric())


def _read_tag(entry: str) -> Reading:
    words = rf"\.(?:{_NO_TAG}\.)*".join(map(re.escape, entry.split(".")))
    return Reading(start=rf"(?:{_NO_TAG}\.)*{words}(?:\.{_NO_TAG})*\Z")


def _name_by_tag(module: str, entry: str) -> tuple[str, ...]:
    return (_tag(module),)


TAGS: Final = Dialect("HQQ", _read_tag, _name_by_tag)

DIALECTS: Final = (
    *(EXACT, COMPRESSED_TENSORS, TORCHAO, TRANSFORMERS, ENDING, WILDCARDS, PART, SEGMENTS, BLOCKS, GPTQ, TAGS),
)


class NamesAt(NamedTuple):
    """Where a part of a configuration names modules.

    What stands there is a list of entries, which may be lists again; one entry; or an object, each member of which says
    something of the modules that its name means. Of an object, numbers and texts are settings of their own.

    Args:
        place: Names of members from that part on, with dots between them; `*` for every member.
        dialect: What entries mean.
    """

    place: str
    dialect: Dialect

    @property
    def path(self) -> tuple[str, ...]:
        """The names of members."""
        return tuple(self.place.split(".")) if self.place else ()


def named_at(places: Iterable[str], dialect: Dialect) -> tuple[NamesAt, ...]:
    """Return several places of one dialect."""
    return tuple(NamesAt(place, dialect) for place in places)


READ_BY_TRANSFORMERS: Final = named_at(("modules_to_not_convert",), TRANSFORMERS)
"""Where transformers reads names from the configuration of most formats."""
