"""torchvision's classifiers as backbones."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from clkd.errors import UserError, did_you_mean
from clkd.models.dry_run import dry_run
from clkd.vision import torchvision
from clkd.weights import read_weights

if TYPE_CHECKING:
    from clkd.context import Context

AUXILIARY = {"googlenet", "inception_v3"}
"""Networks with a second output in training, which is left off here as nothing would train it."""
CONTAINERS = ("features", "blocks", "trunk_output", "encoder.layers", "layers")
"""Where torchvision's networks keep the sequence of their parts, if not in `layer1`, `layer2`, …"""


def vision(shape: tuple[int, ...], model: str, weights: str | None = None, context: Context | None = None) -> nn.Module:
    """A torchvision classifier whose last layer is replaced by the identity. Nothing is ever downloaded.

    `stageK` is the K-th of its `layer1, layer2, …`, or else of the children of the first of `CONTAINERS` that it has.
    Grey images are shown to all three colour channels.

    Args:
        shape: `(1, H, W)` or `(3, H, W)`.
        model: its name in torchvision.
        weights: a state dict, saved by `torch.save` or as safetensors; the last layer's entries are not read.
        context: of the run; `weights` starts from its `base`.

    Raises:
        UserError: the name is unknown, the rows do not suit the network, or the weights are missing or do not fit.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(
            f"torchvision's models take grey or colour images, not rows of shape {shape}: use another model"
        )
    backbone = _classifier(model)
    path, last = _last_layer(backbone)
    backbone.set_submodule(path, nn.Identity())
    if weights is not None:
        _load(backbone, context.base / weights if context else Path(weights), path)
    if shape[0] == 1:
        backbone.register_forward_pre_hook(_in_colour)
    _refuse_unsuitable(backbone, model, shape)
    backbone.out_features = last.in_channels if isinstance(last, nn.Conv2d) else last.in_features
    backbone.stages = _stages(backbone)
    return backbone  # type: ignore[no-any-return]  # torchvision publishes no types


def _classifier(name: str) -> Any:
    models = torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classifier '{name}', {did_you_mean(name, known)}")
    extra = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    return models.get_model(name, weights=None, **extra)


def _last_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The layer that gives the classes: a convolution in SqueezeNet, linear in all others."""
    layers = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _load(backbone: nn.Module, file: Path, last: str) -> None:
    state = {name: tensor for name, tensor in read_weights(file).items() if not name.startswith(f"{last}.")}
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"the weights in {file} do not fit the model: {textwrap.shorten(str(error), 300)}") from error


def _in_colour(module: nn.Module, args: tuple[Tensor]) -> Tensor:
    """Runs before a network that was built for grey images: `[B, 1, H, W]` to `[B, 3, H, W]`."""
    return args[0].expand(-1, 3, -1, -1)


def _refuse_unsuitable(backbone: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Some networks take images of one size only, or lose small ones on the way."""
    try:
        with dry_run(backbone, shape) as (copied, row):
            copied(row)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"torchvision's '{name}' does not take images of shape {shape}: {error}") from error


def _stages(network: nn.Module) -> dict[str, str]:
    children = [name for name, _ in network.named_children() if name.removeprefix("layer").isdigit()]
    modules = dict(network.named_modules())
    if not children:
        container = next((path for path in CONTAINERS if path in modules), None)
        children = [f"{container}.{name}" for name, _ in modules[container].named_children()] if container else []
    return {f"stage{k + 1}": path for k, path in enumerate(children)}
