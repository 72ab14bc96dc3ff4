"""A headless Chromium that opens a page and is clicked in, by the DevTools protocol on two pipes."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
FLAGS += ["--no-first-run", "--mute-audio", "--autoplay-policy=no-user-gesture-required", "--hide-scrollbars"]


class Page:
    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._number, self._session, self._pieces = 0, None, [b""]
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message | session).encode() + b"\0")
        while (answer := self._message()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._pieces[-1]:
            self._pieces.append(os.read(self._read, 2**20))
            assert self._pieces[-1], "the browser ended"
        end, _, rest = self._pieces.pop().partition(b"\0")
        message = json.loads(b"".join([*self._pieces, end]))
        self._pieces = [rest]
        method, about = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"]["exception"].get("description", str(about)))
        if method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        return message

    def open(self, page: Path | str, width: int, height: int = 900) -> None:
        """Load a file or an address at a window's width, as a phone below 600 px."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.js("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")
        self.settle()

    def js(self, expression: str) -> Any:
        """The value of an expression, or of what it promises within 30 s."""
        late = "new Promise((_, fail) => setTimeout(() => fail(Error('nothing came of it')), 30_000))"
        promised = f"Promise.race([eval({json.dumps(expression)}), {late}])"
        answer = self.call("Runtime.evaluate", expression=promised, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until the page has drawn twice."""
        self.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def click(self, x: float, y: float, to: tuple[float, float] | None = None) -> None:
        """Press the mouse at a place of the window, and let it go there or elsewhere."""
        place = {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **place)
        x, y = to or (x, y)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left")
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, **place)
        self.settle()

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is in the window, scrolled into view: left, top, width, height."""
        self.js(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        return self.js(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)
        self.settle()


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Page]:
    """Start a browser that ends with the context."""
    their_input, to_browser = os.pipe()
    from_browser, their_output = os.pipe()

    def pipes() -> None:
        os.dup2(os.dup(their_input), 3)
        os.dup2(os.dup(their_output), 4)

    assert CHROMIUM is not None
    command, quiet = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}"], {"stdout": DEVNULL, "stderr": DEVNULL}
    # the browser has no other way to get its pipes
    process = subprocess.Popen(command, preexec_fn=pipes, close_fds=False, **quiet)  # noqa: PLW1509
    os.close(their_input)
    os.close(their_output)
    try:
        yield Page(to_browser, from_browser)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
