"""Reports as files, numbers, words and pictures."""

import io
import json
import math

import pytest

from clkd.cli.main import main
from clkd.errors import UserError
from clkd.tracking import figures, reports
from clkd.tracking.jsonl import JsonlTracker
from clkd.tracking.reports import Pair


def told(rows, agreement, **more):
    counts = {
        "both_right": 6, "only_student_right": 1, "only_teacher_right": 2, "neither_right": 1,
        "gained_teacher_right": 3, "gained_teacher_wrong": 1, "gained_this_teacher_alone": 2,
        "lost_teacher_right": 2, "lost_teacher_wrong": 0, "kl": 0.25, "agreement": agreement, "rows": rows,
    }  # fmt: skip
    return {**counts, **more}


def report(experience=1, **changes):
    silent = dict.fromkeys(("gained_teacher_right", "lost_teacher_right", "lost_teacher_wrong"))
    silent |= {"gained_teacher_wrong": None, "gained_this_teacher_alone": None, "kl": math.nan}
    first = {"gained": None, "lost": None} if experience == 0 else {"gained": 4, "lost": 2}
    big = told(10, 0.7, **(silent if experience == 0 else {}))
    return {
        "experience": experience,
        "name": "[2, 3]",
        "student": {"rows": 12, "right": 9, **first, "classes": {}},
        "teachers": {
            "previous": {"skipped": "it has nothing to say yet"},
            "big": {**big, "classes": {"cat": big, "$x$ dollars": big}},
        },
        "cka": {
            "estimator": "debiased",
            "rows": 12,
            "minibatches": 1,
            "layers": [["student", "stage1"], ["student", "stage2"], ["big", "stage2"]],
            "values": [[1.0, 0.9, 0.25], [0.9, 1.0, math.nan], [0.25, math.nan, 1.0]],
            "skipped": {"previous": "it has nothing to say yet"},
        },
        **changes,
    }


def test_the_numbers_that_become_metrics():
    points = reports.points(report())
    assert {name: value for name, value in points.items() if value == value} == {
        "report/student/gained": 4,
        "report/student/lost": 2,
        "report/big/agreement": 0.7,
        "report/big/kl": 0.25,
        "report/big/gained_teacher_right": 3,
        "report/big/gained_this_teacher_alone": 2,
        "report/big/lost_teacher_right": 2,
        "report/big/cka_stage1-stage2": 0.25,
    }
    assert math.isnan(points["report/big/cka_stage2"])
    assert not any("gained" in name or "lost" in name for name in reports.points(report(0)))


def test_the_words():
    said = reports.text(report()).splitlines()
    for line in (
        "experience 1: [2, 3]: 12 test rows, 75.0 % right",
        "of the classes that it knew before, 4 rows became right and 2 wrong",
        "previous: nothing to compare: it has nothing to say yet",
        "big: 10 rows of classes that both know",
        "  agreement 70.0 %, KL 0.25 nats",
        "                 teacher right teacher wrong",
        "  student wrong              2             1",
        "  became right               3             1",
        "  of those that became right, no other teacher is right on 2",
        "  cat              10       70.0     0.25             4             2",
        "  student.stage1 and big.stage2: 0.250",
    ):
        assert line in said, line
    first = reports.text(reports.without_nan(report(0))).splitlines()
    assert not any(line.startswith(("of the", "  became")) for line in first)
    assert "  agreement 70.0 %, KL - nats" in first
    assert len(list(reports.summary(report()))) == 2


def test_files_are_read_in_order_and_dropped_where_they_come_again(tmp_path):
    for i in (2, 10, 1, 1000):
        reports.write(tmp_path, report(i))
    (tmp_path / "reports" / "exp_new.json").write_text("{}")
    found = reports.files(tmp_path)
    assert [reports.read(path)["experience"] for path in found] == [1, 2, 10, 1000]
    assert reports.read(found[0])["cka"]["values"][1][2] is None, "strict JSON"
    reports.drop(tmp_path, 3)
    assert [path.name for path in reports.files(tmp_path)] == ["exp_001.json", "exp_002.json"]
    for text in ("{", "[]", '{"experience": 1}'):
        found[0].write_text(text)
        with pytest.raises(UserError, match="cannot be read as a report"):
            reports.read(found[0])


def test_a_resumed_run_forgets_what_comes_again(drive, make_run):
    def told_until(experience, run):
        tracker = JsonlTracker()
        tracker.start(run)
        for i in range(run.record.trained, experience):
            drive.finish(tracker, run, i, report=report(i))
        return [path.name for path in reports.files(run.directory)]

    assert told_until(3, make_run()) == [f"exp_{i:03d}.json" for i in range(3)]
    assert told_until(1, make_run(trained=1)) == ["exp_000.json"]


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"id": "a"}))
    assert main(["report", "--text"]) == 2
    assert capsys.readouterr().err == f"clkd: {run} holds no report: it takes a run with --set report=true\n"
    for i in range(2):
        reports.write(run, report(i))
    assert main(["report", "--text"]) == 0
    assert capsys.readouterr().out == reports.text(report()) + "\n"
    assert main(["report", "--text", "runs/a", "--experience", "0"]) == 0
    assert capsys.readouterr().out.startswith("experience 0: ")
    assert main(["report", "--text", "a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teachers"]["big"]["rows"] == 10
    assert main(["report", "--text", "a", "--experience", "7"]) == 2
    assert capsys.readouterr().err == f"clkd: {run} holds no report of experience 7 (allowed: 0, 1)\n"
    assert main(["report", "--text", "b"]) == 2


def png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def test_bars_stand_at_the_classes_that_a_teacher_knows():
    values = {"previous": {"cat": 0.5}, "big": {"cat": 0.75, "$x$ dollars": 1.0}}
    figure = figures.agreement(values, "tiny s0")
    axes = figure.axes[0]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert heights == {"previous": [50], "big": [75, 100]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", r"\$x\$ dollars"]
    left, right, second = (bar.get_x() + bar.get_width() / 2 for bars in axes.containers for bar in bars)
    assert -0.5 < left < 0 < right < 0.5 < second < 1.5
    assert png(figure).startswith(b"\x89PNG")
    assert png(figures.agreement({"big": {f"class {c}": 0.5 for c in range(200)}})).startswith(b"\x89PNG")


def test_the_heat_map_has_a_row_for_each_pair_of_layers():
    values = reports.cka_over_time([report(1), report(2, cka=None), report(3)])
    assert list(values) == [Pair("big", "stage1", "stage2"), Pair("big", "stage2", "stage2")]
    assert values[Pair("big", "stage1", "stage2")] == {1: 0.25, 3: 0.25}
    axes = figures.cka(values).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage1 – big.stage2", "stage2 – big.stage2"]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(1, 0): "0.25", (3, 0): "0.25"}
    assert png(axes.figure).startswith(b"\x89PNG")
    many = {Pair("big", f"stage{i}", "a"): dict.fromkeys(range(40), 0.5) for i in range(6)}
    assert png(figures.cka(many)).startswith(b"\x89PNG")
