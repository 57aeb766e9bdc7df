"""What a scenario says of training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import GradientPart, Options

MOST_DRAWS = 100
"""Draws from memory in a step; each has a name of its own."""
COMPILE = ("reduce-overhead", "max-autotune")


def _known_mode(raw: Any) -> Any:
    if isinstance(raw, bool) or raw in COMPILE:
        return raw
    raise ValueError(f"give true, false, {' or '.join(COMPILE)}; got {raw!r}")


class GradientNoise(Options):
    """Normal noise that is added to each number of a gradient: σ² = η / (1 + t)^γ, t the steps of the training so far
    (Neelakantan et al. 2015, "Adding Gradient Noise Improves Learning for Very Deep Networks", eq. 1; EEIL)."""

    eta: Annotated[float, Field(gt=0)] = 0.3
    """Its variance in the first step."""
    gamma: Annotated[float, Field(ge=0)] = 0.55
    """How fast it dies away: 0 keeps it."""


class TrainOptions(Options):
    """How each experience is trained."""

    epochs: PositiveInt = 1
    """Passes over each experience's rows."""
    min_steps: Annotated[int, Field(ge=0)] = 0
    """Train at least this many steps in every experience, by more epochs where it is small."""
    batch_size: PositiveInt = 64
    """New rows in a step."""
    replay_batch_size: PositiveInt | None = None
    """Replayed rows in a draw; by default as many as new ones."""
    replay_draws: Annotated[int, Field(gt=0, le=MOST_DRAWS)] = 1
    """How often memory is drawn from in a step, independently. A loss reads all replayed rows (`student@replay`) or
    those of one draw (`student@replay1`, `student@replay2`)."""
    mix_memory: bool = False
    """Go once an epoch over the experience's rows and all others that memory keeps, shuffled together, as iCaRL and
    those after it do: `batch_size` then counts both. By default each step draws replayed rows beside its new ones."""
    eval_batch_size: PositiveInt = 512
    """Test rows that are looked at together. It changes speed and memory, no weight."""
    optimizer: OptimizerOptions
    """An optimizer of torch (`sgd`, `adam`, …) and torch's own keywords."""
    scheduler: SchedulerOptions | None = None
    """What the learning rate follows within each experience; by default it stands still."""
    gradient: GradientPart | None = None
    """What is done to each step's gradient for the sake of replayed rows (`clkd list gradients`), which are then not
    learned from like new ones; by default nothing."""
    evaluate_every: PositiveInt | None = None
    """Evaluate on the test rows of all experiences so far also during training, whenever so many optimiser steps of the
    run were taken: each time costs what an evaluation at an experience's end does, and changes no weight."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Scale each step's gradient down to this norm where it is longer; by default never."""
    clip_value: Annotated[float, Field(gt=0)] | None = None
    """The largest that any number of a gradient may be, either way: others are cut off there."""
    gradient_noise: GradientNoise | None = None
    """Noise on the gradient, after it was cut off, if it is to be; drawn anew in each experience and phase."""
    gradient_shares: PositiveInt | None = None
    """Every so many steps, log each term's share of the gradient norms (`train/gradient_share_<term>`), which costs a
    backward pass for each term; by default never."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What a NaN or infinite loss or gradient does. `stop` ends the run, at the latest 50 steps later, and leaves a
    checkpoint of the state before. `skip` leaves such steps out and counts them; it looks at every step before it is
    taken, for which a GPU has to wait."""
    most_skips: Annotated[int, Field(ge=0)] = 20
    """How many steps of one experience may be left out before the run ends after all."""
    reset: bool = False
    """Begin each experience with the weights that an untrained student has. Beside a memory of all rows that are mixed
    in, it is joint training at every step of the stream."""
    keep_optimizer: bool = False
    """Carry the optimizer's state from one experience to the next instead of starting afresh."""
    drop_last: bool = False
    """Leave out an epoch's last batch when it is not full."""
    channels_last: bool = True
    """Lay images out channels-last, which is faster for convolutions."""
    compile: Annotated[bool | Literal["reduce-overhead", "max-autotune"], BeforeValidator(_known_mode)] = False
    """Compile the backbones with `torch.compile`: `true`, or one of its modes; needs a C++ compiler."""
    precision: Literal["auto", "float32", "bf16"] = "float32"
    """What backbones compute in; losses, heads and weights stay in float32. `auto` is bf16 on a GPU or
    CPU that is faster in it."""
