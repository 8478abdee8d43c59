"""A mapping with a remark on each rule: as a mapping file with comments, and in the JSON form, which has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.mapping_files import write_mapping


@dataclass(frozen=True, slots=True)
class Commented:
    """A mapping, and what is to be said in its file.

    Args:
        mapping: The mapping.
        remarks: What to say of each of its transforms, in one line or more; nothing for an empty text.
        head: Lines before the mapping.
        tail: Lines after it.
    """

    mapping: Mapping
    remarks: tuple[str, ...]
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    def to_yaml(self) -> str:
        """Return a YAML file for people, with the remarks as comments.

        Raises:
            MappingError: `mapping-invalid` for what no file can say.

        Examples:
            >>> from weighbridge.mappings.transforms import WeightRenaming
            >>> mapping = Mapping([WeightRenaming("ln", "norm")])
            >>> print(Commented(mapping, ("12 tensors",), head=("a sketch",)).to_yaml(), end="")
            # a sketch
            transforms:
              # 12 tensors
              - rename: ln
                to: norm
        """
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from map(_comment, self.head)
        rules = iter(self.remarks)
        in_transforms = False
        for line in write_mapping(self.mapping).splitlines():
            if not line.startswith(" "):
                in_transforms = line.startswith("transforms:")
            if in_transforms and line.startswith("  - ") and (remark := next(rules, "")):
                yield from (f"  {_comment(part)}" for part in remark.split("\n"))
            yield line
        yield from map(_comment, self.tail)

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping's JSON form with a field for what a comment would say; whoever reads the mapping skips it.

        Examples:
            >>> from weighbridge.mappings.transforms import WeightRenaming
            >>> mapping = Mapping([WeightRenaming("ln", "norm")])
            >>> form = Commented(mapping, ("12 tensors",)).to_dict()
            >>> form["comments"]["rules"], Mapping.from_dict(form) == mapping
            ([['12 tensors']], True)
        """
        rules = [remark.split("\n") if remark else [] for remark in self.remarks]
        comments = {"head": list(self.head), "rules": rules, "tail": [line for line in self.tail if line]}
        return {"comments": comments, **self.mapping.to_dict()}


def _comment(line: str) -> str:
    return "# " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) if line else "#"
