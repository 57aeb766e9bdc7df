"""The command line from outside: what is printed where, and how it ends."""

import json
import os
import subprocess
import sys

import pytest

from clkd import __version__
from clkd.cli.main import COMMANDS
from clkd.errors import ClkdError, Interrupted, TrackingError, UserError
from clkd.registry import KINDS

PLAIN = """\
name: plain
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: linear}
train: {optimizer: sgd}
"""


@pytest.fixture
def plain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.yaml").write_text(PLAIN)
    return "plain.yaml"


HEAVY = ("torch", "torchvision", "mlflow", "avalanche", "sklearn", "numpy", "matplotlib")


LIGHT = (
    ["--help"],
    ["validate", "plain.yaml"],
    ["show", "plain.yaml"],
    ["list", "losses", "kd"],
    ["schema"],
    ["cache", "list"],
)


def test_what_trains_nothing_loads_nothing_heavy(plain):
    code = (
        f"import sys\nfrom clkd.cli.main import main\nfor words in {LIGHT!r}:\n    code = main(words)\n"
        f"    print(*words, [name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if line != "the cache is empty"]
    assert told == [f"{' '.join(words)} [] 0" for words in LIGHT]
    assert done.stdout


@pytest.mark.parametrize("wrong", [["nope.yaml"], ["plain.yaml", "--set", "train.epoch=2"]])
def test_a_mistake_in_a_scenario_is_told_before_torch_is_loaded(wrong, plain):
    code = (
        f"import sys; from clkd.cli.main import main; code = main(['run', *{wrong!r}]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[] 2"


def test_python_m_clkd_is_clkd(plain):
    done = subprocess.run([sys.executable, "-m", "clkd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"clkd, version {__version__}\n"
    done = subprocess.run([sys.executable, "-m", "clkd", "validate", "x.yaml"], capture_output=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (2, b"clkd: x.yaml: no such file\n", b"")


def test_help_names_every_command(clkd):
    code, out, _ = clkd("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in out
        assert clkd(command, "--help")[0] == 0


def test_validate_tells_good_files_from_bad_ones(clkd, plain, tmp_path):
    assert clkd("validate", plain, plain) == (0, "ok: plain.yaml\nok: plain.yaml\n", "")
    (tmp_path / "bad.yaml").write_text(PLAIN.replace("model:", "modle:").replace("mlp", "lenet") + "colour: red\n")
    code, out, err = clkd("validate", "bad.yaml", "nope.yaml", plain)
    assert (code, out) == (2, "ok: plain.yaml\n")
    lines = err.splitlines()
    assert lines[0] == "bad.yaml:3:1: student.model: is missing"
    assert lines[1] == "bad.yaml:3:11: student.modle: unknown key (did you mean 'model'?)"
    assert lines[2].startswith("bad.yaml:5:1: colour: unknown key (allowed: checkpoint, device, ")
    assert lines[3:] == ["clkd: nope.yaml: no such file"]


def test_validate_lets_plugins_judge(clkd, plain, tmp_path):
    (tmp_path / "strict.py").write_text(
        "from clkd import hookimpl\nfrom clkd.errors import UserError\n"
        "@hookimpl\ndef clkd_configure(scenario, registry):\n    raise UserError(f'no {scenario.name} here')\n"
    )
    assert clkd("validate", plain, "--plugins-dir", ".") == (2, "", "clkd: no plain here\n")


def test_show_prints_every_value_with_its_origin(clkd, plain):
    code, out, _ = clkd("show", plain, "--set", "seed=3")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"seed: 3 # --set", "name: plain # file", "epochs: 1 # default"} <= set(lines)
    shown = json.loads(clkd("show", plain, "--set", "seed=3", "--json")[1])
    assert shown["scenario"]["seed"] == 3
    assert shown["origins"]["seed"] == "--set"
    assert len(shown["config_sha"]) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_listed_and_every_part_described(kind, clkd):
    code, out, _ = clkd("list", kind, "--json")
    assert code == 0
    parts = json.loads(out)
    assert parts == sorted(parts, key=lambda part: part["name"])
    assert all(part["summary"] for part in parts), "every built-in part has a summary"
    table = clkd("list", kind)[1]
    for part in parts:
        assert f"\n{part['name']} " in table
        one = json.loads(clkd("list", kind, part["name"], "--json")[1])
        assert one["name"] == part["name"]
        text = clkd("list", kind, part["name"])[1]
        assert all(f"\n  {option['name']}: {option['type']}" in text for option in one["options"])


def test_a_parts_options_are_told_with_type_range_default_and_meaning(clkd):
    text = clkd("list", "losses", "cross_entropy")[1]
    assert "  label_smoothing: number ≥ 0 and < 1  (default 0.0)\n      How much of the target is spread" in text
    options = {each["name"]: each for each in json.loads(clkd("list", "losses", "kd", "--json")[1])["options"]}
    assert options["temperature"]["type"] == "schedule or number"
    assert options["variant"]["type"] == "kl | ce | mse | l2"
    assert options["between"]["default"] == "null"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "loses"], "clkd: 'loses' is no kind of part (did you mean 'losses'?)\n"),
        (["list", "losses", "kdd"], "clkd: loss 'kdd' is not known (did you mean 'kd'?)\n"),
        (["schema", "--kind", "loses"], "clkd: 'loses' is no kind of part (did you mean 'losses'?)\n"),
        (["plugins", "--plugins-dir", "nope"], "clkd: --plugins-dir nope: no such directory\n"),
        (["show", "nope.yaml"], "clkd: nope.yaml: no such file\n"),
        (["run", "nope.yaml"], "clkd: nope.yaml: no such file\n"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, expected, clkd, plain):
    assert clkd(*arguments) == (2, "", expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["frobnicate"], "no such command 'frobnicate' (allowed: cache"),
        (["rum", "plain.yaml"], "no such command 'rum' (did you mean 'run'?)"),
        (["run"], "name a SCENARIO file, or go on with a run by --resume RUN"),
        (["run", "plain.yaml", "--seed", "x"], "'x' is not a valid integer"),
        (["run", "plain.yaml", "--limit-batches", "0"], "0 is not in the range x>=1"),
        (["run", "plain.yaml", "--tracking", "of"], "'of' is not one of"),
        (["validate", "plain.yaml", "-p", "kd"], "write no:NAME"),
        (["validate"], "clkd validate: missing argument"),
        (["run", "--resume", "last", "--from", "last"], "--resume goes on with a run, --from starts a new one"),
        (["extend", "last"], "missing argument 'NEW_DATA'"),
        (["extend", "last", "new", "--by", "clas"], "'clas' is not one of"),
        (["extend", "last", "new", "--classes", "a", "--experiences", "2"], "leave out --experiences and --by"),
    ],
)
def test_wrong_usage_is_told_in_one_line_and_exits_2(arguments, expected, clkd, plain):
    code, out, err = clkd(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.startswith("clkd")
    assert err.endswith(" -h says what there is)\n")
    assert err.count("\n") == 1


def test_schema_is_json_that_names_the_parts(clkd):
    whole = json.loads(clkd("schema")[1])
    assert "kd" in whole["$defs"]["losses"]["oneOf"][0]["enum"]
    assert json.loads(clkd("schema", "--kind", "losses")[1])["$ref"] == "#/$defs/losses"


def test_list_names_the_kinds_first(clkd):
    head, *kinds = clkd("list")[1].splitlines()
    assert head.split() == ["KIND", "PARTS"]
    counts = json.loads(clkd("list", "--json")[1])
    assert [line.split() for line in kinds] == [[kind, str(count)] for kind, count in counts.items()]
    assert counts["losses"] == len(json.loads(clkd("list", "losses", "--json")[1]))


def test_plugins_as_a_table_and_as_json(clkd):
    listed = json.loads(clkd("plugins", "--json")[1])
    assert {"name", "origin", "version", "status", "reason", "provides"} <= set(listed[0])
    table = clkd("plugins")[1].splitlines()
    assert table[0].split() == ["NAME", "ORIGIN", "VERSION", "STATUS", "PROVIDES"]
    count = len(next(each for each in listed if each["name"] == "clkd.losses")["provides"])
    assert next(line for line in table if line.startswith("clkd.losses ")).endswith(f"  {count} losses")


@pytest.fixture
def executed(monkeypatch):
    """What `execute` was asked; it answers with what the test puts in."""
    import clkd.engine.execute

    calls = []
    answer = {"result": {"run_id": "x"}}

    def execute(request, plugins):
        calls.append(request)
        if isinstance(answer["result"], BaseException):
            raise answer["result"]
        return answer["result"]

    monkeypatch.setattr(clkd.engine.execute, "execute", execute)
    return calls, answer


def test_run_hands_over_what_was_typed(clkd, plain, executed, monkeypatch):
    calls, answer = executed
    answer["result"] = {"description": {"student": "small"}, "stream": []}
    typed = [
        "run", plain, "--set", "train.epochs=2", "--set", "name=b", "--seed", "3", "--device", "cpu", "--dry-run",
        "--limit-experiences", "2", "--limit-batches", "5", "--tracking", "off", "--tracking-uri", "sqlite:///x.db",
        "-q", "-v", "--plugins-dir", ".",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["clkd", *typed])
    assert clkd(*typed) == (0, "student  small\n", "")
    (request,) = calls
    assert str(request.scenario) == plain
    assert request.settings == [
        "train.epochs=2", "name=b", "seed=3", 'device="cpu"', 'tracking.mode="off"', 'tracking.uri="sqlite:///x.db"',
    ]  # fmt: skip
    assert (request.limit_experiences, request.limit_batches, request.dry_run) == (2, 5, True)
    assert (request.quiet, request.json, request.resume) == (True, False, None)
    assert request.command.startswith("clkd run plain.yaml --set train.epochs=2")
    clkd("run", "--resume", "last", "-q")
    assert (calls[1].resume, calls[1].scenario, calls[1].settings) == ("last", None, [])


def test_json_is_exactly_one_object_without_nan(clkd, plain, executed):
    _, answer = executed
    answer["result"] = {"run_id": "é", "accuracy_matrix": [[0.5, float("nan")], (float("inf"), 1)]}
    code, out, err = clkd("run", plain, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"run_id": "é", "accuracy_matrix": [[0.5, None], [None, 1]]}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClkdError("it failed"), 1),
        (UserError("it failed"), 2),
        (TrackingError("it failed"), 4),
        (Interrupted("it failed", 130), 130),
        (Interrupted("it failed", 143), 143),
    ],
)
def test_a_failure_is_one_line_and_its_exit_code(error, code, clkd, plain, executed):
    executed[1]["result"] = error
    assert clkd("run", plain) == (code, "", "clkd: it failed\n")
    got, _, err = clkd("run", plain, "-v")
    assert got == code
    assert "Traceback" in err
    assert err.endswith("clkd: it failed\n")


def test_ctrl_c_ends_with_130_and_a_bug_is_not_hidden(clkd, plain, executed):
    executed[1]["result"] = KeyboardInterrupt()
    assert clkd("run", plain)[0] == 130
    executed[1]["result"] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        clkd("run", plain)


def test_a_plugin_may_not_take_a_commands_name(clkd, tmp_path):
    site = tmp_path / "fake-1.dist-info"
    site.mkdir()
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1\n")
    (site / "entry_points.txt").write_text("[clkd]\nfake = fake_plugin\n")
    (tmp_path / "fake_plugin.py").write_text(
        "from clkd import hookimpl\nimport click\n"
        "@hookimpl\ndef clkd_register_commands(cli):\n    cli.add_command(click.Command('run'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "clkd", "--help"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0
    assert "adds the command 'run', which clkd has already" in done.stderr
