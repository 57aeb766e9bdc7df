"""What all parts stand on: data in its place, how rows are seen, and what parts may know of the run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clkd.context import Context
from clkd.data.augment import Augment
from clkd.data.mix import Mix
from clkd.data.store import Store
from clkd.data.strong import Strong
from clkd.engine.finished import finished
from clkd.engine.fit import fit
from clkd.engine.material import Material, Past, Reader
from clkd.engine.networks import Networks
from clkd.engine.residence import stays_resident
from clkd.engine.teacher_cache import TeacherCache
from clkd.errors import UserError
from clkd.experience import Rows
from clkd.ranks import ALONE, Ranks
from clkd.registry import Registry
from clkd.scenario.augment import Augment as AugmentOptions
from clkd.scenario.model import Scenario
from clkd.scenario.resolve import resolved
from clkd.schedules.base import Progress
from clkd.tracking.fetch import fetch
from clkd.tracking.store import plain as hide


@dataclass(frozen=True, slots=True)
class Ground:
    """Laid once for all parts of a run."""

    material: Material
    augment: Augment
    context: Context


@dataclass(frozen=True, slots=True)
class Groundwork:
    """Lays the ground for a scenario, on one device; relative paths start at `base`."""

    scenario: Scenario
    registry: Registry
    device: torch.device
    cache: Path
    base: Path
    on_step: Callable[[Progress], None] = lambda progress: None
    """Told of every step of a teacher that is fitted on the way."""
    ranks: Ranks = ALONE
    past: Past | None = None
    """What is known of a stream that was trained in part."""
    kept: tuple[Path, ...] = ()
    """Folders with copies of teachers' weights."""

    def material(self) -> Material:
        """The data, cut into a stream."""
        return Reader(self.scenario, self.registry.build, self.cache, self.base, self.past, self.ranks).read()

    def ground(self) -> Ground:
        """The data where training finds it, and what factories are told of the run; no part of it is built."""
        material = self.material()
        resident = stays_resident(self.scenario.stream.resident, material.store, material.stream, self.device)
        x, moved = material.store.train.x, dict[int, tuple[torch.Tensor, torch.Tensor]]()
        if resident:
            material.stream.to(self.device, moved)
            _, x = moved.get(id(x), (x, x))  # on the device once, for the stream and for teachers that are fitted
        else:
            material.stream.streamed()
        augment = self._augment(material.store)
        return Ground(material, augment, self._context(material, augment, x, resident))

    def networks(self) -> Networks:
        """Who builds students and teachers."""
        return Networks(self.registry, self.device, self.scenario.train.channels_last)

    def teacher_cache(self, ground: Ground) -> TeacherCache | None:
        """None for a stream that was extended: the files are about the rows of one data set."""
        if self.scenario.stream.extensions:
            return None
        store, train = ground.material.store, ground.context.train
        plain = resolved(self.scenario)
        scenario = {key: plain[key] for key in ("name", "seed", "stream", "student", "teachers", "train")}
        if uri := plain["tracking"]["uri"]:  # where a teacher may lie; the cache is shared, so without a password
            scenario["tracking"] = {"uri": hide(uri)}
        data = {"name": store.name, "fingerprint": self._normalized(store)}
        about = {"data": data, "origin": {"scenario": scenario, "base": str(self.base)}, "device": self.device}
        # Which rows are asked about together depends on all labels of the data, so that files fit whatever is hidden.
        rows = replace(train, y=store.train.y.to(train.y.device))
        return TeacherCache.of(self.cache / "answers", rows, ground.material.stream, ground.augment, **about)

    def _augment(self, store: Store) -> Augment:
        options = augment_options(self.scenario, store.augment)
        if (options.crop or options.flip) and len(store.shape) != 3:
            raise UserError(
                f"stream.augment: crop and flip are for images, but rows are vectors of shape {store.shape}: use `none`"
            )
        strong = None
        if options.strong:
            strong = Strong(store.mean, store.std, **options.strong.model_dump())
            strong.refuse_vectors(store.shape)
        mix = None
        if options.mix:
            mix = Mix(**options.mix.model_dump())
            mix.refuse_vectors(store.shape)
        augment = Augment(store.mean, store.std, options.crop, options.flip, options.views, strong, mix)
        return augment.to(self.device)

    def _context(self, material: Material, augment: Augment, x: torch.Tensor, resident: bool) -> Context:
        store, stream = material.store, material.stream
        chosen, networks = self.scenario.stream, self.networks()
        own = chosen.labelled != 1 or chosen.imbalance is not None or material.renamed
        labels = labels_of(material, own)
        everything = _all_rows(x, labels, resident).ready(self.device)
        # Remembered with the rest: a copy of a fitted teacher is known by it when the data is gone.
        told = material.facts[0].setdefault("labels", _label_facts(labels, store))
        labelled = partial(_labelled, everything, store)
        # A teacher is fitted on views drawn anew, so that one serves however many fixed views the student has.
        anew = Augment(augment.mean, augment.std, augment.crop, augment.flip)
        context = Context(
            seed=self.scenario.seed,
            device=self.device,
            cache=self.cache,
            base=self.base,
            shape=stream.shape,
            class_names=stream.class_names,
            mean=store.mean,
            std=store.std,
            train=everything,
            rows=material.rows,
            data_fingerprint=f"{self._normalized(store)}/{anew.crop}/{anew.flip}/{anew.views}/{self.scenario.train.channels_last}"
            + told,
            build=self.registry.build,
            network=lambda model, class_ids, seed, view=None: networks.whole(model, class_ids, seed, view, context),
            fit=lambda net, options, teacher=None: fit(
                net, options, labelled(options.domains), anew, self.on_step, teacher
            ),
            labelled=labelled,
            finished=lambda wanted: finished(wanted, self.cache, self.base),
            fetched=lambda model, into: fetch(model, self.scenario.tracking.uri, into),
            rebuilt=lambda about, class_ids: networks.rebuilt(about, class_ids, context),
            extended=material.extended,
            kept=self.kept,
        )
        return context

    def _normalized(self, store: Store) -> str:
        """What determines rows as a teacher sees them, augmentation aside."""
        own = self.scenario.stream.normalize != "data"  # else the statistics are the data's, and so in its fingerprint
        return f"{store.fingerprint}/{store.mean.tolist()}/{store.std.tolist()}" if own else store.fingerprint


