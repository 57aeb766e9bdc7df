"""The laws of memories."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from clkd.experience import Experience
from clkd.memory.base import Memory
from clkd.signals import Signals
from clkd.testing import material

Make = Callable[[], Memory]
FEED = 7
"""Rows that a memory is offered at a time: no divisor of anything, so that last batches are short."""


def empty(make: Make, size: int) -> None:
    """A memory that was shown nothing holds nothing and replays nothing."""
    memory = make()
    assert len(memory) == 0, f"it holds {len(memory)} rows"
    assert memory.sample(4, _draws()) is None, "it replays rows it never saw"


def bounded(make: Make, size: int) -> None:
    """It never holds more rows than it declares."""
    for memory, _ in _life(make()):
        assert len(memory) <= size, f"{len(memory)} rows, but {size} are declared"


def faithful(make: Make, size: int) -> None:
    """Rows come back as they were stored: pixels in uint8, with the labels and ids they had."""
    x = material.pixels()
    for memory, shown in _life(make()):
        rows = memory.sample(size, _draws())
        if rows is None:
            continue
        assert rows.new == 0, "replayed rows count as new"
        assert rows.x.dtype == torch.uint8, f"pixels come back as {rows.x.dtype}"
        assert torch.equal(rows.x, x[rows.sample_id]), "pixels do not belong to the row's sample_id"
        assert torch.equal(rows.experience, rows.sample_id // material.ROWS), "experience ids changed"
        assert torch.equal(rows.domain, rows.experience), "domain ids changed"
        assert int(rows.experience.max()) <= shown.index, "a row comes from the future"
        classes = torch.tensor(material.CLASSES).reshape(-1, material.PER_EXPERIENCE)
        assert torch.equal(rows.y, classes[rows.experience, rows.sample_id % material.PER_EXPERIENCE]), "labels changed"


def distinct(make: Make, size: int) -> None:
    """A sample has no row twice, and as many rows as asked for, or all there are."""
    for memory, _ in _life(make()):
        for n in (1, 3, size + 5):
            rows = memory.sample(n, _draws())
            got = 0 if rows is None else len(rows)
            assert got == min(n, len(memory)), f"{got} rows for {n} of {len(memory)}"
            assert rows is None or len(rows.sample_id.unique()) == got, "a row comes twice"  # type: ignore[no-untyped-call]  # torch's own


def even(make: Make, size: int) -> None:
    """Each row is drawn equally often, to five standard deviations."""
    memory, rounds, draws = make(), 600, _draws()
    _show(memory, next(material.experiences()))
    kept, n = len(memory), max(len(memory) // 3, 1)
    if not kept:
        return
    counts = torch.zeros(material.ROWS)
    for _ in range(rounds):
        rows = memory.sample(n, draws)
        assert rows is not None, "rows that are held are not drawn"
        counts[rows.sample_id] += 1
    share = n / kept
    off = (counts[counts > 0] - rounds * share).abs().max()
    assert int((counts > 0).sum()) == kept, f"{int((counts > 0).sum())} of {kept} rows are ever drawn"
    assert off <= 5 * (rounds * share * (1 - share)) ** 0.5, f"{off:.0f} draws more or less than {rounds * share:.0f}"


def repeatable(make: Make, size: int) -> None:
    """The same generator draws the same rows, and drawing changes nothing in the memory."""
    for memory, _ in _life(make()):
        first, second = memory.sample(5, _draws()), memory.sample(5, _draws())
        assert (first is None) == (second is None), "one draw gives rows and the next one none"
        assert first is None or second is None or torch.equal(first.sample_id, second.sample_id), "draws differ"


def counted(make: Make, size: int) -> None:
    """The histogram adds up to the number of rows, and rows take memory."""
    for memory, _ in _life(make()):
        assert sum(memory.histogram().values()) == len(memory), "the histogram does not add up"
        assert memory.nbytes() >= len(memory) * 4, f"{memory.nbytes()} bytes for {len(memory)} rows of 4 pixels"


def weighed(make: Make, size: int) -> None:
    """`nbytes` tells all bytes of all tensors that it holds on to, whole storages where it keeps views."""
    for memory, _ in _life(make()):
        held = sum(storages(memory).values())
        assert memory.nbytes() == held, f"it says {memory.nbytes()} bytes and holds {held}"


def remembered(make: Make, size: int) -> None:
    """What it stores of the student's comes back with its row, bit for bit; logits in columns by global class id."""
    for memory, _ in _life(make()):
        rows = memory.sample(size, _draws())
        if rows is not None and material.TAP in rows.extra:
            felt = rows.extra[material.TAP]
            assert torch.equal(felt, _felt(rows.sample_id)), "features do not belong to the row's sample_id"
        if rows is None or "logits" not in rows.extra:
            continue
        assert rows.extra["logits"].dtype == torch.float32, f"logits come back as {rows.extra['logits'].dtype}"
        classes = material.student().class_ids_tensor
        said = rows.extra["logits"].index_select(1, classes)
        assert torch.equal(said, _said(rows.sample_id, classes)), "logits do not belong to the row's sample_id"


