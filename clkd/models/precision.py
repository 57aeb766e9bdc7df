"""What networks compute in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch


def autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """What backbones compute in where that is not float32."""
    return torch.bfloat16 if resolved(precision, device) == "bf16" else None


@contextmanager
def casts_kept() -> Iterator[None]:
    """While many passes are made by weights that stay as they are, autocast casts each of them once, not per pass."""
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def resolved(precision: str, device: torch.device) -> str:
    """`float32` or `bf16`: `auto` is bf16 where the device has instructions for it."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "float32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16: without, it computes in float32 and rounds, which is slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tell: Callable[[], Mapping[str, bool]] = getattr(torch.cpu, "get_capabilities", dict)  # older torch does not know
    return device.type == "cpu" and any(tell().get(each, False) for each in ("avx512_bf16", "amx_bf16"))
