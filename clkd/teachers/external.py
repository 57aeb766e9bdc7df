"""Teachers from outside: loaded from a file or from torchvision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clkd.context import Context
from clkd.errors import Interrupted, UserError, did_you_mean, one_line
from clkd.frozen import freeze
from clkd.options import Part, ViewOptions
from clkd.signals import Needs, Signals, Spec
from clkd.teachers.network import NetworkTeacher
from clkd.teachers.shelf import Copy, copied
from clkd.view import View, view_of
from clkd.weights import read_weights

STUDENT = "/student/state/"
"""How the names of the student's weights begin among all that a run saves."""


def checkpoint(
    path: str,
    model: Part,
    context: Context,
    classes: tuple[int | str | None, ...] | None = None,
    view: ViewOptions | None = None,
) -> NetworkTeacher:
    """One of clkd's networks with weights from a file.

    The file is a state dict with a student's names, `.safetensors` or anything that `torch.load(weights_only=True)`
    reads, or the `state.safetensors` of a run's checkpoint, whose student is taken; nothing in it is ever executed.
    """
    said = {"kind": "checkpoint", "path": path, "base": str(context.base), "model": model.dump()}

    def made(about: dict[str, Any]) -> nn.Module:
        network: nn.Module = context.network(model, class_ids(classes, about["outputs"], context), 0, view)
        return network

    network: Any = copied(said, context, made)
    if network is None:
        file = _existing(path, context.base)
        state = _student_of(read_weights(file))
        network = made({"outputs": _outputs(state, "head", file)})
        _fill(network, state, file)
    outputs = {"outputs": len(network.class_ids)}
    return NetworkTeacher(freeze(network.to(context.device)), copy=Copy(said, outputs))


def torchvision(
    model: str,
    weights: str,
    context: Context,
    classes: tuple[int | str | None, ...] | None = None,
    view: ViewOptions | None = None,
) -> NetworkTeacher:
    """A torchvision classifier with its own output layer; `weights` is a file, or a name torchvision can download."""
    from clkd.vision import torchvision as load_torchvision

    library = load_torchvision()
    if model not in library.models.list_models():
        raise UserError(f"torchvision has no model '{model}', {did_you_mean(model, library.models.list_models())}")
    file = Path(weights) if Path(weights).is_absolute() else context.base / weights
    if file.exists():
        state = read_weights(file)
        layers = library.models.get_model(model).named_modules()
        linear = [name for name, layer in layers if isinstance(layer, nn.Linear)]
        if not linear:
            raise UserError(f"{model} has no linear output layer, by which the number of classes in {file} is known")
        last = linear[-1]
        module = library.models.get_model(model, weights=None, num_classes=_outputs(state, last, file))
        _fill(module, state, file)
    else:
        module = _pretrained(library, model, weights)
    return Foreign(
        freeze(module.to(context.device)), context, classes, view_of(view, context.mean, context.std, context.shape)
    )


class Foreign(NetworkTeacher):
    """A module that is not clkd's: rows in, logits out, no features."""

    def __init__(
        self,
        module: nn.Module,
        context: Context,
        classes: tuple[int | str | None, ...] | None,
        view: View | None,
        copy: Copy | None = None,
        program: str = "",
    ) -> None:
        outputs = _outputs_for(module, context, view)
        super().__init__(Speaker(module, class_ids(classes, outputs, context), context.device, program), view, copy)


def _outputs_for(module: nn.Module, context: Context, view: View | None) -> int:
    """How many logits it gives of a row.

    Raises:
        UserError: it cannot take such rows, or gives something else.
    """
    probe = torch.zeros(2, *context.shape, device=context.device)
    seen = probe if view is None else view(probe)
    try:
        with torch.no_grad():
            said = module(seen)
    except Interrupted:
        raise
    except Exception as error:  # a stranger's layers may raise anything
        reason = one_line(" ".join(str(error).split()), 200)
        raise UserError(
            f"the model does not take rows of shape {context.shape} ({type(error).__name__}: {reason}): say by `view` "
            "what it sees, such as {size: 224}"
        ) from error
    if not isinstance(said, torch.Tensor) or said.dim() != 2:
        raise UserError("the model is no classifier: it does not give a vector of logits for each row")
    return said.shape[1]


