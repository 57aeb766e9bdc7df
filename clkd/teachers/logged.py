"""A model that MLflow keeps as a teacher: a student that clkd logged, or anybody's PyTorch model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clkd.context import Context
from clkd.errors import UserError, one_line
from clkd.options import ViewOptions
from clkd.teachers.external import Foreign, Speaker, class_ids, columns
from clkd.teachers.finished import shaped
from clkd.teachers.network import NetworkTeacher
from clkd.teachers.shelf import Copy
from clkd.view import View, view_of

log = logging.getLogger("clkd.teachers")

PROGRAM = Path("data", "model.pt2")
"""An exported model's graph and weights, within its folder."""
FILES = (Path("MLmodel"), PROGRAM)
"""What a copy is made of."""
SUMS = "sha256.json"


def mlflow(
    uri: str,
    context: Context,
    classes: tuple[int | str | None, ...] | None = None,
    view: ViewOptions | None = None,
    trust: bool = False,
) -> NetworkTeacher:
    """A PyTorch model that MLflow keeps; only its logits are read. Pickles, and code beside it, need `trust`.

    A student that a run of clkd logged (`tracking.log_model`) knows its classes, size and normalization: classes are
    matched by name, and rows are brought to what it takes, which for images is 8-bit pixels.
    """
    copy = _kept(uri, context) or _fetched(uri, context)
    exported = (copy.folder / PROGRAM).is_file()
    module = _loaded(copy.folder, uri, context.device, trust)
    about = _metadata(copy.folder)
    if about is None:
        sees = view_of(view, context.mean, context.std, context.shape)
        known = (copy, _sum(copy.folder)) if exported else (None, "")
        return Foreign(module, context, classes, sees, *known)
    ids = _named(about, context) if classes is None else class_ids(classes, len(about["class_names"]), context)
    speaker = Speaker(_Pixels(module, len(about["shape"]) == 3), ids, context.device, _sum(copy.folder))
    return NetworkTeacher(speaker, _view(about, view, context), copy)


# What it says


class _Pixels(nn.Module):
    """Gives a logged student its rows: on the [0, 1] scale they come, as 8-bit pixels it takes them."""

    def __init__(self, module: nn.Module, images: bool) -> None:
        super().__init__()
        self.module, self.images = module, images

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.module((x * 255).round().clamp(0, 255).byte() if self.images else x)
        return said


def _view(about: Mapping[str, Any], asked: ViewOptions | None, context: Context) -> View | None:
    """From the stream's normalised rows to that student's, not normalised: it does that by itself.

    Raises:
        UserError: they are of another shape and nobody says how they become of this one, or other statistics are asked.
    """
    wanted = {} if asked is None else asked.model_dump(exclude_none=True)
    if {"mean", "std"} & wanted.keys():
        raise UserError("view: this model normalises its rows by itself: leave mean and std out")
    theirs = tuple(about["shape"])
    own = {"mean": [0.0] * theirs[0], "std": [1.0] * theirs[0]}
    return shaped(theirs, {**own, **wanted}, context, "that model")


def _named(about: Mapping[str, Any], context: Context) -> tuple[int, ...]:
    """The stream's class of each column, by name; one whose class had not come yet is none of them."""
    ours, theirs = context.class_names, about["class_names"]
    known = [name if born >= 0 else None for name, born in zip(theirs, about["born"], strict=True)]
    found = [ours.index(name) if name in ours else None for name in known]
    if all(one is None for one in found):
        raise UserError(
            f"that model's classes ({', '.join(theirs[:5])}{', …' * (len(theirs) > 5)}) and the stream's have no name "
            f"in common: say which of the stream's {len(ours)} each of its {len(theirs)} outputs is with "
            "'classes: [...]' (ids or names)"
        )
    return columns(found, ours)


# Its files


