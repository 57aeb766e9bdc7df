"""What is measured of domains in a run: it changes nothing, knows who comes back, and can be resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from states import assert_same, state

from clkd import Tracker, hookimpl
from clkd.cache import cache_directory
from clkd.cli.main import main
from clkd.engine.compose import Composer, Composition
from clkd.engine.execute import execute
from clkd.engine.shift import ShiftWatch
from clkd.plugins import isolated, load_plugins
from clkd.scenario.load import load
from clkd.scenario.measures import ShiftOptions
from clkd.scenario.request import RunRequest
from clkd.testing import tiny

SCENARIO = {
    "name": "shift",
    "stream": {
        "dataset": {"name": "digits", "rows_per_class": 30},
        "split": {"by": "domain", "domains": ["clean", {"kind": "brightness", "severity": 5}, "clean"]},
    },
    "student": {"model": {"kind": "mlp", "hidden": [16]}, "head": "linear"},
    "metrics": ["average_accuracy", "gain_new_domain", "loss_old_domains"],
    "shift": {"rows": 60, "permutations": 99},
    "train": {"epochs": 2, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


def run(tmp_path: Path, name: str, **changes) -> Path:
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**SCENARIO, "output": str(tmp_path / name), **changes}))
    execute(RunRequest(scenario=file, quiet=True), load_plugins())
    return tmp_path / name


def told(directory: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((directory / "shift").glob("*.json"))]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("shift"), "watched")


def test_a_new_domain_is_flagged_and_one_that_comes_back_is_not(watched: Path) -> None:
    first, new, back = told(watched)
    assert (first["experience"], first["drift"], first["before"], first["after"]) == (0, None, {}, {})
    assert (new["experience"], new["domain"], new["drift"]["alarm"], new["drift"]["p"]) == (1, 1, True, 0.02)
    assert (back["experience"], back["domain"], back["drift"]["alarm"], back["drift"]["nearest"]) == (2, 0, False, 0)
    assert set(back["drift"]["domains"]) == {"0", "1"}
    for each, other in ((new, "0"), (back, "1")):
        for when in ("before", "after"):
            assert set(each[when]) == {"input", "penultimate"}
            assert each[when]["input"]["a_distance"][other] > 1, "much brighter images are told apart"
            assert each[when]["input"]["mmd"][other] > 0.05
        assert each["before"]["input"] == each["after"]["input"], "training changes features, not rows"
        assert each["before"]["penultimate"] != each["after"]["penultimate"]


def test_no_picture_is_looked_at_in_two_domains() -> None:
    rows, watch = tiny.stream()[0].test, ShiftWatch(None, ShiftOptions(), seed=0)  # type: ignore[arg-type]
    looks = zip((rows, replace(rows, domain=1)), ("own", "other"), (0, 1), strict=True)
    one, other = (set(watch._drawn(each, 99, half, (1, name, 0)).tolist()) for each, name, half in looks)
    assert one
    assert other
    assert not one & other
    assert one | other == set(range(len(rows)))


def test_it_is_logged_as_metrics(watched: Path) -> None:
    lines = [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    first, second, third = [line["metrics"] for line in lines if line["event"] == "experience"]
    assert {name for name in first if name.startswith("shift/")} == {
        "shift/accuracy/domain_00", "shift/gain_new_domain", "shift/loss_old_domains",
    }  # fmt: skip
    assert (second["shift/alarm"], third["shift/alarm"]) == (1, 0)
    assert {"shift/p", "shift/input/a_distance_before", "shift/penultimate/mmd_after"} <= second.keys()
    matrix = json.loads((watched / "result.json").read_text())["accuracy_matrix"]
    assert (second["shift/accuracy/domain_00"], second["shift/accuracy/domain_01"]) == (matrix[1][0], matrix[1][1])
    assert (third["shift/accuracy/domain_00"], third["shift/accuracy/domain_01"]) == (matrix[2][2], matrix[2][1])
    assert "shift/accuracy/domain_02" not in third
    for name in ("gain_new_domain", "loss_old_domains"):
        assert third[f"shift/{name}"] == third[f"stream/{name}"]
    assert second["stream/gain_new_domain"] == pytest.approx(matrix[1][1] - matrix[0][1])
    assert third["stream/loss_old_domains"] == pytest.approx(matrix[1][1] - matrix[2][1])


def test_nothing_that_trains_knows_of_it(watched: Path, tmp_path: Path) -> None:
    plain = run(tmp_path, "plain", shift=False)
    assert_same(state(watched), state(plain))


def test_a_run_that_was_stopped_says_the_same(watched: Path, tmp_path: Path) -> None:
    file = tmp_path / "stopped.yaml"
    file.write_text(yaml.safe_dump({**SCENARIO, "output": str(tmp_path / "stopped")}))
    execute(RunRequest(scenario=file, quiet=True, limit_experiences=2), load_plugins())
    execute(RunRequest(resume=str(tmp_path / "stopped"), quiet=True), load_plugins())
    assert told(tmp_path / "stopped") == told(watched)


def test_options_that_could_never_alarm_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"19 permutations cannot reject at 0\.05 in 2 layers: give at least 39"):
        run(tmp_path, "wrong", shift={"permutations": 19})
    with pytest.raises(Exception, match=r"shift\.layers"):
        run(tmp_path, "wrong", shift={"layers": ["nowhere"]})


def test_the_figures_show_it(watched: Path) -> None:
    from clkd.tracking.figures import domains, shift

    found = told(watched)
    distances, discrepancies, changes, monitor = shift(found, "title").axes
    for axes, kind in ((distances, "a_distance"), (discrepancies, "mmd")):
        drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
        assert set(drawn) == {f"{layer} {when}" for layer in ("input", "penultimate") for when in ("before", "after")}
        assert list(drawn["penultimate after"]) == [
            found[1]["after"]["penultimate"][kind]["0"], found[2]["after"]["penultimate"][kind]["1"],
        ]  # fmt: skip
    gained, lost = ([100 * each[name] for each in found[1:]] for name in ("gain_new_domain", "loss_old_domains"))
    assert [bar.get_height() for bar in changes.patches] == pytest.approx([*gained, *lost])
    assert [line.get_ydata()[0] for line in monitor.lines] == [0.05], "the stated rate of false alarms"
    assert [label.get_text() for label in monitor.get_xticklabels()] == ["0: clean", "1: brightness 5", "2: clean"]
    matrix = domains(found).axes[0]
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["0: clean", "1: brightness 5"]
    image = matrix.images[0].get_array()
    assert image[2].tolist() == pytest.approx([100 * found[2]["accuracy"][domain] for domain in ("0", "1")])
    domains(found[1:])  # a fork has no files of the experiences that it took over


def test_trackers_hear_of_an_arrival_before_it_is_trained(watched: Path, tmp_path: Path) -> None:
    """What the monitor says, at the step at which it says it; one that fails in it stops nothing."""
    heard = []

    class Witness(Tracker):
        name = "witness"

        def arrival(self, run, experience, drift):
            heard.append((experience.index, run.step, drift))
            raise RuntimeError("it may fail")

        def experience(self, run, experience, result):
            heard.append((experience.index, run.step, None))

    module = ModuleType("witness")
    module.__file__ = "witness.py"
    module.clkd_register_trackers = hookimpl(
        lambda register: register("witness", Witness), specname="clkd_register_trackers"
    )
    file = tmp_path / "heard.yaml"
    tracking = {"mode": "offline", "trackers": ["witness"]}
    file.write_text(yaml.safe_dump({**SCENARIO, "output": str(tmp_path / "heard"), "tracking": tracking}))
    execute(RunRequest(scenario=file, quiet=True), isolated(module))
    assert [(index, drift is None) for index, _, drift in heard] == [
        (0, True), (1, False), (1, True), (2, False), (2, True),
    ]  # fmt: skip
    assert heard[1][1] == heard[0][1], "no step was taken in between"
    _, new, back = told(watched)
    for said, (_, _, drift) in zip((new, back), (heard[1], heard[3]), strict=True):
        assert json.loads(json.dumps(drift)) == said["drift"]


@pytest.mark.slow
def test_it_reaches_mlflow(
    watched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Points by experience, the file of each, and the figure."""
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "m.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/m.db"
    assert main(["track", "sync", str(watched), "--tracking-uri", uri]) == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("shift").experiment_id
    (parent,) = client.search_runs([experiment], "tags.clkd.seed = '0' and params.`shift.rows` = '60'")
    at = parent.info.run_id
    assert [(p.step, p.value) for p in client.get_metric_history(at, "shift/alarm")] == [(1, 1.0), (2, 0.0)]
    kept = Path(client.download_artifacts(at, "shift/exp_001.json"))
    assert json.loads(kept.read_text()) == told(watched)[1]
    accuracy = client.get_metric_history(at, "shift/accuracy/domain_01")
    assert [(p.step, p.value) for p in accuracy] == [(i, told(watched)[i]["accuracy"]["1"]) for i in (1, 2)]
    for name in ("shift", "domains"):
        assert Path(client.download_artifacts(at, f"figures/{name}.png")).read_bytes().startswith(b"\x89PNG")


def composed_of(directory: Path) -> Composition:
    registry = load_plugins().registry
    loaded = load(directory / "resolved.yaml", [], registry)
    return Composer(loaded.scenario, registry, torch.device("cpu"), cache_directory(), loaded.base).compose()


def test_a_domain_that_is_not_looked_at_is_told(watched: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An alarm says that rows are of no known domain: of which ones it could not know has to be said, too."""
    made = composed_of(watched)
    parts, stream = made.parts, made.stream
    parts.student.request(("penultimate",))
    watch = ShiftWatch(parts, ShiftOptions(rows=60, permutations=99), 0)
    for experience in stream:
        parts.begin(experience, 0)
    first, bright, back = stream
    empty = first.test.select(torch.arange(0))
    with caplog.at_level("WARNING"):
        watch.begin([replace(first, test=empty), bright, back])
    assert "experience 2 (clean) is not compared with domain 0: of one of them there are fewer than" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING"):
        watch.begin([first, bright, back])
    assert "is not compared" not in caplog.text
