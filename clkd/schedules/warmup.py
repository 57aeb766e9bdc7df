"""A schedule that rises."""

from __future__ import annotations

from clkd.schedules.ramp import Linear


class Warmup(Linear):
    """`value · min(1, t / length)`, t the steps taken in this experience: 0 at its first step, and anew in each.

    The length is given in `epochs` or `steps`; by default it is the whole experience.

    >>> from clkd.schedules.base import Progress
    >>> rise = Warmup(value=2.0, steps=4)
    >>> [rise(Progress(epoch_step=t, epoch_steps=10)) for t in (0, 1, 4, 9)]
    [0.0, 0.5, 2.0, 2.0]
    """

    def __init__(self, value: float = 1.0, epochs: float | None = None, steps: int | None = None) -> None:
        super().__init__(0.0, value, epochs, steps)
