"""How much a student's answers about each row depend on each parameter, row by row and in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from clkd.losses.outer import linear_layers, outer_sensitivity
from clkd.losses.regulariser import Vectors, copied, trained, zeros
from clkd.signals import Batch

if TYPE_CHECKING:
    from clkd.models.student import Student

BYTES = 2**28
"""What the gradients of all rows that are looked at together may take."""
MOST_ROWS = 256


class Plain(nn.Module):
    """A student from rows in its own view to logits, as plain modules that `torch.func` can follow."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """`[B, *shape]` and `[B]`, where they come from, to `[B, C]`."""
        return self.student.plain(x, domain)


def chunk_of(student: Student, columns: int) -> int:
    """How many rows can be looked at together, so that their gradients and directions take no more than `BYTES`."""
    one = sum(parameter.nbytes for parameter in trained(student).values())
    one += columns**2 * student.head.weight.element_size()
    return min(max(BYTES // max(one, 1), 1), MOST_ROWS)


def sensitivity(student: Student, rows: Batch, columns: Tensor, pulls: Tensor, shares: Tensor, power: float) -> Vectors:
    """`Σ_b Σ_l shares[b, l] · |∂(pulls[b, l] · z_b)/∂θ|^power`, z_b the logits of row b in `columns`.

    The absolute value is taken of each row's own gradient: that of a batch's mean is something else, and smaller.

    Args:
        student: in eval mode, so that rows do not depend on each other.
        rows: in the student's own view, at most `chunk_of` of them.
        columns: `[K]` int64.
        pulls: `[B, L, K]`, L directions for each row.
        shares: `[B, L]`.
    """
    layers = linear_layers(student)
    if layers is not None and (quick := outer_sensitivity(student, layers, rows, columns, pulls, shares, power)):
        return quick
    plain = Plain(student)
    weights = copied({f"student.{name}": parameter for name, parameter in trained(student).items()})

    def one(row: Tensor, domain: Tensor, pulls: Tensor, shares: Tensor) -> Vectors:
        def answer(weights: Vectors) -> Tensor:
            logits: Tensor = functional_call(plain, weights, (row[None], domain[None]))[0].index_select(0, columns)
            return logits

        pull = vjp(answer, weights)[1]
        found = zeros(weights)
        for direction, share in zip(pulls, shares, strict=True):
            (gradient,) = pull(direction)
            found = {name: found[name] + share * gradient[name].abs() ** power for name in found}
        return found

    found = vmap(one)(rows.x, rows.domain, pulls, shares)
    return {name.removeprefix("student."): values.sum(0) for name, values in found.items()}
