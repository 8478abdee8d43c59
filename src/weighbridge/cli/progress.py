"""A progress bar with rate and time left, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from weighbridge.cli.printing import Output


@contextmanager
def progress_bar(output: Output, what: str, total_bytes: int) -> Iterator[Callable[[int, int], None] | None]:
    """Show how far a run is.

    Args:
        output: How the command answers; without a terminal there is no bar.
        what: What is being done, in a word.
        total_bytes: How much there is to do, as long as nobody says otherwise.

    Yields:
        What to call with the bytes done and the bytes in all; None if nothing is shown.
    """
    if not output.shows_progress:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done_bytes, all_bytes: bar.update(task, completed=done_bytes, total=all_bytes)
