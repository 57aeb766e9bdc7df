"""The one door to torchvision and Avalanche.

torchvision's wheel on PyPI is built for CUDA. Beside a CPU build of torch its compiled operators do not load, and then
`import torchvision` itself dies with "operator torchvision::nms does not exist", because it attaches shape functions
to operators that nobody declared. clkd uses none of these operators, so declaring their schemas is all it takes.
Avalanche imports torchvision, so it comes through here as well.

Nothing is imported before a function is called: both imports cost seconds.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from types import ModuleType
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def torchvision() -> ModuleType:
    """The module `torchvision`."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    declared()
    return importlib.import_module("torchvision")


@cache
def declared() -> Any:
    """The library object that holds the missing schemas; they live as long as it does, so it is kept for good."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]  # as above
    return library


@cache
def avalanche() -> ModuleType:
    """The module `avalanche`, with `avalanche.benchmarks` loaded."""
    torchvision()
    with warnings.catch_warnings():
        # Its dependency qpsolvers complains while imported; only the GEM strategies would ever solve a program.
        warnings.filterwarnings("ignore", message="no QP solver found")
        importlib.import_module("avalanche.benchmarks")
        return importlib.import_module("avalanche")
