"""The teacher cache: answers of teachers from outside, kept from one experience, run and seed to the next."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clkd import __version__
from clkd.data.augment import Augment
from clkd.experience import Experience, Rows, Warp
from clkd.locks import InUse, alone, beside
from clkd.memory.base import Memory
from clkd.models.precision import convolutions, resolved
from clkd.seeding import generator
from clkd.signals import Batch, Needs
from clkd.streams.base import Stream
from clkd.teachers.answers import FORMAT, AlteredError, Answers, allocated, bound, make_room
from clkd.teachers.base import Teacher
from clkd.teachers.cached import BLOCK, Blocks, Cached, Kept, kept_of

log = logging.getLogger("clkd.engine")

MOST_CLASSES = 1000
"""Logits that are kept of an answer at most."""
DEVICE_LIMIT = 2**30
"""Bytes of answers that are copied to a GPU at most for one experience; more are gathered on the host, step by step."""


class TooLargeError(Exception):
    """An answer lies outside what float16 holds."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who answers a file's questions: a teacher of the scenario, about rows of one domain, and what is kept of it."""

    name: str
    teacher: Teacher
    kept: Kept
    warp: Warp | None


@dataclass(slots=True)
class Tally:
    """What the cache did for one teacher in one experience."""

    wanted: int = 0
    hits: int = 0
    asked: int = 0
    cost: float = 0.0
    """Seconds that asking about a row takes."""
    size: int = 0
    stored: Cached | None = None

    def metrics(self) -> dict[str, float]:
        """`seconds_saved`: what asking in every step would have taken, less what was asked now."""
        looked = self.stored.looked if self.stored else 0
        return {
            "hit_rate": self.hits / max(self.wanted, 1),
            "rows_asked": self.asked,
            "seconds_saved": self.cost * (looked - self.asked),
            "bytes": self.size,
        }


