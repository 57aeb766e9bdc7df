"""What a scenario says of its stream: the data, how it arrives, and how much of it there is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from clkd.options import DatasetPart, Options, StreamPart
from clkd.scenario.augment import Augmented, Normalized

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _shares(raw: Any) -> Any:
    """Told apart here, so that only the mistake of the one that is meant is reported."""
    if isinstance(raw, list | tuple):
        if not all(type(each) in (int, float) and 0 <= each <= 1 for each in raw):
            raise ValueError("give shares from 0 to 1, one for each experience, such as [1, 0, 0.1]")
    elif type(raw) not in (int, float) or not 0 < raw <= 1:
        raise ValueError("give a share above 0 and up to 1, or a list with one for each experience")
    return raw


Labelled = Annotated[Fraction | tuple[Share, ...], BeforeValidator(_shares)]


class Imbalance(Options):
    """Fewer training rows than the data has; test rows are all there. What stays is drawn from the seed."""

    ratio: Annotated[float, Field(ge=1)] | None = None
    """Long-tailed: the largest class has so many times the rows of the smallest, and the i-th of C n·ρ^(−i/(C−1))."""
    order: Literal["natural", "random"] = "natural"
    """Which class is the i-th: by id, or drawn from the run's seed."""
    rows: PositiveInt | tuple[PositiveInt, ...] | None = None
    """Instead of a ratio: so many rows of each class; one number, or one for each class in the order of ids."""
    rows_per_experience: PositiveInt | tuple[PositiveInt, ...] | None = None
    """So many rows in each experience; one number, or one for each. At least one row of each class stays."""

    @model_validator(mode="after")
    def _used(self) -> Imbalance:
        if self.ratio is not None and self.rows is not None:
            raise ValueError("give either ratio (long-tailed) or rows (of each class)")
        if self.ratio is None and self.order != "natural":
            raise ValueError("order is which classes have most rows by ratio: give ratio")
        if self.ratio is None and self.rows is None and self.rows_per_experience is None:
            raise ValueError("give ratio, rows or rows_per_experience")
        return self


class Extension(Options):
    """Data that came later (`clkd extend`): its experiences follow those before it. Classes are the same by name."""

    dataset: DatasetPart
    """Where its images and labels come from."""
    split: StreamPart
    """How it is cut into experiences."""
    labelled: Labelled = 1.0
    """As `stream.labelled`, for these rows."""
    imbalance: Imbalance | None = None
    """As `stream.imbalance`, for these rows."""
    new_domain: bool = False
    """Whether its rows are another domain than all before."""


class StreamOptions(Options):
    """The data, and how it is cut into experiences."""

    dataset: DatasetPart
    """Where images and labels come from (`clkd list datasets`)."""
    split: StreamPart
    """How the data is cut into experiences, `by` what (`clkd list streams`)."""
    labelled: Labelled = 1.0
    """The share of each experience's training rows, class by class (at least one row each), that keep their label,
    drawn from the seed; or one share for each experience, such as `[1, 0, 0.1]`, of which 0 means no label at all. The
    others teach by distillation only."""
    imbalance: Imbalance | None = None
    """Fewer training rows of some classes, or in some experiences, whatever the split; by default all there are."""
    online: bool = False
    """A single pass: each row comes once, in the order of its arrival, where the split knows one (`fuzzy`, `given`)."""
    boundaries: bool = True
    """Whether parts are told where an experience ends. `false` needs `online: true`, and refuses parts that would do
    anything at a boundary."""
    augment: Augmented = "standard"
    """`standard` is what the data set's own entry declares (`clkd list datasets NAME`)."""
    normalize: Normalized = "data"
    """By the mean and deviation of all training rows of `dataset` (`data`), of those of its first experience (`first`:
    nothing that comes later is known yet), or by the ones given here."""
    resident: Literal["auto"] | bool = "auto"
    """Whether rows live on the training device (`true`), or stay in the store while batches are read ahead (`false`);
    `auto` streams what would take more than half of the device's memory. The numbers are the same."""
    extensions: tuple[Extension, ...] = ()
    """Data that came after `dataset`, one after another."""

    @model_validator(mode="after")
    def _unbounded(self) -> StreamOptions:
        if not (self.boundaries or self.online):
            raise ValueError(
                "boundaries: false says nothing of experiences, so no row can come twice: set online: true"
            )
        return self
