import inspect
import logging
import math
import warnings

import pytest
import torch

from clkd.errors import UserError
from clkd.optimizers import (
    LENGTH,
    OPTIMIZERS,
    REQUIRED,
    SCHEDULERS,
    OptimizerOptions,
    SchedulerOptions,
    build_optimizer,
    build_scheduler,
    drop_subnormals,
)

NEEDED = {
    "step": {"step_size": 2},
    "multi_step": {"milestones": [1, 2]},
    "exponential": {"gamma": 0.9},
    "one_cycle": {"max_lr": 0.1},
    "cosine_warm_restarts": {"T_0": 3},
}


def _plain(default):
    return list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizers_are_listed_with_torchs_own_keywords_and_defaults(kind):
    signature = OPTIMIZERS[kind]
    real = inspect.signature(getattr(torch.optim, signature.torch_name)).parameters
    real = {name: _plain(parameter.default) for name, parameter in real.items() if name != "params"}
    assert {name: real[name] for name in signature.keywords} == dict(signature.keywords)
    assert signature.switches | set(signature.keywords) == set(real)


def test_no_optimizer_that_could_work_is_left_out():
    unusable = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}  # a base class, a closure, sparse gradients, matrices only
    real = {name for name in vars(torch.optim) if isinstance(getattr(torch.optim, name), type)} - unusable
    assert {signature.torch_name for signature in OPTIMIZERS.values()} == real


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_are_listed_with_torchs_own_keywords_and_defaults(kind):
    signature = SCHEDULERS[kind]
    real = dict(inspect.signature(getattr(torch.optim.lr_scheduler, signature.torch_name)).parameters)
    left_out = {"optimizer", "last_epoch"} | ({"epochs", "steps_per_epoch"} if kind == "one_cycle" else set())
    assert set(signature.keywords) == set(real) - left_out
    for name, default in signature.keywords.items():
        if default == REQUIRED:
            assert real[name].default is inspect.Parameter.empty
        elif default != LENGTH:
            assert real[name].default == default


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_is_built_and_steps(kind):
    weight = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = build_optimizer(OptimizerOptions(kind=kind, lr=0.1), [weight])
    assert type(optimizer).__name__ == OPTIMIZERS[kind].torch_name
    assert optimizer.param_groups[0]["lr"] == 0.1
    weight.sum().backward()
    optimizer.step()
    assert not torch.equal(weight, torch.ones(3, 3))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_of_what_an_optimizer_remembers_only_subnormal_numbers_are_dropped(kind):
    weight = torch.nn.Parameter(torch.ones(4, 4))
    given = {"momentum": 0.9} if kind == "sgd" else {}
    optimizer = build_optimizer(OptimizerOptions(kind=kind, lr=0.1, **given), [weight])
    weight.square().sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    kept = {name: value.detach().clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    several = [value for value in kept.values() if value.dim()]
    assert several
    for name, value in kept.items():
        if value.dim():
            value.flatten()[:4] = torch.tensor([1e-39, -1e-45, -1.2e-38, float("nan")])
            state[name].copy_(value)
            value.flatten()[:2] = 0
    drop_subnormals(optimizer)
    for name, value in kept.items():
        assert torch.equal(state[name].nan_to_num(7.0), value.nan_to_num(7.0)), name


@pytest.mark.parametrize(
    ("dtype", "dropped"),
    [
        (torch.float64, [True, False, False]),
        (torch.bfloat16, [True, True, False]),
        (torch.float16, [True, True, False]),
    ],
)
def test_what_is_too_small_depends_on_the_type_but_is_never_what_half_precision_still_tells_apart(dtype, dropped):
    weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    optimizer.state[weight]["momentum_buffer"] = torch.tensor([1e-320, 1e-40, 1e-7], dtype=dtype)
    drop_subnormals(optimizer)
    assert (optimizer.state[weight]["momentum_buffer"] == 0).tolist() == dropped


def test_options_reach_torch_and_defaults_are_filled_in():
    options = OptimizerOptions.model_validate({"kind": "SGD", "lr": 0.05, "momentum": 0.9, "foreach": False})
    group = build_optimizer(options, [torch.nn.Parameter(torch.ones(1))]).param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["foreach"]) == (0.05, 0.9, False, False)
    assert OptimizerOptions.model_validate("adam").keywords["lr"] == 1e-3
    assert OptimizerOptions.model_validate(options.model_dump(mode="json")) == options


