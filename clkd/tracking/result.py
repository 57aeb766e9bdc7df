"""The result of a run as plain data: what `clkd run --json` prints and `result.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.tracking.points import without_nan

if TYPE_CHECKING:
    from clkd.engine.run import Run

HEADLINES = ("average_accuracy", "average_accuracy_task_aware", "forgetting", "backward_transfer", "forward_transfer")
PURPOSES = ("total", "train", "evaluate", "tracking")


def build_result(
    run: Run,
    status: str,
    metrics: Mapping[str, float],
    checkpoint: Path | str | None = None,
    compute: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The result, ready for strict JSON: None stands for what was not evaluated.

    Args:
        run: its record, times and row counts are read.
        status: `finished`, `stopped`, `failed` or `killed`.
        metrics: final values by plain name; headline metrics missing here are None in the result.
        checkpoint: the last one that was written.
        compute: what the accuracy cost beside time, by plain name.

    `accuracy_matrix[i][j]` is the accuracy on experience j after experience i; only columns j ≤ i are about what was
    trained. `rows_per_second` counts trained rows over training time. `origin` is there where the run goes on from
    another one.
    """
    train = run.seconds.get("train", 0.0)
    result = {
        "run_id": run.id,
        "status": status,
        "scenario": run.scenario.name,
        "seed": run.seed,
        "dataset": run.dataset,
        "stand_in": run.stand_in,
        "metrics": {**dict.fromkeys(HEADLINES), **metrics},
        "accuracy_matrix": run.record.matrix,
        "seconds": {purpose: run.seconds.get(purpose, 0.0) for purpose in PURPOSES},
        "compute": dict(compute or {}),
        "rows_per_second": run.rows / train if train > 0 else None,
        "checkpoint": str(checkpoint) if checkpoint is not None else None,
        **({"origin": run.origin} if run.origin else {}),
    }
    plain: dict[str, Any] = without_nan(result)
    return plain
