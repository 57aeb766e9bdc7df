"""Runs that differ in nothing but their seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from clkd.compare.summary import Summary

ENDED = "finished"
MOST_KEYS = 3
"""So many settings tell groups of one scenario apart; beyond them, their hash does."""


@dataclass(frozen=True, slots=True)
class Group:
    """The finished runs of one scenario on the same data, by seed.

    Attributes:
        name: as MLflow's tag `clkd.group` has it.
        label: for people: the scenario's name, and what tells it from others of that name.
        data: what it was trained on, in words.
        prints: the data's fingerprints.
    """

    name: str
    label: str
    data: str
    prints: tuple[str, ...]
    runs: tuple[Summary, ...]

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    def values(self, metric: str) -> list[float] | None:
        """One for each run; None where a run lacks it."""
        found = [run.numbers.get(metric) for run in self.runs]
        values = [value for value in found if value is not None]
        return values if len(values) == len(found) else None


def grouped(runs: Sequence[Summary]) -> tuple[list[Group], list[str]]:
    """The groups of these runs in the order in which they are named, and what there is to say about them."""
    notes: list[str] = []
    finished = [run for run in runs if run.status == ENDED]
    notes += [f"{run.path.name} is {run.status}, not finished: left out" for run in runs if run.status != ENDED]
    order = {key: i for i, key in reversed(list(enumerate(map(_key, finished))))}
    by_key = groupby(sorted(finished, key=lambda run: order[_key(run)]), _key)
    members = [tuple(_one_a_seed(list(runs), notes)) for _, runs in by_key]
    labels = _labels([runs[0] for runs in members])
    groups = [
        Group(runs[0].group, label, runs[0].data, runs[0].prints, runs)
        for runs, label in zip(members, labels, strict=True)
    ]
    for group in groups:
        if (forked := group.runs[0].forked) is not None:
            notes.append(f"{group.label}: goes on from another run, which trained experiences 0 to {forked}")
        versions = sorted({run.version for run in group.runs})
        if len(versions) > 1:
            notes.append(f"{group.label}: runs of several versions of clkd ({', '.join(versions)})")
    return groups, notes


def _key(run: Summary) -> tuple[Any, ...]:
    """What runs of one mean have in common: one cut short, on a stand-in or forked is not as the others.

    Which run it went on from does not count: that is another one for each seed.
    """
    return run.group, run.limit_batches, run.forked, run.data, run.prints


def _one_a_seed(runs: Sequence[Summary], notes: list[str]) -> Iterator[Summary]:
    """Of several runs with one seed the newest counts: they are repetitions, not a sample."""
    by_seed: dict[int | None, list[Summary]] = {}
    for run in sorted(runs, key=lambda run: run.created):
        by_seed.setdefault(run.seed, []).append(run)
    for seed in sorted(by_seed, key=lambda seed: -1 if seed is None else seed):
        *older, newest = by_seed[seed]
        if older:
            notes.append(f"{newest.name}, seed {seed}: {len(older) + 1} runs; the newest counts ({newest.path.name})")
        yield newest


def _labels(firsts: Sequence[Summary]) -> list[str]:
    """One for each group, told by its first run: as short as it can be without being another's."""
    labels = [run.name for run in firsts]
    for more in (_settings, _cut, _from, _on):
        for same in [group for group in _same(labels) if len(group) > 1]:
            words = more([firsts[i] for i in same])
            for i, word in zip(same, words, strict=True):
                labels[i] += f" {word}" if word else ""
    for same in [group for group in _same(labels) if len(group) > 1]:
        for i in same:
            labels[i] += f" [{firsts[i].config_sha[:8]} {','.join(firsts[i].prints)[:8]}]"
    return labels


def _same(labels: Iterable[str]) -> list[list[int]]:
    """The places of equal labels."""
    places: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    return list(places.values())


def _cut(runs: Sequence[Summary]) -> list[str]:
    return ["" if run.limit_batches is None else f"({run.limit_batches} batches an epoch)" for run in runs]


def _from(runs: Sequence[Summary]) -> list[str]:
    return ["" if run.forked is None else f"(from another run's experience {run.forked})" for run in runs]


def _on(runs: Sequence[Summary]) -> list[str]:
    return [f"on {run.data}" for run in runs]


def _settings(runs: Sequence[Summary]) -> list[str]:
    """What the scenarios of these runs do not have in common, as `--set` would say it."""
    if len({run.config_sha for run in runs}) == 1:
        return ["" for _ in runs]
    from clkd.scenario.document import parse, read_text  # pydantic and YAML: only where names do not tell
    from clkd.scenario.resolve import NOT_THE_METHOD
    from clkd.tracking.labels import flatten

    flat = [dict(flatten(parse(read_text(run.path / "resolved.yaml")).data)) for run in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each if key.partition(".")[0] not in NOT_THE_METHOD))
    differing = [key for key in keys if len({each.get(key) for each in flat}) > 1]
    if len(differing) > MOST_KEYS:
        return [f"[{run.config_sha[:8]}]" for run in runs]
    return [", ".join(f"{key}={each[key]}" for key in differing if key in each) for each in flat]
