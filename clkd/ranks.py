"""The processes that train together: who this one is, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clkd.errors import ClkdError, EchoError
from clkd.signals import Batch, Needs, Signals

Built = TypeVar("Built")

PATIENCE = timedelta(days=1)
"""How long ranks wait for one that fits a teacher. One that dies is not waited for: torchrun then ends the others."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among `world`, alone unless torchrun started it. All methods are for all ranks to call at once.

    Attributes:
        rank: 0 … world - 1; rank 0 writes and talks.
        local: the same among the processes of this machine: the number of its GPU.
        aside: the group in which layers talk while gradients are brought together: either may come first.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    aside: Any = field(default=None, repr=False, compare=False)

    @property
    def alone(self) -> bool:
        return self.world == 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    # Work that is shared

    def share(self, batch: Batch) -> Batch:
        """This rank's rows of a batch: of the new and of the replayed ones each `world`-th.

        A batch with fewer than two rows a rank, new or replayed, is everybody's whole: so no rank is ever without rows
        that another has, and the mean over ranks is the batch's either way.
        """
        sizes = [batch.new, *(batch.draws or (len(batch) - batch.new,))]
        if self._has_all(sizes):
            return batch
        blocks = torch.split(torch.arange(len(batch), device=batch.y.device), sizes)
        return batch.pick(*map(self.own, blocks))

    def size_of_share(self, sizes: Sequence[int]) -> int:
        """How many rows `share` gives of a batch with so many new ones, and of each draw from memory."""
        return sum(sizes) if self._has_all(sizes) else sum(len(range(self.rank, size, self.world)) for size in sizes)

    def _has_all(self, sizes: Sequence[int]) -> bool:
        return self.alone or any(0 < size < 2 * self.world for size in sizes)

    def own(self, rows: Tensor) -> Tensor:
        """Every `world`-th, starting with this rank's."""
        return rows[self.rank :: self.world]

    def whole(self, said: Signals, rows: int | tuple[int, ...], needs: Needs | None) -> Signals:
        """What is needed of what all ranks said about their shares of `rows` rows, in the rows' order.

        Rows of several kinds, new ones and those of each draw from memory, are given as so many of each.
        """
        if self.alone:
            return said
        needs = needs or Needs(logits=False)
        logits = self._interleaved(said.logits, rows) if needs.logits and said.logits is not None else None
        competes = None if said.competes is None else self._interleaved(said.competes, rows)
        features = {tap: self._interleaved(said.features[tap], rows) for tap in needs.features}
        return Signals(logits, said.class_ids, features, competes=competes)

    def _interleaved(self, part: Tensor, rows: int | tuple[int, ...]) -> Tensor:
        sizes = (rows,) if isinstance(rows, int) else rows
        if len(part) == sum(sizes):  # everybody had all rows, but dropout drops other numbers in each process
            return self.first_told(part.detach().clone())
        own = [len(range(self.rank, size, self.world)) for size in sizes]
        return torch.cat([self._gathered(*each) for each in zip(torch.split(part, own), sizes, strict=True)])

    def _gathered(self, part: Tensor, rows: int) -> Tensor:
        padded = part.new_zeros((-(-rows // self.world), *part.shape[1:]))
        padded[: len(part)] = part.detach()
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:rows]

    def part(self, value: Tensor, own: int | Tensor, rows: int | Tensor) -> Tensor:
        """A mean over `own` of `rows` rows, scaled such that the mean over ranks is the mean over all rows."""
        if not isinstance(own, Tensor) and own == rows:
            return value
        return value * (own * self.world / rows)

    def in_turn(self, work: Callable[[], Built]) -> Built:
        """Everybody's result, but each machine's first process goes before its others, which find what it left.

        Who fails waits for the others, too: whoever catches the error is in step with them.
        """
        built: list[Built] = []
        failed: Exception | None = None
        for turn in (self.local == 0, self.local != 0):
            try:
                built += [work()] if turn else []
            except Exception as error:
                failed = error
            self.highest(0)
        if failed is not None:
            raise failed
        return built[0]

    # Numbers that are brought together

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all ranks."""
        if not self.alone:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def sum_of_layers(self, tensor: Tensor) -> Tensor:
        """As `sum`, in the midst of a forward pass, and its gradient is the sum of all ranks' gradients."""
        if self.alone:
            return tensor
        summed: Tensor = _Sum.apply(tensor, self.aside)  # type: ignore[no-untyped-call]  # torch's
        return summed

    def mean(self, tensor: Tensor) -> Tensor:
        """Over all ranks."""
        return tensor if self.alone else self.sum(tensor) / self.world

    def highest(self, number: int) -> int:
        """Over all ranks; also a way to wait for them."""
        if self.alone:
            return number
        told = torch.tensor(number)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return int(told)

    def tell(self, what: Built) -> Built:
        """What rank 0 gives."""
        if self.alone:
            return what
        box: list[Any] = [what]
        dist.broadcast_object_list(box)
        told: Built = box[0]
        return told

    def first_told(self, tensor: Tensor) -> Tensor:
        """Rank 0's, on the device: all ranks have one of the same shape."""
        if not self.alone:
            tensor = tensor.contiguous()
            dist.broadcast(tensor, 0)
        return tensor

    def gather(self, what: Built) -> list[Built]:
        """What each rank gives, by rank."""
        if self.alone:
            return [what]
        given: list[Any] = [None] * self.world
        dist.all_gather_object(given, what)
        return given

    def agree(self, what: str, value: str) -> None:
        """Raises `ClkdError` naming the ranks whose `value` is not rank 0's."""
        if self.alone:
            return
        values = self.gather(value)
        others = [str(rank) for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise ClkdError(
                f"{what} differs between rank 0 and rank {', '.join(others)}: all must have the same data, files and "
                f"versions, and no part may draw random numbers that depend on the process"
            )

    # Modules that are kept the same

    @torch.no_grad()
    def follow(self, module: nn.Module | None) -> None:
        """Take rank 0's parameters and buffers."""
        if not self.alone and module is not None:
            for tensor in (*module.parameters(), *module.buffers()):
                told = tensor.contiguous()
                dist.broadcast(told, 0)
                tensor.copy_(told)

    @torch.no_grad()
    def settle(self, module: nn.Module | None) -> None:
        """Give all ranks the mean of their buffers, such as batch-norm statistics of each rank's rows."""
        if not self.alone and module is not None:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.mean(buffer.contiguous()))


class _Sum(torch.autograd.Function):
    """A sum over ranks, both ways: what each rank's number does to every rank's loss is its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _summed(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0], ctx.group), None


def _summed(tensor: Tensor, group: Any) -> Tensor:
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(tensor, group=group)
    return tensor


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes, if torchrun (or who else sets its variables) started several; part at the end.

    Whoever fails first says why. The others fail because of it, and echo it without a word.
    """
    told = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    rank, world = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if told else (0, 1)
    if world == 1:
        yield ALONE
        return
    # Objects and flags travel by gloo and never wait for a GPU; nccl wakes up only if tensors on one are sent.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, int(os.environ.get("LOCAL_RANK", rank)), dist.new_group(timeout=PATIENCE))
    except BaseException as error:
        if dist.distributed_c10d._get_default_store().add("clkd/failed", 1) > 1:
            raise EchoError(str(error), getattr(error, "exit_code", 1)) from error
        raise
    finally:
        dist.destroy_process_group()
