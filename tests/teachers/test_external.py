"""Teachers from outside: fitted once and found again, or loaded from a file, torchvision or MLflow."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from taught import FIT, MLP, SCENARIO, cached, compose, logits

from clkd import checkpoint
from clkd.engine.compose import Composition
from clkd.engine.execute import execute
from clkd.errors import Interrupted, UserError
from clkd.plugins import load_plugins
from clkd.scenario.document import to_yaml
from clkd.scenario.request import RunRequest
from clkd.signals import Needs
from clkd.teachers.external import Foreign

Composing = Callable[..., Composition]


@pytest.fixture
def composed(tmp_path: Path) -> Composing:
    """Composes a scenario with a teacher `big`; its cache is this test's own."""
    return partial(compose, tmp_path)


def test_a_fitted_teacher_is_fitted_once_and_has_learned(composed: Composing, tmp_path: Path) -> None:
    first = composed({**FIT, "epochs": 30})
    (file,) = cached(tmp_path)
    stamp = file.stat().st_mtime_ns
    again = composed({**FIT, "epochs": 30})
    assert [path.stat().st_mtime_ns for path in cached(tmp_path)] == [stamp]
    assert torch.equal(logits(first), logits(again))
    labels = first.stream[0].train.y[:24]
    assert (logits(first, 24).argmax(1) == labels).float().mean() > 0.8


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": {**FIT, "epochs": 3}},
        {"teacher": {**FIT, "model": {"kind": "mlp", "hidden": [13]}}},
        {"teacher": {**FIT, "seed": 1}},
        {"stream": {**SCENARIO["stream"], "dataset": {"name": "digits", "rows_per_class": 11}}},
        {"stream": {**SCENARIO["stream"], "augment": {"crop": 1}}},
    ],
)
def test_whatever_determines_a_fitted_teacher_is_in_its_fingerprint(
    composed: Composing, tmp_path: Path, change: dict[str, Any]
) -> None:
    composed(FIT)
    composed(change.pop("teacher", FIT), **change)
    assert len(cached(tmp_path)) == 2


def test_the_runs_seed_and_the_students_recipe_are_not(composed: Composing, tmp_path: Path) -> None:
    composed(FIT)
    composed(FIT, seed=5, train={"epochs": 3, "optimizer": {"kind": "adam"}})
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize("how", ["garbage", "empty", "flipped", "cut", "another model", "a folder", "no checksum"])
def test_a_damaged_file_is_set_aside_and_the_teacher_fitted_again(
    composed: Composing, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    said = logits(composed(FIT))
    file = cached(tmp_path)[0]
    good = file.read_bytes()
    if how == "a folder":
        file.unlink()
        file.mkdir()
    elif how == "another model":
        save_file({"w": torch.zeros(3)}, file)
    elif how == "no checksum":
        save_file(load_file(file), file)
    else:
        flipped = good[:-2] + bytes([good[-2] ^ 1]) + good[-1:]
        file.write_bytes({"garbage": b"not a model", "empty": b"", "cut": good[:-5], "flipped": flipped}[how])
    with caplog.at_level("WARNING", "clkd"):
        again = logits(composed(FIT))
    assert torch.equal(again, said)
    assert f"{file} is damaged" in caplog.text
    assert f"it is set aside as {file.stem}.damaged and fitted again" in caplog.text
    assert file.read_bytes() == good
    assert file.with_suffix(".damaged").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "run"])
def test_a_checkpoint_gives_the_weights_in_the_file_and_maps_its_classes(
    composed: Composing, tmp_path: Path, suffix: str
) -> None:
    source = composed(FIT).parts.teachers["big"].module()
    state = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    file = tmp_path / f"teacher.{suffix}"
    if suffix == "run":  # what a run leaves behind, its student among much else
        saved = {"student": {"state": state}, "teachers": {"previous": {"state": state}}, "run": {"step": 7}}
        file = checkpoint.save(tmp_path, "exp_000", saved) / "state.safetensors"
    else:
        save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    plain = composed({"kind": "checkpoint", "path": str(file.relative_to(tmp_path)), "model": MLP})
    backwards = composed({"kind": "checkpoint", "path": str(file), "model": MLP, "classes": list(range(9, -1, -1))})
    assert torch.equal(logits(plain), logits(composed(FIT)))
    assert plain.parts.teachers["big"].spec().class_ids == tuple(range(10))
    assert backwards.parts.teachers["big"].spec().class_ids == tuple(range(9, -1, -1))
    assert torch.equal(logits(backwards), logits(plain))


