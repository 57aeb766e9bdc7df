"""What flows through a step: the rows of a batch, and what each model said about them.

Shape letters used everywhere: B rows, C classes (columns), D features, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixed:
    """What mixed rows are made of (`stream.augment.mix`).

    Attributes:
        y: `[B]` int64, each row's own label, -1 where it has none.
        other: `[B]` int64, the label of what was mixed into it.
        share: `[B]` how much of it is the row itself, from 0 to 1; where it is 1, nothing was mixed in.
    """

    y: Tensor
    other: Tensor
    share: Tensor

    def pick(self, at: Tensor | slice) -> Mixed:
        """The same of some rows."""
        return Mixed(self.y[at], self.other[at], self.share[at])


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of the stream. New rows come first, replayed rows after them.

    Attributes:
        x: `[B, C, H, W]` uint8 as stored, or float32 once augmented and normalised; `[B, D]` for vectors.
        y: `[B]` int64 global class ids, -1 where unlabelled or mixed of two classes.
        sample_id: `[B]` int64, the row's place in its training set: stable over the whole stream.
        domain: `[B]` int64 domain ids.
        experience: `[B]` int64, the experience in which the row arrived.
        new: how many leading rows are new; the others were replayed. A plain int, so that slicing never
            waits for a GPU.
        raw: `[B, …]` the rows as stored (what a memory keeps), once `x` has been augmented.
        view: `[B]` int64, which of each row's fixed views `x` is; None where views are drawn anew each time.
        extra: what a memory stored beside its rows (old logits, the view they are about), row-aligned with the replayed
            part.
        draws: how many rows each draw from memory brought, where a whole batch has several (`train.replay_draws`).
        weak: the same rows in the view that `x` was made of, where `x` is a strong one.
        labelled: `[n]` int64 on the CPU, the places of those new rows that have a label; None where all do. (Known
            there, so that a memory can count them without waiting for a GPU.)
        mixed: what each row is made of, where rows were mixed with each other.
    """

    x: Tensor
    y: Tensor
    sample_id: Tensor
    domain: Tensor
    experience: Tensor
    new: int
    raw: Tensor | None = None
    view: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    draws: tuple[int, ...] = ()
    weak: Batch | None = None
    labelled: Tensor | None = None
    mixed: Mixed | None = None
    _cuts: dict[tuple[int, int], Batch] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `rows` gave: several losses, a teacher and the memory ask for the same."""

    def __len__(self) -> int:
        return self.y.shape[0]  # five times as fast as its len()

    @property
    def is_replay(self) -> Tensor:
        """`[B]` bool: True where the row came out of memory.

        >>> from clkd.signals import Batch
        >>> i = torch.arange(3)
        >>> Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=2).is_replay.tolist()
        [False, False, True]
        """
        return torch.arange(len(self.y), device=self.y.device) >= self.new

    def stored(self) -> Tensor:
        """The rows as they came from the store (uint8 for images), whether or not they were augmented since."""
        return self.x if self.raw is None else self.raw

    def rows(self, start: int, stop: int) -> Batch:
        """Rows `start:stop`, as views.

        >>> i = torch.arange(4)
        >>> batch = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=2, extra={"logits": i[:2] + 0.5})
        >>> batch.rows(1, 3).extra["logits"]
        tensor([0.5000])
        """
        if (start, stop) not in self._cuts:
            self._cuts[start, stop] = self._rows(start, stop)
        return self._cuts[start, stop]

    def _rows(self, start: int, stop: int) -> Batch:
        cut = slice(start, stop)
        replayed = slice(max(start - self.new, 0), stop - self.new)
        return Batch(
            x=self.x[cut],
            y=self.y[cut],
            sample_id=self.sample_id[cut],
            domain=self.domain[cut],
            experience=self.experience[cut],
            new=min(max(self.new - start, 0), stop - start),
            raw=None if self.raw is None else self.raw[cut],
            view=None if self.view is None else self.view[cut],
            extra={name: column[replayed] for name, column in self.extra.items()} if stop > self.new else {},
            weak=None if self.weak is None else self.weak.rows(start, stop),
            labelled=self.labelled if start == 0 and stop >= self.new else None,
            mixed=None if self.mixed is None else self.mixed.pick(cut),
        )

    def pick(self, new: Tensor, *draws: Tensor) -> Batch:
        """The rows at positions `new`, and of each draw from memory at `draws` (int64 within this batch), as copies.

        >>> i = torch.arange(4)
        >>> batch = Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=2, extra={"key": torch.tensor([7, 8])})
        >>> picked = batch.pick(torch.tensor([1]), torch.tensor([3]))
        >>> picked.x, picked.new, picked.extra
        (tensor([1, 3]), 1, {'key': tensor([8])})
        """
        at = torch.cat([new, *draws])
        replayed = at[len(new) :] - self.new
        own = {name: getattr(self, name)[at] for name in ("x", "y", "sample_id", "domain", "experience")}
        return Batch(
            **own,
            new=len(new),
            raw=None if self.raw is None else self.raw[at],
            view=None if self.view is None else self.view[at],
            extra={name: column[replayed] for name, column in self.extra.items()},
            draws=tuple(map(len, draws)),
            weak=None if self.weak is None else self.weak.pick(new, *draws),
            mixed=None if self.mixed is None else self.mixed.pick(at),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The stored rows on `device`; a copy from pinned memory does not wait."""
        columns = ("x", "y", "sample_id", "domain", "experience")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in columns})

    def pinned(self) -> Batch:
        """The stored rows in memory that a GPU can copy from on its own."""
        columns = ("x", "y", "sample_id", "domain", "experience")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in columns})

    def joined(self, *draws: Batch | None) -> Batch:
        """These new rows followed by rows from memory, one draw after another."""
        replayed = [rows for rows in draws if rows is not None and len(rows)]
        if not replayed:
            return self
        parts = {
            name: torch.cat([getattr(self, name), *(getattr(rows, name) for rows in replayed)])
            for name in ("x", "y", "sample_id", "domain", "experience")
        }
        beside = replayed[0].extra
        if len(replayed) > 1:
            beside = {name: torch.cat([rows.extra[name] for rows in replayed]) for name in beside}
        lengths = tuple(map(len, replayed))
        return Batch(**parts, new=len(self), extra=beside, draws=lengths, weak=None, labelled=self.labelled, mixed=None)

    def by_itself(self) -> Batch:
        """The same rows with the labels that they have by themselves, before they were mixed."""
        return self if self.mixed is None else replace(self, y=self.mixed.y, mixed=None)

    def seen_as(self, x: Tensor, view: Tensor | None = None) -> Batch:
        """The same rows with `x` augmented and normalised; the stored pixels move to `raw`."""
        return replace(self, x=x, raw=self.stored(), view=view)


