"""The part that pytest loads at its start: the marker of the tests that `weighbridge_check` makes, and short failures.

It stands outside of the package, because every run of pytest loads it where weighbridge is installed: importing the
package would take a tenth of a second from people who test something else.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest

MARKER = "weighbridge: a law of a mapping, made by weighbridge.testing.weighbridge_check"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, so that it can be selected by and is no error under --strict-markers."""
    config.addinivalue_line("markers", MARKER)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a broken law as the error says it, without the way through the library; --full-trace shows that, too."""
    report = yield
    problem = call.excinfo
    is_law = item.get_closest_marker("weighbridge") is not None
    if is_law and problem is not None and not item.config.getoption("fulltrace", False):
        package = sys.modules.get("weighbridge")
        if package is not None and isinstance(problem.value, package.WeighbridgeError):
            report.longrepr = problem.getrepr(style="value")
    return report
