"""The model `timm` is a backbone like clkd's own: every law, and the numbers that timm itself gives."""

import json
from pathlib import Path
from typing import Any

import clkd_timm
import pytest
import torch
from clkd_timm.backbone import TimmBackbone
from clkd_timm.library import timm
from safetensors.torch import save_file

from clkd.errors import UserError
from clkd.models.heads import Linear
from clkd.models.student import Student
from clkd.signals import Needs
from clkd.testing.parts import check_part
from clkd.testing.tiny import Tiny

SHAPE = (3, 32, 32)
SMALL = {"model": {"kind": "timm", "model": "test_resnet"}, "head": "linear"}


@pytest.fixture
def clkd_plugins() -> list[object]:
    return [clkd_timm]


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("test_resnet", {}),
        ("test_efficientnet", {}),
        ("test_convnext", {}),
        ("test_vit", {"patch_size": 8, "drop_path_rate": 0.1}),
    ],
)
def test_contract(clkd_tiny: Tiny, model: str, arguments: dict[str, Any]) -> None:
    check_part(clkd_tiny, "models", {"kind": "timm", "model": model, "arguments": arguments})


@pytest.mark.parametrize(
    ("model", "shape", "features", "stages"),
    [
        ("test_resnet", (1, 32, 32), 96, {f"stage{k}": f"network.layer{k}" for k in (1, 2, 3, 4)}),
        ("test_vit", (3, 48, 48), 64, {f"stage{k}": f"network.blocks.{k - 1}" for k in range(1, 7)}),
        (
            "mobilenetv3_small_050",
            (2, 40, 36),
            1024,
            {"stage1": "network.blocks.0", "stage2": "network.blocks.1", "stage3": "network.blocks.3"},
        ),
    ],
)
def test_rows_decide_channels_and_size(
    model: str, shape: tuple[int, ...], features: int, stages: dict[str, str]
) -> None:
    network = TimmBackbone(shape, model).eval()
    assert network.out_features == features
    assert stages.items() <= network.stages.items()
    assert network(torch.zeros(2, *shape)).shape == (2, features)


def test_features_are_those_that_timm_gives() -> None:
    """By its own way to features, `forward_intermediates`; and its classifier's input is the penultimate one."""
    torch.manual_seed(0)
    student = Student(TimmBackbone(SHAPE, "test_resnet"), Linear(96), SHAPE).eval()
    torch.manual_seed(0)
    whole = timm().create_model("test_resnet", num_classes=0).eval()
    names = ("stage1", "stage4", "network.act1", "penultimate")
    student.request(names)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    said = student.signals(x, Needs(logits=False, features=names)).features
    with torch.no_grad():
        last, maps = whole.forward_intermediates(x)
        penultimate = whole.forward_head(last, pre_logits=True)
    for name, expected in (
        ("network.act1", maps[0]),
        ("stage1", maps[1]),
        ("stage4", maps[4]),
        ("penultimate", penultimate),
    ):
        torch.testing.assert_close(said[name], expected, rtol=1e-4, atol=1e-5)


