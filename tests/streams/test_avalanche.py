"""clkd and Avalanche hand data to each other."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from clkd import vision
from clkd.data.avalanche import from_avalanche
from clkd.data.prepare import prepare
from clkd.data.source import Split
from clkd.data.store import Store, statistics
from clkd.errors import UserError
from clkd.options import Part
from clkd.registry import Registry
from clkd.streams.avalanche import to_avalanche
from clkd.streams.classes import by_class, by_task
from clkd.streams.domains import by_domain
from clkd.streams.given import as_given

# A strategy without an evaluator says so; the test evaluates for itself.
pytestmark = pytest.mark.filterwarnings("ignore:No loggers specified:UserWarning")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from clkd.data import DigitsOptions
    from clkd.data.digits import Digits

    cache = tmp_path_factory.mktemp("cache")
    return prepare(Part("datasets", "digits", DigitsOptions()), build=lambda part: Digits(), cache=cache, base=Path())


def images(seed: int = 0, n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 4, 4), generator=g, dtype=torch.uint8), torch.arange(n) % 6


def benchmark(seed: int = 0, experiences: int = 3):
    """A small class-incremental benchmark, made with Avalanche's own tools."""
    vision.avalanche()
    from avalanche.benchmarks import class_incremental_benchmark
    from avalanche.benchmarks.utils import DataAttribute, make_avalanche_dataset

    parts = {}
    for split, n in (("train", 60), ("test", 24)):
        x, y = images(seed + n, n)
        parts[split] = make_avalanche_dataset(
            TensorDataset(x, y), data_attributes=[DataAttribute(y.tolist(), "targets")]
        )
    return class_incremental_benchmark(parts, num_experiences=experiences, seed=1)


def as_store(raw) -> Store:
    mean, std = statistics(raw.train.x)
    return Store("benchmark", raw.train, raw.test, raw.class_names, mean, std, "0")


def test_an_avalanche_strategy_trains_on_a_clkd_stream(digits: Store) -> None:
    vision.avalanche()
    from avalanche.training import Naive

    stream = by_class(store=digits, seed=0, experiences=2)
    bench = to_avalanche(stream)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=32,
        train_epochs=1,
        evaluator=None,
    )
    strategy.train(bench.train_stream[0])
    own = stream[0].test.ready("cpu")
    mean, std = digits.mean[:, None, None], digits.std[:, None, None]
    with torch.no_grad():
        guess = model((own.x[own.index] / 255 - mean) / std).argmax(1)
    assert (guess == own.y).float().mean() > 0.8


def test_avalanche_sees_the_same_rows_classes_and_tasks(digits: Store) -> None:
    stream = by_task(store=digits, seed=0, experiences=3, validation=0.2)
    bench = to_avalanche(stream)
    for name, part in (("train", "train"), ("test", "test"), ("validation", "validation")):
        for experience, theirs in zip(stream, bench.streams[name], strict=True):
            rows = getattr(experience, part)
            assert set(theirs.classes_in_this_experience) == set(experience.classes)
            assert theirs.task_labels == [experience.index]
            x, y, t = theirs.dataset.eval()[5]
            assert (y, t) == (rows.y[5], experience.index)
            expected = (digits.train if part != "test" else digits.test).x[rows.index[5]] / 255
            torch.testing.assert_close(x, (expected - digits.mean[:, None, None]) / digits.std[:, None, None])


def test_augmentation_is_for_training_only_and_domains_arrive_warped(digits: Store) -> None:
    stream = by_domain(store=digits, seed=0, transform="permuted", experiences=2)
    data = to_avalanche(stream, augment=torch.zeros_like).train_stream[1].dataset
    black = ((0 - digits.mean) / digits.std).view(1, 1, 1).expand(1, 8, 8)
    torch.testing.assert_close(data.train()[0][0], black)
    warped = stream[1].train.ready("cpu").x[0]
    restored = data.eval()[0][0] * digits.std[:, None, None] + digits.mean[:, None, None]
    assert torch.equal(restored.mul(255).round().to(torch.uint8), warped)


