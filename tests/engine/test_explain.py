"""`clkd explain` says what a run does: the formula against weights reckoned by hand, the costs against layer sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clkd.cli.main import cli

SCENARIO = """\
name: small
stream: {dataset: digits, split: {by: class, classes: [[0, 1], [2, 3], [4, 5, 6]]}, augment: none}
student: {model: {kind: mlp, hidden: [8]}, head: linear}
teachers: {previous: {kind: previous, recall: false}, external: {kind: fit, model: {kind: mlp, hidden: [16]}}}
losses:
  - cross_entropy
  - {kind: kd, between: [student, previous], weight: old_fraction}
  - {kind: kd, between: [student, external], weight: {kind: warmup, value: 2, steps: 1}}
  - {kind: features, between: [student.penultimate, external.penultimate], weight: 0.1}
memory: {kind: reservoir, size: 50}
train: {batch_size: 10, optimizer: {kind: sgd, lr: 0.1}}
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "small.yaml"
    file.write_text(SCENARIO)
    return str(file)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
    return done.exit_code, done.output


def test_the_formula_has_the_weights_reckoned_by_hand(path: str) -> None:
    told = json.loads(run("explain", path, "--json")[1])
    external = "T²KL(student ‖ external, classes {})"
    rest = "0.00→2.00·" + external + " + 0.10·MSE(projected student.penultimate ‖ external.penultimate)"
    previous = "T²KL(student ‖ previous, classes {})"
    assert [each["loss"] for each in told["experiences"]] == [
        "1.00·CE(seen) + " + rest.format("0–1"),
        "1.00·CE(seen) + 0.50·" + previous.format("0–1") + " + " + rest.format("0–3"),
        "1.00·CE(seen) + 0.57·" + previous.format("0–3") + " + " + rest.format("0–6"),  # 4 of 7 classes are old
    ]
    assert [each["waiting"] for each in told["experiences"]] == [{"kd_previous": "previous"}, {}, {}]


def test_a_weight_that_depends_on_answers_stands_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "adaptive.yaml"
    file.write_text(SCENARIO.replace("weight: old_fraction", "weight: {kind: confidence}").replace(
        "  - cross_entropy", "  - {kind: cross_entropy, weight: uncertainty}"))  # fmt: skip
    _, second, _ = json.loads(run("explain", str(file), "--json")[1])["experiences"]
    assert second["loss"].startswith("Uncertainty·CE(seen) + Confidence·T²KL(student ‖ previous, classes 0–1)")


def test_costs_and_projectors_are_those_of_the_layers(path: str) -> None:
    *_, last = json.loads(run("explain", path, "--json")[1])["experiences"]
    rows, pixels = 20, 64
    assert last["macs_per_step"] == {"student": 3 * rows * (pixels * 8 + 8 * 7), "previous": rows * (64 * 8 + 8 * 4),
                                     "external": 0}  # fmt: skip  # its answers are recalled: views are fixed
    assert last["student_parameters"] == 64 * 8 + 8 + 8 * 7 + 7
    first, second, _ = json.loads(run("explain", path, "--json")[1])["experiences"]
    assert first["created"] == {
        "features_external.aligners.0.projector.weight": 8 * 16,
        "features_external.aligners.0.projector.bias": 16,
    }
    assert second["created"] == {}


@pytest.mark.parametrize(("rows", "asked"), [("@new", 10), ("@replay", 30), ("@replay2", 15), ("", 40)])
def test_a_teacher_costs_what_it_takes_to_speak_of_the_rows_it_is_asked_about(path: str, rows: str, asked: int) -> None:
    settings = "losses.1.between=[student, previous" + rows + "]", "train.replay_draws=2", "train.replay_batch_size=15"
    given = [word for setting in settings for word in ("--set", setting)]
    *_, last = json.loads(run("explain", path, "--json", *given)[1])["experiences"]
    assert last["macs_per_step"]["previous"] == asked * (64 * 8 + 8 * 4)


def test_nothing_is_recalled_beside_a_memory_that_makes_its_rows_up(path: str) -> None:
    """Nobody knows them before they come, so teachers are asked in every step."""
    told = json.loads(run("explain", path, "--json", "--set", "memory={kind: generator, hidden: [4]}")[1])
    *_, last = told["experiences"]
    assert last["macs_per_step"]["external"] == 20 * (64 * 16 + 16 * 10)
    assert last["teachers"]["external"]["recalled"] is False


