"""Contrastive representation distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clkd.losses.aligner import averaged
from clkd.losses.base import Loss, full_precision
from clkd.losses.embedding_queue import EMPTY, EmbeddingQueue
from clkd.losses.taps import TAP, taps_of, width_of
from clkd.perceptron import layer
from clkd.seeding import generator
from clkd.signals import Batch, Needs, Signals, Spec

if TYPE_CHECKING:
    from clkd.models.student import Student


class CRD(Loss):
    """`−log (exp(s·t⁺/τ) / (exp(s·t⁺/τ) + Σ exp(s·t⁻/τ)))`: know your own row's teacher among those of other rows.

    Tian et al. 2020, "Contrastive Representation Distillation", §3.1, in the InfoNCE form (van den Oord et al. 2018)
    and in one direction: s and t are linear embeddings of the student's and the teacher's features, of unit length; t⁺
    is the teacher's of the same row, t⁻ those of other rows of the batch and of a queue of the teacher's latest
    embeddings (the paper: noise-contrastive estimation against banks of all rows, in both directions). A queue needs no
    room for each row of a stream that is still coming. Rows with the sample id of the student's are never negatives,
    nor, unless `negatives: all`, rows of its class. An unlabelled row is of no known class: it takes part, and all
    other rows are its negatives, those of its true class among them.

    The queue takes a batch in after its step, and travels with the checkpoint. With several processes each has its own,
    and a resumed run starts all of them with that of the first.

    >>> s, t, i = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.arange(2)
    >>> contrast(s, t, i[:1], i, i[:1], i, temperature=1.0, apart=True)
    tensor([0.3133])
    """

    needs: ClassVar[Needs] = Needs(logits=False, features=(TAP,))
    contract_optouts: ClassVar[dict[str, str]] = {
        "agreement": "it pushes rows apart, which equal features do not avoid; and its embeddings start at random"
    }

    def __init__(
        self,
        dim: int = 128,
        queue: int = 4096,
        temperature: float = 0.07,
        negatives: Literal["other_classes", "all"] = "other_classes",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.temperature, self.negatives, self.seed = dim, temperature, negatives, seed
        self.queue = EmbeddingQueue(queue, dim)
        self.embeddings = nn.ModuleList()
        self._widths: tuple[int, int] | None = None
        self._fresh: tuple[int | None, tuple[Tensor, Tensor, Tensor]] | None = None

    def bind(self, a: Spec, b: Spec | None) -> None:
        assert b is not None, "crd has two sides"
        self.taps = taps_of(a, b)
        widths = width_of("crd", a, self.taps[0]), width_of("crd", b, self.taps[1])
        if widths != self._widths:
            draws = (generator(self.seed, "embedding", side, *self.taps) for side in ("student", "teacher"))
            made = (layer(width, self.dim, None, each) for width, each in zip(widths, draws, strict=True))
            self.embeddings, self._widths = nn.ModuleList(made), widths

    def forward(self, batch: Batch, a: Signals, b: Signals | None = None) -> Tensor:
        """`[B]`."""
        assert b is not None, "crd has two sides"
        student = self._embedded(0, a.features[self.taps[0]])
        teacher = self._embedded(1, b.features[self.taps[1]].detach())
        queue = self.queue.to(teacher.device)
        self._fresh = self._step, (teacher.detach(), batch.sample_id, batch.y)
        return contrast(
            student,
            torch.cat([teacher, queue.keys.to(teacher.dtype)]),
            batch.sample_id,
            torch.cat([batch.sample_id, queue.sample_id]),
            batch.y,
            torch.cat([batch.y, queue.label]),
            self.temperature,
            apart=self.negatives == "other_classes",
        )

    def _embedded(self, side: int, features: Tensor) -> Tensor:
        return F.normalize(self.embeddings[side](averaged(full_precision(features), ())), dim=1)

    def after_step(self, student: Student) -> None:
        if self._fresh is not None and self._fresh[0] == self._step:  # else its step was skipped
            self.queue.push(*self._fresh[1])
        self._fresh = None

    @property
    def _step(self) -> int | None:
        """Which step it is, where anybody counts them."""
        return self.progress.step if self.progress else None

    def get_extra_state(self) -> dict[str, Any]:
        """The queue is no buffer: what each process has in it is its own."""
        return self.queue.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queue.load(state)


def contrast(
    student: Tensor,
    teacher: Tensor,
    row: Tensor,
    rows: Tensor,
    label: Tensor,
    labels: Tensor,
    temperature: float,
    apart: bool,
) -> Tensor:
    """`[B]`: how badly each student's row finds its teacher's, which has the same place, among `[M]` of them.

    Args:
        student, teacher: `[B, E]` and `[M, E]`, of unit length.
        row, rows: `[B]` and `[M]` sample ids; -1 of rows that a memory made up, which are all different, and `EMPTY` in
            `rows` of an empty place.
        label, labels: `[B]` and `[M]` classes, -1 where unlabelled.
        temperature: divides the cosines.
        apart: leave rows of the same class out.
    """
    cosine = student @ teacher.T / temperature
    out = ((row[:, None] == rows) & (rows >= 0)) | (rows == EMPTY)
    if apart:
        out = out | ((label[:, None] == labels) & (label[:, None] >= 0))
    own = torch.arange(len(rows), device=rows.device) == torch.arange(len(row), device=row.device)[:, None]
    cosine = cosine.masked_fill(out & ~own, -torch.inf)
    return cosine.logsumexp(1) - cosine.diagonal()
