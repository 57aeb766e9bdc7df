"""What people see in a browser: MLflow's user interface as `clkd ui` opens it, and the page that `clkd report` writes.

`$CLKD_SCREENSHOTS` names a folder to keep the pictures in; those of the README are made like this.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from browser import browsing, missing
from processes import clkd, start, wait_for

from clkd.engine.directory import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

SCREENSHOTS = os.environ.get("CLKD_SCREENSHOTS")
SCENARIO = """\
name: split_digits
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: resnet8, head: linear}
teachers: {previous: previous, external: {kind: fit, model: {kind: mlp, hidden: [64]}, epochs: 8}}
losses:
  - cross_entropy
  - {kind: kd, between: [student, previous], weight: old_fraction}
  - {kind: kd, between: [student, external], temperature: 4, weight: 0.5}
memory: {kind: reservoir, size: 60}
train: {epochs: 4, batch_size: 32, optimizer: {kind: sgd, lr: 0.1, momentum: 0.9}}
report: {cka: []}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A real run in a real store."""
    home = tmp_path_factory.mktemp("home")
    (home / "split_digits.yaml").write_text(SCENARIO)
    done = clkd("run", "split_digits.yaml", "-q", cwd=home, timeout=400)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def browser(tmp_path):
    with browsing(tmp_path / "browser") as browser:
        yield browser


@pytest.fixture
def keep(tmp_path, browser):
    """Save what is seen."""
    folder = Path(SCREENSHOTS or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: browser.save(folder / f"{name}.png")


@pytest.fixture
def address(home):
    """Of the run's page, in a real `clkd ui`."""
    process = start("ui", "last", "--port", "0", cwd=home)
    try:
        wait_for(process.out.read_text, process, 240)
        yield process.out.read_text().strip()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, process.communicate()


NO_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""A panel that comes up the first time, and covers a third of the window."""


def tab(address, name):
    """The address of a part of the run's page."""
    return address.replace("?", f"/{name}?")


def drawn(browser, at_least):
    """Wait until so many charts have a line in them."""
    browser.wait("return document.querySelectorAll('.js-line, .scatterlayer .trace').length >= arguments[0]", at_least)


def test_mlflow_shows_the_run_with_charts_children_artifacts_and_matrix(home, browser, address, keep):
    noted = RunDirectory(next((home / "runs").iterdir())).manifest()["tracking"]["mlflow"]
    assert noted["run_id"] in address
    browser.show(1280, 860)
    browser.command("Page.addScriptToEvaluateOnNewDocument", source=NO_ASSISTANT)

    browser.open(address.replace(f"/{noted['run_id']}", ""))
    browser.wait_for("split_digits s0")
    browser.wait_for("6 matching runs")
    assert "Model registry" in browser.text(), "it is about training"
    keep("mlflow_runs")

    browser.open(address)
    browser.wait_for("Finished")
    for i in range(5):
        browser.wait_for(f"exp_{i:02d} [{2 * i}, {2 * i + 1}]")
    browser.wait_for("clkd.group")
    browser.wait_for("average accuracy:")
    browser.wait_for("Accuracy in percent, after (rows) on (columns) experience")
    keep("mlflow_run")

    browser.open(tab(address, "model-metrics"))
    browser.wait_for("acc_matrix (5)")
    browser.wait_for("stream (")
    drawn(browser, 4)
    keep("mlflow_charts")

    browser.open(tab(address, "artifacts/figures/accuracy_matrix.png"))
    browser.wait_for("forgetting.png")
    browser.wait_for("scenario.yaml")
    script = (
        "return [...document.images].some(i => i.alt.includes('accuracy_matrix') && i.complete && i.naturalWidth > 300)"
    )
    browser.wait(script)
    keep("mlflow_matrix")


# The page


@pytest.fixture(scope="module")
def page(home):
    done = clkd("report", cwd=home)
    assert done.returncode == 0, done.stderr
    return (home / done.stdout.strip()).as_uri()


ASKED = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
MEASURE = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgb = c => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data]; };
const part = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
const light = c => { const [r, g, b] = rgb(c).map(v => part(v / 255));
  return .2126 * r + .7152 * g + .0722 * b; };
const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3]) return c; }
  return 'white'; };
const told = e => [e.tagName, e.textContent.slice(0, 40)];
"""
UNREADABLE = f"""{MEASURE}
const found = [];
for (const e of document.querySelectorAll('body *:not(title)')) {{
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  const style = getComputedStyle(e), ink = e instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [light(ink), light(ground(e))].sort((x, y) => x - y);
  if ((b + .05) / (a + .05) < 4.5) found.push([...told(e), ink, ground(e)]);
}}
return found
"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_page_fits_its_window_is_read_in_both_lights_and_asks_nobody(browser, page, keep, width, dark):
    browser.show(width, 1200, dark)
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run("return document.documentElement.scrollWidth") == width
    assert browser.run(UNREADABLE) == []
    assert browser.run(ASKED) == []
    assert browser.run("return getComputedStyle(document.documentElement).backgroundColor") == (
        "rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)"
    )
    browser.run("document.querySelectorAll('details').forEach(each => each.open = false)")
    keep(f"report_{width}_{'dark' if dark else 'light'}")


NOT_ON_PAPER = {
    "hidden": "return [...document.querySelectorAll('details > *')].filter(e => !e.checkVisibility())"
    ".map(e => e.outerHTML)",
    "wider": "return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    ".map(e => e.outerHTML)",
    "dark": f"{MEASURE} return [...document.querySelectorAll('body *')].filter(e => light(ground(e)) < .25).map(told)",
    "unreadable": UNREADABLE,
}
PAPER = 680
"""Pixels within the margins of A4."""


def test_a_page_is_printed_light_whole_and_within_its_paper(browser, page):
    browser.show(PAPER, 900, dark=True)
    browser.command(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    browser.open(page)
    assert {what: browser.run(script) for what, script in NOT_ON_PAPER.items()} == {what: [] for what in NOT_ON_PAPER}
    assert browser.run("return document.querySelector('nav').checkVisibility()") is False
    told = browser.command("Page.printToPDF", printBackground=True)
    assert len(told["data"]) > 20_000
