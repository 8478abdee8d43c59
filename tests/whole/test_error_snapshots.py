"""What each error prints, provoked for real and reviewed as text: one golden file for each code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import GOLDEN
from provocations import PROVOCATIONS

import weighbridge as wb
from weighbridge.base.errors import CODES

SNAPSHOTS = GOLDEN / "errors"


def steady(text: str, folder: Path) -> str:
    """Replace what is another thing on each machine.

    The folder of the test becomes FOLDER; how much room a disk has, and how much must be freed, becomes NUMBER; the
    installed version of transformers becomes VERSION.
    """
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"(got       |try       free )[\d,]+ bytes(?= free|, or write)", r"\1NUMBER bytes", text)
    return re.sub(r"(?<=got       )\d+\.\d+\.\w+(\.\w+)?(?=: an operation)", "VERSION", text)


def provoke(code: str, folder: Path) -> wb.WeighbridgeError:
    """Do what goes wrong, and return the error: that of the code, or one that lists a problem of the code."""
    with pytest.raises(wb.WeighbridgeError) as caught:
        PROVOCATIONS[code](folder)
    error = caught.value
    assert code in (error.code, *(error.codes if isinstance(error, wb.PlanError) else ()))
    return error


def test_each_code_is_provoked() -> None:
    assert list(PROVOCATIONS) == list(CODES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the libraries that are loaded
@pytest.mark.parametrize("code", CODES)
def test_error_reads_as_reviewed(code: str, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    error = provoke(code, tmp_path)
    golden(f"errors/{code}.txt", steady(str(error), tmp_path) + "\n")


def test_each_snapshot_has_a_code() -> None:
    assert sorted(path.name for path in SNAPSHOTS.iterdir()) == sorted(f"{code}.txt" for code in CODES)


@pytest.mark.parametrize("code", CODES)
def test_snapshot_says_more_than_that_it_went_wrong(code: str) -> None:
    """There is something under the headline; nothing in it is an exception of Python's, or a path of this machine."""
    text = (SNAPSHOTS / f"{code}.txt").read_text("utf-8")
    assert re.search(rf"^(  )?{code}: ", text, re.MULTILINE)
    assert re.search(r"^ +(expected|got|because|try) +\S", text, re.MULTILINE)
    assert re.search(r"\b[A-Z]\w+(Error|Exception)\b|Traceback|<class|object at 0x|/tmp/|/home/", text) is None


def test_steady_text_keeps_the_rest() -> None:
    text = (
        "a: b @ /x/model\n  got       9 bytes free\n  got       1,234 bytes\n  got       5.9.0: an operation called B"
    )
    assert steady(text, Path("/x")) == (
        "a: b @ FOLDER/model\n  got       NUMBER bytes free\n  got       1,234 bytes\n"
        "  got       VERSION: an operation called B"
    )
