"""Teachers from outside: fitted here once, or loaded from a file, from torchvision or from MLflow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clkd.cache import clear
from clkd.context import Context
from clkd.errors import UserError, did_you_mean, one_line
from clkd.frozen import freeze, state_hash
from clkd.locks import alone, beside
from clkd.optimizers import OptimizerOptions, SchedulerOptions
from clkd.options import Part
from clkd.signals import Needs, Signals, Spec
from clkd.teachers import FitOptions, ViewOptions
from clkd.teachers.network import NetworkTeacher, View
from clkd.weights import read_weights

log = logging.getLogger("clkd.teachers")

FIT_VERSION = 1
"""Part of a fitted teacher's fingerprint: raised when fitting changes, so that old files are not taken for new ones."""

CHECKSUM = "state_sha256"
"""Where the file of a fitted teacher tells the hash of what it holds."""

STUDENT = "/student/state/"
"""How the names of the student's weights begin among all that a run saves."""


def fit(
    model: Part,
    context: Context,
    epochs: int = 10,
    batch_size: int = 128,
    optimizer: OptimizerOptions = FitOptions.model_fields["optimizer"].default,
    scheduler: SchedulerOptions | None = FitOptions.model_fields["scheduler"].default,
    seed: int = 0,
) -> NetworkTeacher:
    """A network trained on all of the stream's training rows, all classes at once.

    It is fitted once and kept in the cache under a fingerprint of everything that determines it: data, augmentation,
    model, recipe, seed, device kind and torch's version.
    """
    options = FitOptions(
        model=model, epochs=epochs, batch_size=batch_size, optimizer=optimizer, scheduler=scheduler, seed=seed
    )
    network = context.network(model, tuple(range(len(context.class_names) - context.extended)), seed)
    if context.untrained:
        stand_in = NetworkTeacher(freeze(network.to(context.device)))
        stand_in.untrained = True
        return stand_in
    path = context.cache / "teachers" / f"{model.name}-{_fingerprint(options, context)}.safetensors"
    with alone(beside(path), f"fitting teacher {model.name}"):
        if _loaded(network, path):
            log.info("teacher: %s from the cache (%s)", model.name, path.name)
        elif not len(context.train):
            raise UserError(f"it was fitted on data that is not here, and neither is {path}: bring one of them")
        else:
            log.info("teacher: fitting %s for %d epochs on %d rows, once", model.name, epochs, len(context.train))
            context.fit(network, options)
            _save(network, path)
    return NetworkTeacher(freeze(network.to(context.device)))


def _fingerprint(options: FitOptions, context: Context) -> str:
    facts = {
        "version": FIT_VERSION,
        "options": options.model_dump(mode="json"),
        "data": context.data_fingerprint,
        "device": context.device.type,
        "torch": str(torch.__version__),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _save(network: nn.Module, path: Path) -> None:
    """Whole or not at all: another run may look for the same file at this moment. A run can do without the file."""
    part = path.with_name(f".{path.stem}-{os.getpid()}.part")
    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, part, metadata={CHECKSUM: state_hash(network)})
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        log.warning("teacher: %s cannot be written (%s): the next run fits it again", path, error)


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
    file = _existing(path, context.base)
    state = _student_of(read_weights(file))
    network = context.network(model, _class_ids(classes, _outputs(state, "head", file), context), 0)
    _fill(network, state, file)
    return NetworkTeacher(freeze(network.to(context.device)), _view(view, context))


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
        last = [
            name for name, layer in library.models.get_model(model).named_modules() if isinstance(layer, nn.Linear)
        ][-1]
        module = library.models.get_model(model, weights=None, num_classes=_outputs(state, last, file))
        _fill(module, state, file)
    else:
        module = _pretrained(library, model, weights)
    return Foreign(freeze(module.to(context.device)), context, classes, _view(view, context))


