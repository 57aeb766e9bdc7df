from typing import Annotated

import pytest

from clkd.scenario.document import parse, to_yaml
from clkd.scenario.load import load
from clkd.scenario.resolve import config_sha, resolved
from clkd.scenario.show import show

SETTINGS = [
    [],
    ["train.scheduler={kind: one_cycle, max_lr: 0.1}", "losses.1.weight={kind: warmup, epochs: 1}"],
    ["stream.augment={crop: 2}", "tracking.tags={a: '1e-3', b: 'no'}", "train.clip_norm=1e-9"],
    ["method=lwf", "seed=7", "train.optimizer=adam_w"],
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_resolved_scenario_loads_as_the_same_scenario(settings, example, registry, tmp_path):
    scenario = load(example, settings, registry).scenario
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(resolved(scenario)))
    again = load(path, [], registry)
    assert again.scenario == scenario
    assert config_sha(again.scenario) == config_sha(scenario)
    assert set(again.origins.values()) == {"file"}


@pytest.mark.parametrize("settings", SETTINGS)
def test_what_is_shown_loads_as_the_same_scenario(settings, example, registry, tmp_path):
    loaded = load(example, settings, registry)
    path = tmp_path / "shown.yaml"
    path.write_text(show(loaded))
    assert parse(show(loaded)).data == resolved(loaded.scenario)
    assert load(path, [], registry).scenario == loaded.scenario


def test_each_value_is_shown_with_its_origin(example, registry):
    loaded = load(example, ["train.epochs=3", "method=er"], registry)
    lines = [" ".join(line.split()) for line in show(loaded).splitlines()]
    for line in (
        "epochs: 3 # --set",
        "lr: 0.05 # file",
        "nesterov: false # default",
        "between: [student, previous] # file",
        "- kind: cross_entropy # file",
        "mode: mlflow # default",
    ):
        assert line in lines


def test_the_hash_is_of_what_changes_numbers(example, write, registry):
    def sha(*settings):
        return config_sha(load(example, settings, registry).scenario)

    assert sha() == sha("name=other", "output=there", "tracking.mode=off") == sha("memory.size=500", "seed=1")
    assert len({sha(), sha("memory.size=499"), sha("losses.1.weight=1"), sha("transfer=none")}) == 4
    spelt_out = write("- cross_entropy", "- {kind: cross_entropy, weight: 1}", "{kind: previous}", "previous")
    assert config_sha(load(spelt_out, [], registry).scenario) == sha()


def test_the_hash_does_not_move():
    """A golden value: runs of different versions are grouped by it. It changes only with the scenario's own words."""
    import hashlib
    import json

    from clkd.options import Options, Part
    from clkd.scenario.model import Scenario

    plain = Part("any", "none", Options())
    scenario = Scenario.model_construct(
        name="a", seed=1, memory=plain, transfer=plain, losses=(plain,), metrics=(), output="x", tracking=None
    )
    telling = {"losses": [{"kind": "none"}], "memory": {"kind": "none"}, "metrics": [], "transfer": {"kind": "none"}}
    want = hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()
    assert config_sha(scenario) == want


def test_an_option_that_is_added_later_does_not_move_the_hash(example, registry):
    """Neither in a part nor in what a part holds: what stands at its default is not told."""
    from clkd.options import Options, Part, PartField

    class Before(Options):
        size: int = 3

    class After(Before):
        each: str = "row"

    class Holder(Options):
        memory: Annotated[Part, PartField("memory")]

    scenario = load(example, [], registry).scenario

    def sha(options):
        part = Part("memory", "any", options)
        held = Part("memory", "holder", Holder.model_construct(memory=part))
        return [config_sha(scenario.model_copy(update={"memory": each})) for each in (part, held)]

    assert sha(Before(size=4)) == sha(After(size=4)) != sha(After(size=4, each="class"))
    assert not set(sha(After(size=4))) & set(sha(After(size=4, each="class")))
