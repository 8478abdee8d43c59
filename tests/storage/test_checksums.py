"""Checksums of new archives: those of pieces, put together, are that of the whole, and none of it is read again."""

from __future__ import annotations

import random
import zlib
from functools import partial
from itertools import pairwise
from pathlib import Path

from hypothesis import given, strategies as st

from weighbridge.base.file_sets import FileImage
from weighbridge.storage.outputs.checksums import Checksums, combine
from weighbridge.storage.outputs.file_writer import FileWriter
from weighbridge.storage.places.regular_files import OpenFiles
from weighbridge.storage.protocol import Extent


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_two_in_a_row(first: bytes, second: bytes) -> None:
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_many_in_a_row() -> None:
    content, found = random.Random(1).randbytes(2**20 + 3), 0
    for start, stop in pairwise((0, 0, 1, 65_537, 2**19, 2**20 + 2, len(content))):
        found = combine(found, zlib.crc32(content[start:stop]), stop - start)
    assert found == zlib.crc32(content)
    # Lengths beyond 32 bits, where the checksum of so many zeros is that of nothing, taken on by as many.
    halves = combine(combine(7, 0, 2**33), 0, 2**33)
    assert combine(7, 0, 2**34) == halves != combine(7, 0, 2**33)


def test_pieces_as_they_come(tmp_path: Path) -> None:
    content = random.Random(2).randbytes(700_000)
    (tmp_path / "source").write_bytes(b"before" + content)
    known = Checksums(partial(FileWriter.of_image, tmp_path))
    sink = known.create(FileImage("made", 4 + len(content), b"head", ()))
    sink.write(4 + 600_000, content[600_000:])
    sink.copy_range(Extent(tmp_path / "source", 6 + 10, 599_990), 4 + 10)
    sink.write(4, memoryview(bytearray(content[:10])))
    sink.close()
    assert (tmp_path / "made").read_bytes() == b"head" + content
    files, nowhere = OpenFiles({}, is_passing=True), tmp_path / "nowhere"
    for start, stop in ((0, 700_000), (10, 700_000), (0, 10), (10, 10)):
        found = known.of(files, nowhere, "made", 4 + start, stop - start)
        assert found == zlib.crc32(content[start:stop])


def test_what_was_not_summed_up_is_read(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(60)
    known = Checksums(partial(FileWriter.of_image, tmp_path))
    sink = known.create(FileImage("made", len(content), b"", ()))
    sink.spread([(0, 20), (40, 20)], memoryview(content[:20] + content[40:]))
    sink.write(20, content[20:40])
    sink.close()
    files = OpenFiles({}, is_passing=True)
    for start, stop in ((0, 60), (0, 20), (20, 60), (15, 30), (20, 30)):
        found = known.of(files, tmp_path / "made", "made", start, stop - start)
        assert found == zlib.crc32(content[start:stop])
