"""A stream: the ordered experiences of one data set, and what all kinds of streams share in making them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from clkd.errors import UserError
from clkd.experience import Experience, Rows, Warp
from clkd.seeding import generator

if TYPE_CHECKING:
    from clkd.data.store import Store


NEW, TRAINED, ASIDE = 0, 1, 2
"""What became of a training row so far: it never came, is trained on, or is kept aside for validation."""


class Stream(Sequence[Experience]):
    """The experiences in the order they arrive.

    Attributes:
        name: what it is cut by: `class`, `task`, `repeated`, `domain`, `data`, `given`.
        experiences: one after another.
        class_names: one per global class id.
        shape: one row, `(C, H, W)` or `(D,)`.
        mean, std: `[C]`, what its rows are normalised with.
        task_labels: whether a row's task is told at test time.
    """

    def __init__(self, name: str, experiences: Iterable[Experience], store: Store, task_labels: bool = False) -> None:
        self.name = name
        self.experiences = tuple(experiences)
        self.class_names = store.class_names
        self.shape = store.shape
        self.mean, self.std = store.mean, store.std
        self.task_labels = task_labels
        self._data = store.fingerprint

    @overload
    def __getitem__(self, at: int) -> Experience: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Experience, ...]: ...
    def __getitem__(self, at: int | slice) -> Experience | tuple[Experience, ...]:
        return self.experiences[at]

    def __len__(self) -> int:
        return len(self.experiences)

    def __iter__(self) -> Iterator[Experience]:
        return iter(self.experiences)

    def changed(self, experiences: Iterable[Experience], store: Store) -> Stream:
        """The same stream of other experiences, or of another store's rows; classes keep their names."""
        return Stream(self.name, experiences, replace(store, class_names=self.class_names), self.task_labels)

    def left_out(self) -> list[str]:
        """Names of the classes that no experience has."""
        seen = set(self.experiences[-1].seen)
        return [name for c, name in enumerate(self.class_names) if c not in seen]

    def describe(self) -> list[dict[str, Any]]:
        """What each experience holds: index, name, domain, classes (ids and names) and rows.

        Where classes are left out of the stream, each entry names them under `left_out`; where training rows have no
        label, `labelled` is how many have one.
        """
        left_out = {"left_out": names} if (names := self.left_out()) else {}
        return [
            {
                "index": experience.index,
                "name": experience.name,
                "domain": experience.train.domain,
                "classes": list(experience.classes),
                "class_names": [self.class_names[c] for c in experience.classes],
                "train": len(experience.train),
                "validation": len(experience.validation),
                "test": len(experience.test),
                **({} if (known := experience.train.labelled()) is None else {"labelled": int(known.sum())}),
                **left_out,
            }
            for experience in self.experiences
        ]

    def fingerprint(self) -> str:
        """A hash of the data and of everything that determines which rows come when, and how they look."""
        digest = hashlib.sha256(f"{self._data}/{self.task_labels}".encode())
        for experience in self.experiences:
            digest.update(repr(experience.classes).encode() + experience.placed())
            for rows in (experience.train, experience.validation, experience.test):
                digest.update(repr((rows.domain, rows.warp, len(rows))).encode())
                digest.update(rows.index.cpu().numpy().tobytes())
            if (labelled := experience.train.labelled()) is not None:
                digest.update(labelled.numpy().tobytes())
        return digest.hexdigest()

    def streamed(self) -> Stream:
        """Leave all rows in the store, to be brought to the device batch by batch. Returns the stream itself."""
        return self._each(lambda rows: replace(rows, resident=False))

    def to(self, device: torch.device | str, moved: dict[int, tuple[Tensor, Tensor]] | None = None) -> Stream:
        """Move all rows to `device`; what experiences share is moved once. Returns the stream itself.

        `moved` is told of each tensor, by its id, what its copy is.
        """
        moved = {} if moved is None else moved

        def move(tensor: Tensor) -> Tensor:
            # The original is kept beside its copy, so that its id is not given to another tensor meanwhile.
            return moved.setdefault(id(tensor), (tensor, tensor.to(device)))[1]

        def move_rows(rows: Rows) -> Rows:
            return replace(rows, x=move(rows.x), y=move(rows.y), index=move(rows.index), sample_id=move(rows.sample_id))

        return self._each(move_rows)

    def _each(self, change: Callable[[Rows], Rows]) -> Stream:
        self.experiences = tuple(
            replace(e, train=change(e.train), validation=change(e.validation), test=change(e.test))
            for e in self.experiences
        )
        return self


@dataclass(frozen=True, slots=True)
class Chunk:
    """One experience in the making: positions of its rows in the stored splits, and how they look."""

    name: str
    train: Tensor
    test: Tensor
    classes: tuple[int, ...] | None = None
    domain: int = 0
    warp: Warp | None = None
    ordered: bool = False
    """Whether training rows stand in the order in which they arrive."""


