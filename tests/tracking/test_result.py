"""The result has exactly the promised keys and is strict JSON."""

import json
import math

from clkd.tracking.result import build_result

KEYS = {
    "run_id", "status", "scenario", "seed", "dataset", "stand_in", "metrics", "accuracy_matrix", "seconds",
    "rows_per_second", "checkpoint", "compute",
}  # fmt: skip
METRICS = {
    "average_accuracy", "average_accuracy_task_aware", "forgetting", "backward_transfer", "forward_transfer",
}  # fmt: skip


def test_a_finished_run(make_run):
    result = build_result(make_run(trained=3, rows=500), "finished", {"forgetting": 0.25, "macro_f1": 0.5}, "there")
    assert set(result) == KEYS
    assert set(result["metrics"]) == METRICS | {"macro_f1"}
    assert result["metrics"]["forgetting"] == 0.25
    assert result["metrics"]["average_accuracy"] is None
    assert result["accuracy_matrix"] == [[0.9, 0.1, None], [0.6, 0.8, 0.2], [0.5, 0.7, 0.95]]
    assert result["seconds"] == {"total": 2.0, "train": 1.0, "evaluate": 0.25, "tracking": 0.125}
    assert result["rows_per_second"] == 500
    assert result["checkpoint"] == "there"
    json.dumps(result, allow_nan=False)


def test_a_run_that_failed_at_once(make_run):
    result = build_result(make_run(seconds={}), "failed", {"forgetting": math.inf})
    assert set(result) == KEYS
    assert result["accuracy_matrix"] == [[None] * 3] * 3
    assert result["seconds"] == {"total": 0, "train": 0, "evaluate": 0, "tracking": 0}
    assert result["rows_per_second"] is None
    assert result["checkpoint"] is None
    json.dumps(result, allow_nan=False)


def test_where_tasks_are_told_the_task_aware_matrix_counts(make_run):
    run = make_run(trained=3)
    run.record.task_labels = True
    assert build_result(run, "finished", {})["accuracy_matrix"][2] == [0.54, 0.74, 0.99]
