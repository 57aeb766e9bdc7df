"""What a backbone promises beside its forward pass."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Backbone(nn.Module):
    """Maps rows `[B, *shape]` to penultimate features `[B, D]`.

    Any module with the first two attributes will do; it need not derive from this class.

    Attributes:
        out_features: D.
        stages: alias to module path (`stage1` to `layer1`), so that `stage1` can be tapped in any backbone.
        before_relu: alias to module path for a stage before its last ReLU (`stage1_pre`), where it can be had.
        in_place: whether an operation may overwrite a module's output. Where nothing does, as in clkd's own backbones,
            a tap keeps the output itself; else (also where a module does not say) it keeps a clone.
    """

    out_features: int
    stages: dict[str, str]
    before_relu: dict[str, str]
    in_place: ClassVar[bool] = False