@dataclass(slots=True)
class TeacherCache:
    """Reads and fills the files of answers of one run.

    Attributes:
        root: `<cache>/answers`.
        rows: all training rows of the data set; streamed ones stay on the host.
        warps: what makes each experience's rows another domain.
        augment: what makes a row's views.
        data: what identifies the data set (`name`, `fingerprint`).
        origin: the scenario as plain data and its base folder: enough to compose each teacher again.
        device: where teachers answer, and where answers are looked up.
    """

    root: Path
    rows: Rows
    warps: list[Warp | None]
    augment: Augment
    data: dict[str, str]
    origin: dict[str, Any]
    device: torch.device
    _blocks: Blocks | None = None
    _sound: dict[Path, set[tuple[int, int]]] = field(default_factory=dict)
    """Blocks whose checksums this process has seen to be right."""
    _held: dict[Path, InUse] = field(default_factory=dict)
    _tallies: dict[str, Tally] = field(default_factory=dict)
    _identities: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, rows: Rows, stream: Stream, augment: Augment, **about: Any) -> TeacherCache:
        """The cache for a stream over `rows`."""
        return cls(root, rows, [experience.train.warp for experience in stream], augment, **about)

    @property
    def blocks(self) -> Blocks:
        if self._blocks is None:
            self._blocks = Blocks(self.rows.y.to(self.device))
        return self._blocks

    def metrics(self) -> dict[str, float]:
        """What the cache did in the experience that has just ended, under the names that trackers log."""
        told = {f"teacher_cache/{n}/{key}": v for n, t in self._tallies.items() for key, v in t.metrics().items()}
        self._tallies.clear()
        return told

    def release(self) -> None:
        """Let others make room with this run's files: nothing is read of them any more."""
        self._held.clear()

    def recall(
        self,
        name: str,
        teacher: Teacher,
        needs: Needs,
        experience: Experience,
        memory: Memory,
        views: int,
        look: Callable[[], None] = lambda: None,
    ) -> bool:
        """Let `teacher` recall all that it will be asked in `experience`; what is not there yet is asked now.

        Before each block of answers it is `look`ed up whether to stop; those that are there stay.

        False if it has to answer in another way: it is not one to keep, or there is no room.
        """
        kept = self.kept(name, teacher, needs)
        if kept is None:
            return False
        wanted = self._wanted(experience, memory)
        if any(" at 0x" in domain for domain in wanted):
            return False  # a warp that has no name of its own cannot be told from another one in a later run
        tally = self._tallies[name] = Tally()
        files = []
        try:
            for domain, samples in wanted.items():
                source = Source(name, teacher, kept, self._warp(domain))
                files.append(self.file(source))
                if not self._fill(files[-1], source, samples, views, tally, look):
                    return self._give_up(
                        name, f"answers would take more than the {bound() / 1e9:g} GB or the disk allow"
                    )
        except TooLargeError as error:
            return self._give_up(name, str(error))
        except OSError as error:  # the disk is full or broken: answers can be had without it
            log.warning(
                "teachers.%s: answers cannot be kept: %s: %s", name, error.filename or self.root, error.strerror
            )
            return self._give_up(name, str(error))
        tally.size = sum(allocated(answers.folder) for answers in files)
        tally.stored = self._stored(files, list(wanted), teacher, kept)
        teacher.recall_from(tally.stored)
        return True

    def _give_up(self, name: str, why: str) -> bool:
        log.info("teachers.%s: not kept in the cache: %s", name, why)
        del self._tallies[name]
        return False

    def kept(self, name: str, teacher: Teacher, needs: Needs) -> Kept | None:
        """What is kept of this teacher's answers; None if nothing is."""
        if name not in self._identities:
            self._identities[name] = teacher.identity() if teacher.recall is True else None
        spec = teacher.spec()
        if self._identities[name] is None or (needs.logits and len(spec.class_ids) > MOST_CLASSES):
            return None
        shapes = {feature: teacher.spec(feature).shape or () for feature in needs.features}
        return kept_of(needs, spec, shapes)

    def _warp(self, domain: str) -> Warp | None:
        return next(warp for warp in self.warps if repr(warp) == domain)

    def _wanted(self, experience: Experience, memory: Memory) -> dict[str, Tensor]:
        """The rows that are coming, by domain: those of the experience, and those that may be replayed."""
        rows = [(repr(experience.train.warp), experience.train.sample_id.to(self.device))]
        held = memory.sample(len(memory), generator(0))
        if held is not None:
            for i in torch.unique(held.experience).tolist():
                rows.append((repr(self.warps[i]), held.sample_id[held.experience == i]))
        domains = dict.fromkeys(domain for domain, _ in rows)
        return {each: torch.unique(torch.cat([ids for domain, ids in rows if domain == each])) for each in domains}

    def facts(self, source: Source) -> dict[str, Any]:
        """Everything that decides an answer. The machine's part is here because rounding differs between devices."""
        train = self.origin["scenario"]["train"]
        return {
            "format": [FORMAT, BLOCK],
            "clkd": __version__,
            "torch": str(torch.__version__),
            "device": self.device.type,
            "arithmetic": {"precision": resolved(train["precision"], self.device), "compile": train["compile"]},
            "matmul": torch.get_float32_matmul_precision(),
            "convolutions": convolutions(),
            "teacher": self._identities[source.name],
            # What its network is made by, wherever its weights come from.
            "model": self.origin["scenario"]["teachers"][source.name].get("model"),
            "data": self.data["fingerprint"],
            "augment": {"crop": self.augment.crop, "flip": self.augment.flip},
            "domain": repr(source.warp),
            "logits": source.kept.logits,
            "features": {each: list(shape) for each, shape in source.kept.features.items()},
        }

    def file(self, source: Source) -> Answers:
        """The file for this teacher and domain, held in use; made anew if it is not there or was altered."""
        facts = self.facts(source)
        folder = self.root / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        if folder not in self._held:
            self._held[folder] = InUse(beside(folder, "use"))
        with alone(beside(folder), f"asking the teacher of {folder.name}"):
            try:
                return Answers.open(folder)
            except AlteredError as error:
                if folder.exists():
                    log.warning("%s was altered (%s): its teacher is asked again", folder, error)
            scenario = self.origin["scenario"]
            own = {**scenario, "teachers": {source.name: scenario["teachers"][source.name]}}
            self._sound.pop(folder, None)
            layout = {"width": source.kept.width, "blocks": self.blocks.lengths}
            about = {"teacher": source.name, "data": self.data["name"], **layout}
            return Answers.create(folder, {**about, "facts": facts, "origin": {**self.origin, "scenario": own}})

    def _fill(
        self, answers: Answers, source: Source, samples: Tensor, views: int, tally: Tally, look: Callable[[], None]
    ) -> bool:
        """Ask about every block that these rows are in and that is not there; False if there is no room for them."""
        places = [(view, block) for view in range(views) for block in self.blocks.holding(samples)]
        with alone(beside(answers.folder), f"asking teacher {source.name}"):
            answers.grow(views)
            missing = self._missing(answers, places)
            lost = torch.zeros(views, len(self.blocks.lengths), dtype=torch.bool)
            for place in missing:
                lost[place] = True
            wanted = self.blocks.of[samples].cpu()
            tally.wanted += lost[:, wanted].numel()
            tally.hits += int((~lost[:, wanted]).sum())
            if missing and not make_room(self.root, answers, missing):
                return False
            self._ask(answers, source, missing, tally, look)
        return True

    def _missing(self, answers: Answers, places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The places that hold no answers, or none that can be trusted."""
        sound, marks = self._sound.setdefault(answers.folder, set()), answers.marks()
        absent = [place for place in places if not marks[place[0] * len(answers.blocks) + place[1]]]
        gone = set(absent)
        spoilt = [p for p in places if p not in gone and p not in sound and not answers.intact(*p)]
        sound.update(place for place in places if place not in gone and place not in set(spoilt))
        if spoilt:
            log.warning("%s was altered (%d blocks): its teacher is asked again", answers.folder, len(spoilt))
        return sorted(absent + spoilt)

    def _ask(
        self,
        answers: Answers,
        source: Source,
        missing: list[tuple[int, int]],
        tally: Tally,
        look: Callable[[], None],
    ) -> None:
        started = time.perf_counter()
        rows = 0
        for view, block in missing:
            look()
            content = self.answer(source, view, block)
            answers.write(view, block, content.numpy().tobytes())
            rows += len(content)
            self._sound[answers.folder].add((view, block))
        if missing:
            answers.meta["asked"] += rows
            answers.meta["seconds"] += time.perf_counter() - started
            answers.save()
        answers.touch()
        tally.asked += rows
        tally.cost = answers.meta["seconds"] / max(answers.meta["asked"], 1)

    def answer(self, source: Source, view: int, block: int) -> Tensor:
        """`[rows, width]` float16 on the host: what the teacher says about a block's rows in one of their views."""
        batch = self._batch(self.blocks.rows[block], source.warp)
        seen = self.augment.fixed(batch, torch.full_like(batch.y, view))
        packed = source.kept.pack(source.teacher.signals(seen, source.kept.needs()))
        if not packed.isfinite().all():
            raise TooLargeError("it gives answers that float16 cannot hold (65,504 at most)")
        return packed.cpu().contiguous()

    def _batch(self, at: Tensor, warp: Warp | None) -> Batch:
        batch = self.rows.gather(at.to(self.rows.index.device), self.device)
        return batch if warp is None else replace(batch, x=warp(batch.x))

    def _stored(self, files: list[Answers], domains: list[str], teacher: Teacher, kept: Kept) -> Cached:
        """All files as one, mapped into memory; on a GPU, if they are small, copied to it."""
        device = self.device
        views = max(answers.views for answers in files)
        base = torch.full((len(files) + 1, views, len(self.blocks.lengths)), -1, dtype=torch.int64)
        starts, tables, end = self.blocks.starts.cpu(), [], 0
        for i, answers in enumerate(files):
            count = answers.views * sum(answers.blocks)
            table = torch.from_file(str(answers.path), shared=True, size=count * kept.width, dtype=torch.float16)
            there = torch.tensor(sorted(self._sound[answers.folder]))  # what nobody has checked is not to be read
            base[i, there[:, 0], there[:, 1]] = end + there[:, 0] * sum(answers.blocks) + starts[there[:, 1]]
            tables.append(table.view(count, kept.width))
            end += count
        if device.type != "cpu" and sum(table.nbytes for table in tables) <= DEVICE_LIMIT:
            tables = [torch.cat([table.to(device) for table in tables])]
        own = [domains.index(repr(warp)) if repr(warp) in domains else len(files) for warp in self.warps]
        ids = torch.tensor(teacher.spec().class_ids, device=device)
        return Cached(tables, base.to(device), torch.tensor(own, device=device), self.blocks, kept, ids)