def mlflow(
    uri: str,
    context: Context,
    classes: tuple[int | str | None, ...] | None = None,
    view: ViewOptions | None = None,
    trust: bool = False,
) -> NetworkTeacher:
    """A PyTorch model that MLflow keeps; only its logits are read. Pickles, and code beside it, need `trust`."""
    import mlflow.pytorch as store
    from mlflow.exceptions import MlflowException
    from mlflow.models import get_model_info

    try:
        if not trust and "code" in _flavour(get_model_info(uri)):
            raise UserError(f"the model '{uri}' brings code of its own: set `trust: true` if you know what it does")
        with _pickles(trust):
            # Naming the module keeps MLflow from importing one that the model names, before it looks at anything else.
            given = {} if trust else {"pickle_module": pickle}
            module: nn.Module = store.load_model(uri, map_location=context.device, **given)  # type: ignore[no-untyped-call]  # mlflow's
    except MlflowException as error:
        way_out = "; `trust: true` allows it" if "pickle" in error.message else ""
        raise UserError(f"the model '{uri}' cannot be loaded from MLflow: {error.message}{way_out}") from error
    return Foreign(module, context, classes, _view(view, context))


def _flavour(info: Any) -> dict[str, Any]:
    """What the model says of itself as a PyTorch model: `code` is a folder that loading would put on Python's path."""
    return {key: value for key, value in info.flavors.get("pytorch", {}).items() if value is not None}


@contextmanager
def _pickles(allowed: bool) -> Iterator[None]:
    """MLflow unpickles models unless its environment forbids it; here they are unpickled only if that is `allowed`."""
    name = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
    before = os.environ.get(name)
    os.environ[name] = str(allowed).lower()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class Foreign(NetworkTeacher):
    """A module that is not clkd's: rows in, logits out, no features."""

    def __init__(
        self, module: nn.Module, context: Context, classes: tuple[int | str | None, ...] | None, view: View | None
    ) -> None:
        probe = torch.zeros(2, *context.shape, device=context.device)
        with torch.no_grad():
            outputs = module(probe if view is None else view(probe)).shape[1]
        super().__init__(_Speaker(module, _class_ids(classes, outputs, context), context.device), view)


class _Speaker(nn.Module):
    """Makes a module speak signals."""

    def __init__(self, module: nn.Module, class_ids: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.class_ids = class_ids
        self._ids = torch.tensor(class_ids, device=device)

    def signals(self, x: Tensor, needs: Needs) -> Signals:
        return Signals(self.module(x), self._ids)

    def spec(self, feature: str | None = None) -> Spec:
        if feature is not None:
            raise UserError(f"this teacher gives logits only, so '{feature}' cannot be read of it")
        return Spec(class_ids=self.class_ids, born=(0,) * len(self.class_ids))

    def request(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.spec(name)

    def layout(self) -> dict[str, Any]:
        return {}


def _class_ids(classes: tuple[int | str | None, ...] | None, outputs: int, context: Context) -> tuple[int, ...]:
    """The stream's class of each output of a teacher."""
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
    # What is no class of the stream gets an id that no class has, so that nothing is ever compared with it.
    return tuple(len(names) + i if one is None else _class_id(one, names) for i, one in enumerate(classes))


def _class_id(one: int | str, names: tuple[str, ...]) -> int:
    if isinstance(one, int) and 0 <= one < len(names):
        return one
    if str(one) in names:
        return names.index(str(one))
    raise UserError(f"'classes': the stream has no class '{one}', {did_you_mean(str(one), names)}")


def _view(view: ViewOptions | None, context: Context) -> View | None:
    if view is None:
        return None
    own = [context.mean if view.mean is None else torch.tensor(view.mean)]
    own.append(context.std if view.std is None else torch.tensor(view.std))
    return View((context.mean, context.std), (own[0], own[1]), view.size)


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


def _loaded(network: nn.Module, path: Path) -> bool:
    """Fill a fitted teacher from the cache; False if it is not there. What is damaged is set aside."""
    begun = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get(CHECKSUM)
        network.load_state_dict(load_file(path))
        if state_hash(network) == told:
            return True
        reason = "its checksum differs"
    except FileNotFoundError:
        return False
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = one_line(str(error), 200)
    network.load_state_dict(begun)
    aside = path.with_suffix(".damaged")
    clear(aside)
    path.rename(aside)
    log.warning("teacher: %s is damaged (%s): it is set aside as %s and fitted again", path, reason, aside.name)
    return False


def _pretrained(library: Any, model: str, weights: str) -> nn.Module:
    try:
        module: nn.Module = library.models.get_model(model, weights=weights)
    except Exception as error:  # torchvision raises KeyError, ValueError, URLError… all mean that there are no weights
        raise UserError(
            f"weights '{weights}' for {model}: neither a file nor a name that torchvision can load ({error}); "
            f"give the path of a state dict"
        ) from error
    return module
