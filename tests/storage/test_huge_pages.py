"""Huge pages: asked for where they were found to be faster, or where somebody says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weighbridge as wb
from weighbridge.storage.places.huge_pages import MUCH_BYTES, VARIABLE, advise_huge, decided, is_worth_it, measure

SIZE_BYTES = 64 * 2**20  # the C library maps as much anew each time

needs_smaps = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists()
    or "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(),
    reason="needs /proc/self/smaps and a kernel that offers huge pages",
)


def is_advised(address: int) -> bool:
    """Tell whether the kernel was asked for huge pages at an address, by the flags that it shows."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        place = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if place is not None:
            inside = int(place[1], 16) <= address < int(place[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


@needs_smaps
@pytest.mark.parametrize("choice", ["on", "off"])
@pytest.mark.parametrize("by_variable", [True, False])
def test_what_somebody_says_is_done(choice: str, by_variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, choice if by_variable else "off" if choice == "on" else "on")
    memory = torch.empty(SIZE_BYTES, dtype=torch.uint8)
    with decided(None if by_variable else choice):
        advise_huge(memory.data_ptr(), SIZE_BYTES)
    assert is_advised(memory.data_ptr() + SIZE_BYTES // 2) == (choice == "on")


@pytest.mark.parametrize("by_variable", [True, False])
def test_another_word_is_an_error(by_variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "always" if by_variable else "off")
    with pytest.raises(wb.WeighbridgeError) as caught, decided(None if by_variable else "always"):
        advise_huge(0, 0)
    assert (caught.value.code, caught.value.where) == ("usage", VARIABLE if by_variable else "huge_pages=")
    assert caught.value.expected == "auto, on, off"


MEASURED = """
import logging, sys, torch
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
from weighbridge.storage.places.huge_pages import MUCH_BYTES, advise_huge, _process
advise_huge(0, MUCH_BYTES - 1)
print(_process.is_faster)
memory = torch.empty(2**23, dtype=torch.uint8)
advise_huge(memory.data_ptr(), 2**23)
advise_huge(memory.data_ptr(), 2**23)
print(_process.is_faster)
"""


@needs_smaps
@pytest.mark.parametrize("processes", ["", "2"])
def test_the_first_much_memory_of_a_process_is_measured_once(processes: str) -> None:
    if "[madvise]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("needs a kernel that leaves the choice to processes")
    said = {**os.environ, VARIABLE: "auto", "LOCAL_WORLD_SIZE": processes}
    ran = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, env=said)
    before, words, after = ran.stdout.splitlines()
    found = re.fullmatch(
        r"huge pages (on|off): 12 MiB took ([\d.]+) ms with them and ([\d.]+) ms without"
        r"(, and 2 processes share this machine)?; WEIGHBRIDGE_HUGE_PAGES=on or off decides otherwise",
        words,
    )
    assert found is not None, ran.stdout
    assert (before, after) == ("None", str(found[1] == "on"))
    assert (found[4] is None) == (processes == "")


def test_a_measurement_takes_time_and_leaves_no_memory() -> None:
    huge_s, small_s = measure()
    assert min(huge_s, small_s) > 0
    assert MUCH_BYTES > SIZE_BYTES  # a small load never measures


@pytest.mark.parametrize(
    ("huge_s", "processes", "expected"),
    [(0.4, 1, True), (0.9, 1, False), (0.6, 1, True), (0.6, 2, False), (0.4, 8, True), (3.0, 1, False)],
)
def test_the_faster_one_is_used(huge_s: float, processes: int, expected: bool) -> None:
    """Several processes on one machine count as a reason against: each wants the same pages."""
    assert is_worth_it(huge_s, 1.0, processes=processes) is expected
