"""Write a mapping file with a comment above each rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from weighbridge.mappings.mapping import Mapping
from weighbridge.mappings.mapping_files import write_mapping


def commented_file(mapping: Mapping, remarks: Sequence[str], head: Iterable[str] = (), tail: Iterable[str] = ()) -> str:
    """Return a mapping as a YAML file for people.

    Args:
        mapping: The mapping.
        remarks: What to say above each of its transforms, in one line or more; nothing for an empty text.
        head: Lines of comment before the mapping.
        tail: Lines of comment after it.

    Raises:
        MappingError: `mapping-invalid` for what no file can say.

    Examples:
        >>> from weighbridge.mappings.transforms import WeightRenaming
        >>> print(commented_file(Mapping([WeightRenaming("ln", "norm")]), ["12 tensors"], head=["a sketch"]), end="")
        # a sketch
        transforms:
          # 12 tensors
          - rename: ln
            to: norm
    """
    return "".join(f"{line}\n" for line in _lines(mapping, remarks, head, tail))


def _lines(mapping: Mapping, remarks: Sequence[str], head: Iterable[str], tail: Iterable[str]) -> Iterator[str]:
    yield from map(_comment, head)
    rules = iter(remarks)
    in_transforms = False
    for line in write_mapping(mapping).splitlines():
        if not line.startswith(" "):
            in_transforms = line.startswith("transforms:")
        if in_transforms and line.startswith("  - ") and (remark := next(rules, "")):
            yield from (f"  {_comment(part)}" for part in remark.split("\n"))
        yield line
    yield from map(_comment, tail)


def _comment(line: str) -> str:
    return "# " + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line) if line else "#"
