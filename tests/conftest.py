"""What all tests share: Hypothesis profiles, the corpus beside the project, and golden files.

Hypothesis draws the same examples in every run, so that a failure in one place is a failure everywhere;
`HYPOTHESIS_PROFILE=search` draws new ones, and many more.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
GOLDEN = ROOT / "tests" / "golden"

settings.register_profile(
    "default",
    derandomize=True,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search", parent=settings.get_profile("default"), derandomize=False, database=None, max_examples=10_000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a name that is another one in each process: several that share the tests would not agree on them."""
    if " at 0x" in item.nodeid:
        raise pytest.UsageError(f"{item.nodeid} is named after an address: give ids=")


def pytest_collection_finish() -> None:
    """Leave what is imported by now to itself: looking through it for garbage takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The directory of real checkpoints beside the project; a test that needs it is skipped where it is absent."""
    if not CORPUS.is_dir():
        pytest.skip("needs the corpus directory shared/corpus beside the project")
    return CORPUS


def corpus_cases() -> list[str]:
    """Names of the corpus's cases, for `pytest.mark.parametrize`; empty where there is no corpus."""
    return sorted(path.name for path in (CORPUS / "cases").glob("*") if path.is_dir())


def compare_golden(path: Path, text: str) -> None:
    """Compare `text` with the file at `path`; under WEIGHBRIDGE_GOLDEN=1 write the file instead."""
    if os.environ.get("WEIGHBRIDGE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    assert path.is_file(), f"{path.name} is not there yet: run `make golden` and review it"
    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs: run `make golden` and review the diff"


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], None]:
    """Compare a text with the golden file of a name, such as `golden("llava.load.txt", text)`."""

    def compare(name: str, text: str) -> None:
        compare_golden(GOLDEN / name, text)

    return compare