@pytest.mark.parametrize(
    ("name", "kind"), [("SGD", "sgd"), ("adam_w", "adamw"), ("AdamW", "adamw"), ("RMS-prop", "rmsprop")]
)
def test_names_do_not_depend_on_case_or_underscores(name, kind):
    assert OptimizerOptions.model_validate(name).kind == kind


def test_schedulers_answer_to_torchs_names_too():
    assert SchedulerOptions.model_validate("CosineAnnealingLR").kind == "cosine"
    assert SchedulerOptions(kind="MultiStep", milestones=[1]).kind == "multi_step"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("sgdd", "optimizer 'sgdd' is not known (did you mean 'sgd'?)"),
        ({"kind": "sgd", "momentun": 0.9}, "unknown key (did you mean 'momentum'?)"),
        ({"kind": "sgd", "betas": [0.9, 0.99]}, "unknown key"),
        ({"kind": "sgd", "lr": "fast"}, "give a number; got 'fast'"),
        ({"kind": "sgd", "lr": True}, "give a number; got True"),
        ({"kind": "sgd", "lr": -0.1}, "give 0 or more; got -0.1"),
        ({"kind": "adam", "lr": float("nan")}, "give 0 or more; got nan"),
        ({"kind": "sgd", "nesterov": 1}, "give true or false; got 1"),
        ({"kind": "adam", "betas": 0.9}, "give a list of 2 numbers; got 0.9"),
        ({"kind": "sgd", "foreach": "yes"}, "give true or false; got 'yes'"),
        ({"lr": 0.1}, "the optimizer's 'kind' is missing"),
        (3, "give the optimizer's name, or a mapping with 'kind'; got int"),
    ],
)
def test_mistakes_in_an_optimizer_are_told_without_torch(raw, reason):
    with pytest.raises(ValueError, match="1 validation error") as caught:
        OptimizerOptions.model_validate(raw)
    assert reason in caught.value.errors()[0]["msg"]