@dataclass(frozen=True, slots=True)
class Signals:
    """What one model said about one batch: the only thing that losses read of a model.

    Attributes:
        logits: `[B, C]`, or None when only features were asked for.
        class_ids: `[C]` int64, the global class id of each column.
        features: tap name to tensor: `[B, D]` or `[B, D, H, W]`.
        valid: `[B]` bool, whether this model knows the class of the row; None means every row.
        known: `[B, C]` bool, which columns say something about which row (what was said long ago did not know later
            classes); None means all.
        views: what the same model said about further views of the same rows, where a loss asks for them.
        competes: `[B, C]` bool, the columns that evaluation lets answer for each row, where a student is told its task;
            None means all.
    """

    logits: Tensor | None
    class_ids: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None
    known: Tensor | None = None
    views: tuple[Signals, ...] = ()
    competes: Tensor | None = None

    def rows(self, start: int, stop: int) -> Signals:
        """What was said about rows `start:stop`, as views."""
        return self.pick(slice(start, stop))

    def pick(self, at: Tensor | slice) -> Signals:
        """What was said about the rows at positions `at` (int64), as copies."""
        return Signals(
            logits=None if self.logits is None else self.logits[at],
            class_ids=self.class_ids,
            features={name: tensor[at] for name, tensor in self.features.items()},
            valid=None if self.valid is None else self.valid[at],
            known=None if self.known is None else self.known[at],
            views=tuple(view.pick(at) for view in self.views),
            competes=None if self.competes is None else self.competes[at],
        )

    def detached(self) -> Signals:
        """The same, without a gradient."""
        logits = None if self.logits is None else self.logits.detach()
        features = {name: tensor.detach() for name, tensor in self.features.items()}
        return replace(self, logits=logits, features=features, views=tuple(view.detached() for view in self.views))


def confined(logits: Tensor, columns: Tensor | None, others: float | None = None) -> Tensor:
    """`[B, C]`: the logits of `columns` (`[B, C]` bool; None for all), and `others` for the rest: by default the lowest
    number, which a softmax gives nothing. (Not -inf: a row may have no column left, and 0 · -inf is no number.)

    >>> confined(torch.zeros(1, 3), torch.tensor([[True, True, False]])).softmax(1)
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    if columns is None:
        return logits
    return logits.masked_fill(~columns, torch.finfo(logits.dtype).min if others is None else others)


def by_class(logits: Tensor, class_ids: Tensor, classes: int) -> Tensor:
    """`[B, classes]`: logits `[B, C]` with column k for global class k; 0 where the model has no such column.

    Columns of a fixed head for classes that the data does not have are left out.

    >>> by_class(torch.tensor([[5.0, 6.0]]), torch.tensor([2, 0]), 3)
    tensor([[6., 0., 5.]])
    >>> by_class(torch.tensor([[5.0, 6.0, 7.0]]), torch.tensor([0, 1, 2]), 2)
    tensor([[5., 6.]])
    """
    wide = logits.new_zeros(len(logits), max(classes, logits.shape[1]))
    return wide.index_copy_(1, class_ids, logits)[:, :classes]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a part wants a model to say about a batch: its logits, and features by tap name."""

    logits: bool = True
    features: tuple[str, ...] = ()

    def __or__(self, other: Needs) -> Needs:
        """Both wishes in one forward pass.

        >>> Needs(logits=False, features=("stage3",)) | Needs(features=("stage1",))
        Needs(logits=True, features=('stage3', 'stage1'))
        """
        return Needs(self.logits or other.logits, tuple(dict.fromkeys(self.features + other.features)))


@dataclass(frozen=True, slots=True)
class Spec:
    """One side of a loss, as it will be in the coming experience, known before the first batch.

    Attributes:
        class_ids: the global class of each logit column.
        born: the experience that brought each column (what a task-aware head calls its task).
        task_aware: whether rows are told their task, so that only the columns of their own task compete.
        feature: the tap this side of the loss reads, if it names one (`student.stage3`).
        shape: the shape of that feature without the batch: `(D,)` or `(D, H, W)`.
        shapes: the shape of every feature that the loss reads of this side, by tap name.
    """

    class_ids: tuple[int, ...]
    born: tuple[int, ...]
    task_aware: bool = False
    feature: str | None = None
    shape: tuple[int, ...] | None = None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
