"""Networks of clkd's own: students, and what teachers are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from clkd.context import Context
from clkd.errors import UserError
from clkd.models.prototypes import NearestMean
from clkd.models.student import Student
from clkd.options import Part, ViewOptions
from clkd.registry import Registry
from clkd.seeding import derive, forked, generator
from clkd.view import View, view_of


@dataclass(frozen=True, slots=True)
class Networks:
    """Builds them on one device, for the data that a context tells of."""

    registry: Registry
    device: torch.device
    channels_last: bool

    def fresh(
        self,
        model: Part,
        head: Part,
        context: Context,
        seed: int,
        view: View | None = None,
        channels_last: bool | None = None,
    ) -> Student:
        """Weights that depend on the seed and the model's name alone; a head without columns, if it can grow."""
        offers = {"context": context, "seed": seed}
        shape = context.shape if view is None else view.shape(context.shape)
        last = self.channels_last if channels_last is None else channels_last
        with forked(self.device):
            torch.manual_seed(derive(seed, "weights", model.name))
            backbone = self.registry.build(model, shape=shape, **offers)
            built = self.registry.build(head, in_features=backbone.out_features, **offers)
            network = Student(backbone, built, context.shape, last, view)
        return network.to(self.device)

    def whole(
        self, model: Part, class_ids: tuple[int, ...], seed: int, options: ViewOptions | None, context: Context
    ) -> Student:
        """A teacher's: it knows all its classes from the start, in the order of its outputs."""
        own = context.class_names
        names = tuple(own[c] if c < len(own) else f"output {i}" for i, c in enumerate(class_ids))
        view = view_of(options, context.mean, context.std, context.shape)
        fixed = self.registry.parse("heads", "fixed")
        network = self.fresh(model, fixed, replace(context, class_names=names), seed, view)
        if class_ids != network.class_ids:
            network.lay_out({"class_ids": class_ids, "born": (-1,) * len(class_ids)})
        network.grow(class_ids, 0, generator(seed))
        return network

    def rebuilt(self, about: dict[str, Any], class_ids: tuple[int, ...], context: Context) -> Student:
        """The student of another run (`clkd.engine.finished`), without its weights, built as it was there: those that
        it began with are not looked for."""
        chosen, said = about["student"], about.get("transfer", "none")
        try:
            model, head = (self.registry.parse(f"{key}s", chosen[key]) for key in ("model", "head"))
            strategies = [self.registry.parse("transfers", one) for one in (said if isinstance(said, list) else [said])]
        except ValueError as error:
            raise UserError(f"that run's student cannot be made here: {error}") from error
        theirs = replace(
            context,
            base=Path(about.get("base", context.base)),
            shape=tuple(about["shape"]),
            class_names=tuple(about["class_names"]),
            mean=torch.tensor(about["mean"]),
            std=torch.tensor(about["std"]),
        )
        options = ViewOptions.model_validate(chosen["view"]) if chosen.get("view") else None
        view = view_of(options, theirs.mean, theirs.std, theirs.shape)
        network = self.fresh(_untrained(model), head, theirs, 0, view, about["channels_last"])
        offers = {"seed": 0, "context": theirs, "experiences": (), "task_labels": about.get("task_labels", False)}
        for each in strategies:
            self.registry.build(each, **offers).prepare(network)
        network.lay_out({**about["layout"], "class_ids": class_ids})
        if isinstance(network.head, NearestMean):  # whose logits are distances, which nobody is trained to have
            network.head.teach()
        return network


def _untrained(model: Part) -> Part:
    """The same without the options that name what weights begin with."""
    fields = type(model.options).model_fields
    names = getattr(type(model.options), "begins_with", ())
    defaults = {name: fields[name].get_default(call_default_factory=True) for name in names}
    return replace(model, options=model.options.model_copy(update=defaults))
