"""Several strategies in one scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from domain_rows import batch, rows, said
from torch import nn

from clkd.engine.boundaries import needs_boundaries, refuse_boundaries
from clkd.engine.explain import composed, explain
from clkd.errors import UserError
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.load import ScenarioErrors, load
from clkd.scenario.resolve import resolved
from clkd.schedules.base import Progress, Schedule
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


@pytest.mark.parametrize("kind", ["interpolate", "average"])
def test_statistics_cannot_be_balanced_with_no_memory(tmp_path, kind):
    given = {"kind": kind, "reestimate": "balanced"}
    for memory in ("none", "generator"):
        with pytest.raises(ScenarioErrors, match=f"balanced is with rows that memory keeps, but memory is {memory}"):
            loaded(tmp_path, given, memory=memory)
    assert loaded(tmp_path, given).scenario.transfer.options.reestimate == "balanced"
    with pytest.raises(
        ScenarioErrors, match=r"transfer\.reestimate: give true, false or balanced; got 'balance'"
    ) as caught:
        loaded(tmp_path, {**given, "reestimate": "balance"})
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("given", "works", "reason"),
    [
        ({"kind": "coral", "form": "closed", "mean": True}, {"form": "deep"}, "mean is about form: deep"),
        ({"kind": "coral", "ridge": 0.5}, {"form": "closed"}, "ridge is about form: closed"),
        ({"kind": "afn", "radius": 9}, {"variant": "hard"}, "radius is about variant: hard"),
        ({"kind": "afn", "variant": "hard", "step": 2}, {"variant": "stepwise"}, "step is about variant: stepwise"),
        ({"kind": "interpolate", "grid": [0, 1]}, {"previous": "validation"}, "grid is what previous: validation"),
    ],
)
def test_options_that_would_change_nothing_are_mistakes(tmp_path, given, works, reason):
    split = {**BASE["stream"]["split"], "validation": 0.2}
    with pytest.raises(ScenarioErrors, match=reason) as caught:
        loaded(tmp_path, given)
    assert len(caught.value.lines) == 1
    read = loaded(tmp_path, {**given, **works}, stream={**BASE["stream"], "split": split})
    shown = resolved(read.scenario)["transfer"]
    assert (
        loaded(tmp_path, shown, stream={**BASE["stream"], "split": split}).scenario.transfer == read.scenario.transfer
    )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("bakbone", "no weight of the student begins with 'bakbone': did you mean 'backbone'"),
        ("backbone.layer", r"'backbone\.layer': did you mean 'backbone\.layers'"),
        ("zzz", r"'zzz': allowed: backbone, backbone\.layers, head, head\.bias, head\.weight$"),
        ("head", None),
        ("backbone.layers.0", None),
        ("head.bias", None),
    ],
)
def test_a_share_of_a_layer_that_there_is_not_is_refused_before_training(tmp_path, path, reason, several):
    given = {"kind": "interpolate", "previous": {"backbone": 0.5, path: 0.3}}
    read = loaded(tmp_path, ["mmd", given] if several else given)
    if reason is None:
        composed(read, load_plugins().registry)
        return
    with pytest.raises(UserError, match=f"transfer: interpolate: previous: .*{reason}"):
        composed(read, load_plugins().registry)


FREE = {
    "none", "coral", "mmd", "dan", "jan", "mcd", "bsp", "feature_norm", "afn", "entropy", "mcc",
}  # fmt: skip


def test_who_needs_boundaries():
    registry = load_plugins().registry
    made = {name: registry.build(registry.parse("transfers", name), seed=0) for name in registry.names("transfers")}
    assert {name for name, strategy in made.items() if not needs_boundaries(strategy)} == FREE
    for name in ("dann", "cdan"):
        assert not needs_boundaries(registry.build(registry.parse("transfers", {"kind": name, "ramp": 0}), seed=0))


def test_of_several_those_that_need_boundaries_are_named(tmp_path):
    given = ["mmd", {"kind": "dann", "ramp": 0}, "adabn", {"kind": "coral", "weight": "old_fraction"}]
    student = {"model": {"kind": "resnet8", "width": 2}, "head": "linear"}
    made = composed(loaded(tmp_path, given, student=student), load_plugins().registry)
    with pytest.raises(UserError, match=r"but transfer \(AdaBN\), a schedule of transfer \(OldFraction\) need to know"):
        refuse_boundaries(made.parts)


class Learned(Schedule, nn.Module):
    """A weight that is learned, and says itself what a term adds."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def __call__(self, progress: object, signals: object = None) -> torch.Tensor:
        return self.scale

    def weigh(self, loss: torch.Tensor, progress: object, signals: object = None) -> torch.Tensor:
        return self.scale * loss - self.scale


@pytest.mark.parametrize("alone", [True, False])
def test_a_weight_that_learns_is_trained_moved_and_saved_also_where_the_strategy_is_the_only_one(tmp_path, alone):
    registry = load_plugins().registry
    registry.register_for("schedules", "mine", "mine.py")("learned", Learned)
    path = tmp_path / "s.yaml"
    given = {"kind": "coral", "weight": "learned"}
    path.write_text(to_yaml({**BASE, "transfer": given if alone else [given, {"kind": "mmd", "weight": 0.5}]}))
    parts = composed(load(path, [], registry), registry).parts
    (weight,) = [each for each in parts.modules().modules() if isinstance(each, Learned)]
    assert any(each is weight.scale for each in parts.parameters())
    assert any(torch.equal(each, weight.scale) for each in parts.transfer.state_dict().values())
    f = rows(9, 4)
    parts.transfer.progress = Progress()
    value = parts.transfer(batch(5, 4), said(f))
    coral = Coral()(batch(5, 4), said(f))
    others = 0 if alone else 0.5 * one_layer()(batch(5, 4), said(f))
    torch.testing.assert_close(value, 2 * coral - 2 + others)
    assert parts.transfer_weight == 1.0


def test_statistics_that_move_under_what_a_head_gathered_are_refused(tmp_path):
    student = {"model": {"kind": "resnet8", "width": 2}, "head": "slda"}
    with pytest.raises(UserError, match=r"transfer: adabn .* the head slda answers"):
        composed(loaded(tmp_path, ["coral", "adabn"], student=student), load_plugins().registry)
    assert composed(loaded(tmp_path, "adabn", student={**student, "head": "ncm"}), load_plugins().registry)


def test_a_share_is_not_chosen_by_a_head_that_is_written_afterwards(tmp_path):
    changes = {
        "teachers": {"big": {"kind": "fit", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}},
        "losses": [{"kind": "simkd", "between": ["student", "big"]}],
        "stream": {**BASE["stream"], "split": {**BASE["stream"]["split"], "validation": 0.2}},
    }
    registry = load_plugins().registry
    with pytest.raises(UserError, match=r"losses\.0: simkd_big writes the head .*: give `previous` a number"):
        composed(loaded(tmp_path, {"kind": "interpolate", "previous": "validation"}, **changes), registry)
    assert composed(loaded(tmp_path, {"kind": "interpolate", "previous": 0.5}, **changes), registry)
    of_a_peer = {
        **changes,
        "peers": {"mate": {"model": {"kind": "mlp", "hidden": [8]}, "head": "linear"}},
        "losses": ["cross_entropy", {"kind": "simkd", "between": ["mate", "big"]}],
    }
    assert composed(loaded(tmp_path, {"kind": "interpolate", "previous": "validation"}, **of_a_peer), registry)
