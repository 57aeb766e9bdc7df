"""How many steps a training takes."""

from __future__ import annotations

import math
from collections.abc import Iterable

from clkd.experience import Experience
from clkd.scenario.train import TrainOptions


def epochs_of(options: TrainOptions, rows: int, limit: int | None = None) -> tuple[int, int]:
    """Epochs over so many rows, and steps in each of them, at most `limit`.

    >>> of = TrainOptions.model_construct
    >>> epochs_of(of(epochs=2, batch_size=10), 95)
    (2, 10)
    >>> epochs_of(of(epochs=2, batch_size=10, drop_last=True, min_steps=25), 95)
    (3, 9)
    """
    whole, rest = divmod(rows, options.batch_size)
    steps = whole + (rest > 0 and (whole == 0 or not options.drop_last))
    epochs = max(options.epochs, math.ceil(options.min_steps / max(steps, 1)))
    return epochs, min(steps, limit or steps)


def planned_steps(options: TrainOptions, stream: Iterable[Experience], limit: int | None = None) -> int:
    """Steps of all experiences together, of those whose data is still there.

    What phases and rows of memory that are mixed into an epoch add, and what is held out, is not counted.
    """
    return sum(math.prod(epochs_of(options, len(experience.train), limit)) for experience in stream)
