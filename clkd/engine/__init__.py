"""The engine: scheduler, loop, step and evaluation, and what composes and concludes a run around them."""
