import pytest

from clkd.scenario.load import load
from clkd.scenario.resolve import resolved

BARE = """\
name: m
method: %s
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: linear}
train: {optimizer: sgd}
"""


@pytest.fixture
def bare(tmp_path):
    def write(method, more=""):
        path = tmp_path / "m.yaml"
        path.write_text(BARE % method + more)
        return path

    return write


def test_every_method_makes_a_whole_scenario(bare, registry):
    assert registry.names("methods") == ["er", "finetune", "kd_replay", "lwf"]
    for method in registry.names("methods"):
        assert load(bare(method), [], registry).scenario.method == method


def test_methods_are_what_their_papers_say(bare, registry):
    finetune, er, lwf, kd_replay = (
        load(bare(method), [], registry).scenario for method in ("finetune", "er", "lwf", "kd_replay")
    )
    assert ([part.name for part in finetune.losses], finetune.memory.name, finetune.teachers) == (
        ["cross_entropy"],
        "none",
        {},
    )
    assert (er.memory.name, er.memory.options.size, len(er.losses)) == ("reservoir", 500, 1)
    assert lwf.memory.name == "none"
    assert lwf.losses[0].options.over == "new"
    assert (lwf.losses[1].options.temperature, lwf.losses[1].shared.weight) == (2.0, 1.0)
    assert lwf.losses[1].shared.between == ("student", "previous")
    assert kd_replay.losses[1].shared.weight.name == "old_fraction"
    assert kd_replay.memory.options.size == 500


def test_the_scenarios_own_sections_come_before_the_methods(bare, registry):
    loaded = load(bare("er", "memory: {kind: class_balanced, size: 9}\n"), ["losses.0.label_smoothing=0.1"], registry)
    assert loaded.scenario.memory.name == "class_balanced"
    assert loaded.scenario.losses[0].options.label_smoothing == 0.1
    assert loaded.origins["memory", "size"] == "file"
    assert loaded.origins["losses", 0, "kind"] == "method"
    assert loaded.origins["losses", 0, "label_smoothing"] == "--set"
    assert load(bare("er"), [], registry).origins["memory", "size"] == "method"
    assert load(bare("er"), ["memory.size=3"], registry).origins["memory", "kind"] == "method"


def test_a_method_set_on_the_command_line_fills_in_as_well(bare, registry):
    loaded = load(bare("finetune"), ["method=er"], registry)
    assert loaded.scenario.memory.name == "reservoir"
    assert resolved(loaded.scenario)["method"] == "er"


def test_an_unknown_method_is_a_mistake_with_a_suggestion(bare, mistakes):
    assert mistakes(bare("kd_relpay")) == [
        "m.yaml:2:1: method: method 'kd_relpay' is not known (did you mean 'kd_replay'?)"
    ]
    assert mistakes(bare("er"), "method=lfw") == [
        "--set method=lfw: method: method 'lfw' is not known (did you mean 'lwf'?)"
    ]
