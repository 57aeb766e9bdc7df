"""What a teacher weighs lies in a file as it is, whatever its layers share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from clkd.teachers.shelf import load, save


class Tied(nn.Module):
    """One layer under two names, and a convolution that is laid out channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)


def test_layers_that_go_by_two_names_come_back(tmp_path: Path) -> None:
    network = Tied()
    save(network, tmp_path / "tied.safetensors", {"kind": "tied"}, "nothing is kept")
    again = load(tmp_path / "tied.safetensors", lambda about: Tied() if about == {"kind": "tied"} else nn.Identity())
    assert again is not None
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