def test_an_avalanche_benchmark_becomes_a_clkd_stream() -> None:
    bench = benchmark()
    stream = as_given(store=as_store(from_avalanche(bench)), seed=0)
    for split, theirs in (("train", bench.train_stream), ("test", bench.test_stream)):
        for experience, other in zip(stream, theirs, strict=True):
            rows = getattr(experience, split)
            assert set(experience.classes) == set(other.dataset.targets.uniques)
            assert torch.equal(rows.x[rows.index], torch.stack([row[0] for row in other.dataset]))
            assert rows.y.tolist() == [int(row[1]) for row in other.dataset]


def test_there_and_back_again(digits: Store) -> None:
    small = Store(
        "d", digits.train.rows(torch.arange(100)), digits.test, digits.class_names, torch.zeros(1), torch.ones(1), ""
    )
    stream = by_class(store=small, seed=3, experiences=4, order="random")
    again = as_given(store=as_store(from_avalanche(to_avalanche(stream))), seed=0)
    for before, after in zip(stream, again, strict=True):
        assert set(before.classes) == set(after.classes)
        assert torch.equal(before.train.x[before.train.index], after.train.x[after.train.index])


def test_one_test_experience_tests_all_and_float_rows_are_refused_unless_they_are_pixels() -> None:
    vision.avalanche()
    from avalanche.benchmarks.utils import DataAttribute, make_avalanche_dataset

    def parts(scale: float, *sizes: int) -> list[SimpleNamespace]:
        made = []
        for n in sizes:
            x, y = images(n, n)
            tensors = TensorDataset(x.float() * scale, y)
            made.append(
                SimpleNamespace(
                    dataset=make_avalanche_dataset(tensors, data_attributes=[DataAttribute(y.tolist(), "targets")])
                )
            )
        return made

    raw = from_avalanche(SimpleNamespace(train_stream=parts(1 / 255, 12, 18), test_stream=parts(1 / 255, 6)))
    assert torch.equal(raw.train.x[:12], images(12, 12)[0])
    assert [len(e.test) for e in as_given(store=as_store(raw), seed=0)] == [6, 6]
    with pytest.raises(UserError, match="no normalisation"):
        from_avalanche(SimpleNamespace(train_stream=parts(1.0, 12), test_stream=parts(1.0, 6)))


def test_benchmarks_are_found_by_name_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import clkd.data

    home = tmp_path / "home"
    home.mkdir()
    (home / "my_benchmarks.py").write_text("def make(experiences, dataset_root):\n    return MAKE(experiences)\n")
    monkeypatch.syspath_prepend(str(home))
    import my_benchmarks

    my_benchmarks.MAKE = lambda experiences: benchmark(experiences=experiences)
    registry = Registry()
    clkd.data.clkd_register_datasets(register=registry.register_for("datasets", "clkd.data", "clkd"))

    def store(trust=True, **options) -> Store:
        part = registry.parse("datasets", {"name": "avalanche", "trust": trust, **options})
        return prepare(part, build=registry.build, cache=tmp_path, base=tmp_path)

    first = store(benchmark="my_benchmarks.make", options={"experiences": 2})
    assert first.train.experience.unique().tolist() == [0, 1]
    my_benchmarks.MAKE = None  # a second run must not make it again
    assert store(benchmark="my_benchmarks.make", options={"experiences": 2}).fingerprint == first.fingerprint
    my_benchmarks.MAKE = lambda experiences: benchmark(experiences=3 * experiences)
    (tmp_path / "elsewhere").mkdir()
    other = store(benchmark="my_benchmarks.make", options={"experiences": 2}, root="elsewhere")
    assert other.train.experience.unique().tolist() == [0, 1, 2, 3, 4, 5], "what lies there may be other data"
    with pytest.raises(UserError, match="no option 'experience', did you mean 'experiences'"):
        store(benchmark="my_benchmarks.make", options={"experience": 2})
    for name in ("my_benchmarks.make", "os.system", "avalanche.benchmarks.classic.cmnist.Path"):
        with pytest.raises(UserError, match=r"is not Avalanche's.* set `trust: true`"):
            store(trust=False, benchmark=name)
    with pytest.raises(UserError, match="no 'SplitMNST', did you mean 'SplitMNIST'"):
        store(benchmark="SplitMNST")
    with pytest.raises(UserError, match="cannot be imported"):
        store(benchmark="my_benchmarks.other")
    assert isinstance(first.test, Split)
