"""What networks compute in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
    """`float32` or `bf16`: `auto` is bf16 where the device computes faster in it."""
    if precision != "auto":
        return precision
    return "bf16" if is_faster_in_bf16(device) else "float32"


def convolutions() -> str:
    """What torch has a GPU's convolutions compute float32 in, in its own words: TF32 unless someone chose otherwise."""
    newer = getattr(torch.backends.cudnn, "conv", None)  # older torch knows one switch for all of cuDNN
    return str(newer.fp32_precision if newer else torch.backends.cudnn.allow_tf32)


def is_faster_in_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 that pay: without, it computes in float32 and rounds.

    Intel's processors multiply bfloat16 quickly in AMX, which a virtual machine may lack. Their AVX512-BF16 is no
    faster than float32, and with the casts it is slower: 0.7 of float32's rate on a Xeon without AMX. AMD's pays.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tell: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older torch does not know
    can = tell()
    vectors = can.get("avx512_bf16", False) and "intel" not in str(can.get("cpu_name", "")).lower()
    return device.type == "cpu" and (can.get("amx_bf16", False) or vectors)
