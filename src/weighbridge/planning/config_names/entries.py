"""Say the same of new names: entries of one list, or members of one object, that mean modules.

What holds of a module of the source must hold of each module that it becomes, and of no other. An entry that says
nothing wrong stays as it is, byte for byte; what it does not say any more is said before it, module by module, or by a
pattern that means just these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

from weighbridge.mappings.schemes.dialects import INDEX, Dialect, may_be_name
from weighbridge.planning.config_names.meanings import Meanings, find_meanings
from weighbridge.planning.config_names.moved_modules import MovedModules

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")


class Entry(NamedTuple):
    """An entry, and what it says of the modules that it means: one and the same for all entries of a list."""

    text: str
    value: Any = True


class Mixed(NamedTuple):
    """A module of which different things would have to be said.

    Args:
        target: Its name.
        parts: What it is made of, each with the entry that decides on it.
    """

    target: str
    parts: Mapping[str, str | None]


class MixedError(Exception):
    """Different things would have to be said of one module; `mixed` has these modules."""

    def __init__(self, mixed: Sequence[Mixed]) -> None:
        super().__init__()
        self.mixed = tuple(mixed)


class CannotSayError(Exception):
    """What entries say cannot be said of new names.

    Args:
        why: The reason.
        entries: The entries.
        modules: The modules that are concerned.
    """

    def __init__(self, why: str, entries: Iterable[str], modules: Iterable[str]) -> None:
        super().__init__(why)
        self.why, self.entries, self.modules = why, tuple(entries), tuple(modules)


def follow_entries(
    entries: Sequence[Entry], dialect: Dialect, modules: MovedModules, *, is_list: bool = True
) -> list[list[Entry]] | None:
    """Return what stands in the place of each entry; None where all of them are right as they are.

    Args:
        entries: The entries.
        dialect: How they name modules.
        modules: What becomes of the modules.
        is_list: Whether they stand in a list, where each may be the name of a module that has no tensors here.

    Raises:
        MixedError: Parts of a new module have different entries.
        CannotSayError: The dialect has no words for it.
        UnreadableError: An entry is no expression.
    """
    texts = [entry.text for entry in entries]
    before, after = (find_meanings(texts, dialect, side) for side in (modules.sources, modules.origins))
    absent = _absent(texts, before, after, modules) if is_list else {}
    if absent:
        modules = replace(modules, origins={**modules.origins, **{name: (module,) for name, module in absent.items()}})
        before = before.with_more({module: (texts.index(module),) for module in absent.values()})
        after = after.with_more(find_meanings(texts, dialect, absent).of_module)
    work = _Following(entries, dialect, modules, before, after)
    decided = work.deciding(work.all).items()
    return None if all(work.says(number) == work.wanted[target] for target, number in decided) else work.rewritten()


def _absent(texts: Sequence[str], before: Meanings, after: Meanings, modules: MovedModules) -> dict[str, str]:
    """Return the new names of modules that have no tensors, where an entry may be the name of one.

    An entry that means something in the target may have been written for that.
    """
    known = before.modules_of.keys() | after.modules_of.keys()
    names = [text for number, text in enumerate(texts) if number not in known and may_be_name(text)]
    renamed = modules.rename(names).items()
    return {name: module for module, name in renamed if name != module and not modules.has(name)}


@dataclass
class _Following:
    """The work on one list or object.

    Args:
        entries: The entries.
        dialect: How they name modules.
        modules: What becomes of the modules.
        before: What the entries mean in the source.
        after: What they mean among the target's modules that are new.
    """

    entries: Sequence[Entry]
    dialect: Dialect
    modules: MovedModules
    before: Meanings
    after: Meanings

    @cached_property
    def all(self) -> frozenset[int]:
        """The numbers of all entries."""
        return frozenset(range(len(self.entries)))

    @cached_property
    def every(self) -> list[str]:
        """All modules of the target."""
        return [*self.modules.kept, *self.modules.origins]

    @cached_property
    def wanted(self) -> dict[str, str]:
        """What is to be said of each new module.

        Raises:
            MixedError: Different things.
        """
        mixed: list[Mixed] = []
        wanted: dict[str, str] = {}
        for target, sources in self.modules.origins.items():
            owners = {source: self.before.deciding(source) for source in sources}
            said = {self.says(number) for number in owners.values()}
            if len(said) > 1:
                parts = {part: None if n is None else self.entries[n].text for part, n in owners.items()}
                mixed.append(Mixed(target, parts))
            wanted[target] = said.pop()
        if mixed:
            raise MixedError(mixed)
        return wanted

    def says(self, number: int | None) -> str:
        """Return what an entry says of the modules on which it decides, to be compared; nothing where there is none."""
        if number is None:
            return ""
        text, value = self.entries[number]
        return "left out" if self.dialect.leaves_out(text) else json.dumps(value, sort_keys=True)

    def deciding(self, among: frozenset[int]) -> dict[str, int | None]:
        """Return the entry that decides on each new module if only some of them are there."""
        return {target: self.after.deciding(target, among) for target in self.modules.origins}

    def rewritten(self) -> list[list[Entry]]:
        """Return what stands in the place of each entry.

        Raises:
            CannotSayError: The dialect has no words for it.
        """
        stays = self._right()
        spelled = self._spell(self._unsaid(stays))
        made: list[list[Entry]] = []
        said: set[str] = set()
        for number, entry in enumerate(self.entries):
            kept = [entry.text] if number in stays and self._means_something(number) else []
            new = [text for text in dict.fromkeys((*spelled.get(number, ()), *kept)) if text not in said]
            said.update(new)
            made.append([Entry(text, entry.value) for text in new])
        self._check([entry for each in made for entry in each])
        return made

    def _right(self) -> frozenset[int]:
        """Return the entries that may stay: none of them says something wrong of a new module.

        Raises:
            CannotSayError: One does that means no module of the source.
        """
        stays = self.all
        while True:
            decided = self.deciding(stays).items()
            wrong = {n for target, n in decided if n is not None and self.says(n) != self.wanted[target]}
            strange = [number for number in sorted(wrong) if number not in self.before.modules_of]
            if strange:
                hit = [target for number in strange for target in self.after.modules_of[number]]
                why = "it means nothing in the source, and something in the target of which it does not hold"
                raise CannotSayError(why, [self.entries[number].text for number in strange], hit)
            if not wrong:
                return stays
            stays -= wrong

    def _unsaid(self, stays: frozenset[int]) -> dict[int, list[str]]:
        """Return the modules of which nothing right is said by what stays, by the entries that said it."""
        lacking: dict[int, list[str]] = {}
        for target, number in self.deciding(stays).items():
            owner = self._owner(target)
            if owner is not None and self.says(number) != self.wanted[target]:
                lacking.setdefault(owner, []).append(target)
        for number in self.all - stays:
            meant = self.before.modules_of[number]
            unchanged = [m for m in meant if m in self.modules.kept and self.before.deciding(m) == number]
            lacking.setdefault(number, []).extend(unchanged)
        return lacking

    def _owner(self, module: str) -> int | None:
        """Return the entry that decides on a module of the target, by the name that it had."""
        return self.before.deciding(self.modules.origins.get(module, (module,))[0])

    def _means_something(self, number: int) -> bool:
        """Tell whether an entry still means something, or never did."""
        meant = self.before.modules_of.get(number)
        return meant is None or number in self.after.modules_of or any(map(self.modules.stays, meant))

    def _spell(self, modules: Mapping[int, Iterable[str]]) -> dict[int, list[str]]:
        """Spell modules in the manner of an entry: by patterns if it is one and they mean just these, or one by one.

        Args:
            modules: The modules by the numbers of the entries.
        """
        alike: dict[tuple[int, str], list[str]] = {}
        for number, each in modules.items():
            for module in sorted(each):
                alike.setdefault((number, _NUMBER.sub(INDEX, module)), []).append(module)
        patterns = {of: self._pattern(*of) for of, members in alike.items() if len(members) > 1}
        fitting = self._fitting([(number, pattern) for (number, _), pattern in patterns.items() if pattern is not None])
        names: list[tuple[int, tuple[str, ...]]] = []
        spelled: dict[int, list[str]] = {number: [] for number in modules}
        for of, members in alike.items():
            pattern = patterns.get(of)
            if pattern is not None and (of[0], pattern) in fitting:
                spelled[of[0]].append(pattern)
            else:
                names += [(of[0], self.dialect.name(module, self.entries[of[0]].text)) for module in members]
        fitting = self._fitting([(number, plain) for number, (plain, *_) in names])
        for number, spellings in names:
            spelled[number].append(spellings[0] if (number, spellings[0]) in fitting else spellings[-1])
        return spelled

    def _pattern(self, number: int, form: str) -> str | None:
        return self.dialect.form(form, self.entries[number].text)

    def _fitting(self, spelled: Sequence[tuple[int, str]]) -> set[tuple[int, str]]:
        """Return the spellings that mean no module of the target of which their entry does not speak."""
        found = find_meanings([text for _, text in spelled], self.dialect, self.every).of_module if spelled else {}
        said = [self.says(number) for number, _ in spelled]
        wrong = {each for module, numbers in found.items() for each in numbers if said[each] != self.to_say[module]}
        return {each for place, each in enumerate(spelled) if place not in wrong}

    @cached_property
    def to_say(self) -> dict[str, str]:
        """What is to be said of each module of the target."""
        return {module: self.says(self._owner(module)) for module in self.every}

    def _check(self, made: Sequence[Entry]) -> None:
        """Hold the new entries to what is to be said.

        Raises:
            CannotSayError: They say something else of a module.
        """
        found = find_meanings([entry.text for entry in made], self.dialect, self.every)
        new = replace(self, entries=made)
        wrong = [module for module in self.every if new.says(found.deciding(module)) != self.to_say[module]]
        if wrong:
            owners = {number for module in wrong if (number := self._owner(module)) is not None}
            why = f"no entry means these and nothing else, in the dialect of {self.dialect.title}"
            raise CannotSayError(why, [self.entries[number].text for number in sorted(owners)], wrong)
