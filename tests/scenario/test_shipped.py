"""The scenarios that come with clkd."""

from pathlib import Path

import pytest
from processes import clkd

from clkd.engine.execute import execute
from clkd.engine.explain import explain
from clkd.errors import UserError
from clkd.plugins import load_plugins
from clkd.scenario.load import load
from clkd.scenario.request import RunRequest

HOUSE = Path(__file__).parents[2]
SHIPPED = sorted((HOUSE / "scenarios").rglob("*.yaml"))
TEXTBOOK = {"mlp_mnist": (335_114, 101_770), "lenet_cifar": (548_878, 62_006), "resnet18_cifar": (11_181_642, 19_954)}
"""Parameters of teacher and student, as the files' comments say."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_shipped_scenario_is_right(path, registry):
    scenario = load(path, [], registry).scenario
    assert scenario.losses
    assert scenario.name


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(HOUSE)))
def test_its_first_line_tells_editors_where_the_schema_lies(path):
    """`make schema` writes it there; it names the plugins of this machine, so it is not kept in git."""
    first, _, place = path.read_text().partition("\n")[0].partition("$schema=")
    assert first == "# yaml-language-server: "
    assert (path.parent / place).resolve() == HOUSE / "scenarios" / "clkd.schema.json"
    rule = (HOUSE / "Makefile").read_text()
    assert "$(BIN)/clkd schema > scenarios/clkd.schema.json" in rule


def test_the_main_scenario_is_shipped():
    assert HOUSE / "scenarios" / "split_cifar.yaml" in SHIPPED


def textbook(name: str) -> Path:
    return HOUSE / "scenarios" / "textbook" / f"{name}.yaml"


def test_all_textbook_scenarios_are_tried_here():
    assert {textbook(name) for name in TEXTBOOK} == {path for path in SHIPPED if path.parent.name == "textbook"}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_textbook_scenario_is_composed_on_the_stand_in(name):
    """`--dry-run` builds all of it, and tries every loss on both models; the teacher stays untrained."""
    told = execute(RunRequest(scenario=textbook(name), dry_run=True, quiet=True), load_plugins())
    assert told["description"]["data"].startswith("digits: ")
    assert len(told["stream"]) == 1


@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_textbook_scenario_has_the_sizes_that_its_comment_says(name):
    plugins = load_plugins()
    (told,) = explain(load(textbook(name), [], plugins.registry), plugins)["experiences"]
    sizes = told["teachers"]["external"]["parameters"], told["student_parameters"]
    assert sizes == TEXTBOOK[name]
    comment = "".join(line for line in textbook(name).read_text().splitlines() if line.startswith("#"))
    assert all(f"{size:,}" in comment for size in sizes)


@pytest.mark.parametrize(
    "setting",
    [
        "teachers.external.model.weights=mine.pth",
        "teachers.external={kind: torchvision, model: resnet18, weights: mine.pth}",
    ],
)
def test_weights_that_are_not_there_end_in_one_line(setting):
    request = RunRequest(scenario=textbook("resnet18_cifar"), overrides=(setting,), dry_run=True, quiet=True)
    with pytest.raises(UserError, match=r"mine\.pth") as caught:
        execute(request, load_plugins())
    assert "\n" not in str(caught.value)


DOMAINS = sorted((HOUSE / "scenarios" / "domains").glob("*.yaml"))
FEW = {
    "datasets": (),
    "composed": ("teachers.external={kind: fit, model: lenet, epochs: 1}", "train.epochs=1"),
}
"""What makes those short that name several data sets."""


@pytest.mark.slow
@pytest.mark.parametrize("path", DOMAINS, ids=lambda path: path.stem)
def test_a_stream_of_domains_runs_on_the_stand_in(path, tmp_path):
    """Two experiences of each, on few rows: the domains differ, and so do the rows that are trained on."""
    assert len(path.read_text().splitlines()) < 20
    few = FEW.get(path.stem, ("stream.dataset.offline={name: digits, rows_per_class: 10}",))
    settings = ("tracking.mode=off", "train.min_steps=0", f"output={tmp_path / 'run'}", *few)
    request = RunRequest(scenario=path, overrides=settings, limit_experiences=2, quiet=True)
    result = execute(request, load_plugins())
    assert result["status"] == ("finished" if path.stem == "composed" else "stopped")  # it has no more than two


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_textbook_scenario_runs_to_its_end_on_the_stand_in(name, tmp_path):
    words = ["run", str(textbook(name)), "--tracking", "off", "-q", "--json", "--set", "teachers.external.epochs=2"]
    done = clkd(*words, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert '"stand_in": "digits"' in done.stdout
