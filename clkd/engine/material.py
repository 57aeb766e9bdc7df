"""What a scenario is trained on: its data set, and what came after it, as one stream; and what a run remembers of that.

Once the experiences of a data set are trained, its training rows are never read again, and it may be gone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from clkd.data.prepare import prepare
from clkd.data.source import Split, chunks
from clkd.data.store import Store, statistics
from clkd.errors import UserError
from clkd.experience import Experience, Rows
from clkd.options import Part
from clkd.ranks import ALONE, Ranks
from clkd.scenario.augment import Normalize
from clkd.scenario.model import Scenario
from clkd.scenario.stream import Extension, StreamOptions
from clkd.streams.base import Stream
from clkd.streams.imbalance import thinned
from clkd.streams.joined import Piece, join
from clkd.streams.labels import hide

log = logging.getLogger("clkd.engine")

Facts = dict[str, Any]
"""What a run remembers of one data set, as plain data."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a stream that was trained in part: `facts`, one entry a data set, and how far it was trained."""

    facts: list[Facts]
    trained: int

    def of(self, place: int) -> Facts | None:
        """What is known of the data set at `place`."""
        return self.facts[place] if place < len(self.facts) else None

    def names(self, place: int) -> str:
        """The experiences of the data set at `place`, for people."""
        first = sum(len(facts["experiences"]) for facts in self.facts[:place])
        last = first + len(self.facts[place]["experiences"]) - 1
        return f"experience {first}" if first == last else f"experiences {first} to {last}"

    def over(self, place: int) -> bool:
        """Whether all experiences of the data set at `place` were trained."""
        return place < len(self.facts) and self.trained >= sum(len(f["experiences"]) for f in self.facts[: place + 1])


@dataclass(frozen=True, slots=True)
class Material:
    """The stream, and what it is cut from.

    Attributes:
        store: the first data set. Its statistics are those that all rows are normalised with.
        stream: all experiences; those whose data is gone have no rows.
        facts: what a run remembers of each data set.
    """

    store: Store
    stream: Stream
    facts: list[Facts]

    @property
    def extended(self) -> int:
        """How many classes came after the first data set."""
        return len(self.stream.class_names) - len(self.facts[0]["class_names"])

    @property
    def renamed(self) -> bool:
        """Whether the stream calls the first data set's classes otherwise, and so labels its rows otherwise."""
        return bool(list(self.store.class_names) != self.facts[0]["class_names"])

    @property
    def rows(self) -> int:
        """How many training rows all experiences have, or had; at most, where a run of an earlier clkd says no more."""
        return sum(each.get("rows", facts["rows"]) for facts in self.facts for each in facts["experiences"])


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the data sets of a scenario, each after what came before it."""

    scenario: Scenario
    build: Callable[..., Any]
    cache: Path
    base: Path
    past: Past | None = None
    ranks: Ranks = ALONE
    facts: list[Facts] = field(default_factory=list)

    def read(self) -> Material:
        """The whole stream.

        Raises:
            UserError: a data set that is still to be trained is not here, is of another shape than the first, or is not
                what was trained on before.
        """
        options = self.scenario.stream
        store, first = self._piece(0, options, None)
        if not options.extensions:
            return Material(store, first.stream, self.facts)
        pieces = [first]
        pieces += (self._piece(i + 1, each, store)[1] for i, each in enumerate(options.extensions))
        names = hashlib.sha256("/".join(facts["fingerprint"] for facts in self.facts).encode()).hexdigest()
        return Material(store, join(pieces, replace(store, fingerprint=names)), self.facts)

    def _piece(self, place: int, said: StreamOptions | Extension, first: Store | None) -> tuple[Store, Piece]:
        known = self.past.of(place) if self.past else None
        store = self._store(place, said.dataset, known)
        if store is None:
            assert known is not None, "only what is known can be gone"
            store, stream = _gone(known)
        else:
            offset = sum(len(facts["experiences"]) for facts in self.facts)
            stream = self._split(said, store, offset)
            if said.labelled != 1:
                stream = hide(stream, store, said.labelled, self.scenario.seed, offset, self._came())
            if first is None and self.scenario.stream.normalize != "data":
                store = self._normalized(store, stream)
                stream = stream.changed(stream, store)
            known = _facts(store, stream)
        if first is not None and (store.shape != first.shape or store.train.x.dtype != first.train.x.dtype):
            raise UserError(
                f"stream.extensions.{place - 1}: its rows are {_kind(store)}, those of the stream are {_kind(first)}: "
                f"set the data set's size and channels"
            )
        self.facts.append(known)
        self._compare(place)
        return store, Piece(stream, known["rows"], isinstance(said, Extension) and said.new_domain)

    def _came(self) -> set[str]:
        """The classes of all experiences so far, by name."""
        return {
            facts["class_names"][c] for facts in self.facts for each in facts["experiences"] for c in each["classes"]
        }

    def _split(self, said: StreamOptions | Extension, store: Store, offset: int) -> Stream:
        def split(some: Store) -> Stream:
            stream: Stream = self.build(said.split, store=some, seed=self.scenario.seed, offset=offset)
            return stream

        if said.imbalance is None:
            return split(store)
        return thinned(store, split, self.scenario.seed, **said.imbalance.model_dump(), offset=offset)

    def _store(self, place: int, dataset: Part, known: Facts | None) -> Store | None:
        """The data set; None if it is not here, or not what it was, and not needed for training any more."""
        over = self.past is not None and self.past.over(place)
        try:
            store = self.ranks.in_turn(lambda: prepare(dataset, build=self.build, cache=self.cache, base=self.base))
        except UserError as error:
            if not over:
                raise
            self._miss(place, str(error))
            return None
        self.ranks.agree("the data set", store.fingerprint)
        if known is None or store.fingerprint == known["fingerprint"]:
            return store
        why = f"{dataset.name} is not the data that was trained on (its content differs)"
        if not over:
            raise UserError(f"stream: {why}: bring that data back, or start a new run")
        self._miss(place, why)
        return None

    def _miss(self, place: int, why: str) -> None:
        assert self.past is not None, "only the past can be missed"
        log.warning("%s cannot be evaluated any more and show as null: %s", self.past.names(place), why)

    def _normalized(self, store: Store, stream: Stream) -> Store:
        """With the statistics that the scenario asks for instead of the data's own."""
        wanted = self.scenario.stream.normalize
        if isinstance(wanted, Normalize):
            mean, std = torch.tensor(wanted.mean), torch.tensor(wanted.std)
            if mean.shape != store.mean.shape or std.shape != store.std.shape:
                raise UserError(f"stream.normalize: give {len(store.mean)} numbers each, one per channel or feature")
        else:
            first = stream[0].train
            rows = store.train.x[first.index]
            if first.warp is not None:
                rows = torch.cat([first.warp(part) for part in chunks(rows)])
            mean, std = statistics(rows)
        return replace(store, mean=mean, std=std)

    def _compare(self, place: int) -> None:
        """Raises `UserError` if experiences that were trained were other ones."""
        known, now = self.past.of(place) if self.past else None, self.facts[place]
        if known is None or self.past is None:
            return
        before = sum(len(facts["experiences"]) for facts in self.facts[:place])
        trained = min(self.past.trained - before, len(known["experiences"]))
        if trained <= 0:
            return
        for key in ("mean", "std"):
            if place == 0 and known[key] != now[key]:
                raise UserError("stream.normalize: cannot change, since the student has learned from rows as they were")
        digests = [each["digest"] for each in now["experiences"]]
        for i, each in enumerate(known["experiences"][:trained]):
            if i >= len(digests) or digests[i] != each["digest"]:
                raise UserError(
                    f"stream: experience {before + i} ({each['name']}) was trained with other rows than this split "
                    f"gives it: only experiences from {self.past.trained} on can be split in another way"
                )


