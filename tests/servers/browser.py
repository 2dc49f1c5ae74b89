"""Headless Chromium for tests, driven through the DevTools protocol over two pipes: no port, no driver, no package.

Protocol: https://chromedevtools.github.io/devtools-protocol/ with `--remote-debugging-pipe`, a zero byte ends each.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.servers.environments import expected_here
from tests.servers.running import MARK, Server, clean_environment, end, namespaces

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 30.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
    "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip


def program(*names: str) -> str:
    """The first of these programs that is installed; skips the test where none is, which in CI is a failure."""
    for name in names:
        if found := shutil.which(name):
            return found
    if expected_here():
        pytest.fail(f"{names[0]} has to be there in CI", pytrace=False)
    pytest.skip(f"there is no {names[0]} on this machine")


@dataclass
class Page:
    """One tab. `said` collects what a person would see in the console: messages, exceptions, breaches of policy."""

    write: int
    read: int
    session: str = ""
    said: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)
    _last: int = 0
    _rest: bytes = b""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, answered.

        Raises:
            AssertionError: The browser refuses it, or does not answer in time.
        """
        found = self._answered(method, params)
        assert "error" not in found, found
        return dict(found.get("result", {}))

    def _answered(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The message that answers a command, be it an error."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT_S
        while True:
            found = self._message(until)
            if found.get("id") == self._last:
                return found
            self._event(found)

    def open(self, url: str) -> None:
        """Go there and wait until the document is loaded."""
        self.said.clear()
        self.requested.clear()
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression in the page; a promise is awaited.

        Raises:
            AssertionError: It throws.
        """
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, timeout_s: float = TIMEOUT_S) -> None:
        """Return as soon as an expression is true; while a page goes and another comes, none is.

        Raises:
            AssertionError: It is not in time.
        """
        until = time.monotonic() + timeout_s
        guarded = f"(() => {{ try {{ return !!({expression}); }} catch {{ return false; }} }})()"
        while (
            not self._answered("Runtime.evaluate", {"expression": guarded})
            .get("result", {})
            .get("result", {})
            .get("value")
        ):
            assert time.monotonic() < until, f"never true: {expression}\n" + "\n".join(self.said)
            time.sleep(0.05)

    def picture(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """A screenshot of the whole page, as PNG, in a window of so many CSS pixels."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.read], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self.read, 1 << 16)
            assert more, "the browser ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def _event(self, message: dict[str, Any]) -> None:
        kind, params = message.get("method"), message.get("params", {})
        if kind == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        elif kind == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif kind == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A browser with one empty tab; nothing of it is left afterwards.

    Args:
        folder: Existing; takes the profile and the log.
    """
    browser = program(*NAMES)
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    mark = uuid.uuid4().hex
    # bash (dash knows one-digit numbers only) puts the pipes on 3 and 4, where the browser wants them
    shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "bash"]
    argv = [*namespaces(), *shell, browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=[to_read, from_write], env={**clean_environment(HOME=str(folder)), MARK: mark},
        )  # fmt: skip
    os.close(to_read)
    os.close(from_write)
    try:
        page = Page(to_write, from_read)
        yield _attached(page)
    finally:
        os.close(to_write)
        os.close(from_read)
        end(Server(process, mark, folder / "browser.log"))


def _attached(page: Page) -> Page:
    """The tab that is open, with everything switched on that reports."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        found = page.call("Target.getTargets")["targetInfos"]
        tabs = [one["targetId"] for one in found if one["type"] == "page"]
        if tabs:
            break
        assert time.monotonic() < until, "the browser opens no tab"
        time.sleep(0.05)
    page.session = page.call("Target.attachToTarget", targetId=tabs[0], flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.call(f"{domain}.enable")
    return page