def test_outputs_that_are_no_class_of_the_stream_take_no_part(composed: Composing, tmp_path: Path) -> None:
    """Overlapping label sets: by name, by id, and strangers between them; only the common columns are compared."""
    torch.manual_seed(0)
    weight = torch.randn(4, 12)
    state = composed(FIT).parts.teachers["big"].module().state_dict()
    named = {**state, "head.weight": weight, "head.bias": torch.zeros(4)}
    save_file(named, tmp_path / "t.safetensors")
    teacher = {"kind": "checkpoint", "path": "t.safetensors", "model": MLP, "classes": ["3", None, 1, None]}
    made = composed(teacher)
    ids = made.parts.teachers["big"].spec().class_ids
    assert (ids[0], ids[2]) == (3, 1)
    assert min(ids[1], ids[3]) >= 10
    made.parts.begin(made.stream[0], 0)
    kd = made.parts.terms[1].loss
    student = made.parts.student
    pairs = [(student.class_ids[a], ids[b]) for a, b in zip(kd.a_columns, kd.b_columns, strict=True)]
    assert sorted(pairs) == [(1, 1), (3, 3)]
    rows = made.stream[0].train.gather(torch.arange(24))
    valid = made.parts.teachers["big"].signals(rows.seen_as(made.parts.augment.plain(rows.x)), Needs()).valid
    assert torch.equal(valid, torch.isin(rows.y, torch.tensor([1, 3])))
    with pytest.raises(UserError, match="no output is a class of the stream"):
        composed({**teacher, "classes": [None] * 4})


def test_a_teacher_that_shares_no_class_with_the_student_is_refused(composed: Composing, tmp_path: Path) -> None:
    state = composed(FIT).parts.teachers["big"].module().state_dict()
    cut = {**state, "head.weight": state["head.weight"][8:].clone(), "head.bias": state["head.bias"][8:].clone()}
    save_file(cut, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="no class in common"):
        composed({"kind": "checkpoint", "path": "t.safetensors", "model": MLP, "classes": [8, 9]})


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was executed",))


def test_nothing_in_a_file_is_executed(composed: Composing, tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"head.weight": Evil()}))
    with pytest.raises(UserError, match="cannot be read as a state dict"):
        composed({"kind": "checkpoint", "path": "evil.pt", "model": MLP})


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([0, 1], "'classes' names 2 classes, but the teacher has 10 outputs"),
        ([*range(9), 12], "the stream has no class '12'"),
        ([*range(9), "8"], "outputs 8 and 9 are both the stream's class '8': keep one, and write null for the other"),
        ([*range(9), "nine"], "the stream has no class 'nine', allowed: 0, 1"),
    ],
)
def test_a_wrong_class_map_is_refused(composed: Composing, tmp_path: Path, classes: list[int], said: str) -> None:
    save_file({"head.weight": torch.zeros(10, 12)}, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match=said):
        composed({"kind": "checkpoint", "path": "t.safetensors", "model": MLP, "classes": classes})


