"""What is chosen, and by what: validation rows of one experience, whatever test rows say."""

import json
from pathlib import Path

import clkd_optuna
import numpy as np
import pytest
from clkd_optuna.judge import Judge
from clkd_optuna.search import Wanted, search
from clkd_optuna.study import Study

from clkd.errors import UserError
from clkd.scenario.load import load
from clkd.scenario.settings import as_setting

LR = "train.optimizer.lr=log:0.0001..1"


@pytest.fixture
def clkd_plugins():
    return [clkd_optuna]


@pytest.fixture
def tune(clkd_tiny, tmp_path, monkeypatch):
    """Search in a folder of its own; returns what was chosen, and what was told meanwhile."""
    monkeypatch.chdir(tmp_path)

    def run(*axes, sections=None, out="search", **options):
        lines = []
        scenario = clkd_tiny.scenario(**{"output": None, **(sections or {})})
        wanted = Wanted(scenario, axes or (LR,), out=tmp_path / out, validation=0.25, **{"trials": 4, **options})
        return search(wanted, clkd_tiny.plugins, lines.append), lines

    return run


def altered(folder: Path, **columns) -> None:
    """The tiny stream's rows with some of them replaced."""
    with np.load(folder / "tiny.npz", allow_pickle=False) as found:
        rows = dict(found)
    np.savez(folder / "tiny.npz", **{**rows, **columns})


def test_test_rows_have_no_say(tune, clkd_tiny):
    """Other labels, other pixels: the same trials with the same scores, the same choice. Training labels are heard."""
    first, told = tune(out="first")
    with np.load(clkd_tiny.folder / "tiny.npz", allow_pickle=False) as found:
        rows = dict(found)
    draws = np.random.default_rng(0)
    labels, pixels = draws.permutation(rows["y_test"]), draws.integers(0, 256, rows["x_test"].shape, dtype=np.uint8)
    altered(clkd_tiny.folder, y_test=labels, x_test=pixels)
    second, told_again = tune(out="second")
    assert told == told_again
    assert (first.values, first.accuracy, first.alike) == (second.values, second.accuracy, second.alike)
    altered(clkd_tiny.folder, y_train=draws.permutation(rows["y_train"]))
    _, told_otherwise = tune(out="third")
    assert told != told_otherwise


def test_later_experiences_have_no_say(tune, clkd_tiny):
    """Experience 0 decides, so the rows of classes 2 and 3 may be anything."""
    sections = {"stream": {**_stream(), "normalize": "first"}}
    _, told = tune(out="first", sections=sections)
    with np.load(clkd_tiny.folder / "tiny.npz", allow_pickle=False) as found:
        rows = dict(found)
    later = rows["y_train"] >= 2
    pixels = rows["x_train"].copy()
    pixels[later] = pixels[later][::-1]
    altered(clkd_tiny.folder, x_train=pixels)
    _, told_again = tune(out="second", sections=sections)
    assert told == told_again


def _stream():
    from clkd.testing.tiny import SCENARIO

    return SCENARIO["stream"]


def test_the_best_on_validation_rows_is_chosen(tune, clkd_tiny):
    """The choice is the trial with the largest score; scores are what a run of that setting says of itself."""
    chosen, _ = tune("train.optimizer.lr=0.00001,0.1", trials=4)
    assert chosen.values == {"train.optimizer.lr": 0.1}
    assert chosen.accuracy > 0.9
    result = clkd_tiny.run(
        stream={**_stream(), "split": {**_stream()["split"], "validation": 0.25}},
        train={"epochs": 2, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}},
    )
    lines = (Path(result["checkpoint"]).parents[1] / "metrics.jsonl").read_text().splitlines()
    said = [json.loads(line)["metrics"] for line in lines if json.loads(line)["event"] == "experience"]
    assert said[0]["validation/average_accuracy"] == chosen.accuracy


