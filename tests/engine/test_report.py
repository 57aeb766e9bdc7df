"""What a run's reports say is what going through its checkpoints row by row gives, and saying it changes nothing."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from states import assert_same, state

from clkd import checkpoint
from clkd.cache import cache_directory
from clkd.cli.main import main
from clkd.data.digits import Digits
from clkd.engine import scheduler
from clkd.engine.compose import Composer, Composition
from clkd.engine.execute import execute
from clkd.engine.report import Reporter
from clkd.errors import Interrupted, UserError
from clkd.models.student import Student
from clkd.plugins import Plugins
from clkd.ranks import ALONE
from clkd.scenario.document import to_yaml
from clkd.scenario.load import load
from clkd.scenario.measures import ReportOptions
from clkd.scenario.request import RunRequest
from clkd.signals import Needs

TRAIN: dict[str, Any] = {"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9}}
BIG = {"kind": "fit", "model": {"kind": "mlp", "hidden": [24]}, "epochs": 1}
BASE: dict[str, Any] = {
    "name": "told",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 20}, "split": {"by": "class", "experiences": 3}},
    "student": {"model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "head": "linear"},
    "teachers": {"previous": "previous", "big": BIG},
    "losses": ["cross_entropy", *({"kind": "kd", "between": ["student", name]} for name in ("previous", "big"))],
    "memory": {"kind": "reservoir", "size": 40},
    "train": TRAIN,
    "tracking": {"mode": "off"},
    "checkpoint": {"every_minutes": None},
    "report": {"rows": 300},
}
RESNET = {"model": {"kind": "resnet8", "width": 3}, "head": "linear"}
DERPP = {
    "teachers": {"stored": "stored"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student@replay", "stored"], "variant": "mse"}],
    "memory": {"kind": "reservoir", "size": 30, "store": ["logits"]},
}


def write(home: Path, name: str, **changes: Any) -> Path:
    scenario = home / f"{name}.yaml"
    scenario.write_text(to_yaml({**BASE, **changes, "output": str(home / name)}))
    return scenario


def train(plugins: Plugins, home: Path, name: str, limit: int | None = None, **changes: Any) -> dict[str, Any]:
    request = RunRequest(scenario=write(home, name, **changes), limit_experiences=limit, quiet=True)
    return execute(request, plugins)


def texts(run: Path) -> list[str]:
    return [path.read_text() for path in sorted((run / "reports").iterdir())]


def reports(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts(run)]


def points(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["metrics"] for line in lines if line["event"] == "experience"]


# It changes nothing


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"student": RESNET, "stream": {**BASE["stream"], "augment": {"crop": 1}}, "train": {**TRAIN, "epochs": 1}},
        {
            "teachers": {"slow": {"kind": "ema", "decay": 0.9}, "past": {"kind": "snapshot", "last": 2}},
            "losses": ["cross_entropy", *({"kind": "kd", "between": ["student", name]} for name in ("slow", "past"))],
        },
    ],
    ids=["recalled answers and dropout", "maps, views drawn anew", "teachers that follow"],
)
def test_on_and_off_train_the_same_bits(plugins: Plugins, tmp_path: Path, changes: dict[str, Any]) -> None:
    train(plugins, tmp_path, "on", **changes)
    train(plugins, tmp_path, "off", **{**changes, "report": False})
    assert_same(state(tmp_path / "on"), state(tmp_path / "off"))
    assert len(reports(tmp_path / "on")) == 3
    assert not (tmp_path / "off" / "reports").exists()
    for on, off in zip(points(tmp_path / "on"), points(tmp_path / "off"), strict=True):
        added = {name for name in on if name.startswith("report/")} | {"time/report_s"}
        plain = {name for name in on if name.split("/")[0] not in ("time", "speed", "teacher_cache")} - added
        assert added - {"time/report_s"}
        assert on.keys() - added == off.keys()
        assert all(on[name] == off[name] for name in plain)


# It says what is so


def composed(run: Path, plugins: Plugins) -> Composition:
    loaded = load(run / "resolved.yaml", (), plugins.registry, base=run)
    return Composer(loaded.scenario, plugins.registry, torch.device("cpu"), cache_directory(), run).compose()


def student_after(run: Path, experience: int, plugins: Plugins) -> Student:
    """The student as an experience left it."""
    student = composed(run, plugins).parts.student
    saved = checkpoint.load(run / "checkpoints" / f"exp_{experience:03d}")["student"]
    student.lay_out(saved["layout"])
    student.load_state_dict(saved["state"])
    return student.frozen_copy()


def answers(model: Any, x: torch.Tensor) -> list[dict[int, float]]:
    """Of each row, each class's logit."""
    with torch.no_grad():
        said = model.signals(x, Needs())
    return [dict(zip(said.class_ids.tolist(), row, strict=True)) for row in said.logits.tolist()]


