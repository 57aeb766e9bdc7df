from typing import ClassVar

import pytest

from clkd.errors import UserError
from clkd.options import MemoryOptions, Options, Part
from clkd.registry import Registry
from clkd.scenario.load import ScenarioErrors, load
from clkd.scenario.model import DEFAULTS


def test_the_example_is_what_it_says(example, registry):
    loaded = load(example, [], registry)
    scenario = loaded.scenario
    assert [part.name for part in scenario.losses] == ["cross_entropy", "kd", "kd", "features"]
    assert scenario.losses[1].shared.between == ("student", "previous")
    assert scenario.losses[1].shared.weight == registry.parse("schedules", "old_fraction")
    assert scenario.losses[2].shared.weight == 0.5
    assert scenario.teachers["external"].options.model == registry.parse("models", "resnet20")
    assert scenario.stream.dataset.options.offline == registry.parse("datasets", "digits")
    assert scenario.memory.options.size == 500
    assert [part.name for part in scenario.metrics] == DEFAULTS["metrics"]
    assert loaded.base == example.parent
    assert loaded.source_text == example.read_text()


BROKEN = """\
name: broken
seed: -1
device: gpu
stream:
  dataset: {name: cifar10, offline: digts}
  split: {by: clas, experiences: 5}
  augment: standrad
student: {model: resnet8, head: linear}
teachers:
  previous: previous
  external: {kind: fit, model: resnt20, optimizer: {kind: sgdd}}
  lonely: previous
losses:
  - cross_entropy
  - {kind: kd, between: [student, previos], temprature: 2, weight: old_fractio}
  - {kind: kd, between: [student@nw, external], temperature: -4, weight: {kind: warmup, stesp: 3}}
  - {kind: features, between: [student, external, previous]}
  - {kind: featurs, algn: 3}
memory: {kind: reservoir, siez: 500, size: many}
train:
  epoch: 2
  epochs: 1
  optimizer: {kind: sgd, lr: fast, momentun: 0.9}
  scheduler: {kind: step, gama: 3}
  epochs: 3
"""


def test_all_mistakes_are_told_at_once_each_with_its_place(tmp_path, mistakes):
    path = tmp_path / "b.yaml"
    path.write_text(BROKEN)
    assert mistakes(path, "losses.9.weight=2", "losses.1.weigth=2", "memory.size=0") == [
        "b.yaml:2:1: seed: give at least 0; got -1",
        "b.yaml:3:1: device: give auto, cpu, cuda or cuda:N; got 'gpu'",
        "b.yaml:5:28: stream.dataset.offline: dataset 'digts' is not known (did you mean 'digits'?)",
        "b.yaml:6:11: stream.split.by: stream 'clas' is not known (did you mean 'class'?)",
        "b.yaml:7:3: stream.augment: augmentation 'standrad' is not known (did you mean 'standard'?)",
        "b.yaml:11:25: teachers.external.model: model 'resnt20' is not known (did you mean 'resnet20'?)",
        "b.yaml:11:53: teachers.external.optimizer.kind: optimizer 'sgdd' is not known (did you mean 'sgd'?)",
        "b.yaml:12:3: teachers.lonely: no loss uses this teacher; name it in a loss's 'between' or remove it",
        "b.yaml:15:35: losses.1.between.1: model 'previos' is not known (did you mean 'previous'?)",
        "b.yaml:15:45: losses.1.temprature: unknown key (did you mean 'temperature'?)",
        "b.yaml:15:60: losses.1.weight: schedule 'old_fractio' is not known (did you mean 'old_fraction'?)",
        "b.yaml:16:26: losses.2.between.0: rows '@nw' are not known (did you mean '@new'?)",
        "b.yaml:16:49: losses.2.temperature: a temperature is greater than 0; got -4",
        "b.yaml:16:89: losses.2.weight.stesp: unknown key (did you mean 'steps'?)",
        "b.yaml:17:22: losses.3.between: name two models; got 3",
        "b.yaml:18:6: losses.4.kind: loss 'featurs' is not known (did you mean 'features'?)",
        "b.yaml:19:27: memory.siez: unknown key (did you mean 'size'?)",
        "b.yaml:21:3: train.epoch: unknown key (did you mean 'epochs'?)",
        "b.yaml:23:26: train.optimizer.lr: give a number; got 'fast'",
        "b.yaml:23:36: train.optimizer.momentun: unknown key (did you mean 'momentum'?)",
        "b.yaml:24:3: train.scheduler.step_size: is missing: scheduler 'step' needs it",
        "b.yaml:24:27: train.scheduler.gama: unknown key (did you mean 'gamma'?)",
        "b.yaml:25:3: train.epochs: given twice, first on line 22",
        "--set losses.9.weight=2: losses.9: no such entry: give 0 to 4",
        "--set losses.1.weigth=2: losses.1.weigth: unknown key (did you mean 'weight'?)",
        "--set memory.size=0: memory.size: give more than 0; got 0",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: split_cifar\n", ""), "s.yaml:1:1: name: is missing"),
        (("head: linear", "hed: linear"), "s.yaml:5:1: student.head: is missing"),
        (("epochs: 1", "epochs: five"), "s.yaml:16:12: train.epochs: give a whole number"),
        (("{kind: previous}", "{previous}"), "s.yaml:7:3: teachers.previous: the teacher's 'kind' is missing"),
        (("{kind: previous}", "[previous]"), "s.yaml:7:3: teachers.previous: give a teacher's name, or a mapping"),
        (("size: 500", "sise: 500"), "s.yaml:14:29: memory.sise: unknown key (did you mean 'size'?)"),
        (("- cross_entropy", "- cross_entropy: {}"), "s.yaml:10:5: losses.0: the loss's 'kind' is missing"),
        (("  external: {", "  student: {"), "s.yaml:8:3: teachers.student: 'student' is the trained model's own name"),
        (("[student, previous]", "[previous]"), "losses.1.between: no side is the student"),
        (("[student, external]", "[student, previous]"), "is called 'kd_previous' like losses.1"),
        (("temperature: 2", "name: a", "temperature: 4", "name: a"), "losses.2: is called 'a' like losses.1"),
        (("temperature: 2", "name: a b"), "losses.1.name: string should match pattern"),
        (("experiences: 5", "experiences: 11"), "s.yaml:4:22: stream.split.experiences: 11 experiences need"),
        (("weight: 0.1}\ntrain", "weight: true}\ntrain"), "transfer.weight: give a schedule's name"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_key_and_its_place(change, expected, write, mistakes):
    assert any(expected in line for line in mistakes(write(*change))), mistakes(write(*change))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "s.yaml:1:1: is empty"),
        ("# nothing\n", "s.yaml:1:1: is empty"),
        ("- a\n", "s.yaml:1:1: a scenario is a mapping of keys to values; got a list"),
        ("just words\n", "got a single value"),
        ("a: [\n", "s.yaml:2:1: not valid YAML"),
    ],
)
def test_a_file_that_is_no_scenario(text, expected, tmp_path, mistakes):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    (line,) = mistakes(path)
    assert expected in line


