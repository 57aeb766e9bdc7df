"""A run's page says what its directory says, to whoever opens it, and asks nobody else."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from processes import clkd as process
from webpage import Page

from clkd.engine.execute import execute
from clkd.page import document, tables, training
from clkd.page.story import Story
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.tracking import history
from clkd.tracking.points import percent

HOSTILE = "<script>alert(1)</script><b x='\"&amp;"


@pytest.fixture(scope="session")
def page(home):
    done = process("report", "runs/first", cwd=home)
    assert (done.returncode, done.stdout) == (0, "runs/first/report.html\n"), done.stderr
    return Page((home / "runs/first/report.html").read_text(encoding="utf-8"))


def made(*paths):
    return Page(document.document([Story.read(path) for path in paths]))


def result(home):
    return json.loads((home / "runs/first/result.json").read_text())


def points(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["metrics"] for line in lines if line["event"] == "experience"]


def test_it_holds_every_section(page):
    shown = {each["id"].partition("-")[2] for each in page.all("section")}
    assert shown == {anchor for anchor, _, _ in document.SECTIONS}
    assert {"figure", "dl", "nav", "details"} <= {name for name, _ in page.elements}


def test_the_matrix_and_the_headline_are_the_runs(page, home):
    matrix = result(home)["accuracy_matrix"]
    shown = page.table("(class-incremental)")
    assert shown == [[str(i), *(percent(v) for v in row[: i + 1]), *[""] * (2 - i)] for i, row in enumerate(matrix)]
    assert f"average accuracy{percent(result(home)['metrics']['average_accuracy'])} %" in page.text
    aware = page.table("(task-aware)")
    assert aware[2][1] == percent(points(home / "runs/first")[2]["acc_matrix_task_aware/exp_00"])


def test_the_fate_of_an_experience(page, home):
    matrix = result(home)["accuracy_matrix"]
    first = page.table("when it was learned")[0]
    learned, between, now = (row[0] for row in matrix)
    assert first[2:5] == [percent(learned), percent(max(learned, between, now)), percent(now)]
    assert first[6] == percent(max(learned, between) - now)
    assert float(first[5]) == pytest.approx(100 * (now - learned), abs=0.051)


def test_confusion_counts_each_test_row_once_and_agrees_with_the_accuracies(page, home):
    for i, told in enumerate(points(home / "runs/first")):
        rows = page.table(f"true and named class after experience {i}")
        counts = {row[0]: [int(cell.replace(",", "") or 0) for cell in row[1:]] for row in rows}
        right = [row[place] for place, row in enumerate(counts.values())]
        assert list(counts) == [name for name in map(str, range(10)) if f"class_acc/{name}" in told]
        for name, hits in zip(counts, right, strict=True):
            assert hits / sum(counts[name]) == pytest.approx(told[f"class_acc/{name}"])


def test_what_teachers_did_is_what_the_report_says(page, home):
    told = json.loads((home / "runs/first/reports/exp_002.json").read_text())
    line = page.table("Student and teachers")[-1]
    assert line[:3] == ["2", "previous", f"{percent(told['teachers']['previous']['agreement'])} %"]
    assert [line[4], line[6]] == [str(told["student"]["gained"]), str(told["student"]["lost"])]


def test_memory_and_time(page, home):
    last = points(home / "runs/first")[2]
    held = {row[0]: row[2] for row in page.table("Rows in memory")}
    assert held == {str(c): str(last[f"memory_classes/{c}"]) for c in range(10) if f"memory_classes/{c}" in last}
    spent = {row[0]: row[1] for row in page.table("Wall time of the run")}
    assert float(spent["in all"]) == pytest.approx(result(home)["seconds"]["total"], abs=0.006)
    assert float(spent["training"]) == pytest.approx(result(home)["seconds"]["train"], abs=0.006)
    bars = [float(row[2]) for row in page.table("Wall time of each experience")]
    assert sum(bars) == pytest.approx(
        sum(last[f"time/{p}_s"] for p in ("train", "evaluate", "teachers", "report")), abs=0.02
    )


def test_mlflows_figure_of_the_loss_shows_the_pages_curves(home, monkeypatch):
    drawn = []
    monkeypatch.setattr(training, "curves", lambda found, *words: drawn.extend(found))
    story = Story.read(home / "runs/first")
    training.training(story)
    shown = history.loss_terms(story.events)
    assert shown == {curve.name: curve.points for curve in drawn}
    assert set(shown) == {"loss", "cross_entropy", "kd_previous"}
    last = max(shown["loss"])
    assert sum(shown[name][last] for name in ("cross_entropy", "kd_previous")) == pytest.approx(shown["loss"][last])


def test_it_asks_nobody(page, home):
    text = (home / "runs/first/report.html").read_text()
    assert not re.search(r"url\(|@import|@font-face", text)
    assert not {"script", "link", "iframe", "object", "embed"} & {name for name, _ in page.elements}
    places = [value for _, each in page.elements for key, value in each.items() if key in ("src", "href", "srcset")]
    assert places
    assert all(place.startswith(("#", "data:image/png;")) for place in places)


def test_those_who_see_nothing_are_told(page):
    assert page.all("html") == [{"lang": "en"}]
    assert "<title>" not in page.text
    assert all(each.get("scope") in ("row", "col") for each in page.all("th"))
    captions = [name for name, _ in page.elements if name in ("table", "caption")]
    assert captions[::2] == ["table"] * (len(captions) // 2) == captions[::2]
    assert captions[1::2] == ["caption"] * (len(captions) // 2)
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in page.all("svg"))
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert headings[0] == 1
    assert Counter(headings)[1] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_the_command_makes_the_run_again(page, home):
    text = (home / "runs/first/report.html").read_text()
    commands = [Page(each).text for each in re.findall(r'<pre class="command">.*?</pre>', text)]
    assert commands[0] == "clkd run told.yaml --tracking off -q --set output=runs/first"
    cwd = os.getcwd()
    words = shlex.split(commands[1])[1:]
    assert words[1].endswith("runs/first/resolved.yaml"), cwd
    done = process(*words, "--json", "-q", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy_matrix"] == result(home)["accuracy_matrix"]


def test_several_runs_are_one_page_under_anchors(home, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(home / "runs/first", other, ignore=shutil.ignore_patterns("report.html"))
    about = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(about | {"id": "f" * 12}))
    done = process("report", "runs/first", str(other), "--out", str(tmp_path / "both.html"), cwd=home)
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "both.html").read_text())
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    links = {each["href"].removeprefix("#") for each in page.all("a")}
    assert {"f" * 12, about["id"]} <= links <= set(ids)
    assert len(page.all("article")) == 2
    assert not (other / "report.html").exists()


def test_nothing_heavy_is_loaded(home):
    code = (
        "import sys; from clkd.cli.main import main; code = main(['report', 'runs/first']);"
        "print([n for n in ('torch', 'mlflow', 'numpy', 'matplotlib') if n in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=home)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_a_resumed_run_keeps_the_confusion_of_one_that_was_never_stopped(home):
    words = ["--tracking", "off", "-q"]
    done = process("run", "told.yaml", *words, "--set", "output=runs/cut", "--limit-experiences", "1", cwd=home)
    assert done.returncode == 0, done.stderr
    done = process("run", "--resume", "runs/cut", *words, cwd=home)
    assert done.returncode == 0, done.stderr
    first, cut = (
        [path.read_text() for path in sorted((home / "runs" / name / "confusion").iterdir())]
        for name in ("first", "cut")
    )
    assert len(first) == 3
    assert first == cut


# Runs in whatever state


@pytest.fixture
def copied(home, tmp_path):
    """A run of which parts are to be taken away."""
    path = tmp_path / "run"
    shutil.copytree(home / "runs/first", path)
    return path


def lines(path, keep):
    file = path / "metrics.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if keep(json.loads(line))))


def test_a_run_that_is_being_trained(copied):
    (copied / "result.json").unlink()
    about = json.loads((copied / "run.json").read_text())
    del about["status"], about["error"]
    (copied / "run.json").write_text(json.dumps(about))
    lines(copied, lambda line: line["event"] != "end" and line.get("experience", 0) < 2)
    page = made(copied)
    assert "unfinished 2 of 3 experiences" in page.text
    assert len(page.table("(class-incremental)")) == 2
    lines(copied, lambda line: line["event"] in ("start", "epoch") and line.get("experience", 0) < 1)
    assert "No experience is over yet." in made(copied).text
    (copied / "metrics.jsonl").unlink()
    assert "nothing is known" not in made(copied).text


def test_a_line_that_was_torn_is_a_gap(copied):
    lines(copied, lambda line: not (line["event"] == "experience" and line["experience"] == 1))
    assert made(copied).table("(class-incremental)")[1] == ["1", "", "", ""]


def test_a_run_of_an_earlier_clkd(copied):
    shutil.rmtree(copied / "confusion")
    shutil.rmtree(copied / "reports")
    page = made(copied)
    assert "an earlier version of clkd has made this run" in page.text
    assert "--set report=true" in page.text


def test_whatever_a_run_calls_things_is_text(copied, tmp_path):
    """Each name in the directory that a user may choose is hostile."""
    for file in copied.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".yaml", ".txt") and "checkpoints" not in file.parts:
            rows = [json.loads(line) for line in file.read_text().splitlines()] if file.suffix == ".jsonl" else None
            if rows is not None:
                file.write_text("".join(json.dumps(poisoned(row)) + "\n" for row in rows))
            elif file.suffix == ".json":
                file.write_text(json.dumps(poisoned(json.loads(file.read_text()))))
            else:
                file.write_text(HOSTILE + "==1\n" + file.read_text())
    plain, page = made_plain(copied), made(copied)
    assert plain.count("<script") == 0
    assert Counter(name for name, _ in page.elements)["script"] == 0
    assert page.text.count(HOSTILE) > 20
    allowed = {"class", "id", "style", "scope", "href", "tabindex", "role", "aria-label", "aria-hidden", "lang", "open"}
    shapes = {"viewbox", "width", "height", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "points", "dy", "fill"}
    strokes = {"stroke", "stroke-width", "stroke-dasharray", "text-anchor", "preserveaspectratio"}
    named = {"charset", "name", "content", "src", "alt"}
    assert {key for _, each in page.elements for key in each} <= allowed | shapes | strokes | named


def made_plain(path):
    return document.document([Story.read(path)])


KEPT = {"id", "event", "experience", "step", "status", "clkd.seed", "clkd.run_id", "clkd.git_dirty"}


def poisoned(value, key=""):
    """The same with the hostile word in every text, and in the names of classes, teachers and terms."""
    if isinstance(value, dict):
        return {spoilt(k): poisoned(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(each, key) for each in value]
    return value + HOSTILE if isinstance(value, str) and key not in KEPT else value


def spoilt(key):
    open_ended = key.startswith(("class_acc/", "memory_classes/", "train/weighted_")) or key in (
        "previous",
        *"0123456789",
    )
    return key + HOSTILE if open_ended else key


def test_large_matrices_are_pictures_and_the_page_stays_small(copied):
    count = tables.MOST_CELLS + 10
    some = points(copied)[0]
    told = [
        {"event": "experience", "experience": i, "step": i, "name": f"e{i}", "classes": [i], "digest": "",
         "metrics": some | {f"acc_matrix/exp_{j:02d}": j / count for j in range(i + 1)}}
        for i in range(count)
    ]  # fmt: skip
    (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    classes = [f"c{i}" for i in range(200)]
    pairs = [[i, (7 * i + k) % 200, 1] for i in range(200) for k in range(10)]
    for i in range(count):
        about = {"experience": i, "name": f"e{i}", "classes": classes, "counts": pairs}
        (copied / "confusion" / f"exp_{i:03d}.json").write_text(json.dumps(about))
    text = made_plain(copied)
    page = Page(text)
    assert len(text) < 1_000_000
    assert len(page.all("img")) >= count + 1
    assert all(each["alt"] for each in page.all("img"))


# The command


def test_an_experience_is_asked_for_as_text(home, clkd, monkeypatch):
    monkeypatch.chdir(home)
    assert clkd("report", "runs/first", "--json")[0] == 2
    assert "go with --text" in clkd("report", "runs/first", "--experience", "1")[2]
    assert "prints one experience of one RUN" in clkd("report", "runs/first", "--text", "--out", "x.html")[2]
    assert clkd("report", "runs/first", "--text")[1].startswith("experience 2: ")


def test_it_is_shown(home, clkd, monkeypatch):
    monkeypatch.chdir(home)
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda url: asked.append(url) or False)
    code, out, err = clkd("report", "runs/first", "--open")
    assert (code, out) == (0, "runs/first/report.html\n")
    assert asked == [(home / "runs/first/report.html").as_uri()]
    assert "no browser here" in err


def test_a_place_that_cannot_be_written_is_told(home, clkd, monkeypatch):
    monkeypatch.chdir(home)
    code, _, err = clkd("report", "runs/first", "--out", "nowhere/x.html")
    assert (code, err) == (1, "clkd: nowhere/x.html cannot be written: No such file or directory: see that it can be\n")


def test_no_password_is_on_the_page(copied):
    """Neither as it was typed nor out of the scenario; the address itself stays."""
    told = json.loads((copied / "run.json").read_text())
    told["command"] = "clkd run tiny.yaml --tracking-uri http://me:s3cret@here:5000"
    (copied / "run.json").write_text(json.dumps(told))
    (copied / "scenario.yaml").write_text("tracking: {uri: 'https://me:s3cret@there'}\n")
    page = made_plain(copied)
    assert "s3cret" not in page
    assert "--tracking-uri http://here:5000" in page
    assert "https://there" in page


def test_domains_are_shown_where_their_shift_was_measured(tmp_path):
    scenario = {
        "name": "shift",
        "stream": {
            "dataset": {"name": "digits", "rows_per_class": 20},
            "split": {"by": "domain", "domains": ["clean", {"kind": "brightness", "severity": 5}, "clean"]},
        },
        "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
        "shift": {"rows": 40, "permutations": 99},
        "train": {"optimizer": {"kind": "sgd", "lr": 0.05}},
        "tracking": {"mode": "off"},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "s.yaml").write_text(to_yaml(scenario))
    execute(RunRequest(scenario=tmp_path / "s.yaml", quiet=True), load_plugins())
    page, told = made(tmp_path / "run"), [json.loads(p.read_text()) for p in sorted((tmp_path / "run/shift").iterdir())]
    assert page.table("Accuracy on each domain") == [
        [
            f"{each['experience']}: {each['name']}",
            *map(percent, each["accuracy"].values()),
            *[""] * (2 - len(each["accuracy"])),
        ]
        for each in told
    ]
    first, new, back = page.table("what each experience changed")
    assert first[1:] == ["", first[2], "0.0", *[""] * 4]
    assert (new[1], back[1].split(" (")[0]) == ("of no known domain (p = 0.02)", "of a known domain")
    assert float(new[2]) == pytest.approx(100 * told[1]["gain_new_domain"], abs=0.051)
    assert float(back[3]) == pytest.approx(100 * told[2]["loss_old_domains"], abs=0.051)
    before, after = (told[1][when]["penultimate"]["mmd"]["0"] for when in ("before", "after"))
    assert new[7] == f"{before:.3f} → {after:.3f}"