def best(logits: dict[int, float], among: Any) -> int:
    return max((c for c in logits if c in among), key=logits.__getitem__)


def test_it_is_what_going_through_the_checkpoints_gives(plugins: Plugins, tmp_path: Path) -> None:
    train(plugins, tmp_path, "run")
    run = tmp_path / "run"
    made = composed(run, plugins)
    raw = Digits().find(None).read(tmp_path)  # type: ignore[arg-type]  # it looks nowhere
    x, y = made.parts.augment.plain(raw.test.x), raw.test.y.tolist()
    big = answers(made.parts.teachers["big"].module(), x)
    for last in (1, 2):
        old, seen = set(made.stream[last].old_classes), set(made.stream[last].seen)
        before, now = (answers(student_after(run, i, plugins), x) for i in (last - 1, last))
        told = reports(run)[last]
        for name, teacher, shared in (("previous", before, old), ("big", big, seen)):
            count = dict.fromkeys(told["teachers"][name], 0)
            kl = 0.0
            for i, label in enumerate(y):
                if label not in shared:
                    continue
                z, v = ({c: logits[c] for c in sorted(shared)} for logits in (now[i], teacher[i]))
                was, is_ = (best(logits, logits) == label for logits in (before[i], now[i]))
                right = best(v, shared) == label
                rival = (
                    best(big[i], seen) == label
                    if name == "previous"
                    else label in old and best(before[i], old) == label
                )
                count["rows"] += 1
                count["agreement"] += best(z, shared) == best(v, shared)
                corner = {(1, 1): "both", (1, 0): "only_student", (0, 1): "only_teacher", (0, 0): "neither"}
                count[f"{corner[is_, right]}_right"] += 1
                if was != is_ and label in old:
                    count[f"{'gained' if is_ else 'lost'}_teacher_{'right' if right else 'wrong'}"] += 1
                    count["gained_this_teacher_alone"] += is_ and right and not rival
                p, q = (torch.tensor(list(each.values())).log_softmax(0) for each in (z, v))
                kl += (q.exp() * (q - p)).sum().item()
            count["agreement"] /= count["rows"]
            found = told["teachers"][name]
            assert found["kl"] == pytest.approx(kl / count["rows"], rel=1e-4)
            assert {k: v for k, v in found.items() if k not in ("classes", "kl")} == {
                k: v for k, v in count.items() if k not in ("classes", "kl")
            }
            assert found["gained_teacher_right"] + found["lost_teacher_right"] > 0, "there is something to see"
            for key in ("rows", "both_right", "gained_teacher_wrong", "lost_teacher_right"):
                assert sum(each[key] or 0 for each in found["classes"].values()) == found[key]
            rows = {c: each["rows"] for c, each in found["classes"].items()}
            assert rows == {str(c): y.count(c) for c in sorted(shared)}


def test_of_the_previous_self_nothing_is_gained_where_it_is_right(plugins: Plugins, tmp_path: Path) -> None:
    """It is the student before: what it has right and the student has not any more was lost, all of it."""
    train(plugins, tmp_path, "run")
    first, *later = (report["teachers"]["previous"] for report in reports(tmp_path / "run"))
    assert first == {"skipped": "it has nothing to say yet"}
    for told in later:
        assert told["gained_teacher_right"] == told["lost_teacher_wrong"] == 0
        assert told["lost_teacher_right"] == told["only_teacher_right"]


def test_cka_is_that_of_the_features_over_a_sample_of_each_class(plugins: Plugins, tmp_path: Path) -> None:
    """With every row in one minibatch: Kornblith's own number, from the features of the checkpoint."""
    report = {"cka": ["penultimate", "stage1", "big.layers.0.linear"], "estimator": "biased", "rows": 4000}
    train(plugins, tmp_path, "run", limit=1, report=report, teachers={"big": BIG}, losses=BASE["losses"][::2])
    run = tmp_path / "run"
    (told,) = reports(run)
    made = composed(run, plugins)
    test = made.stream[0].test
    x = made.parts.augment.plain(test.gather(torch.arange(len(test))).x)
    student = student_after(run, 0, plugins)
    with torch.no_grad():
        ours = student.backbone(x).double().numpy()
        theirs = made.parts.teachers["big"].module().backbone(x).double().numpy()
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    cross, own = np.linalg.norm(ours.T @ theirs) ** 2, [np.linalg.norm(each.T @ each) for each in (ours, theirs)]
    taps = {"student": ["penultimate", "stage1"], "big": ["penultimate", "stage1", "layers.0.linear"]}
    assert told["cka"]["layers"] == [[model, tap] for model, each in taps.items() for tap in each]
    values = np.array(told["cka"]["values"])
    assert told["cka"]["rows"] == len(test)
    assert (told["cka"]["minibatches"], told["cka"]["estimator"]) == (1, "biased")
    assert values[0, 2] == pytest.approx(cross / (own[0] * own[1]), rel=1e-4)
    assert values[0, 1] == pytest.approx(1), "of an mlp with one hidden layer these are the same"
    assert points(run)[0]["report/big/cka_penultimate"] == values[0, 2]
    assert points(run)[0]["report/big/cka_stage1-layers.0.linear"] == values[1, 4]