def augment_options(scenario: Scenario, standard: Mapping[str, Any]) -> AugmentOptions:
    """What is augmented in words; `standard` is what the data set has as its own."""
    wanted = scenario.stream.augment
    if isinstance(wanted, AugmentOptions):
        return wanted
    return AugmentOptions.model_validate(dict(standard) if wanted == "standard" else {})


def _all_rows(x: torch.Tensor, y: torch.Tensor, resident: bool) -> Rows:
    index = torch.arange(len(y))
    return Rows(x, y, index, index, resident=resident)


def labels_of(material: Material, own: bool) -> torch.Tensor:
    """`[N]` the labels of the first data set's rows; where the stream has labels of its `own`, only those that it
    trains on, as it calls them."""
    if not own:
        return material.store.train.y
    y = torch.full_like(material.store.train.y, -1)
    for rows in (experience.train for experience in material.stream):
        sample_id, label = rows.sample_id.cpu(), rows.y.cpu()
        known = (label >= 0) & (sample_id < len(y))  # rows of a later data set are numbered on
        y[sample_id[known]] = label[known]
    return y


def _labelled(rows: Rows, store: Store, domains: Sequence[str | int] | None = None) -> Rows:
    """Those with a label, of all domains or of some."""
    known = rows.labelled()
    if domains is None:
        return rows if known is None else rows.select(known)
    own = _of_domains(store, domains)
    chosen = rows.select(own if known is None else own & known)
    if len(rows) and not len(chosen):
        raise UserError(f"domains: no row of {', '.join(map(str, domains))} has a label: name domains that have some")
    return chosen


def _of_domains(store: Store, domains: Sequence[str | int]) -> torch.Tensor:
    """`[N]` bool, which training rows are of these."""
    if store.train.domain is None:
        raise UserError(f"domains: the rows of {store.name} are all of one domain: leave it out")
    numbers = torch.unique(store.train.domain).tolist()
    known = {store.domain_names[number] if store.domain_names else number: number for number in numbers}
    known |= {number: number for number in numbers}
    if wrong := [each for each in domains if each not in known]:
        has = ", ".join(store.domain_names or map(str, numbers))
        raise UserError(f"domains: there is no domain {wrong[0]!r}, the data has {has}")
    return torch.isin(store.train.domain, torch.tensor([known[each] for each in domains]))


def _label_facts(y: torch.Tensor, store: Store) -> str:
    """Part of a fitted teacher's fingerprint where labels are hidden, or are others than the data set's."""
    if torch.equal(y, store.train.y):
        return ""
    known = y >= 0
    content = known if torch.equal(y[known], store.train.y[known]) else y
    return f"/labelled {hashlib.sha256(content.numpy().tobytes()).hexdigest()}"