def test_what_only_torch_can_refuse_is_one_line_as_well():
    weight = [torch.nn.Parameter(torch.ones(1))]
    with pytest.raises(UserError, match=r"train\.optimizer: sgd: Nesterov momentum requires"):
        build_optimizer(OptimizerOptions(kind="sgd", nesterov=True), weight)
    plain = build_optimizer(OptimizerOptions(kind="adagrad"), weight)
    with pytest.raises(UserError, match=r"train\.scheduler: one_cycle: "):
        build_scheduler(SchedulerOptions(kind="one_cycle", max_lr=0.1), plain, 2, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_lr": 0.1, "pct_start": 0.1}, "with pct_start 0.1 of 10 moves a part of the cycle has no length"),
        ({"max_lr": 0.1, "total_steps": 3}, "total_steps 3 are over before the 10 moves"),
    ],
)
def test_a_cycle_that_torch_would_break_on_is_one_line(options, said):
    sgd = build_optimizer(OptimizerOptions(kind="sgd", lr=0.1), [torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(UserError, match=rf"phases\.1\.scheduler: one_cycle: {said}"):
        build_scheduler(SchedulerOptions(kind="one_cycle", **options), sgd, 10, 3, "phases.1.")


@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("total", [2, 4, 10])
def test_a_cycle_that_is_taken_lasts_an_experience(three_phase, total):
    """Whatever its rise: those that torch divides by 0 for are refused, and all others are moved to their end."""
    taken = 0
    for rise in (0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.55, 0.75, 1.0):
        sgd = build_optimizer(OptimizerOptions(kind="sgd", lr=0.1), [torch.nn.Parameter(torch.ones(1))])
        options = SchedulerOptions(kind="one_cycle", max_lr=0.1, pct_start=rise, three_phase=three_phase)
        try:
            schedule = build_scheduler(options, sgd, total, 3)
        except UserError:
            continue
        taken += 1
        for _ in range(total):
            sgd.step()
            schedule.step()
    assert taken >= 3


def test_one_value_is_known_by_one_text():
    plain = OptimizerOptions(kind="sgd", lr=0.1).model_dump_json()
    assert OptimizerOptions(kind="sgd", lr=0.1, momentum=0.0).model_dump_json() == plain
    assert OptimizerOptions(kind="sgd", lr=10**400).keywords["lr"] == 10**400
    assert (
        OptimizerOptions(kind="adam", lr=1).model_dump_json() == OptimizerOptions(kind="adam", lr=1.0).model_dump_json()
    )


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("every", ["epoch", "step"])
def test_every_scheduler_is_built_and_lasts_an_experience(kind, every):
    epochs, steps = 4, 5
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer(OptimizerOptions(kind="sgd", lr=0.1, momentum=0.9), [weight])
    options = SchedulerOptions.model_validate({"kind": kind, "every": every, **NEEDED.get(kind, {})})
    schedule = build_scheduler(options, optimizer, epochs, steps)
    length = epochs if every == "epoch" else epochs * steps
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an optimizer step before each; the rates are the same without
        for _ in range(length):
            rates.append(optimizer.param_groups[0]["lr"])
            schedule.step()  # also after the last one
    n = length - 1
    assert rates[-1] == pytest.approx(
        {
            "step": 0.1 * 0.1 ** (n // 2),
            "multi_step": 0.1 * 0.1**2,
            "cosine": 0.1 * (1 + math.cos(math.pi * n / length)) / 2,
            "exponential": 0.1 * 0.9**n,
            "linear": 0.1 * (1 / 3 + 2 / 3 * min(n / 5, 1)),
            "constant": 0.1 / 3 if n < 5 else 0.1,
            "polynomial": 0.1 * max(1 - n / 5, 0),
            "one_cycle": 0.1 / 25 / 1e4,
            "cosine_warm_restarts": 0.1 * (1 + math.cos(math.pi * (n % 3) / 3)) / 2,
        }[kind]
    )
    assert max(rates) <= 0.1 + 1e-12


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("step", "is missing: scheduler 'step' needs it"),
        ({"kind": "cosine", "tmax": 3}, "unknown key (did you mean 'T_max'?)"),
        ({"kind": "cosine", "every": "day"}, "give 'epoch' or 'step'"),
        ({"kind": "multi_step", "milestones": 3}, "give a list of numbers"),
        ({"kind": "one_cycle", "max_lr": 1, "anneal_strategy": "log"}, "give cos or linear; got 'log'"),
        ({"kind": "step", "step_size": 0}, "give more than 0; got 0"),
        ({"kind": "cosine", "T_max": 0}, "give more than 0; got 0"),
        ({"kind": "one_cycle", "max_lr": 1, "div_factor": 0}, "give more than 0; got 0"),
        ({"kind": "one_cycle", "max_lr": 1, "final_div_factor": 0}, "give more than 0; got 0"),
        ({"kind": "constant", "factor": 0}, "give more than 0; got 0"),
        ("cosin", "did you mean 'cosine'?"),
    ],
)
def test_mistakes_in_a_scheduler_are_told_without_torch(raw, reason):
    with pytest.raises(ValueError, match="validation error") as caught:
        SchedulerOptions.model_validate(raw)
    assert reason in caught.value.errors()[0]["msg"]


def test_where_nothing_fuses_foreach_is_used_and_that_is_said_once(caplog):
    options = OptimizerOptions(kind="sgd", lr=0.1, fused=True)
    plain, unfused = (torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.complex64))
    assert build_optimizer(options, [plain]).defaults["fused"] is True
    with caplog.at_level(logging.WARNING):
        made = [build_optimizer(options, [unfused]) for _ in range(2)]
    assert [(o.defaults["fused"], o.defaults["foreach"]) for o in made] == [(False, True)] * 2
    assert [record.message.partition(" fused:")[0] for record in caplog.records] == [
        "train.optimizer: sgd: foreach instead of"
    ]
    with pytest.raises(UserError, match="cannot be `True` together"):
        build_optimizer(OptimizerOptions(kind="sgd", lr=0.1, fused=True, foreach=True), [plain])