# Other streams


def accuracy(run: Path, result: dict[str, Any], plugins: Plugins, aware: bool = False) -> list[tuple[float, float]]:
    """Right rows by the report, and by the accuracy matrix; after each experience."""
    stream = composed(run, plugins).stream
    found = []
    for i, report in enumerate(reports(run)):
        sizes = [len(each.test) for each in stream[: i + 1]]
        shares = [points(run)[i][f"acc_matrix{'_task_aware' if aware else ''}/exp_{j:02d}"] for j in range(i + 1)]
        found.append((report["student"]["right"], sum(s * n for s, n in zip(shares, sizes, strict=True))))
    return found


STREAMS: dict[str, dict[str, Any]] = {
    "class": {},
    "streamed": {"stream": {**BASE["stream"], "resident": False}},
    "domain": {"stream": {**BASE["stream"], "split": {"by": "domain", "transform": "rotated", "experiences": 3}}},
    "task": {
        "stream": {**BASE["stream"], "split": {"by": "task", "experiences": 3}},
        "student": {**BASE["student"], "head": "multi"},
        "memory": "none",
    },
    "fixed": {"student": {**BASE["student"], "head": {"kind": "fixed", "classes": 12}}},
}


@pytest.mark.parametrize("stream", STREAMS)
def test_the_student_is_right_where_evaluation_says_so(plugins: Plugins, tmp_path: Path, stream: str) -> None:
    result = train(plugins, tmp_path, "run", **STREAMS[stream])
    for ours, theirs in accuracy(tmp_path / "run", result, plugins, aware=stream == "task"):
        assert ours == pytest.approx(theirs)
    *_, last = reports(tmp_path / "run")
    student = last["student"]
    first, second = (report["student"] for report in reports(tmp_path / "run")[1:])
    assert student["rows"] == sum(each["rows"] for each in student["classes"].values())
    assert last["teachers"]["big"]["rows"] == student["rows"]
    assert last["cka"]["rows"] <= 300
    assert set(student["classes"]) == set(last["teachers"]["big"]["classes"])
    assert first["gained"] + first["lost"] + second["gained"] > 0


def test_streamed_rows_give_the_same_report(plugins: Plugins, tmp_path: Path) -> None:
    for name in ("class", "streamed"):
        train(plugins, tmp_path, name, **STREAMS[name])
    assert texts(tmp_path / "class") == texts(tmp_path / "streamed")


def test_test_rows_that_experiences_share_count_once(plugins: Plugins, tmp_path: Path) -> None:
    train(plugins, tmp_path, "run", stream={**BASE["stream"], "split": {"by": "data", "experiences": 2}})
    rows = [report["student"]["rows"] for report in reports(tmp_path / "run")]
    assert rows[0] == rows[1] == len(composed(tmp_path / "run", plugins).stream[0].test)


@pytest.mark.parametrize(
    "split",
    [
        {"by": "repeated", "experiences": 3, "repetition": 0.9, "first_occurrence": 0.5},
        {"by": "data", "experiences": 2},
    ],
)
def test_rows_of_classes_that_come_again_count_once(plugins: Plugins, tmp_path: Path, split: dict[str, Any]) -> None:
    """As they do in the evaluation's confusion."""
    train(plugins, tmp_path, "run", stream={**BASE["stream"], "split": split})
    stream = composed(tmp_path / "run", plugins).stream
    assert sum(len(each.test) for each in stream) > len(torch.cat([each.test.index for each in stream]).unique())
    for i, report in enumerate(reports(tmp_path / "run")):
        seen = torch.cat([each.test.index for each in stream[: i + 1]]).unique()
        counts = json.loads((tmp_path / "run" / "confusion" / f"exp_{i:03d}.json").read_text())["counts"]
        right = sum(rows for true, named, rows in counts if true == named)
        assert (report["student"]["rows"], report["student"]["right"]) == (len(seen), right)
        assert all(each.get("rows", 0) <= len(seen) for each in report["teachers"].values())


