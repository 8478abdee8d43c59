"""Drive a headless Chromium over the pipe of its DevTools protocol: no further package, no port, no network.

Protocol: https://chromedevtools.github.io/devtools-protocol/; `--remote-debugging-pipe` reads JSON messages from file
descriptor 3 and writes them to 4, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
"""Names under which the browser is looked for."""

MAX_ANSWER_S: Final = 60.0
LOADED: Final = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--no-default-browser-check",
    "--no-first-run",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


class BrowserError(Exception):
    """The browser gave no answer, or answered with an error."""


class Size(NamedTuple):
    """Width and height of a window, in CSS pixels."""

    width: int
    height: int


WINDOW: Final = Size(1400, 900)


def find_browser() -> str | None:
    """Return the path of an installed Chromium; None where there is none."""
    named = os.environ.get("WEIGHBRIDGE_BROWSER", "")
    return next((found for name in (named, *PROGRAMS) if name and (found := shutil.which(name))), None)


class Browser:
    """One browser process with one page at a time; a context manager."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="weighbridge-browser-", ignore_cleanup_errors=True)
        self._pid, self._write, self._read = _start(program, self._profile.name)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self.session = ""
        self._target = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrowserError, OSError):
            self.call("Browser.close", on_page=False)
        os.close(self._write)
        with suppress(ProcessLookupError):
            if not _ends_soon(self._pid):
                os.killpg(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
        os.close(self._read)
        self._profile.cleanup()

    # ---- the protocol ----

    def call(self, method: str, /, on_page: bool = True, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and wait for its answer; events that come meanwhile are kept.

        Raises:
            BrowserError: If it answers with an error, or not in time.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if on_page:
            message["sessionId"] = self.session
        _write_all(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._messages(MAX_ANSWER_S):
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                found: dict[str, Any] = answer["result"]
                return found
            self.events.append(answer)
        raise BrowserError(f"{method}: no answer in {MAX_ANSWER_S:.0f} s")

    def _messages(self, max_wait_s: float) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + max_wait_s
        while True:
            text, zero, rest = self._buffer.partition(b"\0")
            if zero:
                self._buffer = rest
                yield json.loads(text)
                continue
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            got = os.read(self._read, 1 << 20) if ready else b""
            if not got:
                return
            self._buffer += got

    # ---- a page ----

    def open(self, page: Path, size: Size = WINDOW, *, dark: bool = False, before: str = "") -> None:
        """Open a file in a new page, wait until it is loaded, and forget the events of earlier ones.

        Args:
            page: The file.
            size: Size of the window.
            dark: Whether the page is told that dark colours are preferred.
            before: JavaScript to run before anything of the page.
        """
        self.events = []
        if self._target:
            self.call("Target.closeTarget", on_page=False, targetId=self._target)
        self._target = self.call("Target.createTarget", on_page=False, url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", on_page=False, targetId=self._target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(size)
        self.prefer(dark=dark)
        if before:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.evaluate(LOADED)

    def resize(self, size: Size) -> None:
        """Give the page another size."""
        form = {"width": size.width, "height": size.height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **form)

    def prefer(self, *, dark: bool, media: str = "") -> None:
        """Set the colours that the page is told are preferred, and the medium."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.settle()

    def evaluate(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, wait for a promise, and return its value.

        Raises:
            BrowserError: If it throws.
        """
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until what was changed is painted."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other: names as of `KeyboardEvent.key`, or single characters."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            form = {"key": key, "code": key, "windowsVirtualKeyCode": _KEY_CODES.get(key, ord(key[0].upper()))}
            down = "keyDown" if text else "rawKeyDown"
            self.call("Input.dispatchKeyEvent", type=down, **form, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **form)
        self.settle()

    def type(self, text: str) -> None:
        """Put text into the field that has the focus, as one input."""
        self.call("Input.insertText", text=text)
        self.settle()

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place, and click there if asked to."""
        kinds = ("mouseMoved", "mousePressed", "mouseReleased") if click else ("mouseMoved",)
        for kind in kinds:
            pressed = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)
        self.settle()

    def screenshot(self) -> bytes:
        """Return the window as PNG."""
        self.settle()
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def complaints(self) -> list[str]:
        """Return what the page wrote to the console, what it threw, and what it was refused."""
        self.evaluate("0")
        named = (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in named]

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for."""
        self.evaluate("0")
        named = "Network.requestWillBeSent"
        return [event["params"]["request"]["url"] for event in self.events if event.get("method") == named]


_KEY_CODES: Final = {
    "Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37,
    "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "/": 191,
}  # fmt: skip


def _start(program: str, profile: str) -> tuple[int, int, int]:
    """Start the browser in a process group of its own; return its id, and the ends of the pipes to and from it."""
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in _moved(pair)]
    its_read, our_write, our_read, its_write = ends
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, its_read, 3), (os.POSIX_SPAWN_DUP2, its_write, 4)]
    command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    pid = os.posix_spawn(program, command, dict(os.environ), file_actions=actions, setpgroup=0)
    for end in (its_read, its_write, null):
        os.close(end)
    return pid, our_write, our_read


@contextmanager
def _closing(ends: tuple[int, int]) -> Iterator[tuple[int, int]]:
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _moved(pair: tuple[int, int]) -> Iterator[int]:
    """Yield the ends of a pipe, and close them once they were copied to where the browser's own two are not."""
    with _closing(pair) as ends:
        yield from ends


def _write_all(end: int, message: bytes) -> None:
    left = memoryview(message)
    while left:
        left = left[os.write(end, left) :]


def _ends_soon(pid: int, max_wait_s: float = 10.0) -> bool:
    """Wait for a process to end; tell whether it did."""
    deadline = time.monotonic() + max_wait_s
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        select.select([], [], [], 0.02)
    return False