def assemble(chunks: Sequence[Chunk], store: Store, seed: int, validation: float, offset: int = 0) -> list[Experience]:
    """Turn chunks into experiences: cut off validation rows, and keep account of the classes seen.

    A row that comes again, in whatever guise, is kept aside whenever it comes, or never: nobody trains on it meanwhile.
    Where the stream follows another one, `offset` is how many experiences that has: nothing is drawn as it was there.

    Raises:
        UserError: an experience would have no training or no test rows, or the first ones no labels.
    """
    experiences: list[Experience] = []
    seen: tuple[int, ...] = ()
    fate = torch.full_like(store.train.y, NEW, dtype=torch.uint8)
    for index, chunk in enumerate(chunks):
        for kind, rows in (("training", chunk.train), ("test", chunk.test)):
            if not len(rows):
                raise UserError(f"experience {index} ({chunk.name}) would have no {kind} rows: change the split")
        draw = generator(seed, "validation", offset + index)
        kept, held = holdout(store.train.y, chunk.train, validation, draw, fate)
        if validation and not len(held) and labels_in(store.train.y[chunk.train]):
            raise UserError(
                f"validation: {validation:g} of experience {index} ({chunk.name}) is not one row of any class: raise it"
            )
        classes = chunk.classes or tuple(labels_in(store.train.y[chunk.train]))
        known = len(seen)
        seen += tuple(c for c in classes if c not in seen)
        if not seen and not offset:
            raise UserError(f"experience {index} ({chunk.name}) has no row with a label, so there is no class to learn")
        experiences.append(
            Experience(
                index=index,
                classes=classes,
                seen=seen,
                train=_rows(store.train, kept, chunk, index),
                validation=_rows(store.train, held, chunk, index),
                test=_rows(store.test, chunk.test, chunk, index),
                name=chunk.name,
                count=len(chunks),
                known=known,
            )
        )
    tested = {c for each in experiences for c in labels_in(each.test.y)} if not offset else set()
    if strange := sorted(tested - set(seen)):
        raise UserError(
            f"class {strange[0]} ({store.class_names[strange[0]]}) has test rows but no training rows: leave it "
            f"out, or change the split"
        )
    return experiences


def counted(experiences: Sequence[Experience]) -> Iterator[Experience]:
    """With the account of the classes seen, and of how many experiences there are."""
    seen: tuple[int, ...] = ()
    for each in experiences:
        known = len(seen)
        seen += tuple(c for c in each.classes if c not in seen)
        yield replace(each, seen=seen, known=known, count=len(experiences))


def holdout(
    y: Tensor, rows: Tensor, fraction: float, draw: torch.Generator, fate: Tensor, least: int = 0
) -> tuple[Tensor, Tensor]:
    """Of the rows at `rows`, those to train on and those kept aside: `fraction` of each class, rounded down, but at
    `least` so many where one is left to train on.

    What was decided about a row stays, and is noted in `fate` (`[N]`): only `NEW` ones are drawn to make up the
    fraction. Rows without a label are all trained on: they tell nothing about a student.
    """
    if not fraction:
        return rows, rows[:0]
    order = rows[torch.randperm(len(rows), generator=draw)]
    for label in labels_in(y[rows]):
        own = order[y[order] == label]
        wanted = max(int(fraction * len(own)), min(least, len(own) - 1)) - int((fate[own] == ASIDE).sum())
        fate[own[fate[own] == NEW][: max(wanted, 0)]] = ASIDE
    aside = fate[rows] == ASIDE
    fate[rows[~aside]] = TRAINED
    return rows[~aside], rows[aside]


def dealt(rows: Tensor, parts: int, draw: torch.Generator) -> tuple[Tensor, ...]:
    """The rows at random, in so many parts of the same length, the first ones taking what is left over."""
    return torch.tensor_split(rows[torch.randperm(len(rows), generator=draw)], parts)


def labels_in(y: Tensor) -> list[int]:
    """The classes among labels, ascending; -1 is none.

    >>> labels_in(torch.tensor([3, -1, 0, 3]))
    [0, 3]
    """
    found: list[int] = torch.unique(y[y >= 0]).tolist()
    return found


def positions(mask: Tensor) -> Tensor:
    """Where a mask is true, in order."""
    return mask.nonzero().flatten()


def _rows(split: Any, at: Tensor, chunk: Chunk, experience: int) -> Rows:
    return Rows(
        x=split.x,
        y=split.y[at],
        index=at,
        sample_id=at,
        domain=chunk.domain,
        experience=experience,
        warp=chunk.warp,
        ordered=chunk.ordered,
    )
