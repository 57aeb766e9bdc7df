"""What holds for every stream, and what makes each kind what it is."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from clkd.data.source import Split
from clkd.data.store import Store
from clkd.errors import UserError
from clkd.registry import Registry
from clkd.streams import ClassOptions, clkd_register_streams
from clkd.streams.base import Stream
from clkd.streams.domains import Permuted, Rotated

REGISTRY = Registry()
clkd_register_streams(register=REGISTRY.register_for("streams", "clkd.streams", "clkd"))


def cut(store: Store, seed: int = 0, **options) -> Stream:
    return REGISTRY.build(REGISTRY.parse("streams", options), store=store, seed=seed)


def given(store: Store) -> Store:
    """The same store, whose rows name their experience: the class modulo 3."""
    columns = {name: replace(getattr(store, name), experience=getattr(store, name).y % 3) for name in ("train", "test")}
    return replace(store, **columns)


PARTITIONS = [
    {"by": "class", "experiences": 5},
    {"by": "class", "experiences": 4, "first": 4, "order": "random"},
    {"by": "class", "classes": [[9, "name 1"], [2, 3, 4, 5, 6, 7, 8, 0]]},
    {"by": "task", "experiences": 3, "order": list(range(9, -1, -1))},
    {"by": "data", "experiences": 7},
    {"by": "given"},
]


@pytest.mark.parametrize("validation", [0.0, 0.3])
@pytest.mark.parametrize("options", PARTITIONS, ids=lambda o: o["by"])
def test_every_training_row_arrives_exactly_once(store: Store, options: dict, validation: float) -> None:
    stream = cut(given(store), **options, validation=validation)
    every = torch.cat([torch.cat([e.train.sample_id, e.validation.sample_id]) for e in stream])
    assert every.sort().values.tolist() == list(range(len(store.train)))
    for e in stream:
        for rows, split in ((e.train, store.train), (e.validation, store.train), (e.test, store.test)):
            assert torch.equal(rows.y, split.y[rows.sample_id])
            assert torch.equal(rows.x[rows.index], split.x[rows.sample_id])
            assert (rows.experience, rows.domain) == (e.index, 0)


@pytest.mark.parametrize("options", [*PARTITIONS, {"by": "domain", "transform": "permuted", "experiences": 3}])
def test_experiences_keep_account_of_classes(store: Store, options: dict) -> None:
    stream = cut(given(store), **options, validation=0.2)
    seen: list[int] = []
    for i, e in enumerate(stream):
        assert (e.index, e.count, set(e.classes)) == (i, len(stream), set(e.train.y.tolist()))
        assert e.old_classes == tuple(seen)
        assert e.new_classes == tuple(c for c in e.classes if c not in seen)
        seen += e.new_classes
        assert e.seen == tuple(seen)
    assert stream.left_out() == []


@pytest.mark.parametrize("options", [*PARTITIONS, {"by": "domain", "transform": "rotated", "experiences": 2}])
def test_validation_is_the_same_share_of_each_class(store: Store, options: dict) -> None:
    for e in cut(given(store), **options, validation=0.25):
        for c in e.classes:
            kept, held = int((e.train.y == c).sum()), int((e.validation.y == c).sum())
            assert held == (kept + held) // 4
        assert not set(e.train.sample_id.tolist()) & set(e.validation.sample_id.tolist())


def test_a_place_is_new_in_the_first_experience_that_has_it(store: Store) -> None:
    """The second experience has a class more than the first: its place has not come before."""
    stream = cut(store, by="class", classes=[[3], [0, 1], [4, 5]], labels="place")
    assert [(e.old_classes, e.new_classes, e.seen) for e in stream] == [
        ((), (0,), (0,)),
        ((0,), (1,), (0, 1)),
        ((0, 1), (), (0, 1)),
    ]


AGAIN = [
    {"by": "domain", "transform": "rotated", "experiences": 3},
    {"by": "domain", "transform": "permuted", "experiences": 3},
    {"by": "domain", "domains": ["clean", "haze", "clean"]},
    {"by": "repeated", "experiences": 6, "repetition": 0.6, "rows": 80},
    {"by": "repeated", "experiences": 4, "repetition": 1.0, "first_occurrence": 1.0, "rows": 400},
]


@pytest.mark.parametrize("options", AGAIN, ids=str)
def test_nobody_trains_on_a_validation_row_whenever_it_comes(store: Store, options: dict) -> None:
    """Rows come again here: seen in training as another domain, or another time, one would be no row to validate on."""
    stream = cut(store, **options, validation=0.25)
    aside, trained = (
        {at for e in stream for at in getattr(e, split).sample_id.tolist()} for split in ("validation", "train")
    )
    assert not aside & trained
    came = sum(len(e.train) + len(e.validation) for e in stream)
    assert sum(len(e.validation) for e in stream) / came == pytest.approx(0.25, abs=0.04)


RANDOM = [
    {"by": "class", "experiences": 5, "order": "random"},
    {"by": "class", "experiences": 5, "validation": 0.5},
    {"by": "data", "experiences": 3},
    {"by": "domain", "transform": "permuted", "experiences": 2},
    {"by": "domain", "transform": "rotated", "experiences": 2},
]


@pytest.mark.parametrize("options", RANDOM)
def test_the_seed_decides_and_the_fingerprint_knows(store: Store, options: dict) -> None:
    prints = [cut(store, seed, **options).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    other = replace(store, fingerprint="other rows")
    assert cut(other, 0, **options).fingerprint() != prints[0]


def test_an_order_seed_outweighs_the_run(store: Store) -> None:
    options = {"by": "class", "experiences": 5, "order": "random"}
    orders = [[e.classes for e in cut(store, seed, **options, order_seed=7)] for seed in (0, 1)]
    assert orders[0] == orders[1] != [e.classes for e in cut(store, 0, **options)]


def test_random_class_orders_are_uniform(make_store: Callable[..., Store]) -> None:
    """Each of 6 orders of 3 classes: 600 draws, 100 ± 9.1 each; five deviations are allowed."""
    store, counts = make_store(3), {}
    for seed in range(600):
        order = tuple(c for e in cut(store, seed, by="class", experiences=3, order="random") for c in e.classes)
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(n - 100) < 5 * 9.13 for n in counts.values())


def test_classes_are_dealt_as_documented(store: Store) -> None:
    sizes = [
        [len(e.classes) for e in cut(store, by="class", **o)]
        for o in ({"experiences": 3}, {"experiences": 4, "first": 5})
    ]
    assert sizes == [[4, 3, 3], [5, 2, 2, 1]]
    explicit = cut(store, by="class", classes=[["name 9", 0], [4]])
    assert [(e.name, e.classes) for e in explicit] == [("[9, 0]", (9, 0)), ("[4]", (4,))]
    row = explicit.describe()[0]
    assert (row["class_names"], row["classes"]) == (["name 9", "name 0"], [9, 0])
    assert (row["train"], row["validation"], row["test"]) == (20 + 47, 0, 5 + 14)
    assert row["left_out"] == [f"name {c}" for c in (1, 2, 3, 5, 6, 7, 8)]
    assert "left_out" not in cut(store, by="class", experiences=2).describe()[0]


def test_only_a_task_stream_tells_the_task(store: Store) -> None:
    by_class, by_task = (cut(store, by=by, experiences=2) for by in ("class", "task"))
    assert (by_class.task_labels, by_task.task_labels) == (False, True)
    assert by_class.fingerprint() != by_task.fingerprint()
    assert [e.classes for e in by_class] == [e.classes for e in by_task]


def test_a_data_stream_tests_everything_each_time(store: Store) -> None:
    stream = cut(store, by="data", experiences=4)
    assert {len(e.train) for e in stream} <= {len(store.train) // 4, len(store.train) // 4 + 1}
    assert all(torch.equal(e.test.sample_id, torch.arange(len(store.test))) for e in stream)
    labels = stream[0].train.sample_id
    assert abs(labels.double().mean() - len(store.train) / 2) < 5 * len(store.train) / (12 * len(labels)) ** 0.5


def test_given_experiences_domains_and_shared_test_rows(store: Store) -> None:
    train = replace(store.train, experience=store.train.y % 3 + 4, domain=store.train.y % 3)
    test = replace(store.test, experience=torch.full_like(store.test.y, -1))
    stream = cut(replace(store, train=train, test=test), by="given")
    assert [(e.name, e.train.domain, len(e.test)) for e in stream] == [
        (f"given {i + 4}", i, len(store.test)) for i in range(3)
    ]
    mixed = replace(train, domain=store.train.y % 2)
    with pytest.raises(UserError, match=r"experience 0 mixes domains \[0, 1\]"):
        cut(replace(store, train=mixed, test=test), by="given")
    with pytest.raises(UserError, match="small does not"):
        cut(store, by="given")


def test_a_permutation_moves_pixels_whole_and_the_same_way_everywhere() -> None:
    x = torch.arange(2 * 3 * 35, dtype=torch.uint8).view(2, 3, 5, 7)
    warp = pickle.loads(pickle.dumps(Permuted(seed=5)))
    y = warp(x)
    assert torch.equal(y, Permuted(5)(x))
    assert not torch.equal(y, Permuted(6)(x))
    place = y[0, 0].flatten().long()
    assert place.sort().values.tolist() == list(range(35))
    assert torch.equal(y.flatten(2), x.flatten(2)[:, :, place])


def test_domains_have_all_rows_and_differ(make_store: Callable[..., Store]) -> None:
    store = make_store(3, (3, 6, 6))
    stream = cut(store, by="domain", transform="permuted", experiences=3)
    ready = [e.train.ready("cpu") for e in stream]
    assert torch.equal(ready[0].x[ready[0].index], store.train.x)
    assert [e.name for e in stream] == ["plain", "permuted 1", "permuted 2"]
    assert [e.train.domain for e in stream] == [0, 1, 2]
    assert not torch.equal(ready[1].x, ready[2].x)
    assert torch.equal(ready[1].x.sum((2, 3)), store.train.x.sum((2, 3)))
    assert torch.equal(stream[1].test.ready("cpu").x, stream[1].train.warp(store.test.x))
    shuffled = cut(store, by="domain", transform="permuted", experiences=2, first_plain=False)
    assert not torch.equal(shuffled[0].train.ready("cpu").x, store.train.x)


@pytest.mark.parametrize("angle", [0.0, 17.0, 90.0, 133.3, 180.0, -45.0])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 31)])
def test_rotation_agrees_with_torchvision(angle: float, shape: tuple[int, ...]) -> None:
    from clkd import vision

    vision.torchvision()
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    x = torch.randint(0, 256, (4, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = rotate(x, angle, interpolation=InterpolationMode.BILINEAR)
    difference = (Rotated(angle)(x).int() - expected.int()).abs()
    assert difference.max() <= 1
    # Half a pixel off, as at 90° with odd and even sides, every second value may round the other way.
    assert difference.float().mean() < 0.1


def test_rotation_by_nothing_changes_nothing_in_any_number_of_rows() -> None:
    x = torch.randint(0, 256, (4100, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(Rotated(0.0)(x), x)


def test_angles_are_drawn_evenly_up_to_the_largest(make_store: Callable[..., Store]) -> None:
    """Of 500 angles on [0, 90): the mean is 45 ± 1.16, and all lie inside; five deviations are allowed."""
    store = make_store(2)
    angles = torch.tensor(
        [e.train.warp.angle for e in cut(store, by="domain", transform="rotated", experiences=500, max_angle=90)]
    )
    assert abs(angles.mean() - 45) < 5 * 90 / (12 * 500) ** 0.5
    assert 0 <= angles.min() < 2
    assert 88 < angles.max() < 90
    fixed = cut(store, by="domain", transform="rotated", angles=[0, 30.5])
    assert [e.name for e in fixed] == ["rotated 0°", "rotated 30.5°"]


@pytest.mark.parametrize("transform", ["permuted", "rotated"])
def test_what_follows_another_stream_draws_on(store: Store, transform: str) -> None:
    whole = cut(store, by="domain", transform=transform, experiences=4)
    part = REGISTRY.parse("streams", {"by": "domain", "transform": transform, "experiences": 2})
    later = REGISTRY.build(part, store=store, seed=0, offset=2)
    assert [(e.name, e.train.warp) for e in later] == [(e.name, e.train.warp) for e in whole[2:]]


def test_moving_a_stream_keeps_what_is_shared_shared(store: Store) -> None:
    stream = cut(store, by="class", experiences=5)
    fingerprint = stream.fingerprint()
    meta = stream.to("meta")
    assert meta is stream
    assert {e.train.x.device.type for e in stream} | {e.test.y.device.type for e in stream} == {"meta"}
    assert len({id(e.train.x) for e in stream}) == 1
    assert cut(store, by="class", experiences=5).to("cpu").fingerprint() == fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "class", "experiences": 11}, "11 experiences need at least 11 classes, the data set has 10"),
        ({"by": "class", "experiences": 3, "first": 9}, "3 experiences with 9 classes in the first need at least 11"),
        ({"by": "class", "classes": [[0, 1], [1]]}, r"class 1 \(name 1\) is named 2 times"),
        ({"by": "class", "classes": [[0, 10]]}, "class 10 does not exist, the data set has classes 0 to 9"),
        ({"by": "class", "classes": [["nam 3"]]}, "class 'nam 3' does not exist, did you mean 'name 3'"),
        ({"by": "class", "experiences": 2, "order": [0, 1, 2]}, "name 3, .* missing: name every class once"),
        ({"by": "class", "classes": [[0], []]}, r"experience 1 \(\[\]\) would have no training rows"),
        ({"by": "data", "experiences": 100_000}, "at least as many training rows"),
    ],
)
def test_impossible_splits_are_refused(store: Store, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(store, **options)


def test_a_class_without_test_rows_is_named(store: Store) -> None:
    test = store.test.rows((store.test.y != 3).nonzero().flatten())
    with pytest.raises(UserError, match=r"experience 3 \(\[3\]\) would have no test rows"):
        cut(replace(store, test=test), by="class", experiences=10)


def test_vectors_have_no_domains(store: Store) -> None:
    vectors = Split(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(UserError, match="needs images, but rows are vectors"):
        cut(replace(store, train=vectors, test=vectors), by="domain", transform="rotated", experiences=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "class"}, "either experiences"),
        ({"by": "class", "experiences": 2, "classes": [[0]]}, "either experiences"),
        ({"by": "class", "classes": [[0]], "order": "random"}, "leave out first and order"),
        ({"by": "class", "experiences": 1, "first": 2}, "at least 2 experiences"),
        ({"by": "class", "experiences": 2, "order_seed": 1}, "only used with order: random"),
        ({"by": "class", "experiences": 2, "validation": 1.0}, "less than 1"),
        ({"by": "domain", "transform": "permuted"}, "either experiences"),
        ({"by": "domain", "transform": "permuted", "angles": [1]}, "only used with transform: rotated"),
        (
            {"by": "domain", "transform": "permuted", "experiences": 2, "max_angle": 90},
            "only used with transform: rotated",
        ),
        (
            {"by": "domain", "transform": "rotated", "experiences": 2, "first_plain": False},
            "only used with transform: permuted",
        ),
        ({"by": "domain", "transform": "rotated", "angles": []}, "at least one angle"),
        ({"by": "data"}, "experiences"),
    ],
)
def test_options_that_contradict_each_other_or_do_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REGISTRY.parse("streams", options)


def test_problems_are_known_before_any_data_is_read() -> None:
    assert ClassOptions(experiences=10).problem(10) is None
    assert ClassOptions(experiences=3, first=8).problem(10) is None
    assert "need at least 11 classes" in ClassOptions(experiences=3, first=9).problem(10)
    assert "class 10 does not exist" in ClassOptions(classes=((0, 10),)).problem(10)
    assert "class -1 does not exist" in ClassOptions(experiences=2, order=(0, -1)).problem(2)


def looks(store: Store, *domains, **options) -> Stream:
    return cut(store, by="domain", domains=list(domains), **options)


def test_a_stream_of_corruptions(store: Store) -> None:
    stream = looks(store, "clean", {"kind": "gaussian_noise", "severity": 5}, "jpeg", {"kind": "rotated", "angle": 90})
    assert [e.name for e in stream] == ["clean", "gaussian_noise 5", "jpeg 3", "rotated 90"]
    assert [e.train.domain for e in stream] == [0, 1, 2, 3]
    for e in stream:
        batch = e.train.gather(torch.arange(4))
        assert batch.domain.tolist() == [e.index] * 4
        assert torch.equal(batch.x, store.train.x[:4]) == (e.index == 0)
        ready = e.train.ready("cpu")
        assert torch.equal(ready.gather(torch.arange(4)).x, batch.x), "batch by batch as all at once"
    assert pickle.loads(pickle.dumps(stream[1].train.warp)) == stream[1].train.warp


def test_a_domain_that_comes_back_is_the_same_domain(store: Store) -> None:
    stream = looks(store, "clean", "haze", "clean", "jpeg", "haze", validation=0.2)
    assert [e.train.domain for e in stream] == [0, 1, 0, 2, 1]
    angles = cut(store, by="domain", transform="rotated", angles=[0, 30, 0])
    assert [e.train.domain for e in angles] == [0, 1, 0]


def test_a_gradual_shift_goes_in_steps(store: Store) -> None:
    stream = looks(store, "clean", {"kind": "haze", "severity": 4}, "clean", steps=4)
    assert [e.name.split()[-1] for e in stream] == ["clean", "1", "2", "3", "4", "3", "2", "1", "clean"]
    assert [e.train.domain for e in stream] == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    turned = looks(store, {"kind": "rotated", "angle": -10}, {"kind": "rotated", "angle": 20}, steps=3)
    assert [e.name for e in turned] == ["rotated -10", "rotated 0", "rotated 10", "rotated 20"]


def test_a_gradual_mixture_moves_rows_one_way(store: Store) -> None:
    stream = looks(store, "contrast", {"kind": "brightness", "severity": 5}, steps=5, drift="mixture")
    assert [e.name for e in stream][1] == "80% contrast 3, 20% brightness 5"
    before = torch.zeros(len(store.train), dtype=torch.bool)
    for e in stream:
        x, ends = e.train.ready("cpu").x, [stream[i].train.warp(store.train.x) for i in (0, -1)]
        moved = (x == ends[1]).flatten(1).all(1)
        assert ((x == ends[0]).flatten(1).all(1) | moved).all()
        assert (moved | ~before).all()
        share, n = e.index / 5, len(moved)
        assert abs(moved.double().mean() - share) <= 5 * (share * (1 - share) / n) ** 0.5
        before = moved


def test_a_mixture_is_the_same_on_the_way_back(store: Store) -> None:
    for there in ("haze", "clean"):  # whichever of the two names comes first in the alphabet
        back = "clean" if there == "haze" else "haze"
        stream = looks(store, there, back, there, steps=4, drift="mixture")
        assert [e.train.domain for e in stream] == [0, 1, 2, 3, 4, 3, 2, 1, 0]
        for i in range(9):
            assert torch.equal(stream[i].train.ready("cpu").x, stream[8 - i].train.ready("cpu").x)
        assert stream[7].name == f"25% {stream[4].name}, 75% {stream[0].name}"


def test_a_domain_of_test_rows_alone_is_not_left_out_in_silence(store: Store) -> None:
    train = replace(store.train, domain=torch.zeros_like(store.train.y))
    own = replace(store, train=train, test=replace(store.test, domain=store.test.y % 2))
    with pytest.raises(UserError, match=r"no training row of domain 1 is left, .*: name .* in `order`"):
        cut(own, by="domain")
    assert len(cut(own, by="domain", order=[0])) == 1


def test_the_data_s_own_domains_may_come_back(store: Store) -> None:
    columns = {name: replace(getattr(store, name), domain=getattr(store, name).y % 2) for name in ("train", "test")}
    own = replace(store, **columns, domain_names=("ink", "paint"))
    assert [(e.name, e.train.domain) for e in cut(own, by="domain")] == [("ink", 0), ("paint", 1)]
    stream = cut(own, by="domain", order=[1, 0, 1])
    assert [(e.name, set((e.train.y % 2).tolist())) for e in stream] == [("paint", {1}), ("ink", {0}), ("paint", {1})]
    with pytest.raises(UserError, match="there is no domain 2, the data has 0, 1"):
        cut(own, by="domain", order=[0, 2])
    with pytest.raises(UserError, match="which small does not"):
        cut(store, by="domain")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"domains": ["hase"]}, "did you mean 'haze'"),
        ({"domains": [{"kind": "haze", "severity": 6}]}, "give at most 5.0; got 6"),
        ({"domains": [{"kind": "rotated"}]}, "rotated needs an angle"),
        ({"domains": [{"kind": "clean", "severity": 1}]}, "clean has no severity"),
        ({"domains": ["haze", "jpeg"], "steps": 2}, "put clean between"),
        ({"domains": ["haze"], "transform": "permuted", "experiences": 2}, "give one of transform, domains and order"),
        ({"domains": ["haze"], "order": [0]}, "leave out order"),
        ({"domains": ["haze"], "experiences": 2}, "only used with a transform"),
        ({"transform": "permuted", "experiences": 2, "steps": 2}, "only used with domains"),
    ],
)
def test_domains_that_make_no_sense_are_refused(options: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        REGISTRY.parse("streams", {"by": "domain", **options})


def test_classes_called_by_their_place_are_the_same_rows_in_domains(store: Store) -> None:
    options = {"by": "class", "experiences": 5, "order": "random"}
    own, placed = cut(store, 3, **options, validation=0.2), cut(store, 3, **options, validation=0.2, labels="place")
    assert (placed.name, placed.class_names) == ("domain", ("place 0", "place 1"))
    for a, b in zip(own, placed, strict=True):
        assert (b.classes, b.seen, b.new_classes) == ((0, 1), (0, 1), (0, 1) if b.index == 0 else ())
        for rows, same in ((a.train, b.train), (a.validation, b.validation), (a.test, b.test)):
            assert torch.equal(rows.sample_id, same.sample_id)
            assert torch.equal(torch.tensor(a.classes)[same.y], rows.y), "the k-th class is class k"
            assert same.domain == b.index
