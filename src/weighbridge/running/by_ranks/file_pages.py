"""The pages of a file that is being filled, as memory: for pieces that are too many to be written by a call each.

That is safe among processes of one machine alone, which share the pages, and where the file system has set the file's
room aside: to write to a page that gets none ends the process.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from weighbridge.storage.outputs.file_writer import reporting_write_errors


def map_pages(path: Path) -> mmap.mmap:
    """Map a file; what is written to the map is written to the file, and forced to the disk with it.

    Raises:
        DestinationError: `write-failed`.
    """
    with reporting_write_errors(str(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(descriptor)


def has_its_room(path: Path) -> bool:
    """Tell whether a file has blocks for all of its bytes.

    Raises:
        DestinationError: `write-failed`.
    """
    with reporting_write_errors(str(path)):
        status = path.lstat()
    return status.st_blocks * 512 >= status.st_size
