from __future__ import annotations

import pytest
import torch

from clkd.memory.table import Table
from clkd.signals import Batch


def batch(ids: list[int], dtype: torch.dtype = torch.uint8) -> Batch:
    i = torch.tensor(ids)
    x = i.reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).to(dtype)
    return Batch(x=x, y=i % 3, sample_id=i, domain=i + 1, experience=i + 2, new=len(ids))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_rows_come_back_as_written(dtype):
    table = Table(4)
    table.write(torch.tensor([0, 1, 2]), batch([5, 6, 7], dtype), {"logits": torch.eye(3)})
    table.write(torch.tensor([1]), batch([9], dtype), {"logits": torch.full((1, 3), 2.0)})
    rows = table.read(torch.tensor([1, 2]))
    expected = batch([9, 7], dtype)
    for name in ("x", "y", "sample_id", "domain", "experience"):
        got, want = getattr(rows, name), getattr(expected, name)
        assert got.dtype == want.dtype
        assert torch.equal(got, want), name
    assert torch.equal(rows.extra["logits"], torch.tensor([[2.0, 2, 2], [0, 0, 1]]))
    assert rows.new == 0
    assert len(table) == 3


def test_the_stored_view_is_kept_not_the_augmented_one():
    table = Table(2)
    table.write(torch.tensor([0]), batch([5]).seen_as(torch.zeros(1, 3, 2, 2)))
    assert torch.equal(table.read(torch.tensor([0])).x, batch([5]).x)


def test_memory_is_taken_once_at_the_first_write():
    table = Table(100)
    assert table.nbytes() == 0
    table.write(torch.tensor([0]), batch([5]))
    taken = {name: column.data_ptr() for name, column in table.columns.items()}
    assert table.nbytes() == 100 * (3 * 2 * 2 + 4 * 8)
    table.write(torch.arange(1, 100), batch(list(range(99))))
    assert {name: column.data_ptr() for name, column in table.columns.items()} == taken


def test_what_was_read_does_not_move_with_the_table():
    table = Table(2)
    table.write(torch.tensor([0]), batch([5]))
    rows = table.read(torch.tensor([0]))
    table.write(torch.tensor([0]), batch([6]))
    assert rows.sample_id.item() == 5


def test_more_rows_than_declared_are_refused():
    with pytest.raises(AssertionError, match="3 rows do not fit into a table of 2"):
        Table(2).write(torch.arange(3), batch([1, 2, 3]))


def test_every_row_is_sampled_equally_often():
    table, n, k, rounds = Table(20), 12, 4, 6000
    table.write(torch.arange(n), batch(list(range(n))))
    draws = torch.Generator().manual_seed(0)
    counts = torch.zeros(20)
    for _ in range(rounds):
        counts[table.sample(k, draws).sample_id] += 1
    p = k / n
    sigma = (rounds * p * (1 - p)) ** 0.5
    assert not counts[n:].any(), "slots that are not filled are not rows"
    assert (counts[:n] - rounds * p).abs().max() < 5 * sigma


def test_state_holds_filled_rows_only_and_goes_into_a_fresh_table():
    table, other = Table(100), Table(100)
    table.write(torch.arange(3), batch([5, 6, 7]), {"key": torch.rand(3, dtype=torch.float64)})
    state = table.state_dict()
    assert state["x"].shape[0] == 3
    other.load_state_dict(state)
    assert other.nbytes() == table.nbytes()
    assert all(torch.equal(column, other.columns[name]) for name, column in table.columns.items())
    empty = Table(5)
    empty.load_state_dict(Table(5).state_dict())
    assert len(empty) == 0


def test_histogram_counts_filled_rows():
    table = Table(10)
    assert table.histogram() == {}
    table.write(torch.arange(4), batch([0, 3, 1, 6]))
    assert table.histogram() == {0: 3, 1: 1}
