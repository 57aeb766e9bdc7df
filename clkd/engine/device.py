"""Where a process computes."""

from __future__ import annotations

import torch

from clkd.errors import UserError
from clkd.ranks import Ranks


def choose_device(wanted: str, ranks: Ranks) -> torch.device:
    """`auto` is the first GPU, if there is one; with several processes, each has a GPU of its own or all have none."""
    if not ranks.alone and wanted != "cpu" and (wanted != "auto" or torch.cuda.is_available()):
        return _own_gpu(wanted, ranks.local)
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {wanted} is not there ({torch.cuda.device_count()} CUDA devices found): use cpu or auto"
        )
    return device


def _own_gpu(wanted: str, local: int) -> torch.device:
    if wanted not in ("auto", "cuda"):
        raise UserError(f"device: {wanted} is one device, but each process needs its own: use auto, cuda or cpu")
    if local >= torch.cuda.device_count():
        raise UserError(
            f"device: process {local} of this machine finds no GPU of its own ({torch.cuda.device_count()} CUDA "
            f"devices found): lower --nproc-per-node, or use cpu"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device
