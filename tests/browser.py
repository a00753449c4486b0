"""A headless Chromium over its debugging pipe: how a page looks on a phone and on a desktop."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """Path of an installed browser; CHROMIUM names one that is not on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a running browser."""

    def __init__(self, to: int, back: int, timeout: float) -> None:
        self._to, self._back, self._timeout = to, back, timeout
        self._buffer, self._count, self._session = b"", 0, ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        answer = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            event = self._read()
            if event.get("id") == self._count:
                assert "error" not in event, event
                return dict(event["result"])

    def open(self, page: Path, width: int, height: int, dark: bool = False) -> None:
        """Load a file in a window of that many CSS pixels, and wait until it has loaded."""
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        end = time.monotonic() + self._timeout
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < end, "the page did not load"
            time.sleep(0.1)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], self._timeout)
            assert ready, "no answer from the browser"
            block = os.read(self._back, 1 << 20)
            assert block, "the browser has ended"
            self._buffer += block
        text, _, self._buffer = self._buffer.partition(b"\0")
        event: dict[str, Any] = json.loads(text)
        complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        if event.get("method") in (*complaints, "Network.loadingFailed"):
            self.complaints.append(json.dumps(event["params"])[:500])
        return event


@contextmanager
def browser(executable: str, folder: Path, timeout: float = 60) -> Iterator[Browser]:
    """Start a browser with an empty profile in `folder`; it is stopped when the block ends."""
    their_in, to = os.pipe()
    back, their_out = os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    flags += ["--no-first-run", "--hide-scrollbars", "--disable-background-networking"]
    flags += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    # the pipe is at file descriptors 3 and 4 by definition
    shell = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, executable, *flags],
        pass_fds=(their_in, their_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Browser(to, back, timeout)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(to)
        os.close(back)