def test_the_written_scenario_is_the_given_one_with_the_choice(tune, clkd_tiny):
    chosen, _ = tune(LR, "student.model.hidden=[8],[16]")
    scenarios = [*clkd_tiny.folder.glob("tiny-*[0-9].yaml")]
    given = next(path for path in scenarios if path.with_suffix(".tuned.yaml").exists())
    assert chosen.scenario == given.with_suffix(".tuned.yaml")
    settings = [as_setting(place, value) for place, value in chosen.values.items()]
    expected = load(given, settings, clkd_tiny.registry).scenario
    assert load(chosen.scenario, (), clkd_tiny.registry).scenario == expected
    assert expected.stream.split.options.validation == 0, "the final training has all rows, as the scenario says"
    text = chosen.scenario.read_text()
    assert "written by: clkd tune" in text
    assert f"on {chosen.rows} validation rows of experience 0" in text


def test_a_stopped_search_goes_on_as_if_it_had_not_stopped(tune, monkeypatch):
    whole, told = tune(out="whole", trials=6)
    few, _ = tune(out="cut", trials=2)
    assert few.trials == 2
    calls = []
    judged = Judge.__call__

    def broken(self, settings):
        calls.append(settings)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judged(self, settings)

    monkeypatch.setattr(Judge, "__call__", broken)
    with pytest.raises(KeyboardInterrupt):
        tune(out="cut", trials=6)
    monkeypatch.setattr(Judge, "__call__", judged)
    resumed, told_later = tune(out="cut", trials=6)
    assert told_later == told[3:]
    assert (resumed.values, resumed.accuracy, resumed.trials) == (whole.values, whole.accuracy, 6)
    again, nothing = tune(out="cut", trials=6)
    assert (again.values, nothing) == (whole.values, [])


def test_another_search_in_the_same_place_is_refused(tune):
    tune(trials=1)
    with pytest.raises(UserError, match=r"holds another search \(set differ\): give another --out"):
        tune("train.optimizer.lr=0.1..1", trials=1)


def test_a_setting_that_comes_again_is_not_trained_again(tune, monkeypatch):
    judged, calls = Judge.__call__, []
    monkeypatch.setattr(Judge, "__call__", lambda self, settings: calls.append(settings) or judged(self, settings))
    chosen, told = tune("train.batch_size=8,16", trials=5)
    assert len(calls) == len(set(calls)) == 2
    assert chosen.trials == 5
    assert sum("(known)" in line for line in told) == 3


def test_every_kind_of_range(tune):
    ranges = {
        "train.optimizer.lr": (0.01, 0.5),
        "train.batch_size": (8, 32),
        "train.epochs": (1, 2),
        "train.optimizer.weight_decay": (0.0001, 0.01),
    }
    chosen, told = tune(
        "train.optimizer.lr=0.01..0.5",
        "train.batch_size=log:8..32",
        "train.epochs=1..2",
        "train.optimizer.weight_decay=log:0.0001..0.01",
        "memory=none,{kind: reservoir, size: 8}",
        trials=6,
    )
    for place, (low, high) in ranges.items():
        assert low <= chosen.values[place] <= high
    for place in ("train.batch_size", "train.epochs"):
        assert isinstance(chosen.values[place], int)
    assert chosen.values["memory"] in ("none", {"kind": "reservoir", "size": 8})
    assert len(set(told)) == 6


def test_training_that_breaks_is_worth_nothing(tune):
    chosen, told = tune("train.optimizer.lr=1e30,0.1", trials=4)
    assert chosen.values == {"train.optimizer.lr": 0.1}
    assert any(line.endswith(": 0.00 %") for line in told)


def test_seeds_are_averaged(tune):
    one, _ = tune("train.optimizer.lr=0.003", trials=1, seeds=(0,), out="0")
    other, _ = tune("train.optimizer.lr=0.003", trials=1, seeds=(1,), out="1")
    both, _ = tune("train.optimizer.lr=0.003", trials=1, seeds=(0, 1), out="01")
    assert both.accuracy == pytest.approx((one.accuracy + other.accuracy) / 2)
    assert both.rows == one.rows + other.rows
    right, rows = both.accuracy * both.rows + 2, both.rows + 4
    assert both.standard_error == pytest.approx((right / rows * (1 - right / rows) / rows) ** 0.5)


LWF = {
    "teachers": {"previous": "previous"},
    "losses": ["cross_entropy", {"kind": "kd", "between": ["student", "previous"], "weight": 1}],
}


