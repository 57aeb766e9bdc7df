"""What a frozen teacher will be asked is known before an experience starts: it answers once, and is recalled after."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clkd.errors import ClkdError
from clkd.signals import Batch, Needs, Signals


class Recall:
    """A teacher's answers about rows it was shown, by (view, experience, sample id).

    Logits are kept as they are; features, which are large, as float16. Looking up never waits for the device: rows that
    were not shown are counted there, and `check` tells of them later.

    Args:
        shown: batches of the same rows in view 0, then in view 1, …, each with what the teacher said about it.
    """

    def __init__(self, shown: Iterable[tuple[Batch, Signals]]) -> None:
        keys, answers = [], []
        for batch, said in shown:  # of a batch only the key is kept: its pixels are floats by now
            assert batch.view is not None, "rows are foretold in fixed views"
            keys.append(torch.stack([batch.view, batch.experience, batch.sample_id]))
            answers.append(said)
        self.class_ids: Tensor = answers[0].class_ids
        view, experience, sample = torch.cat(keys, 1)
        sizes = [int(column.max()) + 1 for column in (view, experience, sample)]
        self.slots = torch.full(sizes, -1, dtype=torch.int32, device=view.device)
        self.slots[view, experience, sample] = torch.arange(len(view), dtype=torch.int32, device=view.device)
        logits = [said.logits for said in answers if said.logits is not None]
        self.logits = torch.cat(logits) if logits else None
        self.features = {
            name: torch.cat([said.features[name].half() for said in answers]) for name in answers[0].features
        }
        self.missed = torch.zeros((), dtype=torch.int64, device=view.device)

    def __call__(self, batch: Batch, valid: Tensor | None) -> Signals:
        """What the teacher said about these rows in these views."""
        slot = self.slots[batch.view, batch.experience, batch.sample_id].long()
        self.missed += (slot < 0).sum()
        slot = slot.clamp(min=0)
        return Signals(
            logits=None if self.logits is None else self.logits[slot],
            class_ids=self.class_ids,
            features={name: kept[slot].float() for name, kept in self.features.items()},
            valid=valid,
        )

    def covers(self, needs: Needs) -> bool:
        """Whether everything that is asked for was kept."""
        return (self.logits is not None or not needs.logits) and set(needs.features) <= set(self.features)

    def check(self) -> None:
        """Raises `ClkdError` if rows were asked for that had not been shown."""
        refuse_missed(self.missed)


def refuse_missed(missed: Tensor) -> None:
    """Raises `ClkdError` if the count is not zero."""
    if count := int(missed):
        raise ClkdError(
            f"{count} rows were replayed that the memory did not hold when the experience began, so a recalled "
            f"teacher had no answer for them: a memory that makes rows up needs `recall: false` at its teachers"
        )
