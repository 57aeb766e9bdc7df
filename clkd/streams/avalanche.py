"""clkd streams for Avalanche strategies. (The other way round, see `clkd.data.avalanche`.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clkd import vision
from clkd.errors import UserError
from clkd.experience import Rows
from clkd.streams.base import Stream


def to_avalanche(stream: Stream, augment: Callable[[Tensor], Tensor] | None = None) -> Any:
    """An Avalanche benchmark with the stream's rows, for example for `Naive(...).train(experience)`.

    Rows are normalised as clkd does it. Task labels are the experiences' indices if the stream tells tasks, else 0.

    Args:
        stream: any clkd stream; validation rows, if it has any, become the benchmark's `validation` stream.
        augment: changes one stored row (`[C, H, W]` uint8) before it is normalised, in training only: any transform
            of torchvision's.

    Raises:
        UserError: rows have no label, for which Avalanche has no word.
    """
    if any(e.train.labelled() is not None for e in stream):
        raise UserError("Avalanche has no rows without a label: leave stream.labelled out, or drop these rows")
    vision.avalanche()
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels

    parts = {"train": [e.train for e in stream], "test": [e.test for e in stream]}
    if any(len(e.validation) for e in stream):
        parts["validation"] = [e.validation for e in stream]
    datasets = {name: [_dataset(stream, rows, augment) for rows in selections] for name, selections in parts.items()}
    return with_task_labels(with_classes_timeline(benchmark_from_datasets(**datasets)))


def _dataset(stream: Stream, rows: Rows, augment: Callable[[Tensor], Tensor] | None) -> Any:
    from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset, TransformGroups

    whole = rows.gather(torch.arange(len(rows), device=rows.index.device), "cpu")
    task = rows.experience if stream.task_labels else 0
    view = Normalized(stream.mean, stream.std)
    return TaskAwareSupervisedClassificationDataset(
        [TensorDataset(whole.x, whole.y)],
        data_attributes=[
            DataAttribute(whole.y.tolist(), "targets"),
            DataAttribute([task] * len(whole), "targets_task_labels", use_in_getitem=True),
        ],
        transform_groups=TransformGroups({"train": (replace(view, augment=augment), None), "eval": (view, None)}),
    )


@dataclass(frozen=True, slots=True)
class Normalized:
    """One stored row as models get it."""

    mean: Tensor
    std: Tensor
    augment: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.augment is not None:
            x = self.augment(x)
        if x.dtype == torch.uint8:
            return (x.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]
        return (x - self.mean) / self.std
