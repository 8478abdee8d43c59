"""Take the picture in docs/report.md anew, from the page itself: `python docs/report_picture.py`. Needs Chromium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import weighbridge as wb  # noqa: E402
from bench.browser import Browser, Size, find_browser  # noqa: E402
from bench.inventories import DeepSeek, deepseek, deepseek_mapping  # noqa: E402

KEY = "model.layers.5.mlp.experts.77.up_proj.weight"


def main() -> int:
    """Plan a large model, open its page, select a tensor as a person does, and write what is to be seen."""
    program = find_browser()
    if program is None:
        print("there is no Chromium: install it, or name one in WEIGHBRIDGE_BROWSER", file=sys.stderr)
        return 1
    page = wb.plan(deepseek(DeepSeek()), deepseek_mapping()).to_html()
    with tempfile.TemporaryDirectory() as folder, Browser(program) as browser:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        browser.open(path, Size(1220, 660))
        browser.press("/")
        browser.type(KEY)
        browser.press("Enter", "Home")
        for _ in range(KEY.count(".") + 2):  # the groups of layers and experts are rows, too
            browser.press("ArrowDown")
        browser.press("Enter", "/", "Escape", "Escape")
        picture = browser.screenshot()
    (ROOT / "docs" / "report.png").write_bytes(picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