def differing(known: Sequence[Facts], now: Sequence[Facts]) -> Iterator[int]:
    """The places of experiences that are not what they were, or were not known."""
    before, after = (
        [(f["fingerprint"], e["digest"]) for f in facts for e in f["experiences"]] for facts in (known, now)
    )
    yield from (i for i, each in enumerate(after) if i >= len(before) or before[i] != each)


def _facts(store: Store, stream: Stream) -> Facts:
    return {
        "name": store.name,
        "requested": store.requested,
        "stand_in": store.stand_in,
        "fingerprint": store.fingerprint,
        "class_names": list(stream.class_names),
        "shape": list(store.shape),
        "dtype": str(store.train.x.dtype).removeprefix("torch."),
        "mean": store.mean.tolist(),
        "std": store.std.tolist(),
        "augment": store.augment,
        "rows": len(store.train.y),
        "split": stream.name,
        "task_labels": stream.task_labels,
        "experiences": [
            {
                "name": e.name,
                "classes": list(e.classes),
                "domain": e.train.domain,
                "rows": len(e.train),
                "digest": digest(e),
            }
            for e in stream
        ],
    }


def digest(experience: Experience) -> str:
    """A hash of exactly these rows, for training and for tests, in exactly this guise."""
    train = experience.train
    warp = repr(train.warp)
    if " at 0x" in warp:  # it has no name of its own, and another address in the next process
        warp = type(train.warp).__name__
    content = hashlib.sha256(repr((experience.classes, train.domain, warp)).encode())
    content.update(experience.placed())
    for rows in (train, experience.validation, experience.test):
        content.update(rows.index.cpu().numpy().tobytes())
    if (labelled := train.labelled()) is not None:
        content.update(labelled.numpy().tobytes())
    return content.hexdigest()[:16]


def _gone(known: Facts) -> tuple[Store, Stream]:
    """A data set that is not here any more: what is known of it, and no rows."""
    shape, none = known["shape"], torch.empty(0, dtype=torch.int64)
    x = torch.empty(0, *shape, dtype=getattr(torch, known["dtype"]))
    store = Store(
        name=known["name"],
        train=Split(x, none),
        test=Split(x, none),
        class_names=tuple(known["class_names"]),
        mean=torch.tensor(known["mean"]),
        std=torch.tensor(known["std"]),
        fingerprint=known["fingerprint"],
        augment=known["augment"],
        stand_in=known["stand_in"],
        requested=known["requested"],
    )
    seen: tuple[int, ...] = ()
    experiences = []
    for index, each in enumerate(known["experiences"]):
        rows = Rows(x, none, none, none, domain=each["domain"], experience=index)
        classes, old = tuple(each["classes"]), len(seen)
        seen += tuple(c for c in classes if c not in seen)
        about = {"name": each["name"], "count": len(known["experiences"]), "known": old}
        experiences.append(Experience(index, classes, seen, rows, rows, rows, **about))
    return store, Stream(known["split"], experiences, store, known["task_labels"])


def _kind(store: Store) -> str:
    return f"{'×'.join(map(str, store.shape))} {str(store.train.x.dtype).removeprefix('torch.')}"
