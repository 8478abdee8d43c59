"""Find names that are like one that is not there; for a path, the part of it that goes astray."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import nlargest
from itertools import islice
from pathlib import Path
from typing import Final

LIKELY: Final = 64
"""How many texts are compared character by character with the one that is looked for."""

COMPARED: Final = 256
"""How many characters of a text are compared: comparing takes a time that grows with their square, or more."""


def close_names(name: str, names: Iterable[str], most: int = 1, alike: float = 0.6) -> list[str]:
    """Return the names that are most like a name, the nearest first.

    Args:
        name: The name that nobody has.
        names: Those that there are.
        most: How many to return.
        alike: How alike they must be, between 0 and 1.

    Examples:
        >>> close_names("dtypo", ["drop", "dtype"])
        ['dtype']
    """
    from difflib import get_close_matches

    meant = {_ends(other): other for other in names}
    return [meant[found] for found in get_close_matches(_ends(name), meant, most, alike)]


def _ends(text: str) -> str:
    """Return the part of a text that is compared: all of it, or its two ends."""
    return text if len(text) <= COMPARED else text[: COMPARED // 2] + text[-COMPARED // 2 :]


_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{2,}")


class LikeTexts:
    """Texts of dotted segments, to be searched for those that are most like others.

    Most of them are told apart by their segments and their length alone.

    Args:
        texts: The texts, each once.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(texts, key=lambda text: (len(text), text))
        self._lengths = [len(text) for text in self._texts]
        self._by_segment: defaultdict[str, list[int]] = defaultdict(list)
        for number, text in enumerate(self._texts):
            for segment in set(text.split(".")):
                self._by_segment[segment].append(number)

    def find(self, text: str, count: int, least: float) -> list[str]:
        """Return the texts that are most like another one, the nearest first.

        Args:
            text: The other one.
            count: How many to return at most.
            least: The likeness, from 0 to 1, below which a text is not returned.

        Examples:
            >>> LikeTexts(["encoder.norm", "encoder.nrom", "head"]).find("encoder.normm", 2, 0.4)
            ['encoder.norm', 'encoder.nrom']
        """
        scored = nlargest(count, self._scored(text))
        return [other for score, other in scored if score > least]

    def holding(self, text: str, count: int) -> list[str]:
        """Return the texts that hold each word of another one, which may be a pattern, the shortest first.

        Args:
            text: The other one; a word has at least three letters, and what is no word does not count.
            count: How many to return at most.

        Examples:
            >>> LikeTexts(["model.embed_tokens.weight", "model.norm.weight"]).holding("**.norm.*", 2)
            ['model.norm.weight']
        """
        words = _WORD.findall(text)
        return list(islice((other for other in self._texts if words and all(word in other for word in words)), count))

    def _scored(self, text: str) -> Iterator[tuple[float, str]]:
        from difflib import SequenceMatcher

        matcher = SequenceMatcher(None, autojunk=False)
        matcher.set_seq1(_ends(text))
        for number in self._likely(text):
            matcher.set_seq2(_ends(self._texts[number]))
            yield matcher.ratio(), self._texts[number]

    def _likely(self, text: str) -> list[int]:
        """Return the texts that share most segments with this one; where few do, also those of a similar length."""
        shared: Counter[int] = Counter()
        for segment in set(text.split(".")):
            shared.update(self._by_segment.get(segment, ()))
        start = bisect_left(self._lengths, len(text))
        beside = range(max(0, start - LIKELY), min(len(self._texts), start + LIKELY))
        numbers = shared.keys() | beside
        return nlargest(
            LIKELY, numbers, key=lambda number: (shared[number], -abs(self._lengths[number] - len(text)), number)
        )


def name_near(path: Path) -> str:
    """Name the part of a path that is not there, the folder that lacks it, and that folder's nearest names.

    Args:
        path: A path that leads nowhere.

    Returns:
        One line; an empty text where no part of the path exists.

    Examples:
        >>> name_near(Path("/no_such_folder/model.safetensors"))
        'no no_such_folder in /'
    """
    folder = next((parent for parent in path.parents if parent.exists()), None)
    if folder is None:
        return ""
    if not folder.is_dir():
        return f"{folder} is a file"
    lost = path.relative_to(folder).parts[0]
    if (folder / lost).is_symlink():
        return f"{folder / lost} is a link to {(folder / lost).readlink()}, which is not there"
    try:
        near = close_names(lost, (entry.name for entry in folder.iterdir()), 3)
    except OSError:  # what may not be listed may still be entered
        near = []
    return f"no {lost} in {folder}" + (f"; nearest: {', '.join(near)}" if near else "")
