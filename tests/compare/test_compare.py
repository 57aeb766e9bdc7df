"""`clkd compare`: numbers, formats, and what it must not pass over in silence."""

import json
import math
import resource
import subprocess
import sys

import pytest

ER = {"sha": "e" * 64, "macs": 3e9, "memory": 5000}


@pytest.fixture
def two(make):
    """`er` beats `plain` by 0.1, 0.2 and 0.3 on the same three seeds."""
    for seed, (low, high) in enumerate([(0.2, 0.3), (0.3, 0.5), (0.4, 0.7)]):
        make("plain", seed, low, forgetting=0.5)
        make("er_500", seed, high, forgetting=0.1 * (seed + 1), **ER)


P = 1 - 2 * math.sqrt(3) / math.sqrt(2 + 12)
"""Of differences 1 : 2 : 3, t = 2√3 with 2 degrees of freedom: 0.074."""

TABLE = """\
group   seeds  average_accuracy, %  p      forgetting, %    p
plain   3      30.00 ± 10.00        0.074  50.00 ± 0.00     0.035
er_500  3      50.00 ± 20.00 *      –      20.00 ± 10.00 *  –
"""
NOTE = "p: two-sided paired t-test over seeds; – is the group that the others are tested against"


def test_the_table(two, clkd):
    assert clkd("compare", "plain", "er_500") == (0, TABLE, NOTE + "\n")


def test_markdown(two, clkd):
    assert clkd("compare", "plain", "er_500", "--format", "markdown", "--metric", "average_accuracy")[1] == (
        "| group | seeds | average_accuracy, % | p |\n"
        "| --- | --- | --- | --- |\n"
        "| plain | 3 | 30.00 ± 10.00 | 0.074 |\n"
        "| er_500 | 3 | **50.00 ± 20.00** | – |\n"
        "\n"
        f"- {NOTE}\n"
    )


def test_latex(two, clkd):
    assert clkd("compare", "plain", "er_500", "--format", "latex", "--metric", "average_accuracy")[1] == (
        f"% {NOTE}\n"
        "\\begin{tabular}{lrrr}\n"
        "\\toprule\n"
        "group & seeds & average\\_accuracy, \\% & p \\\\\n"
        "\\midrule\n"
        "plain & 3 & $30.00 \\pm 10.00$ & 0.074 \\\\\n"
        "er\\_500 & 3 & $\\mathbf{50.00 \\pm 20.00}$ & -- \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
    )


def test_csv_has_whole_numbers_in_their_own_unit(two, clkd):
    lines = clkd("compare", "plain", "er_500", "--format", "csv", "--metric", "average_accuracy")[1].splitlines()
    assert lines[0] == "group,label,data,seeds,metric,mean,sd,best,p,test"
    told = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert {key: told[key] for key in ("group", "data", "seeds", "metric", "best", "test")} == {
        "group": "plain-abababab",
        "data": "cifar10",
        "seeds": "0 1 2",
        "metric": "average_accuracy",
        "best": "false",
        "test": "paired t",
    }
    assert [float(told[key]) for key in ("mean", "sd", "p")] == pytest.approx([0.3, 0.1, P])


def test_json_tells_each_value(two, clkd):
    code, out, err = clkd("compare", "plain", "er_500", "--json")
    assert (code, err) == (0, "")
    (plain, er), notes = json.loads(out)["groups"], json.loads(out)["notes"]
    assert plain["metrics"]["average_accuracy"]["values"] == [0.2, 0.3, 0.4]
    assert er["seeds"] == [0, 1, 2]
    assert notes == [NOTE]


def test_less_forgetting_and_less_time_are_better_and_one_may_say_otherwise(two, clkd):
    def best(metric):
        groups = json.loads(clkd("compare", "plain", "er_500", "--metric", metric, "--json")[1])["groups"]
        return [each["label"] for each in groups if each["metrics"][metric.partition(":")[0]]["best"]]

    assert best("average_accuracy") == ["er_500"]
    assert best("forgetting") == ["er_500"]
    assert best("forgetting:high") == ["plain"]
    assert best("compute.training_macs") == ["plain"]
    assert best("seconds.total") == ["plain"]
    assert best("rows_per_second") == ["plain", "er_500"]


def test_costs_are_no_percentages(two, clkd):
    out = clkd("compare", "plain", "--metric", "compute.training_macs")[1]
    assert out.splitlines()[0].split() == ["group", "seeds", "compute.training_macs"]
    assert out.splitlines()[1].split() == ["plain", "3", "1e+09", "±", "0"]