def test_the_text_names_what_is_left_out(path: str) -> None:
    code, out = run("explain", path, "--set", "losses.1.rows=valid", "--set", "memory=none",
                    "--set", "losses.1.if_undefined=skip")  # fmt: skip
    assert code == 0
    assert "kd_previous is left out: it is 0 whatever the models say" in out
    assert "external sees the student's view, knows classes 0–9, answers recalled" in out


def test_validate_with_data_finds_what_validate_without_cannot(path: str) -> None:
    arguments = ("validate", path, "--set", "losses.1.rows=valid", "--set", "memory=none")
    assert "ok:" in run(*arguments)[1]
    assert "losses.1: kd_previous has nothing to teach in experience 1 and 1 more" in run(*arguments, "--data")[1]
    assert "ok:" in run(*arguments, "--data", "--set", "losses.1.if_undefined=skip")[1]


def test_strategies_say_what_they_own_and_when_they_act(tmp_path: Path) -> None:
    """A discriminator of 8 → 4 → 1; the fusion at the end adds nothing to the loss."""
    file, given = tmp_path / "s.yaml", "transfer: [{kind: dann, hidden: [4], weight: 0.5}, interpolate]\n"
    file.write_text(SCENARIO + given)
    told = json.loads(run("explain", str(file), "--json")[1])["experiences"]
    assert told[0]["created"]["dann.discriminator"] == 8 * 4 + 4 + 4 + 1
    assert all(each["loss"].endswith(" + 0.50·dann") and each["at_end"] == ["interpolate"] for each in told)
    assert "dann.discriminator" not in told[1]["created"]
    assert "at its end, interpolate changes the student" in run("explain", str(file))[1]


@pytest.mark.parametrize("recall", [False, True])
def test_an_ensemble_costs_what_its_members_do(tmp_path: Path, recall: bool) -> None:
    """Those that answer from memory cost nothing; here the rows come in one fixed view."""
    member = "{{kind: fit, model: {{kind: mlp, hidden: [{}]}}, recall: {}}}"
    file = tmp_path / "ensemble.yaml"
    file.write_text(f"""\
name: ensemble
stream: {{dataset: digits, split: {{by: class, experiences: 2}}, augment: none}}
student: {{model: {{kind: mlp, hidden: [8]}}, head: linear}}
teachers:
  one: {member.format(16, str(recall).lower())}
  two: {member.format(4, "false")}
  both: {{kind: ensemble, members: [one, two]}}
losses: [cross_entropy, {{kind: kd, between: [student, both]}}]
train: {{batch_size: 10, optimizer: {{kind: sgd, lr: 0.1}}}}
""")
    told = json.loads(run("explain", str(file), "--json")[1])["experiences"][0]
    one, two = (64 * hidden + hidden * 10 for hidden in (16, 4))
    assert told["macs_per_step"]["both"] == 10 * (two + (0 if recall else one))
    assert told["teachers"]["both"]["parameters"] == one + 16 + 10 + two + 4 + 10
    assert told["teachers"]["both"]["recalled"] is False


def test_past_selves_within_a_snapshot_are_asked_in_every_step(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.yaml"
    file.write_text(SCENARIO.replace("{kind: previous, recall: false}", "{kind: snapshot, by: weight}"))
    *_, last = json.loads(run("explain", str(file), "--json")[1])["experiences"]
    assert last["macs_per_step"]["previous"] == 20 * (2 * 64 * 8 + 8 * 2 + 8 * 4)
    assert last["teachers"]["previous"]["recalled"] is False


@pytest.mark.parametrize(
    ("over", "said"), [("seen", ["0–1", "0–3", "0–6"]), ("all", ["0–9"] * 3), ("newest", ["0–1", "2–3", "4–6"])]
)
def test_classes_are_those_that_the_loss_compares(tmp_path: Path, over: str, said: list[str]) -> None:
    file = tmp_path / "over.yaml"
    changed = SCENARIO.replace("head: linear", "head: fixed").replace(
        "external], weight: {", f"external], over: {over}, weight: {{")  # fmt: skip
    file.write_text(changed)
    told = json.loads(run("explain", str(file), "--json")[1])["experiences"]
    assert [f"KL(student ‖ external, classes {each})" in one["loss"] for each, one in zip(said, told, strict=True)] == [
        True
    ] * 3