def test_a_torchvision_classifier_with_its_own_classes_and_view(composed: Composing, tmp_path: Path) -> None:
    from clkd.vision import torchvision

    resnet = torchvision().models.get_model("resnet18", weights=None, num_classes=4)
    torch.save(resnet.state_dict(), tmp_path / "resnet.pt")
    stream = {
        "dataset": {"name": "digits", "rows_per_class": 12, "size": 32, "channels": 3},
        "split": {"by": "class", "experiences": 2},
    }
    teacher = {
        "kind": "torchvision",
        "model": "resnet18",
        "weights": "resnet.pt",
        "classes": ["3", "1", 0, 7],
        "view": {"size": 48, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    made = composed(teacher, stream=stream)
    assert made.parts.teachers["big"].spec().class_ids == (3, 1, 0, 7)
    rows = made.stream[0].train.gather(torch.arange(3))
    pixels = torch.nn.functional.interpolate(rows.x / 255, size=48, mode="bilinear", antialias=True)
    expected = resnet.eval()((pixels - 0.5) / 0.25)
    torch.testing.assert_close(logits(made, 3), expected, rtol=1e-3, atol=1e-4)
    scenario = {**SCENARIO, "teachers": {"big": teacher}, "stream": stream, "tracking": {"mode": "off"}}
    (tmp_path / "run.yaml").write_text(to_yaml({**scenario, "output": str(tmp_path / "run")}))
    request = RunRequest(scenario=tmp_path / "run.yaml", quiet=True, limit_batches=1)
    assert execute(request, load_plugins())["status"] == "finished"
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        composed({**teacher, "model": "resnet81"}, stream=stream)
    with pytest.raises(UserError, match="neither a file nor a name that torchvision can load"):
        composed({**teacher, "weights": "NOT_THERE"}, stream=stream)


@pytest.mark.filterwarnings("ignore:.*")  # mlflow's own: type hints, torch.export, deprecations of what it imports
def test_a_model_out_of_mlflow_speaks_as_it_did(
    composed: Composing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    with mlflow.start_run(experiment_id=mlflow.create_experiment("theirs", (tmp_path / "theirs").as_uri())):
        info = mlflow.pytorch.log_model(
            model, name="m", input_example=torch.zeros(2, 1, 8, 8).numpy(), pip_requirements=["torch"]
        )
    made = composed({"kind": "mlflow", "uri": info.model_uri})
    rows = made.stream[0].train.gather(torch.arange(4))
    torch.testing.assert_close(logits(made, 4), model(made.parts.augment.plain(rows.x)))
    with pytest.raises(UserError, match="cannot be loaded from MLflow"):
        composed({"kind": "mlflow", "uri": "models:/nobody@champion"})


def test_a_feature_that_a_teacher_lacks_is_named_before_training(composed: Composing) -> None:
    losses = ["cross_entropy", {"kind": "features", "between": ["student.penultimate", "big.stage9"]}]
    with pytest.raises(UserError, match=r"tap 'stage9' is not known"):
        composed(FIT, losses=losses)


TWO = {
    "dataset": {"name": "domains", "of": [{"name": "digits", "rows_per_class": n} for n in (10, 8)]},
    "split": {"by": "domain"},
}


@pytest.mark.parametrize(
    ("domains", "order", "shares"),
    [(["digits 1"], [0, 1], [1, 0]), ([1], [1, 0], [1, 0]), ([1, "digits 1"], [0, 1], [1, 1])],
)
def test_an_expert_of_some_domains_is_fitted_as_if_no_other_row_had_a_label(
    composed: Composing, domains: list[Any], order: list[int], shares: list[int]
) -> None:
    expert = composed({**FIT, "domains": domains}, stream=TWO)
    whole = composed(FIT, stream={**TWO, "split": {"by": "domain", "order": order}, "labelled": shares})
    everything = composed(FIT, stream=TWO)
    x = expert.store.train.x[:24].float()
    said, same, other = (each.parts.teachers["big"].network(x) for each in (expert, whole, everything))
    assert torch.equal(said, same)
    assert torch.equal(said, other) == (shares == [1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"domains": ["digits 3"]},
            r"teachers\.big: domains: there is no domain 'digits 3', the data has digits 1, digits 2",
        ),
        ({"domains": [2]}, r"domains: there is no domain 2, the data has digits 1, digits 2"),
        ({"domains": [1]}, r"domains: no row of 1 has a label"),
    ],
)
def test_an_expert_of_a_domain_that_nobody_has_is_refused(
    composed: Composing, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        composed({**FIT, **change}, stream={**TWO, "labelled": [1, 0]})


def test_only_data_with_domains_has_experts(composed: Composing) -> None:
    with pytest.raises(UserError, match="the rows of digits are all of one domain: leave it out"):
        composed({**FIT, "domains": [0]})


def test_who_is_stopped_while_a_teacher_is_tried_stops() -> None:
    class Stopped(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise Interrupted("stopped by Ctrl-C", 130)

    context: Any = SimpleNamespace(shape=(1, 8, 8), device=torch.device("cpu"))
    with pytest.raises(Interrupted):
        Foreign(Stopped(), context, None, None)


@pytest.mark.parametrize(
    ("model", "classes", "said"),
    [
        ("resnet18", 10, r"does not take rows of shape \(1, 8, 8\) .*: say by `view` what it sees"),
        ("squeezenet1_1", 10, "has no linear output layer"),
    ],
)
def test_a_torchvision_model_that_does_not_fit_the_rows_is_one_line(
    composed: Composing, tmp_path: Path, model: str, classes: int, said: str
) -> None:
    from clkd.vision import torchvision

    state = torchvision().models.get_model(model, weights=None, num_classes=classes).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    teacher = {"kind": "torchvision", "model": model, "weights": str(tmp_path / "w.safetensors")}
    with pytest.raises(UserError, match=said):
        composed({**teacher, "classes": [str(c) for c in range(10)]})