def state(make: Make, size: int) -> None:
    """A fresh memory that takes the state of another goes on exactly as that one does."""
    memory, other = make(), make()
    first, *rest = material.experiences()
    _show(memory, first)
    other.load_state_dict(memory.state_dict())
    for experience in rest:
        _assert_alike(memory, other, f"before {experience.index}")
        _show(memory, experience)
        _show(other, experience)
    _assert_alike(memory, other, "at the end")


def resumed(make: Make, size: int) -> None:
    """A state that is taken between two batches goes on exactly as the original does."""
    first, second, _ = material.experiences()
    for stop in (1, 3):
        memory, other = make(), make()
        _show(memory, first)
        for step, _ in enumerate(_offer(memory, second)):
            if step == stop:
                other.load_state_dict(memory.state_dict())
            elif step > stop:
                list(_offer(other, second, slice(step, step + 1)))
        memory.end(second, material.student())
        other.end(second, material.student())
        _assert_alike(memory, other, f"taken after batch {stop}")


def seeded(make: Make, size: int) -> None:
    """Two that are made alike and shown the same hold the same."""
    for (one, _), (other, _) in zip(_life(make()), _life(make()), strict=True):
        _assert_alike(one, other, "of two that were shown the same")


def snapshot(make: Make, size: int) -> None:
    """A state that was taken does not move while the memory goes on."""
    memory, again = make(), make()
    first, second, _ = material.experiences()
    _show(memory, first)
    _show(again, first)
    taken = memory.state_dict()
    _show(memory, second)
    assert material.equal(taken, again.state_dict()), "the state moved with the memory"
    other = make()
    other.load_state_dict(taken)
    _assert_alike(other, again, "taken before the memory went on")


class Law(Protocol):
    """A law of memories; `size` is what the memory declares."""

    def __call__(self, make: Make, size: int) -> None: ...


MEMORY_LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        empty, bounded, faithful, distinct, even, repeatable, seeded, counted, weighed, remembered, state, resumed,
        snapshot,
    )
}  # fmt: skip


def storages(thing: Any, seen: set[int] | None = None) -> dict[int, int]:
    """Address and bytes of every tensor storage that can be reached from a part's own attributes."""
    seen = set() if seen is None else seen
    if isinstance(thing, Tensor):
        return {thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()}
    if callable(thing) or id(thing) in seen:
        return {}
    seen.add(id(thing))
    return {place: size for each in _inside(thing) for place, size in storages(each, seen).items()}


def _inside(thing: Any) -> list[Any]:
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | deque):
        return list(thing)
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, name, None) for name in slots)]


def _assert_alike(one: Memory, other: Memory, when: str) -> None:
    """Neither their states nor what they hold differ: a state may leave out all that there is."""
    assert material.equal(one.state_dict(), other.state_dict()), f"states differ, {when}"
    assert len(one) == len(other), f"{len(one)} and {len(other)} rows, {when}: does the state have them all?"
    assert one.histogram() == other.histogram(), f"histograms differ, {when}: does the state have all labels?"
    a, b = (memory.sample(max(len(one), 1), _draws()) for memory in (one, other))
    for name in ("x", "y", "sample_id", "domain", "experience", "extra"):
        alike = material.equal(getattr(a, name, None), getattr(b, name, None))
        assert alike, f"rows differ in {name}, {when}: does the state have it?"


def _draws() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _life(memory: Memory) -> Iterator[tuple[Memory, Experience]]:
    """The memory after each batch and each experience of a stream."""
    for experience in material.experiences():
        for _ in _offer(memory, experience):
            yield memory, experience
        memory.end(experience, material.student())
        yield memory, experience


def _offer(memory: Memory, experience: Experience, steps: slice = slice(None)) -> Iterator[None]:
    """Batch by batch, as a run does: with the rows that were replayed, for a memory that compares or learns."""
    classes = material.student().class_ids_tensor
    for at in torch.split(torch.arange(len(experience.train)), FEED)[steps]:
        new = experience.train.gather(at)
        both = new.joined(memory.sample(FEED - 2, _draws()))
        batch = both if memory.compares else new
        said = Signals(_said(batch.sample_id, classes), classes, {material.TAP: _felt(batch.sample_id)})
        memory.observe(batch.seen_as(batch.x.float() / 255, torch.zeros_like(batch.y)), said)
        memory.learn(both)
        yield


def _said(sample_id: Tensor, classes: Tensor) -> Tensor:
    """`[B, C]` logits that tell whose they are, and ask for a gradient, which nobody may keep."""
    return (sample_id[:, None] + classes[None] / 10).requires_grad_()


def _felt(sample_id: Tensor) -> Tensor:
    """`[B, D]` features, likewise."""
    return (sample_id[:, None] * torch.arange(1.0, material.WIDTH + 1)).sin().requires_grad_()


def _show(memory: Memory, experience: Experience) -> None:
    for _ in _offer(memory, experience):
        pass
    memory.end(experience, material.student())
