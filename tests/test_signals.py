"""Rows of a batch."""

from dataclasses import replace

import torch

from clkd.signals import Batch


def batch():
    i = torch.arange(6)
    return Batch(x=i, y=i, sample_id=i, domain=i, experience=i, new=2, extra={"logits": i[:4] + 0.5})


def test_rows_are_cut_once_however_many_ask_for_them():
    whole = batch()
    assert whole.rows(1, 4) is whole.rows(1, 4)
    assert whole.rows(1, 4).rows(1, 3) is whole.rows(1, 4).rows(1, 3)
    assert whole.rows(1, 4).new == 1
    assert whole.rows(2, 4).extra["logits"].tolist() == [0.5, 1.5]


def test_what_was_cut_of_a_batch_is_not_taken_for_rows_of_another():
    whole = batch()
    assert whole.rows(1, 3).y.tolist() == [1, 2]
    assert replace(whole, y=whole.y + 10).rows(1, 3).y.tolist() == [11, 12]
    seen = whole.seen_as(whole.x + 0.5)
    assert seen.rows(1, 3).x.tolist() == [1.5, 2.5]
    assert seen.rows(1, 3).raw.tolist() == [1, 2]
