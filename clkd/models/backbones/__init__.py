"""Backbones: `[B, *shape]` to penultimate features `[B, D]`, one family a file."""