def test_rows_of_a_class_without_a_number_are_nobodys(plugins: Plugins, tmp_path: Path) -> None:
    """As those of a class are that data which extended the stream tests and does not train."""
    train(plugins, tmp_path, "run", limit=1)
    made = composed(tmp_path / "run", plugins)
    first = made.stream[0]
    y = torch.where(torch.arange(len(first.test)) < 3, -1, first.test.y)
    made.parts.begin(first, 0)
    made.parts.end_student(first)
    strange = replace(first, test=replace(first.test, y=y))
    reporter = Reporter(made.parts, ReportOptions(rows=300), 0, 32, tuple(made.stream.class_names), False, ALONE)
    reporter.begin([strange])
    assert reporter.end([strange])["student"]["rows"] == len(y) - 3


# Teachers that have little to say, or nothing


def test_a_stored_teacher_says_nothing_of_test_rows(plugins: Plugins, tmp_path: Path) -> None:
    train(plugins, tmp_path, "run", **DERPP)
    for report in reports(tmp_path / "run"):
        assert report["teachers"] == {"stored": {"skipped": "it says nothing of these rows"}}
        assert report["cka"] is None
    assert points(tmp_path / "run")[1].keys() >= {"report/student/gained", "report/student/lost"}


def test_without_teachers_the_student_is_compared_with_itself(plugins: Plugins, tmp_path: Path) -> None:
    train(plugins, tmp_path, "run", teachers={}, losses=["cross_entropy"])
    first, second, _ = reports(tmp_path / "run")
    assert (first["teachers"], first["cka"], first["student"]["gained"]) == ({}, None, None)
    assert second["student"]["gained"] + second["student"]["lost"] > 0
    new = second["student"]["classes"]["4"]
    assert (new["gained"], new["lost"]) == (None, None), "a class that could not be named before"


def test_classes_that_overlap_partly_or_not_at_all(plugins: Plugins, tmp_path: Path) -> None:
    """Outputs 0 … 3 are class 9, nothing, class 5, class 4; experiences have the classes 0–3, 4–6 and 7–9."""
    path = write(tmp_path, "plain")
    composer = Composer(
        load(path, (), plugins.registry).scenario, plugins.registry, torch.device("cpu"), tmp_path, tmp_path
    )
    context = composer.ground().context
    expert = context.network(plugins.registry.parse("models", {"kind": "mlp", "hidden": [8]}), (0, 1, 2, 3), 0)
    save_file({name: each.contiguous() for name, each in expert.state_dict().items()}, tmp_path / "e.safetensors")
    model = {"kind": "mlp", "hidden": [8]}
    teacher = {"kind": "checkpoint", "path": "e.safetensors", "model": model, "classes": [9, None, 5, 4]}
    features = {"kind": "features", "between": ["student.penultimate", "expert.penultimate"], "align": "linear"}
    train(plugins, tmp_path, "run", teachers={"expert": teacher}, losses=["cross_entropy", features])
    told = reports(tmp_path / "run")
    assert told[0]["teachers"]["expert"] == {
        "skipped": "it shares no class with the student, and comparing answers takes two"
    }
    assert list(told[1]["teachers"]["expert"]["classes"]) == ["4", "5"]
    assert list(told[2]["teachers"]["expert"]["classes"]) == ["4", "5", "9"]
    assert all(0 < report["cka"]["values"][0][1] < 1 for report in told), "layers need no classes"