def test_it_trains_and_goes_on_bit_for_bit(clkd_tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within the second experience, and resumed: the same weights as of the run that was never stopped."""
    from safetensors.torch import load_file

    from clkd.engine.execute import execute
    from clkd.scenario.request import RunRequest

    sections: dict[str, Any] = {
        "student": {"model": {**SMALL["model"], "arguments": {"drop_path_rate": 0.2}}, "head": "linear"},
        "teachers": {"previous": "previous"},
        "losses": ["cross_entropy", {"kind": "features", "between": ["student.stage2", "previous.stage2"]}],
        "memory": {"kind": "reservoir", "size": 8},
    }
    whole = clkd_tiny.run(**sections)
    cut = execute(
        RunRequest(scenario=clkd_tiny.scenario(**sections), limit_experiences=1, quiet=True), clkd_tiny.plugins
    )
    assert cut["status"] == "stopped"
    directory = Path(cut["checkpoint"]).parents[1]
    resumed = execute(RunRequest(resume=str(directory), quiet=True), clkd_tiny.plugins)
    assert resumed["status"] == whole["status"] == "finished"
    assert json.dumps(resumed["accuracy_matrix"]) == json.dumps(whole["accuracy_matrix"])
    a, b = (load_file(Path(each["checkpoint"]) / "state.safetensors") for each in (whole, resumed))
    weights = [name for name in a if name.startswith("/student/")]
    assert len(weights) > 50
    assert all(torch.equal(a[name], b[name]) for name in weights)


def test_it_teaches_as_clkds_own_do(clkd_tiny: Tiny) -> None:
    """Fitted on the stream, and from a file that a run has left."""
    wide = {"kind": "timm", "model": "test_resnet"}
    kd = ["cross_entropy", {"kind": "kd", "between": ["student", "external"]}]
    fitted = clkd_tiny.run(teachers={"external": {"kind": "fit", "model": wide, "epochs": 1}}, losses=kd)
    assert fitted["status"] == "finished"
    run = clkd_tiny.run(student={"model": wide, "head": "linear"})
    state = str(Path(run["checkpoint"]) / "state.safetensors")
    features = {"kind": "features", "between": ["student.penultimate", "external.stage3"], "align": "linear"}
    taught = clkd_tiny.run(
        teachers={"external": {"kind": "checkpoint", "path": state, "model": wide}}, losses=[*kd, features]
    )
    assert taught["status"] == "finished"


def test_weights_of_a_file_are_the_networks(tmp_path: Path) -> None:
    """A classifier of ten classes for colour at 32 pixels starts a student of grey rows at 48."""
    torch.manual_seed(1)
    saved = timm().create_model("test_vit", num_classes=10, img_size=32)
    save_file(saved.state_dict(), tmp_path / "vit.safetensors")
    same = TimmBackbone(SHAPE, "test_vit", checkpoint=str(tmp_path / "vit.safetensors")).state_dict()
    kept = {f"network.{name}": each for name, each in saved.state_dict().items() if not name.startswith("head.")}
    assert same.keys() == kept.keys()
    assert all(torch.equal(same[name], tensor) for name, tensor in kept.items())
    other = TimmBackbone((1, 48, 48), "test_vit", checkpoint=str(tmp_path / "vit.safetensors"))
    first = saved.patch_embed.proj.weight
    torch.testing.assert_close(other.network.patch_embed.proj.weight, first.sum(1, keepdim=True))
    assert other.network.pos_embed.shape[1] == 9 + 1
    assert "state_dict" not in other.network.pretrained_cfg


def test_the_run_draws_what_the_file_does_not_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm().create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "r.pt")
    found = TimmBackbone(SHAPE, "test_resnet", checkpoint=str(tmp_path / "r.pt"))
    torch.manual_seed(0)
    expected = TimmBackbone(SHAPE, "test_resnet")
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    )


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file(timm().create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"vit\.safetensors does not fit timm's 'test_resnet': .*Missing key"):
        TimmBackbone(SHAPE, "test_resnet", checkpoint=str(tmp_path / "vit.safetensors"))


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        (SHAPE, {"model": "resnet18x"}, r"timm has no model 'resnet18x' \(did you mean 'resnet18'\?\)"),
        (SHAPE, {"model": "zzzzqqqq"}, r"no model 'zzzzqqqq' \(timm\.list_models\('\*resnet\*'\)"),
        (
            SHAPE,
            {"model": "resnet18.a9_in1k"},
            r"no weights 'resnet18\.a9_in1k' \(of 'resnet18' it has .*resnet18\.a1_in1k",
        ),
        ((64,), {"model": "test_resnet"}, r"take images \(C, H, W\), not rows of shape \(64,\)"),
        (
            (1, 8, 8),
            {"model": "test_vit"},
            r"cannot make 'test_vit' for rows of shape \(1, 8, 8\)|does not take images",
        ),
        (SHAPE, {"model": "test_resnet", "arguments": {"drop_paths": 1}}, r"cannot make 'test_resnet'.*drop_paths"),
        (SHAPE, {"model": "test_resnet", "checkpoint": "nowhere.pt"}, r"the file .*nowhere\.pt does not exist"),
    ],
)
def test_mistakes_are_told(shape: tuple[int, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TimmBackbone(shape, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pretrained": True, "checkpoint": "a.pt"}, "keep one"),
        ({"arguments": {"in_chans": 3}}, "'in_chans' cannot be given: the rows' channels decide"),
        ({"modle": "x"}, "did you mean 'model'"),
    ],
)
def test_options_are_checked_with_the_scenario(clkd_registry: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clkd_registry.parse("models", {"kind": "timm", "model": "test_resnet", **options})