def test_against_one_of_the_groups(two, make, clkd):
    for seed, accuracy in enumerate((0.21, 0.29, 0.43)):
        make("si", seed, accuracy, sha="5" * 64)
    words = ["compare", "plain", "er_500", "si", "--metric", "average_accuracy"]
    groups = json.loads(clkd(*words, "--against", "plain", "--json")[1])["groups"]
    er, si = (each["metrics"]["average_accuracy"]["p"] for each in groups[1:])
    assert groups[0]["metrics"]["average_accuracy"]["p"] is None
    assert er == pytest.approx(2 * P)  # the lower of two is doubled
    assert si > er
    assert "Holm" in clkd(*words)[2]
    assert "--against last: none of the groups compared" in clkd("compare", "plain", "--against", "last")[2]


def test_other_seeds_are_not_paired_and_that_is_said(make, clkd):
    for seed in (0, 1, 2):
        make("a", seed, [0.1, 0.2, 0.3][seed])
        make("b", seed + 1, [0.4, 0.5, 0.6][seed])
    code, out, err = clkd("compare", "a", "b", "--metric", "average_accuracy")
    assert code == 0
    assert "0.021" in out  # t = −3.674 with 4 degrees of freedom
    assert "a and b have different seeds: Welch's t-test, not paired" in err


def test_a_single_seed_has_no_spread_and_that_is_said(make, clkd):
    make("a", 0, 0.25)
    make("b", 0, 0.5)
    code, out, err = clkd("compare", "a", "b", "--metric", "average_accuracy")
    assert code == 0
    assert out.splitlines()[1].split() == ["a", "1", "25.00"]
    assert out.splitlines()[2].split() == ["b", "1", "50.00", "*"]
    assert err.splitlines() == [f"{name}: a single run, so no standard deviation and no test" for name in "ab"]


def test_where_the_best_is_a_single_run_it_is_said_how_the_others_are_tested(make, clkd):
    make("best", 0, 0.9)
    for seed in (0, 1):
        make("a", seed, 0.25 + 0.1 * seed)
        make("b", seed, 0.5)
    code, _, err = clkd("compare", "best", "a", "b", "--metric", "average_accuracy")
    (way,) = [line for line in err.splitlines() if "--against" in line]
    assert way.startswith("the best is a single run: to test the others, name one of them, such as --against a")
    err = clkd("compare", "best", "a", "b", "--metric", "average_accuracy", "--against", way.split()[-1])[2]
    assert code == 0
    assert "p: two-sided" in err


def test_a_stand_in_is_never_compared_in_silence(make, clkd):
    for seed in (0, 1):
        make("a", seed, 0.9, stand_in="digits", print="d")
        make("a", seed, 0.5 + seed / 10)
        make("b", seed, 0.6 + seed / 10, sha="b" * 64)
    code, out, err = clkd("compare", "a", "b", "--metric", "average_accuracy")
    assert code == 0
    assert err.startswith("NOT THE SAME DATA, so nothing is called best or tested across them")
    assert "*" not in out
    assert "p" not in out.splitlines()[0].split()
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [["a", "on", "digits"], ["a", "on", "cifar10"]]
    groups = json.loads(clkd("compare", "a", "b", "--against", "b", "--json")[1])["groups"]
    assert [each["metrics"]["average_accuracy"]["test"] for each in groups] == [None, "paired t", None]


def test_what_all_were_trained_on_is_told_if_it_is_a_stand_in(make, clkd):
    for seed in (0, 1):
        make("a", seed, 0.9, stand_in="digits")
        make("b", seed, 0.5, stand_in="digits", sha="b" * 64)
    said = clkd("compare", "a", "b")[2].splitlines()
    assert [line for line in said if "stood in" in line] == [f"{name}: digits stood in for cifar10" for name in "ab"]


def test_other_rows_of_one_data_set_are_other_data(make, clkd):
    make("a", 0, 0.5, print="1")
    make("b", 0, 0.6, print="2")
    assert "NOT THE SAME DATA" in clkd("compare", "a", "b")[2]


def test_runs_cut_short_are_another_group(make, clkd):
    make("a", 0, 0.5)
    make("a", 0, 0.1, limit_batches=3)
    out = clkd("compare", "a")[1]
    assert "a (3 batches an epoch)" in out
    assert len(out.splitlines()) == 3


def test_a_run_that_goes_on_from_another_is_no_run_from_scratch(make, clkd):
    make("a", 0, 0.5)
    for seed in (0, 1):
        make("a", seed, 0.7, origin={"run": f"r{seed}", "experience": 2, "mlflow": None})
    code, out, err = clkd("compare", "a", "--metric", "average_accuracy")
    assert code == 0
    assert "newest counts" not in err
    assert len(out.splitlines()) == 3
    assert "a (from another run's experience 2)" in out
    assert "goes on from another run, which trained experiences 0 to 2" in err


def test_a_fork_that_stands_alone_is_told(make, clkd):
    make("a", 0, 0.5)
    make("b", 0, 0.7, sha="b" * 64, origin={"run": "r", "experience": 1, "mlflow": None})
    assert "b: goes on from another run, which trained experiences 0 to 1" in clkd("compare", "a", "b")[2]


