"""Data: where images and labels come from, and the store they are kept in.

A data set is found (`source`), decoded once into memory-mapped tensors (`store`), and augmented in whole batches on
the device (`augment`). `prepare` does the first two; the rest of clkd sees only a `Store`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from clkd.hooks import hookimpl
from clkd.options import DatasetPart, OptionalPart, Options, Part

if TYPE_CHECKING:
    from clkd.registry import Register

Positive = Annotated[int, Field(gt=0)]


class DatasetOptions(Options):
    """Keys that every data set has beside its own."""

    class_count: ClassVar[int | None] = None
    """How many classes it has, where that is known before it is read."""
    shape: ClassVar[tuple[int, int, int] | None] = None
    """One row `(C, H, W)` where that is known before it is read: what a stand-in is converted to."""
    augment: ClassVar[dict[str, Any]] = {}
    """The augmentation that is standard for it; empty for none."""

    root: str | None = None
    """The folder to look in first, relative to the scenario file; then `$CLKD_DATA` and the cache."""
    offline: Annotated[Part | None, OptionalPart("datasets")] = None
    """The data set to use instead, and to announce, when this one can be had nowhere."""
    size: Positive | None = None
    """Resize images to this many pixels a side (bilinear, antialiased)."""
    channels: Literal[1, 3] | None = None
    """Turn images to grey (1) or to colour (3)."""
    rows_per_class: Positive | None = None
    """Keep only the first so many training rows of each class (and all that have no label)."""


class Cifar10Options(DatasetOptions):
    """CIFAR-10."""

    class_count: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (3, 32, 32)
    augment: ClassVar[dict[str, Any]] = {"crop": 4, "flip": True}

    trust: bool = False
    """Read batch files whose checksum is not the published one. They are pickles: a forged one can run any code."""


class Cifar100Options(Cifar10Options):
    """CIFAR-100 with its 100 fine labels."""

    class_count: ClassVar[int | None] = 100


class MnistOptions(DatasetOptions):
    """MNIST or Fashion-MNIST."""

    class_count: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)


class SvhnOptions(DatasetOptions):
    """Street View House Numbers, cropped digits."""

    class_count: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (3, 32, 32)
    augment: ClassVar[dict[str, Any]] = {"crop": 4}

    trust: bool = False
    """Read files whose checksum is not the published one."""


class DigitsOptions(DatasetOptions):
    """scikit-learn's bundled digits."""

    class_count: ClassVar[int | None] = 10
    shape: ClassVar[tuple[int, int, int] | None] = (1, 8, 8)


class ImageFolderOptions(DatasetOptions):
    """Your own images, one folder per class."""

    path: str
    """Holds `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*` to be split automatically."""
    skip_corrupt: bool = False
    """Leave out pictures that cannot be decoded, and count them, instead of stopping at the first."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of each class that becomes test rows, where there is no `test` folder."""


class ArraysOptions(DatasetOptions):
    """Your own arrays in an npz file."""

    path: str
    """Holds x_train, y_train, x_test, y_test, or x and y to be split automatically.

    Images are uint8 `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`; vectors are floats `[N, D]`. Optional: class_names,
    and the columns experience_train, experience_test, domain_train, domain_test (or experience, domain).
    """
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of each class that becomes test rows, where the file has no test arrays."""
    unlabelled: bool = False
    """Whether training rows whose y is -1 have no label; else -1 is a mistake."""


class AvalancheOptions(DatasetOptions):
    """Any Avalanche benchmark; `split: {by: given}` keeps its experiences."""

    benchmark: str
    """A classic benchmark (`SplitMNIST`), or any function that makes a benchmark (`package.module.function`)."""
    options: dict[str, Any] | None = None
    """Its keyword arguments."""
    trust: bool = False
    """Call a function that is not Avalanche's. It can be any in Python, so a scenario could run any code with it."""


class DomainsOptions(DatasetOptions):
    """Several data sets as one."""

    of: Annotated[tuple[DatasetPart, ...], Field(min_length=2)]
    """The data sets, each a domain, such as `[mnist, {name: image_folder, path: photos}]`. A class is known by its
    name. `size` and `channels` count for all of them; other options are each one's own."""

    @model_validator(mode="after")
    def _each_its_own(self) -> DomainsOptions:
        if self.rows_per_class is not None:
            raise ValueError("rows_per_class would keep rows of the first domain alone: give it to each of `of`")
        return self


@hookimpl
def clkd_register_datasets(register: Register) -> None:
    """The built-in data sets."""
    register("cifar10", "clkd.data.cifar:Cifar10", config=Cifar10Options, summary="60,000 colour images of 10 classes")
    register(
        "cifar100", "clkd.data.cifar:Cifar100", config=Cifar100Options, summary="60,000 colour images of 100 classes"
    )
    register("mnist", "clkd.data.idx:Mnist", config=MnistOptions, summary="70,000 handwritten digits")
    register("fashion_mnist", "clkd.data.idx:FashionMnist", config=MnistOptions, summary="70,000 pictures of clothing")
    register("svhn", "clkd.data.svhn:Svhn", config=SvhnOptions, summary="99,289 house numbers in colour")
    register(
        "digits",
        "clkd.data.digits:Digits",
        config=DigitsOptions,
        summary="1,797 handwritten digits that come with scikit-learn",
    )
    register(
        "image_folder",
        "clkd.data.image_folder:ImageFolder",
        config=ImageFolderOptions,
        summary="your own images, one folder per class",
    )
    register("arrays", "clkd.data.arrays:Arrays", config=ArraysOptions, summary="your own arrays in an npz file")
    register(
        "avalanche",
        "clkd.data.avalanche:AvalancheBenchmark",
        config=AvalancheOptions,
        summary="any Avalanche benchmark, by name",
    )
    register(
        "domains",
        "clkd.data.domains:Domains",
        config=DomainsOptions,
        summary="several data sets as one, each a domain with the same classes",
    )
