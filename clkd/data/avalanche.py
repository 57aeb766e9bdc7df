"""Avalanche benchmarks as data: their experiences become a column, which `split: {by: given}` follows."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clkd import vision
from clkd.data.source import Found, Places, Raw, Source, Split, UnavailableError
from clkd.errors import Interrupted, UserError, did_you_mean

HOME = "avalanche"


@dataclass(kw_only=True)
class AvalancheBenchmark(Source):
    """Any benchmark of `avalanche.benchmarks.classic` by name, or any function that makes a benchmark by its full name.

    Rows are taken without the benchmark's own augmentation and normalisation, which clkd does itself; what makes its
    experiences different (permuted pixels, rotations) stays.
    """

    benchmark: str
    options: dict[str, Any] | None = None
    trust: bool = False

    def find(self, places: Places) -> Found:
        return Found(self._own_file(), partial(self._read, places), content=(str(_home(places)),))

    def _own_file(self) -> tuple[Path, ...]:
        """Where a user's own function stands: rows are read anew when the file has changed. Nothing is imported: that
        may take seconds, or fail, and is told of when the rows are read."""
        parts = self.benchmark.split(".")[:-1]
        if not self.trust or not parts or parts[0] == HOME:
            return ()
        spec, within = None, None
        for depth in range(len(parts)):
            spec = PathFinder.find_spec(".".join(parts[: depth + 1]), within)
            within = spec.submodule_search_locations if spec else []
        return (Path(spec.origin),) if spec and spec.origin and Path(spec.origin).is_file() else ()

    def _read(self, places: Places, scratch: Path) -> Raw:
        factory = _factory(self.benchmark, self.trust)
        offered = {"train_transform": _stored, "eval_transform": _stored, "dataset_root": str(_home(places))}
        known = inspect.signature(factory).parameters
        options = self.options or {}
        for name in options:
            if name not in known:
                raise UserError(f"options: {self.benchmark} has no option '{name}', {did_you_mean(name, known)}")
        arguments = {**{name: value for name, value in offered.items() if name in known}, **options}
        try:
            benchmark = factory(**arguments)
        except Interrupted:
            raise
        except Exception as error:  # whatever a benchmark raises when its data is missing or its options do not fit
            said = " ".join(str(error).split())
            raise UnavailableError(
                f"Avalanche's {self.benchmark} cannot be had from {_home(places)}: {type(error).__name__}: {said}; set "
                f"CLKD_DATA or the data set's `root` to a folder that holds its files, unpacked"
            ) from error
        return from_avalanche(benchmark)


def from_avalanche(benchmark: Any) -> Raw:
    """All rows of an Avalanche benchmark, each with the experience it belongs to.

    Rows must be uint8 images, float images within [0, 1] or float vectors. A test stream of a single experience, while
    there are several to train on, tests them all.

    Raises:
        UserError: the rows are something else, for example normalised images.
    """
    vision.avalanche()
    train = _rows(benchmark.train_stream)
    test = _rows(benchmark.test_stream)
    if len(benchmark.test_stream) == 1 < len(benchmark.train_stream):
        test = Split(test.x, test.y, torch.full_like(test.y, -1))
    count = int(max(train.y.max(), test.y.max())) + 1
    return Raw(train, test, tuple(str(i) for i in range(count)))


def _factory(name: str, trust: bool) -> Callable[..., Any]:
    """The function of that name. One that is not Avalanche's is neither imported nor called unless it is trusted."""
    vision.avalanche()
    if "." in name and not trust and name.partition(".")[0] != HOME:
        raise UserError(
            f"benchmark: '{name}' is not Avalanche's, and can run any code: set `trust: true` if you know it"
        )
    function = _named(name)
    if not trust and getattr(function, "__module__", "").partition(".")[0] != HOME:
        raise UserError(f"benchmark: '{name}' is not Avalanche's own: set `trust: true` if you know what it does")
    return function


def _named(name: str) -> Callable[..., Any]:
    if "." not in name:
        classic = importlib.import_module("avalanche.benchmarks.classic")
        found = getattr(classic, name, None)
        if not callable(found):
            known = [key for key, value in vars(classic).items() if key[0].isupper() and callable(value)]
            raise UserError(f"benchmark: Avalanche has no '{name}', {did_you_mean(name, known)}")
        return found  # type: ignore[no-any-return]  # Avalanche is untyped
    module, _, attribute = name.rpartition(".")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"benchmark: '{name}' cannot be imported: {error}") from error
    return function


def _home(places: Places) -> Path:
    """Where Avalanche looks for data and puts what it downloads: the first place that exists."""
    return next((folder for folder in places.folders() if folder.is_dir()), places.downloads)


def _stored(image: Any) -> Any:
    """The transform that benchmarks are built with: a picture as uint8 tensor, a tensor as it is."""
    if isinstance(image, Tensor):
        return image
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(image)


def _rows(stream: Iterable[Any]) -> Split:
    x, y, experience = [], [], []
    for index, part in enumerate(stream):
        for row in part.dataset.eval():
            x.append(_as_stored(row[0]))
            y.append(int(row[1]))
            experience.append(index)
    return Split(torch.stack(x), torch.tensor(y), torch.tensor(experience))


def _as_stored(row: Any) -> Tensor:
    """One row as the store keeps it."""
    tensor: Tensor = _stored(row)
    if tensor.dtype == torch.uint8 and tensor.dim() == 3:
        return tensor
    if tensor.is_floating_point() and tensor.dim() == 1:
        return tensor.float()
    if tensor.is_floating_point() and tensor.dim() == 3 and tensor.min() >= 0 and tensor.max() <= 1:
        return tensor.mul(255).round().to(torch.uint8)
    raise UserError(
        f"an Avalanche row is {tensor.dtype} {list(tensor.shape)}: give uint8 images [C, H, W], float images within "
        "[0, 1] (no normalisation), or float vectors [D]"
    )
