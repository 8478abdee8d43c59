"""A few words between the ranks of a job: each says something, the first one decides, and all of them hear it.

What is said goes through the key-value store that the job's process group was started with. No collective is run: so
nothing of it is on an accelerator, every wait has an end, and who has not come is known by number. An error of one rank
is the next thing that the others hear, and so it is the error of all.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, Protocol

from weighbridge.base import errors
from weighbridge.base.errors import DestinationError, PlanError, WeighbridgeError
from weighbridge.base.keys import index_set

DEFAULT_TIMEOUT_S: Final = 1800.0
"""How long a rank waits for the others: as long as torch does, unless it is told."""

_SLICE_S: Final = 1.0
"""An interrupt is heard within this time: the store's own wait does not hear any."""


class Store(Protocol):
    """What is needed of a store of `torch.distributed`."""

    def set(self, key: str, value: Any) -> Any:
        """Put a value under a key."""

    def get(self, key: str) -> bytes:
        """Return what is there under a key."""

    def add(self, key: str, amount: int) -> int:
        """Add to a number, and return what it is then."""

    def check(self, keys: list[str]) -> bool:
        """Tell whether there are values under all of some keys."""

    def wait(self, keys: list[str], timeout: timedelta) -> Any:
        """Wait until there are values under all of some keys."""

    def delete_key(self, key: str) -> bool:
        """Forget what is there under a key."""