class Place:
    """A temporary folder, there as long as this is."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="clkd-model-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Folder(Copy):
    """A model's folder, and the copy of it in a run's directory."""

    folder: Path
    place: Place | None = None

    @property
    def name(self) -> str:
        return f"mlflow-{hashlib.sha256(json.dumps(self.said, sort_keys=True).encode()).hexdigest()[:16]}"

    def write(self, network: nn.Module, folder: Path) -> None:
        """Beside what is there already; one that is damaged is replaced."""
        place = folder / self.name
        if _is_whole(place):
            return
        part = folder / f".{self.name}-{os.getpid()}.part"
        try:
            for file in FILES:
                (part / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / file, part / file)
            (part / SUMS).write_text(json.dumps({str(file): _digest(part / file) for file in FILES}))
            shutil.rmtree(place, ignore_errors=True)
            part.rename(place)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            log.warning(
                "teacher: %s cannot be written (%s): the run goes on only where this model can be had again",
                place,
                error,
            )


def _said(uri: str) -> dict[str, Any]:
    return {"kind": "mlflow", "uri": uri}


def _kept(uri: str, context: Context) -> Folder | None:
    """The run's own copy, or its origin's."""
    for kept in context.kept:
        place = kept / Folder(_said(uri), {}, kept).name
        if _is_whole(place):
            log.info("teacher: mlflow from the run's copy (%s)", place)
            return Folder(_said(uri), {"uri": uri}, place)
        if place.exists():
            log.warning("teacher: %s is damaged: the model is had anew", place)
    return None


def _fetched(uri: str, context: Context) -> Folder:
    """Out of the store, or a folder that lies beside the scenario."""
    beside = context.base / uri
    if (beside / "MLmodel").is_file():
        return Folder(_said(uri), {"uri": uri}, beside)
    place = Place()
    folder = context.fetched(uri, place.path)
    return Folder(_said(uri), {"uri": uri}, folder, place)


def _is_whole(place: Path) -> bool:
    try:
        sums = json.loads((place / SUMS).read_text())
        return all(sums[str(file)] == _digest(place / file) for file in FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum(folder: Path) -> str:
    return _digest(folder / PROGRAM)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _metadata(folder: Path) -> dict[str, Any] | None:
    """What clkd wrote of a student; None of anybody else's model."""
    from mlflow.models import Model

    about: dict[str, Any] | None = (Model.load(str(folder)).metadata or {}).get("clkd")
    if about is None:
        return None
    if not {"class_names", "born", "shape"} <= about.keys() or len(about["born"]) != len(about["class_names"]):
        raise UserError("the model says that clkd logged it, but not its classes and shape: it was altered")
    return about


# Opening it


def _loaded(folder: Path, uri: str, device: torch.device, trust: bool) -> nn.Module:
    """The module, on the device."""
    import mlflow.pytorch as store
    from mlflow.exceptions import MlflowException
    from mlflow.models import get_model_info

    try:
        flavour = get_model_info(str(folder)).flavors.get("pytorch", {})
        if not trust and flavour.get("code") is not None:  # a folder that loading would put on Python's path
            raise UserError(f"the model '{uri}' brings code of its own: set `trust: true` if you know what it does")
        with _pickles(trust):
            # Naming the module keeps MLflow from importing one that the model names, before it looks at anything else.
            given = {} if trust else {"pickle_module": pickle}
            module: nn.Module = store.load_model(str(folder), map_location=device, **given)  # type: ignore[no-untyped-call]  # mlflow's
    except MlflowException as error:
        way_out = "; `trust: true` allows it" if "pickle" in error.message else ""
        reason = one_line(error.message, 300)
        raise UserError(f"the model '{uri}' cannot be loaded from MLflow: {reason}{way_out}") from error
    return _on(module, folder, device)


def _on(module: nn.Module, folder: Path, device: torch.device) -> nn.Module:
    """An exported graph names its device in its operations, too, so it is moved as a program (which was checked)."""
    held = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    here = torch.empty(0, device=device).device  # whose number `cuda` leaves out
    if not (folder / PROGRAM).is_file() or held <= {here}:
        return module
    from torch.export.passes import move_to_device_pass

    moved: nn.Module = move_to_device_pass(torch.export.load(folder / PROGRAM), str(device)).module()
    return moved


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
