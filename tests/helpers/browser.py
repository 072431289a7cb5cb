"""A page in headless Chromium: what its console says, what it asks for, how wide it gets, and how it answers keys."""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_TIMEOUT_S = 280

# Runs before the page's own scripts, under its nonce. The policy of the page forbids every request, so a request is a
# violation; a resource that was loaded nevertheless is listed by the browser.
_PROBE = """
const seen = {problems: [], requests: []};
for (const kind of ["error", "warn"]) {
  const original = console[kind];
  console[kind] = (...words) => { seen.problems.push(words.join(" ")); original(...words); };
}
window.IntersectionObserver = class {  // every figure is in sight
  constructor(call) { this.call = call; }
  observe(target) { this.call([{isIntersecting: true, target}]); }
};
addEventListener("error", event => seen.problems.push(String(event.message)));
addEventListener("unhandledrejection", event => seen.problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => seen.requests.push(event.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const plots = [...document.querySelectorAll(".plot[id]")];
  const drawn = plots.filter(plot => plot.querySelector(".scatterlayer .trace"));
  seen.requests.push(...performance.getEntriesByType("resource").map(one => one.name));
  seen.plots = plots.length;
  seen.drawn = drawn.length;
  seen.too_wide = drawn.filter(plot => plot.querySelector("svg").clientWidth > plot.clientWidth + 1).length;
  seen.width = [innerWidth, document.documentElement.scrollWidth];
  parent.postMessage(JSON.stringify(seen), "*");
}, 1500));
"""
# A window is never narrower than 500 pixels, and a frame can be.
_FRAME = """<!doctype html><title>frame</title><body style="margin: 0">
<script>addEventListener("message", event => {
  const text = document.createElement("pre");
  text.id = "seen";
  text.textContent = event.data;
  document.body.append(text);
});</script>
<iframe src="probed.html" width="WIDTH" height="900" style="border: 0"></iframe>
"""


def open_page(page: Path, folder: Path, width: int = 1280) -> dict[str, Any]:
    """Open a page and return what the probe has seen.

    Args:
        page: The HTML page; it is not changed.
        folder: Folder for a copy of it and the browser's profile.
        width: Width of the page in pixels.
    """
    text = page.read_text(encoding="utf-8")
    (nonce,) = set(re.findall(r'<script nonce="([^"]+)">', text))
    probe = f'<script nonce="{nonce}">{_PROBE}</script><title>'
    (folder / "probed.html").write_text(text.replace("<title>", probe, 1), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            f"--window-size={max(width, 500)},900", "--virtual-time-budget=8000", "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=True,
    )  # fmt: skip
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    return json.loads(unescape(found))


# --- pages that are driven by keys and the mouse, through Playwright ---

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium in PATH and playwright"
)


@dataclass(frozen=True)
class OpenedPage:
    """A page that a test drives.

    Attributes:
        page: The ``playwright.sync_api.Page``: ``keyboard``, ``mouse``, ``locator(...)``, ``screenshot(...)``.
        problems: Errors and warnings of its console, and errors of its scripts, so far.
        requests: Addresses that it has asked for so far, without its own and without data in itself.
    """

    page: Any
    problems: list[str]
    requests: list[str]

    def text(self, selector: str) -> str:
        """Return the text of the one element that a selector finds."""
        return self.page.locator(selector).inner_text()

    def press(self, *keys: str) -> None:
        """Press keys one after another, such as "ArrowRight" and "Shift+ArrowLeft"."""
        for key in keys:
            self.page.keyboard.press(key)

    def wait_until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until a condition holds; ``page.wait_for_function`` needs ``eval``, which our pages forbid.

        Raises:
            AssertionError: It does not hold in time.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"still not so after {seconds} s"
            self.page.wait_for_timeout(20)


@contextlib.contextmanager
def launched_browser() -> Iterator[Any]:
    """Start the Chromium of this machine; for a fixture of a module, because the start takes a second or two."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened_page(
    browser: Any, path: Path, width: int = 1280, height: int = 900, dark: bool = False
) -> Iterator[OpenedPage]:
    """Open a page to drive it.

    Args:
        browser: The browser of ``launched_browser``.
        path: The HTML page.
        width: Width of the page in pixels.
        height: Height of the window in pixels.
        dark: Whether the reader prefers dark colours.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    context.set_default_timeout(1000 * _TIMEOUT_S)  # ms; a busy machine takes its time
    opened, address = OpenedPage(context.new_page(), [], []), path.absolute().as_uri()
    opened.page.on("console", lambda message: _note_console(opened.problems, message.type, message.text))
    opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.page.on("request", lambda request: _note_request(opened.requests, request.url, address))
    opened.page.goto(address)
    try:
        yield opened
    finally:
        context.close()


def _note_console(problems: list[str], kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        problems.append(text)


def _note_request(requests: list[str], address: str, own: str) -> None:
    if address != own and not address.startswith(("data:", "blob:")):
        requests.append(address)