def test_less_of_what_was_lost_is_better(make, clkd):
    make("a", 0, 0.5, metrics={"loss_old_domains": 0.05})
    make("b", 0, 0.5, sha="b" * 64, metrics={"loss_old_domains": 0.4})
    groups = json.loads(clkd("compare", "a", "b", "--metric", "loss_old_domains", "--json")[1])["groups"]
    assert [each["metrics"]["loss_old_domains"]["best"] for each in groups] == [True, False]


def test_of_one_seed_the_newest_counts_and_what_is_not_finished_is_left_out(make, clkd):
    make("a", 0, 0.1)
    make("a", 0, 0.3)
    make("a", 1, 0.5)
    make("a", 2, 0.9, status="stopped")
    code, out, err = clkd("compare", "a", "--metric", "average_accuracy")
    assert code == 0
    assert out.splitlines()[1].split() == ["a", "2", "40.00", "±", "14.14"]
    assert "a-000000000004 is stopped, not finished: left out" in err
    assert "a, seed 0: 2 runs; the newest counts (a-000000000002)" in err


def test_several_versions_are_told(make, clkd):
    make("a", 0, 0.1)
    make("a", 1, 0.1, version="0.0.9")
    assert "a: runs of several versions of clkd (0.0.9, 0.1.0)" in clkd("compare", "a")[2]


def test_scenarios_of_one_name_are_told_apart_by_what_differs(make, clkd):
    for lr, sha in ((0.1, "1" * 64), (0.3, "2" * 64)):
        home = make("a", 0, lr, sha=sha)
        (home / "resolved.yaml").write_text(f"seed: {lr}\ntrain: {{optimizer: {{kind: sgd, lr: {lr}}}}}\n")
    out = clkd("compare", "a", "--metric", "average_accuracy")[1].splitlines()
    assert [line.split("  ")[0] for line in out[1:]] == ["a train.optimizer.lr=0.1", "a train.optimizer.lr=0.3"]


def test_runs_are_named_in_every_way(two, clkd, tmp_path):
    whole = clkd("compare", "plain", "er_500")[1]
    assert clkd("compare", "plain-abababab", "er_500-eeeeeeee")[1] == whole
    assert clkd("compare", *sorted(map(str, (tmp_path / "runs").glob("plain*"))), "er_*")[1] == whole
    assert clkd("compare", "000000000001", "000000000003", "000000000005", "er_500")[1] == whole
    assert clkd("compare", "runs")[1].count("±") == whole.count("±")
    assert "er_500" in clkd("compare", "last")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan"], "clkd: plan: no such run, group or scenario here (did you mean 'plain'?)\n"),
        (["00000000000"], "several runs begin like this: 000000000001, "),
        (["plain", "--metric", "average_acuracy"], "--metric average_acuracy: no run has it (did you mean "),
        (["plain", "--metric", "forgetting:up"], "behind the colon, say which is better: low or high"),
        (["plain", "--plot", "x.txt"], "--plot x.txt: name a .png or .pdf or .svg file"),
    ],
)
def test_a_mistake_is_told(words, said, two, clkd):
    code, _, err = clkd("compare", *words)
    assert code == 2
    assert said in err


def test_nothing_finished_is_nothing_to_compare(make, clkd):
    make("a", 0, 0.9, status="killed")
    code, _, err = clkd("compare", "a")
    assert (code, err) == (2, "clkd: nothing to compare: a-000000000001 is killed, not finished: left out\n")


def test_the_plot_has_a_point_for_each_group_in_both_panels(two, clkd, tmp_path):
    from clkd.compare.comparison import compare
    from clkd.compare.group import grouped
    from clkd.compare.plot import plot
    from clkd.compare.select import chosen

    groups, notes = grouped(chosen(["runs"], tmp_path))
    panels = plot(compare(groups, ["average_accuracy"], None, notes)).axes
    places = [
        [(float(bar[0].get_xdata()[0]), float(bar[0].get_ydata()[0])) for bar in axes.containers] for axes in panels
    ]
    assert [sorted(each) for each in places] == [
        [pytest.approx((1e9, 30)), pytest.approx((3e9, 50))],
        [pytest.approx((1000, 30)), pytest.approx((5000, 50))],
    ]
    assert clkd("compare", "runs", "--plot", "costs.png")[0] == 0
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


HEAVY = ("torch", "torchvision", "mlflow", "avalanche", "sklearn", "scipy", "numpy", "matplotlib")


@pytest.mark.parametrize("words", [["compare", "runs"], ["runs"]])
def test_runs_are_read_without_anything_heavy_and_fast(words, two, make):
    for seed in range(100):
        make("many", seed, 0.5, sha="c" * 64)
    code = (
        f"import sys; from clkd.cli.main import main; code = main({words!r}); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[] 0"
    assert done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5, "it takes a fraction of 1 s"