def test_a_missing_file_is_one_line(tmp_path, registry):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "nope.yaml", [], registry)


def test_ensembles_use_their_members_and_name_real_ones(write, registry, mistakes):
    ensemble = (
        "  external: {kind: fit, model: resnet20, epochs: 4}\n  both: {kind: ensemble, members: [external, %s]}\n"
    )
    old = "  external: {kind: fit, model: resnet20, epochs: 4}\n"
    kept = (
        "[student, external]",
        "[student, both]",
        "[student.stage3, external.stage3]",
        "[student.stage3, both.stage3]",
    )
    assert load(write(old, ensemble % "previous", *kept), [], registry).scenario.teachers["both"]
    (line,) = mistakes(write(old, ensemble % "previos", *kept))
    assert "teachers.both.members.1: teacher 'previos' is not known (did you mean 'previous'?)" in line
    (line,) = mistakes(write(old, ensemble % "external", *kept))
    assert "teachers.both.members: teacher 'external' is named 2 times" in line


class Picky(Options):
    """Options that look at the whole scenario."""

    size: int = 1

    def problems(self, scenario):
        return [f"size: {scenario.name} is not enough"] if self.size < 3 else ["no"] if self.size == 3 else []


def test_a_part_may_judge_the_scenario_it_is_in(write, registry):
    own = Registry(dict(registry.entries))
    own.register_for("memories", "test", "here")("picky", "nowhere:Picky", config=Picky)
    path = write("{kind: reservoir, size: 500}", "picky")
    assert load(path, ["memory.size=4"], own).scenario.memory == Part(
        "memories", "picky", Picky(size=4), MemoryOptions()
    )
    for settings, expected in (([], "memory.size: split_cifar is not enough"), (["memory.size=3"], "memory: no")):
        with pytest.raises(ScenarioErrors) as caught:
            load(path, settings, own)
        assert caught.value.lines[0].endswith(expected)


