"""What a stranger's package may do, shown with packages that pip installed and processes of their own."""

import json
import os

import pytest

BROKEN = "ModuleNotFoundError: No module named 'nosuchmodule_xyz'"


def test_a_good_plugins_parts_are_listed_with_their_options(shared):
    losses = json.loads(shared.clkd("list", "losses", "--json").stdout)
    assert {"name": "power", "summary": "a power of the difference", "plugin": "good", "origin": "good"} in losses
    power = json.loads(shared.clkd("list", "losses", "power", "--json").stdout)
    assert power["options"][0] == {
        "name": "power", "type": "number", "required": False, "default": "2.0",
        "doc": "Of the difference between the two sides.",
    }  # fmt: skip
    assert [option["name"] for option in power["options"]] == [
        "power", "sharpness", "name", "between", "weight", "if_undefined",
    ]  # fmt: skip


def test_a_part_without_a_config_model_gets_its_options_from_its_factory(shared):
    stack = json.loads(shared.clkd("list", "memories", "stack", "--json").stdout)
    assert [(each["name"], each["type"], each["required"], each["default"]) for each in stack["options"]] == [
        ("size", "integer", True, None),
        ("ordered", "true or false", False, "true"),
        ("retrieval", "retrieval", False, "null"),
    ]


def test_a_scenario_names_a_plugins_parts_like_clkds_own(shared):
    done = shared.clkd("validate", "mine.yaml")
    assert (done.returncode, done.stdout) == (0, "ok: mine.yaml\n")
    shown = json.loads(shared.clkd("show", "mine.yaml", "--json").stdout)["scenario"]
    assert shown["losses"][1]["power"] == 3.0
    assert shown["losses"][1]["sharpness"]["kind"] == "warmup"
    assert shown["memory"] == {"kind": "fifo", "size": 20, "retrieval": None}
    assert shown["transfer"] == {"kind": "nudge", "weight": 1.0, "strength": 0.5}


def test_a_plugins_options_are_checked_as_strictly(shared):
    settings = ["--set", "losses.1.powr=2", "--set", "memory.size=many", "--set", "memory.sise=1"]
    done = shared.clkd("validate", "mine.yaml", *settings)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("--set")]
    assert told[0] == "--set losses.1.powr=2: losses.1.powr: unknown key (did you mean 'power'?)"
    assert told[1].startswith("--set memory.size=many: memory.size: give a whole number")
    assert told[2] == "--set memory.sise=1: memory.sise: unknown key (did you mean 'size'?)"


def test_a_plugin_adds_a_command(shared):
    assert shared.clkd("hello").stdout == "hello from good\n"
    assert "Say hello." in shared.clkd("--help").stdout


def test_all_plugins_are_listed_with_their_state(shared):
    plugins = {each["name"]: each for each in json.loads(shared.clkd("plugins", "--json").stdout)}
    good = plugins["good"]
    assert (good["origin"], good["version"], good["status"]) == ("good", "1.2", "ok")
    assert good["provides"] == ["losses:power", "memories:fifo", "memories:stack", "transfers:nudge"]
    assert "clkd_register_commands" in good["hooks"]
    assert (plugins["bad"]["status"], plugins["bad"]["reason"]) == ("broken", BROKEN)
    assert plugins["clkd.losses"]["status"] == "ok"
    table = shared.clkd("plugins").stdout
    assert "good" in table
    assert BROKEN in table


def test_a_broken_plugin_is_a_warning_where_it_is_not_used(shared):
    done = shared.clkd("validate", "plain.yaml")
    assert done.returncode == 0
    assert done.stderr == f"clkd: plugin 'bad' (bad) is broken: {BROKEN}\n"


def test_a_broken_plugin_is_an_error_where_it_may_be_needed(shared):
    done = shared.clkd("validate", "plain.yaml", "--set", "memory=bad")
    assert done.returncode == 3
    assert "memory: memory 'bad' is not known (allowed: class_balanced, " in done.stderr
    assert f"; plugin 'bad' is broken: {BROKEN}" in done.stderr
    assert shared.clkd("list", "losses", "lost").returncode == 3
    assert shared.clkd("list", "losses", "lost", "-p", "no:bad").returncode == 2


def test_plugins_can_be_left_out(shared):
    done = shared.clkd("validate", "mine.yaml", "-p", "no:good", "-p", "no:bad")
    assert done.returncode == 2
    assert "loss 'power' is not known" in done.stderr
    assert "broken" not in done.stderr
    listed = json.loads(shared.clkd("plugins", "--json", "-p", "no:good").stdout)
    assert [(each["name"], each["status"]) for each in listed if each["name"] == "good"] == [("good", "disabled")]
    done = shared.clkd("validate", "plain.yaml", "-p", "no:goood")
    assert (done.returncode, "-p no:goood: no such plugin (did you mean 'good'?)" in done.stderr) == (2, True)
    assert shared.clkd("validate", "plain.yaml", "-p", "good").returncode == 2


def test_only_the_plugins_asked_for_are_loaded(shared):
    def guests(value):
        listed = json.loads(shared.clkd("plugins", "--json", CLKD_LOAD_PLUGINS=value).stdout)
        return {each["name"]: each["status"] for each in listed if each["origin"] != "clkd"}

    assert guests("") == {"bad": "disabled", "good": "disabled"}
    assert guests("good, ") == {"bad": "disabled", "good": "ok"}
    done = shared.clkd("plugins", CLKD_LOAD_PLUGINS="goood")
    assert (done.returncode, "did you mean 'good'?" in done.stderr) == (2, True)


@pytest.mark.slow
def test_two_packages_with_one_plugin_name_are_refused_by_both_names(house):
    house.install(house.source("first", "", entry="same"), house.source("second", "", entry="same"))
    done = house.clkd("validate", "plain.yaml")
    assert done.returncode == 3
    assert done.stderr == "clkd: plugin name 'same' is claimed by first and second: uninstall one of them\n"
    assert "warning: plugin name 'same' is claimed" in house.clkd("--help").stderr


PART = """
from clkd import hookimpl

@hookimpl
def clkd_register_losses(register):
    register({name!r}, dict)
"""


@pytest.mark.slow
def test_two_plugins_with_one_part_are_refused_by_both_names(house):
    code = PART.format(name="mine")
    house.install(house.source("first", code), house.source("second", code))
    done = house.clkd("list", "losses")
    assert done.returncode == 3
    assert "losses: 'mine' is registered by 'first' (first) and by 'second' (second)" in done.stderr
    assert house.clkd("list", "losses", "-p", "no:first").returncode == 0


@pytest.mark.slow
def test_results_do_not_depend_on_the_order_of_installation(house, tmp_path):
    other = type(house)(tmp_path / "other")
    house.install(house.source("aa", PART.format(name="loss-aa")))
    other.install(other.source("zz", PART.format(name="loss-zz")))
    listed = []
    for sites in ((house.site, other.site), (other.site, house.site)):
        path = os.pathsep.join(map(str, sites))
        commands = (["list", "losses", "--json"], ["plugins", "--json"], ["schema", "--kind", "losses"])
        listed.append([house.clkd(*command, PYTHONPATH=path).stdout for command in commands])
    assert listed[0] == listed[1]
    assert all(name in listed[0][0] for name in ("loss-aa", "loss-zz"))
