"""Are the answers in the cache still what the teacher says? A sample of them is asked for again and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clkd.engine.compose import Composer
from clkd.engine.teacher_cache import Source, TeacherCache
from clkd.errors import ClkdError
from clkd.options import Parsing
from clkd.registry import Registry
from clkd.scenario.model import Scenario
from clkd.seeding import generator
from clkd.teachers.answers import AlteredError, Answers
from clkd.teachers.cached import Kept

TOLERANCE = 2.0**-8
"""How far an answer may lie from what is said now, as a share of the block's largest: float16 rounds by 2^-11."""
MACHINE = ("clkd", "torch", "matmul")
"""What differs after an upgrade: such answers are never read again, but they are not wrong."""


def verify(folder: Path, registry: Registry, cache: Path, rows: int) -> str | None:
    """What is wrong with a file of answers; None where a sample of at least `rows` of them was said again."""
    try:
        answers = Answers.open(folder)
    except AlteredError as error:
        return f"altered: {error}"
    places = answers.answered()
    spoilt = [place for place in places if not answers.intact(*place)]
    if spoilt:
        return f"altered: {len(spoilt)} of {len(places)} blocks are not what was written"
    try:
        return _drift(answers, places, registry, cache, rows)
    except (ClkdError, OSError, ValueError) as error:
        return f"the teacher cannot be asked again: {str(error).splitlines()[0]}"


def _drift(answers: Answers, places: list[tuple[int, int]], registry: Registry, cache: Path, rows: int) -> str | None:
    facts, origin, name = answers.meta["facts"], answers.meta["origin"], answers.meta["teacher"]
    if facts["device"] != "cpu" and not torch.cuda.is_available():
        return f"it was answered on {facts['device']}, which is not here"
    scenario = Scenario.model_validate(origin["scenario"], context=Parsing(registry))
    composer = Composer(scenario, registry, torch.device(facts["device"]), cache, Path(origin["base"]))
    kept = Kept(facts["logits"], {feature: tuple(shape) for feature, shape in facts["features"].items()})
    teacher, now = composer.one_teacher(name, tuple(kept.features))
    warp = next((warp for warp in now.warps if repr(warp) == facts["domain"]), None)
    if now.kept(name, teacher, kept.needs()) != kept:
        return "drift: the teacher no longer says what is kept"
    source = Source(name, teacher, kept, warp)
    differs = _different(facts, now.facts(source))
    if differs:
        return f"drift: {', '.join(differs)} changed since"
    return _compare(answers, places, source, now, rows)


def _different(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which facts are not what they were, in words."""
    names = [key for key in then if key not in MACHINE and then[key] != now[key]]
    if "teacher" not in names:
        return names
    own = [f"the teacher's {key}" for key in then["teacher"] if then["teacher"][key] != now["teacher"].get(key)]
    return own + [name for name in names if name != "teacher"]


def _compare(
    answers: Answers, places: list[tuple[int, int]], source: Source, now: TeacherCache, rows: int
) -> str | None:
    order = torch.randperm(len(places), generator=generator(0, "verify")).tolist()
    asked = 0
    for view, block in (places[i] for i in order):
        if asked >= rows:
            break
        said = now.answer(source, view, block)
        read = torch.frombuffer(bytearray(answers.read(view, block)), dtype=torch.float16).view(said.shape)
        off = _off(read, said)
        if off > TOLERANCE:
            return f"drift: answers in view {view} are off by {off:.2%} of the largest"
        asked += len(said)
    return None


def _off(then: Tensor, now: Tensor) -> float:
    """The largest difference, as a share of the largest answer."""
    return float((then.float() - now.float()).abs().max() / now.float().abs().max().clamp(min=1e-12))