class PairOptions(Options):
    """Options of a loss that compares two models, and says so."""

    sides: ClassVar[int] = 2


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("pair", "losses.0: compares two models: say which with between: [student, …] (models here: student, "),
        ("{kind: pair, between: [student]}", "losses.0.between: name two models; got 1"),
        ("{kind: pair, between: []}", "losses.0.between: name two models; got 0"),
    ],
)
def test_a_loss_between_two_models_is_told_which(loss, expected, write, registry):
    own = Registry(dict(registry.entries))
    own.register_for("losses", "test", "here")("pair", "nowhere:Pair", config=PairOptions)
    with pytest.raises(ScenarioErrors) as caught:
        load(write("- cross_entropy", f"- {loss}"), [], own)
    assert expected in caught.value.lines[0]
    load(write("- cross_entropy", "- {kind: pair, between: [student, previous]}"), [], own)


def test_where_a_broken_plugin_may_be_to_blame_the_exit_code_says_so(write, registry):
    own = Registry(dict(registry.entries), broken={"mine": "ModuleNotFoundError: No module named 'x'"})
    with pytest.raises(ScenarioErrors, match="plugin 'mine' is broken: ModuleNotFoundError") as caught:
        load(write("kind: coral", "kind: mine"), [], own)
    assert caught.value.exit_code == 3
    with pytest.raises(ScenarioErrors) as caught:
        load(write("epochs: 1,", "epochs: x,"), [], own)
    assert caught.value.exit_code == 2
    load(write(), [], own)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ("losses: []", "losses: "),
        ("losses: [{kind: cross_entropy, name: loss}]", "losses.0: may not be called 'loss'"),
        ("losses: [{kind: cross_entropy, name: transfer}]", "losses.0: may not be called 'transfer'"),
    ],
)
def test_a_list_of_losses_teaches_something_under_names_of_their_own(losses, expected, tmp_path, mistakes):
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: a\nstream: {dataset: digits, split: {by: class, experiences: 2}}\nstudent: {model: mlp, head: linear}\n"
        f"train: {{optimizer: {{kind: sgd}}}}\n{losses}\n"
    )
    (line,) = mistakes(path)
    assert expected in line


DERPP = """\
name: d
stream: {dataset: digits, split: {by: class, experiences: 2}}
student: {model: mlp, head: linear}
teachers: {stored: stored}
losses: [cross_entropy, {kind: kd, between: [student@replay1, stored], variant: mse}]
memory: {kind: reservoir, size: 50, store: [logits]}
train: {replay_draws: 2, optimizer: {kind: sgd, lr: 0.1}}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ", store: [logits]",
            "",
            "d.yaml:4:12: teachers.stored: it says again what the memory stored, but this memory",
        ),
        ("{kind: reservoir, size: 50, store: [logits]}", "none", "d.yaml:4:12: teachers.stored: it says again what"),
        ("[student@replay1, stored]", "[student, stored]", "let both sides of losses.1.between name the same ones, as"),
        ("[student@replay1, stored]", "[student@new, stored]", "let both sides of losses.1.between name the same"),
        ("replay1, stored]", "replay1, stored@replay2]", "let both sides of losses.1.between name the same ones, as"),
        ("@replay1", "@replay3", "losses.1.between.0: rows '@replay3' are not drawn: train.replay_draws is 2"),
        ("@replay1", "@reply1", "losses.1.between.0: rows '@reply1' are not known (did you mean '@replay1'?)"),
        ("replay_draws: 2, ", "replay_draws: many, ", "train.replay_draws: give a whole number"),
        (
            "[logits]",
            "[logit]",
            "d.yaml:6:45: memory.store.0: no tap is called so (did you mean 'logits'?); got 'logit'",
        ),
    ],
)
def test_a_stored_teacher_says_what_a_memory_stored_about_replayed_rows(
    tmp_path, mistakes, registry, old, new, expected
):
    path = tmp_path / "d.yaml"
    path.write_text(DERPP)
    load(path, [], registry)
    assert old in DERPP
    path.write_text(DERPP.replace(old, new))
    assert expected in mistakes(path)[0]
    if "says again" in expected:
        path.write_text(DERPP.replace(old, new).replace("student@replay1", "student"))
        assert expected in mistakes(path)[0]


def test_a_stored_teacher_is_no_member_of_an_ensemble(tmp_path, mistakes):
    path = tmp_path / "d.yaml"
    teachers = "{stored: stored, slow: ema, all: {kind: ensemble, members: [stored, slow]}}"
    path.write_text(DERPP.replace("{stored: stored}", teachers).replace("replay1, stored]", "replay1, all]"))
    assert "it cannot be a member of 'all'" in mistakes(path)[0]


def test_a_wrong_entry_does_not_also_make_its_list_too_short(write, registry):
    with pytest.raises(ScenarioErrors) as caught:
        load(write(), ["losses=[cross_entrpy]", "teachers={}"], registry)
    assert caught.value.lines == [
        "--set losses=[cross_entrpy]: losses.0: loss 'cross_entrpy' is not known (did you mean 'cross_entropy'?)"
    ]
