"""`clkd runs`: listed, filtered, sorted."""

import json

import pytest


@pytest.fixture
def some(make):
    make("er", 0, 0.5)
    make("er", 1, 0.9)
    make("ewc", 0, 0.25, status="killed", sha="1" * 64)
    make("si", 10, None, stand_in="digits", sha="2" * 64)


@pytest.fixture
def ids(some, clkd):
    """The last digit of each run that is listed."""

    def listed(*words):
        return "".join(run["id"][-1] for run in json.loads(clkd("runs", *words, "--json")[1]))

    return listed


def test_the_table(some, clkd):
    code, out, err = clkd("runs")
    assert (code, err) == (0, "")
    head, first, _, third, last = (line.split() for line in out.splitlines())
    assert head == ["ID", "GROUP", "SEED", "STATUS", "DATA", "AVERAGE_ACCURACY", "SECONDS", "STARTED", "DIRECTORY"]
    assert first[:7] == ["000000000001", "er-abababab", "0", "finished", "cifar10", "50.0", "10"]
    assert first[-1] == "runs/er-000000000001"
    assert third[3] == "killed"
    assert last[4:8] == ["digits", "for", "cifar10", "-"]


def test_a_cost_is_no_fraction_and_a_column_has_one_unit(make, clkd):
    make("a", 0, 0.5, macs=0.5, metrics={"mine": 0.25})
    make("b", 0, 0.5, macs=7.0, metrics={"mine": 1.5})
    for metric, shown in (("compute.training_macs", ["0.5", "7"]), ("mine", ["0.25", "1.5"])):
        assert [line.split()[5] for line in clkd("runs", "--metric", metric)[1].splitlines()[1:]] == shown


def test_a_key_is_looked_for_among_all_runs(make, clkd, tmp_path):
    make("a", 0, 0.5, metrics={"my-m": 0.7})
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / "run.json").write_text(json.dumps({"id": "f" * 12, "name": "b", "created": 1.0}))
    code, out, _ = clkd("runs", "--where", "status=unfinished", "--sort", "-average_accuracy")
    assert (code, [line.split()[0] for line in out.splitlines()[1:]]) == (0, ["f" * 12])
    assert clkd("runs", "--where", "my-m>0.5")[1].splitlines()[1].split()[0] == "000000000001"


def test_filtered(ids):
    assert ids() == "1234"
    assert ids("--where", "name=er") == "12"
    assert ids("--where", "name=e*", "--where", "seed=0") == "13"
    assert ids("--where", "name!=e*") == "4"
    assert ids("--where", "average_accuracy>0.25") == "12"
    assert ids("--where", "average_accuracy <= 0.5") == "13"
    assert ids("--where", "status=finished", "--where", "seed>=10") == "4"
    assert ids("--where", "data=digits*") == "4"
    assert ids("er-abababab", "si") == "124"


def test_sorted_by_number_not_by_text_and_what_lacks_it_comes_last(ids):
    assert ids("--sort", "-average_accuracy") == "2134"
    assert ids("--sort", "average_accuracy") == "3124"
    assert ids("--sort", "-seed", "--limit", "2") == "42"
    assert ids("--sort", "-created") == "4321"
    assert ids("--sort", "status") == "1243"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sort", "sede"], "--sort sede: no run has 'sede' (did you mean 'seed'?)"),
        (["--where", "stat=x"], "--where stat=x: no run has 'stat' (did you mean 'status'?)"),
        (["--where", "finished"], "--where finished: write KEY=VALUE"),
        (["--where", "name<er"], "--where name<er: < compares numbers, and 'er' is none"),
        (["--metric", "forgeting"], "--metric forgeting: no run has 'forgeting' (did you mean 'forgetting'?)"),
        (["err"], "err: no such run, group or scenario here (did you mean 'er'?)"),
    ],
)
def test_a_mistake_is_told(words, said, some, clkd):
    code, out, err = clkd("runs", *words)
    assert (code, out) == (2, "")
    assert said in err


def test_a_run_that_has_only_begun_and_one_that_is_broken(make, some, clkd, tmp_path):
    begun = tmp_path / "runs/begun"
    begun.mkdir()
    (begun / "run.json").write_text('{"id": "fff", "name": "begun", "created": 5000}')
    broken = tmp_path / "runs/broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    code, out, _ = clkd("runs")
    assert code == 0
    assert out.splitlines()[-1].split()[:5] == ["fff", "begun", "-", "unfinished", "-"]
    assert len(out.splitlines()) == 6


def test_nowhere(make, clkd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "cache"))
    assert clkd("runs") == (0, "", "no run yet\n")
