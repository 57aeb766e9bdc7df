"""Several strategies in one scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from domain_rows import batch, rows, said

from clkd.engine.explain import composed, explain
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import ScenarioErrors, load
from clkd.scenario.resolve import resolved
from clkd.transfer.coral import Coral
from clkd.transfer.discrepancy import one_layer
from clkd.transfer.several import Several

BASE: dict[str, Any] = {
    "name": "tiny",
    "stream": {"dataset": {"name": "digits", "rows_per_class": 8}, "split": {"by": "class", "experiences": 2}},
    "student": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"},
    "memory": {"kind": "reservoir", "size": 10},
    "train": {"batch_size": 8, "optimizer": {"kind": "sgd", "lr": 0.05}},
    "tracking": {"mode": "off"},
}


def loaded(folder: Path, transfer: object, **changes: object):
    path = folder / "s.yaml"
    path.write_text(to_yaml({**BASE, "transfer": transfer, **changes}))
    return load(path, [], load_plugins().registry)


def test_the_value_is_the_weighted_sum_and_each_is_told():
    f = rows(9, 4)
    several = Several({"coral": Coral(), "mmd": one_layer()}, {"coral": 2.0, "mmd": 0.5})
    coral, mmd = (each(batch(5, 4), said(f)) for each in several.each())
    torch.testing.assert_close(several(batch(5, 4), said(f)), 2 * coral + 0.5 * mmd)
    assert several.told == {"coral": coral, "mmd": mmd}
    torch.testing.assert_close(several(batch(8, 1), said(f)), 0.5 * one_layer()(batch(8, 1), said(f)))
    assert several.told.keys() == {"mmd"}
    assert several(batch(9, 0), said(f)) is None


def test_a_list_is_composed_explained_and_shown_as_it_was_written(tmp_path):
    given = [
        "coral",
        {"kind": "mmd", "weight": 0.5},
        {"kind": "mmd", "feature": "penultimate", "weight": "old_fraction"},
    ]
    read = loaded(tmp_path, given)
    shown = resolved(read.scenario)["transfer"]
    assert [each["kind"] for each in shown] == ["coral", "mmd", "mmd"]
    assert resolved(loaded(tmp_path, shown).scenario) == resolved(read.scenario)
    made = composed(read, load_plugins().registry)
    assert made.parts.transfer.names == ("coral", "mmd", "mmd_2")
    assert "1.00·coral + 0.50·mmd + 0.50·mmd_2" in str(explain(read, load_plugins()))


def test_mistakes_in_a_list_are_all_told_with_their_places(tmp_path):
    with pytest.raises(ScenarioErrors) as caught:
        loaded(tmp_path, ["corral", {"kind": "mmd", "wieght": 1}])
    assert "transfer.0" in caught.value.lines[0]
    assert "did you mean 'coral'?" in caught.value.lines[0]
    assert "transfer.1.wieght: unknown key (did you mean 'weight'?)" in caught.value.lines[1]
    with pytest.raises(ScenarioErrors, match="transfer: is an empty list"):
        loaded(tmp_path, [])
    with pytest.raises(ScenarioErrors, match=r"transfer\.0: .*give the scenario a memory"):
        loaded(tmp_path, ["mmd", "coral"], memory="none")
