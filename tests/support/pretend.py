"""A second device on a machine that has one: its tensors lie on the CPU, but cannot be mixed with the CPU's.

What a GPU refuses is refused here (two devices in one operation), and what makes a host wait for a GPU is written down.
Kernels are the CPU's, so numbers have to be the CPU's as well. It stands on torch's way to write a backend in Python,
which has to be known before a process's first backward pass: so this is a program, too, that runs scenarios there.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "pretend"
MOVES = (aten._to_copy.default, aten.copy_.default)
INDEXES = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""Their indices may come from the CPU."""
JOINS = (aten.cat.default, aten.stack.default)
"""They take not even a single number of the CPU."""
READS = (
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.equal.default,
    aten.isin.Tensor_Tensor,
)
"""What they give depends on numbers that the host does not know: it waits. (`isin` does so of many elements.)"""


WATCHED_EPOCH = 1
"""Of each experience. In the first one, what does not change within an experience is looked up."""


class TwoDevicesError(RuntimeError):
    """One operation was given tensors of both devices."""


SETUP: Callable[[str], None] | None = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
"""None where torch is too old."""


@cache
def device() -> torch.device:
    """The second device, which the process has from now on."""
    assert SETUP is not None, "torch has no backend that is written in Python"
    SETUP(NAME)
    return torch.device(NAME, 0)


class There(Tensor):
    """A tensor of the second device, around one of the CPU."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[There], inner: Tensor) -> There:
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch gives it no types
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device(),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TwoDevicesError(f"{func} outside of `pretended`")

    def __deepcopy__(self, memo: dict[int, Any]) -> There:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copied._is_param = True
            memo[id(self)] = copied
        found: There = memo[id(self)]
        return found


class Pretended(TorchDispatchMode):
    """While it is on, there is a second device.

    Attributes:
        waits: what made the host wait, while it is `watched`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.watched = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = any(isinstance(each, There) for each in given)
        if there and func not in MOVES:
            self._refuse_two(func, args, given)
        result_there = self._result_is_there(func, args, kwargs, there)
        if self.watched and self._waits(func, args, kwargs, there, result_there):
            self.waits.append(str(func))
        here, options = tree_map(_brought_here, (args, kwargs))
        if "pin_memory" in options:
            options["pin_memory"] = False
        out = func(*here, **options)
        if not result_there:
            return out
        wrapped = tree_map(lambda each: There(each) if isinstance(each, Tensor) else each, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _refuse_two(self, func: Any, args: Any, given: list[Tensor]) -> None:
        """A tensor of the CPU beside one of the second device has no dimension, or is an index."""
        indices = tree_leaves(args[1]) if func in INDEXES else []
        for each in given:
            joined = each.dim() > 0 or func in JOINS
            if not isinstance(each, There) and joined and not any(each is index for index in indices):
                shapes = [(each.device.type, *each.shape) for each in given]
                raise TwoDevicesError(f"{func} of {shapes}")

    def _result_is_there(self, func: Any, args: Any, kwargs: Any, there: bool) -> bool:
        if kwargs.get("device") is not None:
            return torch.device(kwargs["device"]).type == NAME
        return isinstance(args[0], There) if func is aten.copy_.default else there

    def _waits(self, func: Any, args: Any, kwargs: Any, there: bool, result_there: bool) -> bool:
        if func in MOVES:
            source = args[1] if func is aten.copy_.default else args[0]
            at_once = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
            return isinstance(source, There) != result_there and not at_once
        masks = func in INDEXES and any(each is not None and each.dtype == torch.bool for each in args[1])
        return there and (func in READS or masks)


def _brought_here(each: Any) -> Any:
    if isinstance(each, There):
        return each.inner
    return torch.device("cpu") if isinstance(each, torch.device) else each


@contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    """With a second device, and with what torch does with such a device by itself."""
    device()
    tensor, tolist, address = torch.tensor, Tensor.tolist, Tensor.data_ptr
    take, put = Tensor.__getitem__, Tensor.__setitem__

    def made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        built = tensor(data, **kwargs)
        return built if device is None else built.to(device)

    def at(self: Tensor, key: Any) -> Any:
        """A list of places becomes a tensor on the device, for which the host waits."""
        if isinstance(key, tuple):
            return tuple(at(self, each) for each in key)
        return made(key, device=self.device) if isinstance(key, list) and isinstance(self, There) else key

    patches: dict[str, Callable[..., Any]] = {
        "new_tensor": lambda self, data, dtype=None, device=None, **kwargs: made(
            data, dtype=dtype or self.dtype, device=device or self.device, **kwargs
        ),
        "tolist": lambda self: tolist(self.cpu()),
        "data_ptr": lambda self: address(self.inner if isinstance(self, There) else self),
        "__getitem__": lambda self, key: take(self, at(self, key)),
        "__setitem__": lambda self, key, value: put(self, at(self, key), value),
    }
    with monkeypatch.context() as patch, Pretended() as mode:
        patch.setattr(torch, "tensor", made)
        for name, function in patches.items():
            patch.setattr(Tensor, name, function)
        yield mode


def run(scenario: Path, waits: list[str]) -> dict[str, Any]:
    """Its metrics, though it stops after an experience and is resumed, from `run` beside the scenario.

    `waits` becomes what watched steps waited for.
    """
    from clkd.engine.execute import execute
    from clkd.engine.step import Step
    from clkd.plugins import load_plugins
    from clkd.scenario.request import RunRequest

    call = Step.__call__
    with pytest.MonkeyPatch.context() as patch, pretended(patch) as mode:

        def watched(step: Step, *given: Any) -> Any:
            mode.watched = step.progress.epoch == WATCHED_EPOCH
            said = call(step, *given)
            mode.watched = False
            return said

        patch.setattr(Step, "__call__", watched)
        patch.setattr("clkd.engine.execute.choose_device", lambda wanted, ranks: device())
        plugins = load_plugins()
        execute(RunRequest(scenario=scenario, quiet=True, limit_experiences=1), plugins)
        again = RunRequest(resume=str(scenario.parent / "run"), quiet=True)
        found: dict[str, Any] = execute(again, plugins)["metrics"]
        waits += mode.waits
        return found


def main() -> None:
    """Of each scenario whose path is read: what came of it, beside it, and a line when that is there."""
    device()
    for line in sys.stdin:
        scenario, waits = Path(line.strip()), list[str]()
        try:
            told = {"metrics": run(scenario, waits), "waits": waits}
        except Exception:  # whoever asked is told
            told = {"error": traceback.format_exc()}
        scenario.with_suffix(".json").write_text(json.dumps(told))
        print("done", flush=True)


if __name__ == "__main__":
    main()
