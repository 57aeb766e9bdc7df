"""The teacher `timm`: a classifier of timm with its own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from clkd import Needs, Signals, Spec
from clkd.frozen import freeze
from clkd.models.dry_run import dry_run
from clkd.models.taps import PENULTIMATE, Taps
from clkd.options import ViewOptions
from clkd.teachers.external import class_ids
from clkd.teachers.network import NetworkTeacher
from clkd.teachers.shelf import Copy, copied
from clkd.view import view_of
from clkd_timm.backbone import stages
from clkd_timm.library import classifiers, described, filled, made
from clkd_timm.weights import file_of

if TYPE_CHECKING:
    from clkd import Context


def teacher(
    model: str,
    context: Context,
    pretrained: bool = False,
    checkpoint: str | None = None,
    arguments: dict[str, Any] | None = None,
    classes: tuple[int | str | None, ...] | None = None,
    view: ViewOptions | None = None,
    normalize: Literal["timm", "stream"] = "timm",
) -> NetworkTeacher:
    """Its logits are those of its own classifier, and any of its modules can be tapped.

    Raises:
        UserError: timm has no such model, it cannot be made for these rows, its weights are not to be had, or its
            classes are not the stream's and `classes` does not say which are.
    """
    own, given = _normalized(view, model, context.shape, normalize), arguments or {}
    seen = view_of(own, context.mean, context.std, context.shape)
    shape = context.shape if seen is None else seen.shape(context.shape)
    said = {"kind": "timm", "model": model, "pretrained": pretrained, "checkpoint": checkpoint, "arguments": given}
    said["base"] = str(context.base)

    def network_of(about: dict[str, Any]) -> nn.Module:
        return _speaking(made(model, shape, given, about["outputs"]), model, shape, classes, context)

    network: Any = copied(said, context, network_of)
    if network is None:
        file = file_of(model, pretrained, checkpoint, context.base)
        assert file is not None, "the options ask for one of the two"
        network = _speaking(filled(model, shape, given, file), model, shape, classes, context)
    about = Copy(said, {"outputs": len(network.class_ids)})
    return NetworkTeacher(freeze(network.to(context.device)), seen, about)


def _normalized(
    view: ViewOptions | None, model: str, shape: tuple[int, ...], normalize: Literal["timm", "stream"]
) -> ViewOptions | None:
    """The view with timm's own statistics where it says none. Of other channels than three, timm notes none."""
    own = view or ViewOptions()
    named = {"gray": 1, "rgb": 3, None: shape[0]}
    count = len(own.channels) if isinstance(own.channels, tuple) else named[own.channels]
    noted = described(model)
    if normalize == "stream" or count != 3 or own.mean is not None or own.std is not None or "mean" not in noted:
        return view
    return own.model_copy(update={"mean": tuple(noted["mean"]), "std": tuple(noted["std"])})


def _speaking(
    module: nn.Module,
    model: str,
    shape: tuple[int, ...],
    classes: tuple[int | str | None, ...] | None,
    context: Context,
) -> Classifier:
    with dry_run(module, shape) as (copied_network, row):
        outputs = copied_network(row).shape[1]
    layers = classifiers(model)
    return Classifier(module, class_ids(classes, outputs, context), shape, layers[0] if len(layers) == 1 else None)


class Classifier(nn.Module):
    """Makes a classifier speak signals: all of its outputs, and the features of any of its modules.

    Args:
        class_ids: the global class of each output.
        shape: of the rows that it sees.
        last: the path of the layer that gives the classes; what goes into it is the feature `penultimate`.
    """

    def __init__(
        self, network: nn.Module, class_ids: tuple[int, ...], shape: tuple[int, ...], last: str | None
    ) -> None:
        super().__init__()
        self.network, self.class_ids, self.shape, self.last = network, class_ids, shape, last
        self.register_buffer("ids", torch.tensor(class_ids), persistent=False)
        self.stages = stages(network)
        self.taps = Taps()

    @property
    def head(self) -> nn.Module | None:
        """The linear layer that gives the classes, for losses that borrow it."""
        found = self.network.get_submodule(self.last) if self.last is not None else None
        return found if isinstance(found, nn.Linear) else None

    def signals(self, x: Tensor, needs: Needs) -> Signals:
        names = {name: self._path(name) for name in needs.features}
        logits, features = self.taps.run(self, x, tuple(names.values()))
        assert isinstance(self.ids, Tensor), "it is a buffer"
        return Signals(logits, self.ids, {name: features[path] for name, path in names.items()})

    def spec(self, feature: str | None = None) -> Spec:
        shape = None if feature is None else self._shape_of(feature)
        return Spec(self.class_ids, (0,) * len(self.class_ids), feature=feature, shape=shape)

    def _shape_of(self, feature: str) -> tuple[int, ...]:
        """Found by running one row through a copy."""
        with dry_run(self, self.shape) as (copied, row):
            copied.request((feature,))
            said = copied.signals(row, Needs(features=(feature,)))
        return tuple(said.features[feature].shape[1:])

    def request(self, names: tuple[str, ...]) -> None:
        self.taps.bind(self, [self._path(name) for name in names])

    def _path(self, name: str) -> str:
        return f"network.{self.last}:in" if name == PENULTIMATE and self.last is not None else name

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.network(x)
        return said

    def layout(self) -> dict[str, Any]:
        return {}
