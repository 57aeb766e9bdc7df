"""The teacher `timm` keeps every law, and says what timm's classifier says."""

from pathlib import Path
from typing import Any

import clkd_timm
import pytest
import torch
from clkd_timm.library import timm
from clkd_timm.teacher import teacher
from safetensors.torch import save_file

from clkd.errors import UserError
from clkd.signals import Needs
from clkd.testing import tiny
from clkd.testing.parts import check_part
from clkd.testing.tiny import Tiny

KD = ["cross_entropy", {"kind": "kd", "between": ["student", "external"]}]


@pytest.fixture
def clkd_plugins() -> list[object]:
    return [clkd_timm]


@pytest.fixture
def said(clkd_tiny: Tiny) -> dict[str, Any]:
    """A classifier of the tiny stream's four classes, for grey rows, in a file beside the scenario."""
    torch.manual_seed(0)
    save_file(
        timm().create_model("test_resnet", num_classes=4, in_chans=1).state_dict(), clkd_tiny.folder / "t.safetensors"
    )
    return {"kind": "timm", "model": "test_resnet", "checkpoint": "t.safetensors"}


def test_contract(clkd_tiny: Tiny, said: dict[str, Any]) -> None:
    check_part(clkd_tiny, "teachers", said)
    colour = {**said, "view": {"channels": "rgb", "size": 32}}
    torch.manual_seed(0)
    save_file(timm().create_model("test_resnet", num_classes=4).state_dict(), clkd_tiny.folder / "t.safetensors")
    check_part(clkd_tiny, "teachers", colour)


def test_it_says_what_the_classifier_says(clkd_tiny: Tiny, said: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = timm().create_model("test_resnet", num_classes=4, in_chans=1).eval()
    made = teacher("test_resnet", clkd_tiny.context, checkpoint=str(clkd_tiny.folder / "t.safetensors"))
    made.request(("penultimate", "stage2"))
    batch = tiny.batch(clkd_tiny.stream[1])
    found = made.signals(batch, Needs(features=("penultimate", "stage2")))
    with torch.no_grad():
        last, maps = network.forward_intermediates(batch.x)
        expected = network.forward_head(last)
    assert found.logits is not None
    torch.testing.assert_close(found.logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.features["stage2"], maps[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.features["penultimate"], network.forward_head(last, pre_logits=True))
    head = made.classifier()
    assert head is not None
    torch.testing.assert_close(head(found.features["penultimate"]), found.logits)
    assert made.spec("stage2").shape == tuple(maps[2].shape[1:])


def test_colour_is_normalised_as_timm_notes(clkd_tiny: Tiny) -> None:
    """Mean and std 0.5 of `test_resnet.r160_in1k`: a pixel of v/255 is seen as (v/255 − 0.5) / 0.5."""
    torch.manual_seed(0)
    file = clkd_tiny.folder / "c.safetensors"
    save_file(timm().create_model("test_resnet", num_classes=4).state_dict(), file)
    from clkd.options import ViewOptions

    own = {"model": "test_resnet", "context": clkd_tiny.context, "checkpoint": str(file)}
    view = ViewOptions(channels="rgb")
    made = teacher(**own, view=view)
    context = clkd_tiny.context
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    (seen,) = made.views()
    normalised = (x - context.mean.view(1, -1, 1, 1)) / context.std.view(1, -1, 1, 1)
    torch.testing.assert_close(seen(normalised), ((x - 0.5) / 0.5).expand(-1, 3, -1, -1))
    (plain,) = teacher(**own, view=view, normalize="stream").views()
    torch.testing.assert_close(plain(normalised), normalised.expand(-1, 3, -1, -1))


def test_a_run_goes_on_though_the_file_is_gone(clkd_tiny: Tiny, said: dict[str, Any]) -> None:
    from clkd.engine.execute import execute
    from clkd.scenario.request import RunRequest

    sections: dict[str, Any] = {"teachers": {"external": said}, "losses": KD}
    whole = clkd_tiny.run(**sections)
    path = clkd_tiny.scenario(**sections)
    cut = execute(RunRequest(scenario=path, limit_experiences=1, quiet=True), clkd_tiny.plugins)
    (clkd_tiny.folder / "t.safetensors").unlink()
    directory = Path(cut["checkpoint"]).parents[1]
    resumed = execute(RunRequest(resume=str(directory), quiet=True), clkd_tiny.plugins)
    assert resumed["accuracy_matrix"] == whole["accuracy_matrix"]


def test_classes_have_to_be_the_streams(clkd_tiny: Tiny) -> None:
    file = clkd_tiny.folder / "six.pt"
    torch.save(timm().create_model("test_resnet", num_classes=6, in_chans=1).state_dict(), file)
    with pytest.raises(UserError, match="the teacher has 6 classes, the stream has 4"):
        teacher("test_resnet", clkd_tiny.context, checkpoint=str(file))
    named: tuple[int | str | None, ...] = ("left", None, 0, None, None, None)
    made = teacher("test_resnet", clkd_tiny.context, checkpoint=str(file), classes=named)
    assert made.spec().class_ids[:1] == (2,)
    assert made.spec().class_ids[2] == 0


def test_weights_have_to_come_from_somewhere(clkd_registry: Any) -> None:
    for more in ({}, {"checkpoint": "a.pt", "pretrained": True}):
        with pytest.raises(ValueError, match="one of `checkpoint: FILE` and `pretrained: true`"):
            clkd_registry.parse("teachers", {"kind": "timm", "model": "test_resnet", **more})
