"""The front door of the plugin: the model and the teacher `timm`, and the options of each. It loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from clkd import Options, hookimpl
from clkd.teachers import ExternalOptions

if TYPE_CHECKING:
    from clkd.registry import Register

RESERVED = {
    "in_chans": "the rows' channels decide",
    "img_size": "the rows' size decides (change it by `view: {size: …}`)",
    "num_classes": "clkd's head, or the file, decides",
    "pretrained": "say it beside `arguments`",
    "checkpoint_path": "say `checkpoint` beside `arguments`",
    "pretrained_cfg": "say `checkpoint` beside `arguments`",
    "pretrained_cfg_overlay": "say `checkpoint` beside `arguments`",
    "features_only": "features are tapped by name",
    "cache_dir": "set $HF_HOME",
}
"""Arguments of timm's own that are not a scenario's to give, and who does."""

Arguments = dict[str, Any]


def _none_reserved(given: Arguments) -> Arguments:
    for key in given:
        if key in RESERVED:
            raise ValueError(f"'{key}' cannot be given: {RESERVED[key]}")
    return given


class TimmOptions(Options):
    """A network of timm without its classifier."""

    begins_with: ClassVar[tuple[str, ...]] = ("pretrained", "checkpoint")
    model: Annotated[str, Field(examples=["test_resnet"])]
    """Its name in timm, perhaps with the tag of its weights: `resnet18`, `resnet18.a1_in1k`."""
    pretrained: bool = False
    """Start from timm's own weights, out of the hub's cache or from the network."""
    checkpoint: str | None = None
    """Start from a local file of weights, `.safetensors`, `.pt` or `.pth`; a relative path starts at the scenario file.
    It is never unpickled."""
    arguments: Arguments = Field(default_factory=dict)
    """What else timm's constructor is given, such as `{drop_path_rate: 0.1}`."""

    _arguments = field_validator("arguments")(_none_reserved)

    @model_validator(mode="after")
    def _one_source(self) -> TimmOptions:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("`pretrained` and `checkpoint` both say where weights come from: keep one")
        return self


class TimmTeacherOptions(ExternalOptions):
    """A classifier of timm with its own classes."""

    model: Annotated[str, Field(examples=["test_resnet"])]
    """Its name in timm, perhaps with the tag of its weights."""
    pretrained: bool = False
    """Timm's own weights, out of the hub's cache or from the network."""
    checkpoint: Annotated[str | None, Field(examples=["weights.safetensors"])] = None
    """A local file of weights, as of the model `timm`."""
    arguments: Arguments = Field(default_factory=dict)
    """What else timm's constructor is given."""
    normalize: Literal["timm", "stream"] = "timm"
    """What rows of three channels are normalised with, unless `view` says it: as timm notes of these weights, or as the
    student's rows are, for a network that was trained on those."""

    _arguments = field_validator("arguments")(_none_reserved)

    @model_validator(mode="after")
    def _weights_from_somewhere(self) -> TimmTeacherOptions:
        if self.pretrained == (self.checkpoint is not None):
            raise ValueError("say where its weights come from: one of `checkpoint: FILE` and `pretrained: true`")
        return self


@hookimpl
def clkd_register_models(register: Register) -> None:
    """The student's side."""
    register("timm", "clkd_timm.backbone:TimmBackbone", config=TimmOptions, summary="any network of timm by name")


@hookimpl
def clkd_register_teachers(register: Register) -> None:
    """The teacher's side."""
    register("timm", "clkd_timm.teacher:teacher", config=TimmTeacherOptions, summary="a classifier of timm")
