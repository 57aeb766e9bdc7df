import pytest

from clkd.errors import UserError
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest
from clkd.scenario.settings import Setting


def _origin(loaded, dotted):
    return {".".join(map(str, place)): origin for place, origin in loaded.origins.items()}[dotted]


@pytest.mark.parametrize(
    ("setting", "place", "value"),
    [
        ("train.epochs=3", "train.epochs", 3),
        ("train.optimizer.lr=1e-3", "train.optimizer.lr", 0.001),
        ("losses.1.weight=2", "losses.1.weight", 2.0),
        ("losses.1.weight.kind=warmup", "losses.1.weight.kind", "warmup"),
        ("losses.3.between=[student.fc, previous.fc]", "losses.3.between.1", "previous.fc"),
        ("student.model.width=8", "student.model.width", 8),
        ("stream.dataset.offline.size=16", "stream.dataset.offline.size", 16),
        ("tracking.mode=off", "tracking.mode", "off"),
        ("tracking.tags.1=a=b", "tracking.tags.1", "a=b"),
        ("train.scheduler=cosine", "train.scheduler.kind", "cosine"),
        ("memory={kind: class_balanced, size: 7}", "memory.size", 7),
        ("device=cpu", "device", "cpu"),
        ("output=", "output", None),
    ],
)
def test_a_setting_changes_that_value_and_is_its_origin(setting, place, value, example, registry):
    loaded = load(example, [setting], registry)
    here = loaded.scenario.model_dump(mode="json")
    for word in place.split("."):
        here = here[int(word)] if isinstance(here, list) else here[word]
    assert here == value
    assert type(here) is type(value)
    assert _origin(loaded, place) == "--set"


def test_what_was_not_set_keeps_its_origin(example, registry):
    loaded = load(example, ["student.model.width=8", "memory.size=5", "losses.1.weight=3"], registry)
    assert _origin(loaded, "student.model.kind") == "file"
    assert _origin(loaded, "memory.kind") == "file"
    assert _origin(loaded, "losses.1.temperature") == "file"
    assert _origin(loaded, "losses.0.kind") == "file"
    assert _origin(loaded, "losses.0.weight") == "default"
    assert _origin(loaded, "losses.0.name") == "default"
    assert _origin(loaded, "metrics.0.kind") == "default"
    assert _origin(loaded, "losses.1.between.0") == "file"


def test_the_last_setting_of_a_value_wins(example, registry):
    loaded = load(example, ["memory.size=1", "memory.size=2"], registry)
    assert loaded.scenario.memory.options.size == 2
    loaded = load(example, ["memory.size=1", "memory=none", "transfer=none"], registry)
    assert loaded.scenario.memory.name == "none"


def test_defaults_can_be_set_into_and_are_not_changed_for_the_next(write, registry):
    path = write("memory:   {kind: reservoir, size: 500}\ntransfer: {kind: coral, weight: 0.1}\n", "")
    assert load(path, ["metrics.0=macro_f1"], registry).scenario.metrics[0].name == "macro_f1"
    assert load(path, [], registry).scenario.metrics[0].name == "average_accuracy"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train.epoch=3"], "--set train.epoch=3: train.epoch: unknown key (did you mean 'epochs'?)"),
        (["memory=none", "memory.size=3"], "--set memory.size=3: memory.size: unknown key (allowed: retrieval)"),
        (["name.first=a"], "--set name.first=a: name: give text"),
        (["seed.a=1"], "--set seed.a=1: seed: is 0, which has no 'a'"),
        (["losses.kd.weight=1"], "--set losses.kd.weight=1: losses.kd: no such entry: give 0 to 3"),
        (["losses.4=kd"], "--set losses.4=kd: losses.4: no such entry: give 0 to 3"),
        (["teachers.extra=previous"], "--set teachers.extra=previous: teachers.extra: no loss uses this teacher"),
        (["losses.1.between=[student, previos]"], "losses.1.between.1: model 'previos' is not known"),
        (["stream.split.by=clas"], "--set stream.split.by=clas: stream.split.by: stream 'clas' is not known"),
        (["colour=red"], "--set colour=red: colour: unknown key"),
    ],
)
def test_a_mistake_in_a_setting_is_told_as_typed(settings, expected, write, mistakes):
    path = write("name: split_cifar", "name: split_cifar\nseed: 0")
    lines = mistakes(path, *settings)
    assert any(line.startswith(expected) or expected in line for line in lines), lines


@pytest.mark.parametrize("setting", ["train", "=3", "a..b=3", "a=[1", "a={b: 1, b: 2}"])
def test_what_is_no_setting_is_refused(setting, example, registry):
    with pytest.raises(UserError, match="--set"):
        load(example, [setting], registry)


def test_flags_take_any_text():
    uri = "sqlite:////data/\U0001f431/m.db"
    assert [Setting.read(text).value for text in RunRequest(tracking_uri=uri).settings] == [uri]
