"""A headless Chromium, driven as WebDriver says (w3.org/TR/webdriver2): requests to a chromedriver on this machine."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str | None:
    """Why there is no browser here; None if there is one."""
    lacking = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"{' and '.join(lacking)} missing: apt-get install chromium chromium-driver" if lacking else None


class Browser:
    """One window."""

    def __init__(self, driver: str, home: Path) -> None:
        options = {"binary": shutil.which("chromium"), "args": [*ARGUMENTS, f"--user-data-dir={home}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._driver = driver
        self._session = f"/session/{self._ask('/session', wanted)['sessionId']}"

    def open(self, url: str) -> None:
        self._ask(f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a script `return`s."""
        return self._ask(f"{self._session}/execute/sync", {"script": script, "args": arguments})

    def command(self, name: str, **parameters: Any) -> Any:
        """One of the Chrome DevTools Protocol."""
        return self._ask(f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def show(self, width: int, height: int, dark: bool = False) -> None:
        """Size of the window's inside in CSS pixels, and the colours that its user prefers."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        value = "dark" if dark else "light"
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def text(self) -> str:
        """What can be read."""
        return str(self.run("return document.body.innerText"))

    def wait(self, script: str, *arguments: Any, seconds: float = 60) -> Any:
        """Until a script returns something; fails with what the page says instead."""
        deadline = time.monotonic() + seconds
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < deadline, f"{script}\n{self.text()}"
            time.sleep(0.2)
        return found

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Until these words can be read, whatever space is between them."""
        script = "return document.body.innerText.replace(/\\s+/g, ' ').includes(arguments[0])"
        self.wait(script, words, seconds=seconds)

    def save(self, path: Path, whole: bool = False) -> None:
        """A picture of the window, or of the whole page."""
        told = self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        request = urllib.request.Request(self._driver + self._session, method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self._driver + path, data, kind), timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from error


@contextmanager
def browsing(home: Path) -> Iterator[Browser]:
    """A browser that keeps everything below `home`, and its driver's end."""
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        assert driver.stdout
        port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        browser = Browser(f"http://127.0.0.1:{port}", home / "profile")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(30)
        assert driver.stdout
        driver.stdout.close()
