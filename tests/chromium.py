"""Opens a page in headless Chromium and says what a reader would meet: errors, requests, and what sticks out sideways.

A client of the DevTools protocol in its smallest form: JSON, ended by a zero byte, over two pipes.

    with Chromium() as browser:
        visit = browser.visit(path, PHONE)
    visit.check()
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
from dataclasses import dataclass, field
from pathlib import Path

DESKTOP, PHONE = (1280, 900), (390, 844)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
)
PATIENCE = 120  # seconds: the machine of a test may be busy

# What a reader would see: elements past the right edge that no scrolling box holds, pictures that are broken, links
# to places that are not there, and controls or pictures that have no words.
LOOK = """(() => {
  const wide = document.documentElement.clientWidth, name = e => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") +
    (e.className && e.className.baseVal === undefined ? "." + e.className : "");
  const held = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
  const all = [...document.body.querySelectorAll("*")].filter(e => !e.closest("svg") || e.tagName === "svg");
  const clear = all.filter(e => e.getBoundingClientRect().width && e.getBoundingClientRect().right > wide + 1);
  return {
    width: document.documentElement.scrollWidth, wide,
    outside: clear.filter(e => !held(e)).map(name),
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt || i.src.slice(0, 60)),
    nowhere: [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute("href"))
      .filter(h => h.length > 1 && !document.getElementById(decodeURIComponent(h.slice(1)))),
    wordless: [...document.querySelectorAll("img:not([alt]), [role=img]:not([aria-label])")].map(name),
    title: document.title, text: document.body.innerText, height: document.documentElement.scrollHeight };
})()"""


def find() -> str | None:
    """The path of a Chromium: the one that CHROMIUM names, or the first that is installed."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Visit:
    """What happened while a page was open at one width."""

    width: int
    title: str = ""
    text: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    scroll_width: int = 0
    outside: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    nowhere: list[str] = field(default_factory=list)
    wordless: list[str] = field(default_factory=list)
    picture: bytes = b""

    def check(self) -> None:
        """Fail with everything that a reader would stumble over."""
        found = {
            "console": self.errors,
            "requests that leave the page": self.requests,
            f"wider than {self.width} pixels": self.outside or [self.scroll_width] * (self.scroll_width > self.width),
            "broken pictures": self.broken,
            "links to nowhere": self.nowhere,
            "pictures without words": self.wordless,
        }
        assert not any(found.values()), {what: each for what, each in found.items() if each}


class Chromium:
    """A headless Chromium with a profile of its own, gone when the block is left."""

    def __enter__(self) -> Chromium:
        path = find()
        assert path, "no Chromium; install Debian's chromium or set CHROMIUM"
        self.profile = Path(tempfile.mkdtemp(prefix="redcloak-chromium-"))
        here_reads, it_writes = map(_high, os.pipe())
        it_reads, here_writes = map(_high, os.pipe())
        nothing = os.open(os.devnull, os.O_RDWR)
        moved = [(it_reads, 3), (it_writes, 4), (nothing, 0), (nothing, 1), (nothing, 2)]
        arguments = [path, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        actions = [(os.POSIX_SPAWN_DUP2, old, new) for old, new in moved]
        self.process = os.posix_spawn(path, arguments, os.environ, file_actions=actions, setpgroup=0)
        for each in (it_reads, it_writes, nothing):
            os.close(each)
        self.reads, self.writes, self.rest, self.last = here_reads, here_writes, b"", 0
        self.events: list[dict] = []
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.writes)
        os.close(self.reads)
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        shutil.rmtree(self.profile, ignore_errors=True)

    def visit(
        self, page: Path | str, size: tuple[int, int] = DESKTOP, *, dark: bool = False, whole: bool = True
    ) -> Visit:
        """Open a file, or a URL, at a size in CSS pixels; ``whole`` takes the picture of all of it, not of its top."""
        url = page if isinstance(page, str) else page.resolve().as_uri()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        width, height = size
        phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", session, **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self.events.clear()
        answer = self.call("Page.navigate", session, url=url)
        assert "errorText" not in answer, answer["errorText"]
        self._wait("Page.loadEventFired")
        visit = self._look(session, width, url)
        shot = {"captureBeyondViewport": whole, "format": "png"}
        visit.picture = base64.b64decode(self.call("Page.captureScreenshot", session, **shot)["data"])
        self.call("Target.closeTarget", targetId=target)
        return visit

    def call(self, method: str, session: str = "", **params: object) -> dict:
        """Send one command and wait for its answer; events that come before it are kept."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.writes, data) :]
        while (answer := self._read()).get("id") != self.last:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']['message']}"
        return answer["result"]

    def _look(self, session: str, width: int, url: str) -> Visit:
        found = self.call("Runtime.evaluate", session, expression=LOOK, returnByValue=True)["result"]["value"]
        asked = [each["params"]["request"]["url"] for each in self._of("Network.requestWillBeSent")]
        return Visit(
            width=width,
            title=found["title"],
            text=found["text"],
            errors=[*map(_said, self._of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"))],
            requests=[each for each in asked if not each.startswith("data:") and each.split("#")[0] != url],
            scroll_width=found["width"],
            outside=found["outside"],
            broken=found["broken"],
            nowhere=found["nowhere"],
            wordless=found["wordless"],
        )

    def _of(self, *methods: str) -> list[dict]:
        return [each for each in self.events if each.get("method") in methods]

    def _wait(self, method: str) -> None:
        while not self._of(method):
            self.events.append(self._read())

    def _read(self) -> dict:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reads], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {PATIENCE} s"
            part = os.read(self.reads, 1 << 20)
            assert part, "Chromium is gone"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


def _high(descriptor: int) -> int:
    """The same pipe under a number that the browser's 3 and 4 cannot collide with."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return high


def _said(event: dict) -> str:
    """One line of the console."""
    params = event["params"]
    if "entry" in params:
        return params["entry"]["text"]
    if "exceptionDetails" in params:
        return params["exceptionDetails"].get("exception", {}).get("description", params["exceptionDetails"]["text"])
    return " ".join(str(each.get("value", each.get("description"))) for each in params["args"])