class Speaker(nn.Module):
    """Makes a module speak signals. `program` is what its operations are known by, where layers do not tell them."""

    def __init__(self, module: nn.Module, class_ids: tuple[int, ...], device: torch.device, program: str = "") -> None:
        super().__init__()
        self.module = module
        self.program = program
        self.class_ids = class_ids
        self._ids = torch.tensor(class_ids, device=device)
        for each in self.modules():  # not by `eval`, which an exported graph forbids: it is in that mode for good
            each.training = False
        self.requires_grad_(False)

    def signals(self, x: Tensor, needs: Needs) -> Signals:
        return Signals(self.module(x), self._ids)

    def spec(self, feature: str | None = None) -> Spec:
        if feature is not None:
            raise UserError(f"this teacher gives logits only, so '{feature}' cannot be read of it")
        return Spec(class_ids=self.class_ids, born=(0,) * len(self.class_ids))

    def request(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.spec(name)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.module(x)
        return said

    def layout(self) -> dict[str, Any]:
        return {}

    def extra_repr(self) -> str:
        return self.program


def class_ids(classes: tuple[int | str | None, ...] | None, outputs: int, context: Context) -> tuple[int, ...]:
    """The stream's class of each output of a teacher.

    Raises:
        UserError: `classes` does not fit the outputs or the stream, names a class twice, or names none at all.
    """
    names = context.class_names
    if classes is None:
        if outputs not in (len(names), len(names) - context.extended):
            raise UserError(
                f"the teacher has {outputs} classes, the stream has {len(names)}: say which class each output is with "
                f"'classes: [...]' (ids or names)"
            )
        return tuple(range(outputs))
    if len(classes) != outputs:
        raise UserError(f"'classes' names {len(classes)} classes, but the teacher has {outputs} outputs")
    if all(one is None for one in classes):
        raise UserError("'classes': no output is a class of the stream, so its logits say nothing here")
    return columns([None if one is None else class_id(one, names) for one in classes], names)


def columns(found: Sequence[int | None], names: Sequence[str]) -> tuple[int, ...]:
    """The stream's class of each output; what is none gets an id that no class has, so nothing is compared with it.

    Raises:
        UserError: two outputs would be the same class.
    """
    places: dict[int, int] = {}
    for i, one in enumerate(found):
        if one is not None and places.setdefault(one, i) != i:
            raise UserError(
                f"'classes': outputs {places[one]} and {i} are both the stream's class '{names[one]}': keep one, and "
                "write null for the other"
            )
    return tuple(len(names) + i if one is None else one for i, one in enumerate(found))


def class_id(one: int | str, names: Sequence[str], whose: str = "the stream") -> int:
    """The class that an id or a name means; a number is an id as long as there is a class of that id."""
    if isinstance(one, int) and 0 <= one < len(names):
        return one
    if str(one) in names:
        return names.index(str(one))
    raise UserError(f"'classes': {whose} has no class '{one}', {did_you_mean(str(one), names)}")


def _existing(path: str, base: Path) -> Path:
    file = base / os.path.expanduser(path)
    if not file.is_file():
        raise UserError(f"the teacher's file {file} does not exist")
    return file


def _student_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's weights where this is all that a run saved; else what it is.

    >>> _student_of({"/student/state/head.bias": torch.zeros(2), "/memory/table/y": torch.zeros(1)})
    {'head.bias': tensor([0., 0.])}
    """
    own = {name.removeprefix(STUDENT): tensor for name, tensor in state.items() if name.startswith(STUDENT)}
    return own or state


def _outputs(state: dict[str, Tensor], layer: str, file: Path) -> int:
    """How many classes the output layer of a state dict has."""
    weight = state.get(f"{layer}.weight")
    if weight is None:
        raise UserError(f"{file} has no output layer '{layer}.weight'; it has {', '.join(list(state)[-3:])}, …")
    return len(weight)


def _fill(network: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines()[1:3]]
        raise UserError(f"{file} does not fit the teacher's model: {' '.join(wrong)}") from error


def _pretrained(library: Any, model: str, weights: str) -> nn.Module:
    try:
        module: nn.Module = library.models.get_model(model, weights=weights)
    except Interrupted:
        raise
    except Exception as error:  # torchvision raises KeyError, ValueError, URLError… all mean that there are no weights
        raise UserError(
            f"weights '{weights}' for {model}: neither a file nor a name that torchvision can load ({error}); "
            f"give the path of a state dict"
        ) from error
    return module
