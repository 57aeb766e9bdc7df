"""A run that broke takes its last steps again, with open eyes, to find the one that broke it and the state before."""

from __future__ import annotations

from clkd.engine.compose import Composition
from clkd.engine.guard import NonFiniteError
from clkd.engine.job import Job
from clkd.engine.loop import CHECK_EVERY, Loop
from clkd.engine.phases import Phases
from clkd.engine.run import Run
from clkd.engine.saver import STEP, Saver, newest
from clkd.engine.state import gather_within, go_back
from clkd.engine.stop import Stop
from clkd.schedules.base import Progress


def retrace(
    seen: NonFiniteError, broken: Run, composed: Composition, run: Run, job: Job, saver: Saver, stop: Stop
) -> NonFiniteError:
    """The same error with the step's number, and the state before that step as the run's newest checkpoint.

    Training looks at its sums only now and then, since looking waits for the device. But every step can be taken again
    with the same bits, from the last checkpoint or from the start: then each is looked at before it is taken.

    Args:
        seen: what training noticed, at most 50 steps late.
        broken: the run that it noticed it in: what that had evaluated by then is not evaluated again.
        composed, run: made anew, where nothing is trained yet.

    Returns:
        `seen` itself where the steps come out differently this time.
    """
    parts, train = composed.parts, job.scenario.train
    first = seen.step - CHECK_EVERY - 1

    def on_step(progress: Progress) -> None:
        if error := loop.now.broke():
            raise error
        if stop.heard():  # that was not waited for
            raise seen
        if progress.step >= first:
            run.record.anytime = [each for each in broken.record.anytime if each[1] <= progress.step]
            saver.step(gather_within(run, parts, loop, entry))

    scenario = job.scenario
    loop = Loop(
        parts, train, scenario.seed, job.limit_batches, on_step=on_step, guarded=True, online=scenario.stream.online
    )
    phases = Phases(job.scenario.phases, loop, run)
    saved = newest(saver.directory.checkpoints)
    entry = go_back(saved, run, parts, loop) if saved else None
    run.record.baseline, run.seconds = broken.record.baseline, broken.seconds
    experience = parts.cut(composed.stream[run.record.trained])
    try:
        phases.train(experience, parts.begin(experience, run.seed))
    except NonFiniteError as exact:
        return seen if exact is seen else _with_place(exact, saver)
    return seen


def _with_place(error: NonFiniteError, saver: Saver) -> NonFiniteError:
    place = saver.directory.checkpoints / STEP
    saved = f"the state before it is in {place}" if place.exists() else "it was the run's first"
    error.args = (f"{error} ({saved})",)
    return error
