"""Augmentation of whole batches, on the device: pad and crop, mirror, normalise."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clkd.data.mix import Mix
from clkd.data.strong import Strong
from clkd.errors import UserError
from clkd.signals import Batch


class Augment:
    """torchvision's `RandomCrop(size, padding=crop)`, `RandomHorizontalFlip`, `ToTensor` and `Normalize`, in order.

    Each row gets its own draw. One draw is one number, the row's *view*: it names one of the `(2·crop + 1)²` offsets,
    mirrored or not, and so the same view can be made again.

    Args:
        mean, std: `[C]` on the [0, 1] scale for images, `[D]` for vectors.
        crop: pad by this many black pixels on each side, and cut the original size out at a random place.
        flip: mirror left to right, half of the time.
        views: how many views each row has, fixed for good, which epochs go through in turn; None draws each time anew.
        strong: makes the student's view of that one; it is then drawn anew each time, whatever `views` says. If it is
            for no rows, it makes further views alone.
        mix: mixes rows with each other before that, anew each time; all teachers see them mixed.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        crop: int = 0,
        flip: bool = False,
        views: int | None = None,
        strong: Strong | None = None,
        mix: Mix | None = None,
    ) -> None:
        self.mean, self.std, self.crop, self.flip, self.strong, self.mix = mean, std, crop, flip, strong, mix
        self.views = views if crop or flip else 1
        self.invented = False
        """Whether rows come that nobody has seen, whose number is below 0."""

    def to(self, device: torch.device | str) -> Augment:
        """The same augmentation for rows on `device`."""
        strong = self.strong.to(device) if self.strong else None
        return Augment(self.mean.to(device), self.std.to(device), self.crop, self.flip, self.views, strong, self.mix)

    def fixed_for(self, sees: Literal["student", "weak"]) -> int | None:
        """How many fixed views of each row a teacher is shown that `sees` the student's view, or the weak one."""
        return None if self.mix or (self.strengthens and sees == "student") else self.views

    @property
    def strengthens(self) -> bool:
        """Whether the student's own view is a strong one, of some rows at least."""
        return self.strong is not None and self.strong.rows != "none"

    @property
    def varies(self) -> bool:
        """Whether there are further views of a row."""
        return bool(self.crop or self.flip or self.strong)

    def further(self, rows: Batch, generator: torch.Generator) -> Batch:
        """The rows in a view of their own beside the one that they are trained on: drawn anew, whatever `views` says.

        It is cropped and mirrored, and strong where there is such a view, for whichever rows that is.
        """
        x = self.train(rows.x, generator)
        return rows.seen_as(self.strong(x, generator) if self.strong else x)

    def look(self, rows: Batch, generator: torch.Generator, epoch: int) -> Batch:
        """The rows as they are trained on: in a view drawn anew, or in one of each row's fixed views.

        With V fixed views, new rows are seen in view `epoch mod V` (so V epochs never repeat one), replayed rows in the
        view that their memory stored something about, or else in one that is drawn.
        """
        seen = self._weak(rows, generator, epoch)
        if self.mix:
            seen = self.mix(seen, generator)
        if self.strong is None or not self.strengthens:
            return seen
        x = self.strong(seen.x, generator)
        if self.strong.rows == "unlabelled":
            x = torch.where((rows.y < 0).view(-1, *[1] * (x.dim() - 1)), x, seen.x)
        return replace(seen, x=x, view=None, weak=seen)

    def _weak(self, rows: Batch, generator: torch.Generator, epoch: int) -> Batch:
        if self.views is None:
            return rows.seen_as(self.train(rows.x, generator))
        if self.views == 1:
            return self.fixed(rows, torch.zeros_like(rows.sample_id))
        drawn = torch.randint(self.views, (len(rows),), generator=generator, device=generator.device)
        drawn[: rows.new] = epoch % self.views
        number = drawn.to(rows.x.device, non_blocking=True)
        if "view" in rows.extra:
            number[rows.new :] = rows.extra["view"]
        return self.fixed(rows, number)

    def fixed(self, rows: Batch, number: Tensor) -> Batch:
        """Each row in its fixed view of that number (`[B]` int64, from 0): the same for one row in every run."""
        if not (self.crop or self.flip):
            return rows.seen_as(self.plain(rows.x), number)
        ids = rows.sample_id
        if self.invented:  # they have no number of their own: their pixels tell them apart
            ids = torch.where(ids < 0, rows.x.flatten(1).sum(1), ids)
        return rows.seen_as(self.plain(self.apply(rows.x, self._view_of(ids, number))), number)

    def _view_of(self, sample_id: Tensor, number: Tensor) -> Tensor:
        """`[B]` views, spread evenly: a multiplicative hash of the row and the number, made on the device."""
        mixed = (sample_id * 0x9E3779B1 + number * 0x85EBCA77 + 0x27D4EB2F) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 12)) * 0x297A2D39) & 0xFFFFFFFF
        return (mixed ^ (mixed >> 15)) % self._lattice

    @property
    def _lattice(self) -> int:
        """How many different views there are of a row."""
        return (2 * self.crop + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Views for `n` rows of `shape`: `[n]` int64 on the generator's device.

        Raises:
            UserError: the rows are vectors, and cropping or mirroring was asked for.
        """
        if len(shape) != 3 and (self.crop or self.flip):
            raise UserError(f"augment: crop and flip are for images, but rows are vectors of shape {shape}: use `none`")
        return torch.randint(self._lattice, (n,), generator=generator, device=generator.device)

    def train(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random view of each row: `[B, C, H, W]` uint8 to float32, normalised. Vectors are only normalised."""
        views = self.draw(len(x), tuple(x.shape[1:]), generator)
        return self.plain(self.apply(x, views.to(x.device, non_blocking=True)))

    def plain(self, x: Tensor) -> Tensor:
        """The rows as they are, normalised: for evaluation.

        >>> white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
        >>> Augment(torch.tensor([0.5]), torch.tensor([0.5])).plain(white).item()
        1.0
        """
        if x.dim() == 2:
            return (x - self.mean) / self.std
        # In place and in torchvision's order of operations: the same bits as ToTensor and Normalize give.
        return x.float().div_(255).sub_(self.mean[:, None, None]).div_(self.std[:, None, None])

    def apply(self, x: Tensor, views: Tensor) -> Tensor:
        """The given view of each row, `[B, C, H, W]` to the same shape and type, not yet normalised.

        All rows move in one gather over the padded batch: 0.4 ms for 128 rows of 3×32×32 on one thread.
        """
        if not (self.crop or self.flip):
            return x
        rows, channels, height, width = x.shape
        side, stride = 2 * self.crop + 1, width + 2 * self.crop
        left, top, mirrored = views % side, views // side % side, views // side**2
        down = torch.arange(height, device=x.device)
        across = torch.arange(width, device=x.device)
        across = torch.where(mirrored[:, None] == 1, width - 1 - across, across)
        at = ((top[:, None] + down) * stride)[:, :, None] + (left[:, None] + across)[:, None, :]
        padded = F.pad(x, (self.crop,) * 4).flatten(2)
        return padded.gather(2, at.view(rows, 1, -1).expand(-1, channels, -1)).view(x.shape)
