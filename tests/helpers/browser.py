"""A page in headless Chromium: what its console says, what it asks for, and how wide it gets."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

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
