"""The one door to timm: names, and networks made by them."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clkd.errors import UserError, did_you_mean, one_line
from clkd.vision import torchvision
from clkd.weights import read_weights

MISTAKES = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)
"""What timm raises where arguments, rows or weights do not fit."""


@cache
def timm() -> Any:
    """The module `timm`. It imports torchvision, which does not load by itself beside a CPU build of torch."""
    torchvision()
    return importlib.import_module("timm")


def refuse_unknown(model: str) -> None:
    """Raises `UserError` for a name that timm does not have, with the closest that it has."""
    library = timm()
    plain, _, tag = model.partition(".")
    if not library.is_model(plain):
        raise UserError(f"timm has no model '{model}' ({_closest(plain, library.list_models())})")
    tagged = library.list_pretrained(f"{plain}.*")
    if tag and model not in tagged:
        names = f"of '{plain}' it has " + (", ".join(tagged) or "none")
        raise UserError(f"timm has no weights '{model}' ({names})")


def _closest(name: str, known: list[str]) -> str:
    """A suggestion, or how to look: the names alone are more than a thousand."""
    said = did_you_mean(name, known)
    return said if said.startswith("did you mean") else "timm.list_models('*resnet*') finds names by pattern"


def described(model: str) -> dict[str, Any]:
    """What timm notes of a model and its weights: `mean`, `std`, `input_size`, `classifier`, `hf_hub_id`, …"""
    noted = timm().models.get_pretrained_cfg(model)
    return {} if noted is None else dict(noted.to_dict())


def made(
    model: str,
    shape: tuple[int, ...],
    arguments: dict[str, Any],
    outputs: int = 0,
    weights: dict[str, Any] | None = None,
) -> nn.Module:
    """An untrained network for rows of `shape` with so many outputs; with 0, one that gives penultimate features.

    A network that takes images of one size only is made for the rows' size. `weights` is what `timm` is told of weights
    beside that.

    Raises:
        UserError: timm has no such model, or it cannot be made for these rows.
    """
    refuse_unknown(model)
    if len(shape) != 3:
        raise UserError(f"timm's models take images (C, H, W), not rows of shape {shape}: use the model 'mlp'")
    given = {"in_chans": shape[0], "num_classes": outputs, **(weights or {}), **arguments}
    size = {"img_size": shape[1:]} if described(model).get("fixed_input_size") else {}
    try:
        network: nn.Module = _created(model, given, size)
    except MISTAKES as error:
        raise UserError(
            f"timm cannot make '{model}' for rows of shape {shape}: {_reason(error)}; `view: {{size: …}}` shows it "
            "larger images"
        ) from error
    return network


def _created(model: str, given: dict[str, Any], size: dict[str, Any]) -> Any:
    """A few networks of one size only take no other, and say so by refusing the argument."""
    try:
        return timm().create_model(model, **given, **size)
    except TypeError as error:
        if "img_size" not in size or "img_size" not in str(error):
            raise
        return timm().create_model(model, **given)


def filled(model: str, shape: tuple[int, ...], arguments: dict[str, Any], file: Path) -> nn.Module:
    """A network with the weights of a file, and as many outputs as that has.

    timm fits what differs only by the rows: the first layer to other channels, positions to another size. Anything
    else that is missing or too much is an error.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    refuse_unknown(model)
    state = read_weights(file)
    outputs, offset = _outputs(state, model)
    told = {"state_dict": state, "num_classes": outputs, "label_offset": offset}
    try:
        network = made(model, shape, arguments, outputs, {"pretrained": True, "pretrained_cfg_overlay": told})
    except UserError as error:
        if isinstance(error.__cause__, RuntimeError):
            raise UserError(f"{file} does not fit timm's '{model}': {_reason(error.__cause__)}") from error
        raise
    for name in ("pretrained_cfg", "default_cfg"):
        getattr(network, name).pop("state_dict", None)
    return network


def classifiers(model: str) -> tuple[str, ...]:
    """The paths of the layers that give the classes: one, as a rule."""
    said = described(model).get("classifier")
    return (said,) if isinstance(said, str) else tuple(said or ())


def _outputs(state: dict[str, Tensor], model: str) -> tuple[int, int]:
    """How many classes the weights have, and how many outputs before them are none (a background class)."""
    noted, names = described(model), [f"{layer}.weight" for layer in classifiers(model)]
    rows = next((len(state[name]) for name in names if name in state), 0)
    offset = noted.get("label_offset") or 0
    return (rows - offset, offset) if offset and rows - offset == noted.get("num_classes") else (rows, 0)


def _reason(error: BaseException) -> str:
    return one_line(" ".join(str(error).split()), 300)