class Exchange:
    """The words of one run, as one of the ranks has them.

    Args:
        store: What all ranks can reach.
        rank: The number of this one.
        ranks: How many there are.
        where: What they write, for messages.
        timeout_s: How long to wait for the others at a time, in seconds.
        doing: What they do together: they save, or load.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: int,
        where: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        doing: str = "save",
    ) -> None:
        self.rank = rank
        self.ranks = ranks
        self.where = where
        self.timeout_s = timeout_s
        self.doing = doing
        self._store = store
        # Each rank counts its own runs: all of them have run the same before.
        self._run = store.add(f"weighbridge/runs/{rank}", 1) if ranks > 1 else 0
        self._turn = 0
        self._is_over = False

    @property
    def is_first(self) -> bool:
        """Whether this rank decides."""
        return self.rank == 0

    def agree(self, topic: str, said: Any, decide: Callable[[list[Any]], Sequence[Any]]) -> Any:
        """Say something, let the first rank decide by what all have said, and return the answer to this one.

        Args:
            topic: What it is about; ranks that come to another point disagree.
            said: Anything that JSON can hold.
            decide: Called on the first rank, with what each has said in the order of ranks; gives the answers. Its
                error is raised on all ranks.

        Raises:
            DestinationError: `rank-missing`, `ranks-disagree`; and whatever another rank has failed with.
        """
        self._turn += 1
        if not self.is_first:
            self._put(str(self.rank), {"topic": topic, "said": said})
            return self._hear(topic, is_collected=True)
        with self._telling_of_errors():
            self._put("0", {"topic": topic, "said": None})
            heard = [said, *(message["said"] for message in self._collect(topic))]
            answers = decide(heard)
        self._answer(answers)
        self._forget(map(str, range(1, self.ranks)))
        return answers[0]

    def tell(self, word: Any) -> None:
        """Say something to all others, on the first rank; each of them hears it by `hear`."""
        self._turn += 1
        self._answer([word] * self.ranks)

    def hear(self, topic: str) -> Any:
        """Return what the first rank tells.

        Args:
            topic: What is waited for.

        Raises:
            DestinationError: `rank-missing`; and whatever the first rank has failed with.
        """
        self._turn += 1
        return self._hear(topic, is_collected=False)

    def fail(self, problem: BaseException) -> None:
        """Tell the others that this rank goes no further; nothing where they have told it."""
        if self._is_over or self.ranks == 1:
            return
        self._is_over = True
        self._turn += 1
        with suppress(DestinationError):  # nobody is left to be told
            if self.is_first:
                self._refuse(problem, 0)
            else:
                self._put(str(self.rank), {"failed": _form_of(problem)})

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Let an error of the block give way to what the first rank has failed with meanwhile: it may be the cause."""
        try:
            yield
        except Exception:
            self._turn += 1
            if not self.is_first and not self._missing([f"to {self.rank}"], 0):
                self._hear("", is_collected=False)
            self._turn -= 1
            raise

    @contextmanager
    def failing_first(self) -> Iterator[None]:
        """Tell the others of an error of the block before anything else is done about it."""
        try:
            yield
        except BaseException as problem:
            self.fail(problem)
            raise

    # ---- what lies in the store ----

    def _key(self, name: str) -> str:
        return f"weighbridge/{self._run}/{self._turn}/{name}"

    def _put(self, name: str, message: Any) -> None:
        if self.ranks > 1:
            with self._reaching_the_store():
                self._store.set(self._key(name), zlib.compress(json.dumps(message).encode(), 1))

    def _take(self, name: str) -> Any:
        with self._reaching_the_store():
            return json.loads(zlib.decompress(self._store.get(self._key(name))))

    def _forget(self, names: Iterable[str]) -> None:
        """Let the store give up what nobody reads any more: it lives as long as the job."""
        for name in names:
            with suppress(RuntimeError, NotImplementedError):  # of a store that keeps everything
                self._store.delete_key(self._key(name))

    def _answer(self, answers: Sequence[Any]) -> None:
        for rank in range(1, self.ranks):
            self._put(f"to {rank}", {"answer": answers[rank]})

    def _refuse(self, problem: BaseException, rank: int | None) -> None:
        for other in range(1, self.ranks):
            self._put(f"to {other}", {"failed": _form_of(problem), "rank": rank})

    # ---- waiting ----

    def _collect(self, topic: str) -> Iterator[Any]:
        """Yield what the other ranks have said, in their order."""
        names = [str(rank) for rank in range(1, self.ranks)]
        missing = self._missing(names, time.monotonic() + self.timeout_s)
        if missing:
            raise self._absent(topic, map(int, missing))
        messages = [self._take(name) for name in names]
        failed = next((rank for rank, message in enumerate(messages, 1) if "failed" in message), None)
        if failed is not None:
            raise self._raised_by(messages[failed - 1]["failed"], failed)
        for rank, message in enumerate(messages, 1):
            if message["topic"] != topic:
                what = f"rank {rank} is at another point of the {self.doing} than rank 0"
                hint = f"call {self.doing} with the same arguments on every rank, and as often"
                raise DestinationError(
                    "ranks-disagree", what, where=self.where, expected=topic, got=message["topic"], hint=hint
                )
            yield message

    def _missing(self, names: Iterable[str], deadline: float) -> list[str]:
        """Wait for words until a deadline, and return the names of those that are not there."""
        return [name for name in names if not self._is_there(self._key(name), deadline)]

    def _is_there(self, key: str, deadline: float) -> bool:
        with self._reaching_the_store():
            while not self._store.check([key]):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                with suppress(RuntimeError):  # that it has waited long enough
                    self._store.wait([key], timedelta(seconds=max(min(left_s, _SLICE_S), 0.001)))
        return True

    def _hear(self, topic: str, *, is_collected: bool) -> Any:
        name = f"to {self.rank}"
        is_there = not self._missing([name], time.monotonic() + self.timeout_s)
        if not is_there and is_collected and not self._missing(["0"], 0):
            # The first rank came later, and waits as long for others; then it says who is missing.
            is_there = not self._missing([name], time.monotonic() + self.timeout_s + 2 * _SLICE_S)
        if not is_there:
            self._is_over = True
            others = [str(rank) for rank in range(self.ranks)] if is_collected else ["0"]
            raise self._absent(topic, map(int, self._missing(others, 0) or ["0"]))
        message = self._take(name)
        self._forget([name])
        if "failed" in message:
            self._is_over = True
            raise self._raised_by(message["failed"], message["rank"])
        return message["answer"]

    def _absent(self, topic: str, missing: Iterable[int]) -> DestinationError:
        return DestinationError(
            "rank-missing",
            f"not all ranks that {self.doing} together are there",
            where=self.where,
            expected=f"{self.ranks} ranks, each within {self.timeout_s:g} s, for {topic}",
            got=f"no word of rank {index_set(missing)}",
            hint=f"call {self.doing} on every rank, or give the group of those that call it: group=..., "
            "or a longer timeout=...",
        )

    def _raised_by(self, form: Any, rank: int | None) -> WeighbridgeError:
        """Make the error of another rank again, and say whose it is; one that is of all ranks as it is."""
        if not form["kind"]:
            what, hint = (
                f"a rank that was to {self.doing} as well has failed",
                f"look at what that rank says, and {self.doing} again",
            )
            got = f"rank {rank} of {self.ranks}: {form['text']}"
            return DestinationError("rank-missing", what, where=self.where, got=got, hint=hint)
        made = _read(form)
        if rank is not None:
            made.because = "\n".join(filter(None, [made.because, f"rank {rank} of {self.ranks} met it"]))
        return made

    @contextmanager
    def _telling_of_errors(self) -> Iterator[None]:
        """Tell the other ranks what the first one cannot decide."""
        try:
            yield
        except BaseException as problem:
            self._is_over = True
            with suppress(DestinationError):
                self._refuse(problem, None if isinstance(problem, WeighbridgeError) else 0)
            raise

    @contextmanager
    def _reaching_the_store(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as problem:
            got = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
            what, hint = "the store of the process group is gone", "look at what the rank says that has ended"
            raise DestinationError("rank-missing", what, where=self.where, got=got, hint=hint) from None


# ---- errors as words ----


def _form_of(problem: BaseException) -> dict[str, Any]:
    if not isinstance(problem, WeighbridgeError):
        return {"kind": "", "text": f"{type(problem).__name__}: {problem}"[:500]}
    problems = problem.problems if isinstance(problem, PlanError) else ()
    return {"kind": type(problem).__name__, "parts": problem.to_dict(), "problems": [*map(_form_of, problems)]}


def _read(form: Any) -> WeighbridgeError:
    kind = getattr(errors, form["kind"])
    problems = {"problems": [_read(each) for each in form["problems"]]} if kind is PlanError else {}
    made: WeighbridgeError = kind(**form["parts"], **problems)
    return made
