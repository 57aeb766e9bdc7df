"""`sensitivity` for students of linear layers alone, where a row's gradient of a weight is an outer product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clkd.losses.regulariser import Vectors, trained, zeros
from clkd.signals import Batch

if TYPE_CHECKING:
    from clkd.models.student import Student

Layers = dict[str, nn.Module]
"""By name, the modules that a student's trained parameters belong to."""


@dataclass(slots=True)
class Heard:
    """What went into a layer and came out of it, and how often the latter had been written to by then."""

    given: Tensor
    output: Tensor
    version: int

    def holds(self) -> bool:
        """Whether it was about vectors, and nobody wrote over the output since, such as a ReLU in place."""
        return self.given.dim() == 2 and self.output._version == self.version


def linear_layers(student: Student) -> Layers | None:
    """The layers that all trained parameters belong to, if each is one `F.linear` of vectors; else None."""
    owners = {name.rpartition(".")[0] for name in trained(student)}
    layers = {name: student.get_submodule(name) for name in owners}
    return layers if all(_is_linear(layer, student) for layer in layers.values()) else None


def _is_linear(layer: nn.Module, student: Student) -> bool:
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    plain = type(layer) is nn.Linear or (layer is student.head and student.head.is_linear)
    return plain and own <= {"weight", "bias"}


def outer_sensitivity(
    student: Student, layers: Layers, rows: Batch, columns: Tensor, pulls: Tensor, shares: Tensor, power: float
) -> Vectors | None:
    """As `sensitivity`, at the price of a matrix product: `|δ ⊗ a|^power = |δ|^power ⊗ |a|^power`.

    None where a layer is used twice, or on anything but vectors, so that this does not hold.
    """
    said: dict[str, Heard] = {}
    with _heard(layers, said), torch.enable_grad():
        logits = student.plain(rows.x, rows.domain).index_select(1, columns)
    if said.keys() != layers.keys() or not all(heard.holds() for heard in said.values()):
        return None
    found, outputs = zeros(trained(student)), [heard.output for heard in said.values()]
    for direction, share in zip(pulls.unbind(1), shares.unbind(1), strict=True):
        gradients = torch.autograd.grad((direction * logits).sum(), outputs, retain_graph=True, allow_unused=True)
        for (name, heard), gradient in zip(said.items(), gradients, strict=True):
            if gradient is None:
                continue
            pulled = gradient.abs() ** power * share[:, None]
            for own, value in (("weight", pulled.T @ heard.given.abs() ** power), ("bias", pulled.sum(0))):
                if f"{name}.{own}" in found:
                    found[f"{name}.{own}"] += value
    return found


@contextmanager
def _heard(layers: Layers, said: dict[str, Heard]) -> Iterator[None]:
    """Notes each layer's input and output in `said`; a layer that is used twice is taken out again."""

    def listen(name: str) -> Any:
        def hear(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            if name in twice or name in said:
                twice.add(name)
                said.pop(name, None)
            else:
                said[name] = Heard(given[0].detach(), out, out._version)

        return hear

    twice: set[str] = set()
    hooks = [layer.register_forward_hook(listen(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