def test_an_ensemble_has_answers_but_no_layers(plugins: Plugins, tmp_path: Path) -> None:
    teachers = {**BASE["teachers"], "both": {"kind": "ensemble", "members": ["previous", "big"], "by": "class"}}
    losses = ["cross_entropy", {"kind": "kd", "between": ["student", "both"]}]
    train(plugins, tmp_path, "run", teachers=teachers, losses=losses)
    *_, last = reports(tmp_path / "run")
    assert last["teachers"]["both"]["rows"] == last["student"]["rows"]
    assert "an ensemble has no features" in last["cka"]["skipped"]["both"]
    assert [name for name, _ in last["cka"]["layers"]] == ["student", "previous", "big"]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"cka": ["stage9"]}, "report.cka: tap 'stage9' is not known"),
        ({"cka": ["student.stage9"]}, "report.cka: tap 'stage9' is not known"),
        ({"cka": ["penultimate", "big.stage9"]}, "report.cka: tap 'stage9' is not known"),
        ({"cka": [], "rows": 3}, "report.rows: give at least 4; got 3"),
        ({"layers": []}, "report.layers: unknown key"),
        ("yes", "report: give true, false, or options"),
    ],
)
def test_mistakes_are_told_before_training(plugins: Plugins, tmp_path: Path, report: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(plugins, tmp_path, "run", report=report)


# Going on


def go_on(plugins: Plugins, run: Path, *settings: str) -> dict[str, Any]:
    return execute(RunRequest(resume=str(run), overrides=settings, quiet=True), plugins)


def test_stopped_within_experiences_it_tells_the_same_to_the_last_bit(
    plugins: Plugins, tmp_path: Path, stop_after: list[int]
) -> None:
    train(plugins, tmp_path, "whole")
    stop_after += [3, 13, 14]  # in the first epoch, in the second experience, and right after
    with pytest.raises(Interrupted):
        train(plugins, tmp_path, "cut")
    for _ in range(2):
        with pytest.raises(Interrupted):
            go_on(plugins, tmp_path / "cut")
    go_on(plugins, tmp_path / "cut")
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))


def test_stopped_while_it_is_evaluated_it_tells_the_same(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teachers have concluded by then: the previous self is the student now, and nothing could be counted anew."""
    train(plugins, tmp_path, "whole")
    evaluate, asked = scheduler.evaluate, []

    def interrupted(*about: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:  # the untrained student, the first experience, the second one
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*about, **options)

    monkeypatch.setattr(scheduler, "evaluate", interrupted)
    with pytest.raises(Interrupted):
        train(plugins, tmp_path, "cut")
    saved = checkpoint.load(tmp_path / "cut" / "checkpoints" / "step")
    assert saved["run"]["unevaluated"]
    assert saved["run"]["report"]["experience"] == len(texts(tmp_path / "cut"))
    go_on(plugins, tmp_path / "cut")
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")
    assert_same(state(tmp_path / "cut"), state(tmp_path / "whole"))


def test_reports_can_be_turned_on_and_off_in_the_middle(plugins: Plugins, tmp_path: Path) -> None:
    train(plugins, tmp_path, "whole")
    train(plugins, tmp_path, "cut", limit=1, report=False)
    go_on(plugins, tmp_path / "cut", "report={rows: 300}")
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole")[1:]
    fork = RunRequest(origin=f"{tmp_path}/whole@0", overrides=("report=true", f"output={tmp_path}/fork"), quiet=True)
    execute(fork, plugins)
    forked, whole = reports(tmp_path / "fork"), reports(tmp_path / "whole")[1:]
    assert [{**report, "cka": None} for report in forked] == [{**report, "cka": None} for report in whole]


# Where it is told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")  # mlflow's own
def test_it_reaches_mlflow_while_training_and_by_track_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], empty_store: Path
) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "m.db")
    monkeypatch.chdir(tmp_path)
    scenario = str(write(tmp_path, "tracked"))
    uri = ["--tracking-uri", f"sqlite:///{tmp_path}/m.db"]
    assert main(["run", scenario, "-q", "--set", "output=live", "--tracking", "mlflow", *uri]) == 0
    assert main(["run", scenario, "--set", "output=later"]) == 0
    assert "report: big: " in capsys.readouterr().err
    assert main(["track", "sync", "later", *uri]) == 0
    client = MlflowClient(uri[1])
    experiment = client.get_experiment_by_name("told").experiment_id
    for name in ("live", "later"):
        identity = json.loads(Path(name, "run.json").read_text())["id"]
        (run,) = client.search_runs([experiment], f"tags.`clkd.run_id` = '{identity}'")
        at = run.info.run_id
        files = {item.path for folder in ("reports", "figures") for item in client.list_artifacts(at, folder)}
        assert files >= {f"reports/exp_{i:03d}.json" for i in range(3)} | {"figures/agreement.png", "figures/cka.png"}
        told = Path(client.download_artifacts(at, "reports/exp_002.json")).read_text()
        assert told == Path(name, "reports", "exp_002.json").read_text()
        assert Path(client.download_artifacts(at, "figures/cka.png")).read_bytes().startswith(b"\x89PNG")
        history = client.get_metric_history(at, "report/previous/agreement")
        assert [(p.step, p.value) for p in history] == [
            (i, report["teachers"]["previous"]["agreement"]) for i, report in enumerate(reports(Path(name))) if i
        ]
    capsys.readouterr()
    assert main(["track", "sync", "live", "later", *uri]) == 0
    assert capsys.readouterr().out.count("nothing was missing") == 2
