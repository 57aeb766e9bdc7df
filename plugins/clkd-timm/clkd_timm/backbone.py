"""The model `timm`: a network of timm without its classifier, for clkd's heads to stand on."""

from __future__ import annotations

import copy
import logging
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from clkd.errors import UserError, one_line
from clkd.models.backbones.base import Backbone
from clkd_timm.library import MISTAKES, described, filled, made
from clkd_timm.weights import file_of

if TYPE_CHECKING:
    from clkd import Context

log = logging.getLogger("clkd.timm")


class TimmBackbone(Backbone):
    """Rows `[B, C, H, W]` to what timm gives its classifier, `[B, D]`.

    The first layer takes the rows' channels, and a network for images of one size is made for the rows' size; timm
    fits weights to both. `stageK` is the K-th of the blocks that timm calls its features (`layer1`, `blocks.0`, …), as
    the network puts it out: maps, or tokens `[B, N, D]`. Any other module is tapped as `network.PATH`. Weights are
    drawn from torch's global generator.

    >>> made = TimmBackbone((1, 32, 32), "test_resnet")
    >>> made.out_features, made.stages["stage1"]
    (96, 'network.layer1')

    Raises:
        UserError: timm has no such model, it cannot be made for these rows, or its weights are not to be had.
    """

    in_place: ClassVar[bool] = True  # timm's networks write where they can

    def __init__(
        self,
        shape: tuple[int, ...],
        model: str,
        pretrained: bool = False,
        checkpoint: str | None = None,
        arguments: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        file = file_of(model, pretrained, checkpoint, context.base if context else Path())
        if file is None:
            network: Any = made(model, shape, arguments or {})
        else:
            network = filled(model, shape, arguments or {}, file)
            network.reset_classifier(0)
            _tell_statistics(model)
        self.network = network
        self.out_features = _width(self.network, model, shape)
        self.stages = stages(self.network)
        self.before_relu = {}

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x)
        return features


def _tell_statistics(model: str) -> None:
    noted = described(model)
    log.info(
        "timm: '%s' was trained on %s pixels, normalised with mean %s and std %s; student.view can say so",
        model,
        " × ".join(map(str, noted.get("input_size", ())[1:])),
        list(noted.get("mean", ())),
        list(noted.get("std", ())),
    )


def _width(network: nn.Module, model: str, shape: tuple[int, ...]) -> int:
    """How many features it gives, in training too: tried on a copy. Some lose small images on the way, or give two."""
    copied = copy.deepcopy(network).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            said = copied(torch.zeros(2, *shape))
        except MISTAKES as error:
            why = one_line(" ".join(str(error).split()), 300)
            raise UserError(f"timm's '{model}' does not take images of shape {shape}: {why}") from error
    if not isinstance(said, Tensor) or said.dim() != 2:
        kind = f"a tensor of shape {tuple(said.shape)}" if isinstance(said, Tensor) else f"a {type(said).__name__}"
        raise UserError(f"timm's '{model}' gives {kind} instead of features [B, D]: use another model")
    return said.shape[1]


def stages(network: nn.Module) -> dict[str, str]:
    """`stage1`, `stage2`, … to the modules that timm calls features, as far as they are of one series, as they lie in
    what holds `network` by that name.

    The stem (`act1`, `stem`, …) is of no series.
    """
    noted: Any = getattr(network, "feature_info", ())
    known = {path for path, _ in network.named_modules()}
    paths = [each["module"] for each in noted if each["module"] in known]
    series = Counter(re.sub(r"\d+$", "", path) for path in paths).most_common(1)
    own = [path for path in paths if series and re.sub(r"\d+$", "", path) == series[0][0]]
    return {f"stage{k + 1}": f"network.{path}" for k, path in enumerate(own)}
