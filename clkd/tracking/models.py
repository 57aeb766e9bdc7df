"""Exported students in a run's directory: MLflow models that load without clkd, one folder for each experience."""

from __future__ import annotations

import io
import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd.disk import sync

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "models"
"""In the run's directory."""
KEY = "clkd"
"""Under which clkd's own words stand in a model's metadata."""
ROWS = 2
"""Of the input example: of a single row, `torch.export` would take the batch's size for a constant."""
QUIET = ("mlflow", "torch.export", "torch.fx")
UNUSUAL = 1e20
"""Logits below minus this stand for classes that a head knows nothing of: no scale for the others."""


def write(directory: Path, index: int, module: nn.Module, example: Tensor, about: Mapping[str, Any]) -> Path:
    """Export the student of experience `index`, whole or not at all; one that is there is replaced.

    Args:
        directory: the run's.
        module: `[B, …]` to `[B, C]`, on the CPU.
        example: `[2, …]` rows, of which the signature is made, with any number of rows.
        about: plain data for the model's metadata, under `clkd`.

    Raises whatever MLflow or torch makes of a module that cannot be exported.
    """
    place = directory / FOLDER / _name(index)
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(exist_ok=True)
    try:
        with _quiet():
            _save(part, module, example, about)
        for file in [*part.rglob("*"), part]:
            sync(file)
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return place


def folders(directory: Path) -> dict[int, Path]:
    """Of all exported students of a run, by experience."""
    found = {_index(path): path for path in (directory / FOLDER).glob("exp_*")}
    return {index: found[index] for index in sorted(found) if index >= 0}


def drop(directory: Path, trained: int) -> None:
    """Delete those of experiences that are not trained yet: they come again."""
    for index, path in folders(directory).items():
        if index >= trained:
            shutil.rmtree(path)


def _name(index: int) -> str:
    return f"exp_{index:03d}"


def _index(path: Path) -> int:
    named = re.fullmatch(r"exp_([0-9]+)", path.name)
    return int(named[1]) if named else -1


def _save(path: Path, module: nn.Module, example: Tensor, about: Mapping[str, Any]) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    with torch.no_grad():
        said = module(example)
    rows = TensorSpec(example.numpy().dtype, (-1, *example.shape[1:]))
    logits = TensorSpec(np.dtype("float32"), (-1, *said.shape[1:]))
    mlflow.pytorch.save_model(
        module,
        str(path),
        signature=ModelSignature(inputs=Schema([rows]), outputs=Schema([logits])),
        input_example=example.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
        metadata={KEY: dict(about)},
        serialization_format="pt2",
    )
    model = Model.load(str(path))
    model.flavors["python_function"]["config"] = {"device": "cpu"}  # what is exported there is refused on a GPU
    model.save(str(path / "MLmodel"))
    _prove(path, module, torch.cat([example, example[:1]]))


def _prove(path: Path, module: nn.Module, rows: Tensor) -> None:
    """What was written answers as the module does, and about another number of rows than those of the example."""
    import mlflow.pyfunc
    import numpy as np
    import torch

    with torch.no_grad():
        expected = module(rows).numpy()
    found = mlflow.pyfunc.load_model(str(path)).predict(rows.numpy())
    usual = np.abs(expected)[np.abs(expected) < UNUSUAL]
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(usual.max(initial=0)), equal_nan=True):
        raise RuntimeError("its exported graph says other things than it does")


@contextmanager
def _quiet() -> Iterator[None]:
    """Others' warnings go unsaid: of type hints, of what is imported; and torch prints the graph that it gave up on."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in QUIET}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
