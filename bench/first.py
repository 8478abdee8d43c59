"""What a measured process runs that has nothing warmed up: `python -m bench.first TOUCH_BYTES SOURCE LOADER CLASS`.

The peer's model class is imported before the clock starts, as who loads a model has it. All else counts: our own
imports, the peer's table of mappings, and whatever either does once in a process. So nothing of ours is imported here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.clock import run_timed


def load_theirs(kind: Any, source: str) -> Any:
    """Load by the library's own `from_pretrained`."""
    return kind.from_pretrained(source)


def load_ours(kind: Any, source: str) -> Any:
    """Load by `from_pretrained` of `weighbridge.integrations.transformers`, which is imported now."""
    from weighbridge.integrations import transformers as wbt

    return wbt.from_pretrained(kind, source)


LOADERS = {"theirs": load_theirs, "ours": load_ours}


def main(touch_bytes: str, source: str, loader: str, class_name: str) -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    kind = getattr(transformers, class_name)
    loaded = [name for name in sys.modules if name.partition(".")[0] == "weighbridge"]
    if loaded:
        raise SystemExit(f"{loaded[0]} was there before the clock")
    run_timed(lambda: LOADERS[loader](kind, source), touch_bytes=int(touch_bytes), reads=[Path(source)])


if __name__ == "__main__":
    main(*sys.argv[1:])