def test_stability_is_as_large_as_plasticity_bears(tune):
    """A weight of 1000 keeps experience 1 from being learned; it falls until four fifths of the best are there."""
    chosen, told = tune(LR, stability="losses.1.weight=0.001..1000", sections=LWF, trials=3, decay=0.1)
    best = max(float(line.rpartition(": ")[2].split(" ")[0]) for line in told[:3])
    falling = [float(line.partition(": ")[2].split(" ")[0]) for line in told[3:]]
    assert chosen.experience == 1
    assert falling[-1] >= 0.8 * best
    assert all(accuracy < 0.8 * best for accuracy in falling[:-1])
    assert chosen.values["losses.1.weight"] == pytest.approx(1000 * 0.1 ** (len(falling) - 1))
    assert chosen.accuracy == pytest.approx(falling[-1] / 100, abs=1e-4)
    again, nothing = tune(LR, stability="losses.1.weight=0.001..1000", sections=LWF, trials=3, decay=0.1)
    assert again.values == chosen.values
    assert len(nothing) == len(falling)


def test_stability_falls_by_whole_numbers_where_the_scenario_takes_no_others(tune):
    """50, 25, and 12 for 12.5, which no memory has room for."""
    memory = {"memory": {"kind": "reservoir", "size": 10}}
    rate = "train.optimizer.lr=0.1"
    _, told = tune(rate, stability="memory.size=10..50", sections=memory, trials=1, threshold=-99)
    tried = [line.partition(":")[0].partition("=")[2] for line in told[1:]]
    assert [*map(float, tried)] == [50, 25, 12, 10]


def test_trials_of_a_later_experience_go_on_from_one_run(tune, clkd_tiny, tmp_path, monkeypatch):
    """What is before the experience that decides is trained once, by the scenario as it stands."""
    runs, ran = [], Judge._run
    monkeypatch.setattr(Judge, "_run", lambda self, *given: runs.append(given) or ran(self, *given))
    tune(experience=1, trials=3)
    settings = [given[0] for given in runs]
    assert settings[0] == ()
    assert all(settings[1:])
    assert len(runs) == 4
    origins = {given[4] for given in runs[1:]}
    assert origins == {f"{tmp_path / 'search' / 'base'}@0"}
    assert not (tmp_path / "search" / "trial").exists()


@pytest.mark.parametrize(
    ("axes", "options", "said"),
    [
        (["train.optimizer.lrr=0.1..1"], {}, "unknown key.*did you mean 'lr'"),
        (["train.epochs=0..3"], {}, "train.epochs"),
        (["train.optimizer.lr=1..0.1"], {}, "from low to high"),
        ([LR, "train.optimizer.lr=0.1"], {}, "--set train.optimizer.lr: is given twice"),
        ([LR], {"experience": 7}, "--experience 7: there is none"),
        ([LR], {"stability": "train.epochs=1,2"}, "give a range of numbers"),
        ([LR], {"stability": "train.clip_norm=0..3"}, "give a LOW above 0"),
        ([LR], {"stability": "train.clip_norm=1..3", "experience": 0}, "nothing is old in experience 0"),
        ([LR], {"stability": LR}, "is searched by --set already"),
        ([LR], {"target": Path("elsewhere/t.yaml")}, "name a file beside"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(tune, axes, options, said):
    with pytest.raises(UserError, match="(?s)" + said):
        tune(*axes, **options)


def test_a_file_of_the_users_is_not_written_over(tune, clkd_tiny):
    mine = clkd_tiny.folder / "mine.yaml"
    mine.write_text("name: mine\n")
    with pytest.raises(UserError, match="is there already, and not by clkd tune"):
        tune(target=mine)
    assert mine.read_text() == "name: mine\n"


def test_a_number_that_was_tried_is_a_number_of_the_study(tmp_path):
    """optuna's own view of the file: it may be opened with optuna's tools."""
    from clkd_optuna.judge import Score
    from clkd_optuna.space import Space
    from clkd_optuna.study import optuna

    study = Study(tmp_path, {"set": []})
    study.run(3, Space.read(["a=0..10", "b=x,y"]), lambda settings: Score(0.5, 10), lambda line: None)
    opened = optuna().load_study(study_name="clkd", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(opened.trials) == 3
    assert {*opened.trials[0].params} == {"a", "b"}
