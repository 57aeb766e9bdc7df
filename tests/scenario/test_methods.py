import pytest

from clkd.scenario.load import load
from clkd.scenario.resolve import resolved
from clkd.scenario.show import show

BARE = """\
name: m
method: %s
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: linear}
train: {optimizer: sgd}
"""


@pytest.fixture
def bare(tmp_path):
    def write(method, more=""):
        path = tmp_path / "m.yaml"
        path.write_text(BARE % method + more)
        return path

    return write


DARK = ("der", "derpp", "fdr", "xder")
VIEWS = ("fixmatch", "mean_teacher")


def settings(method):
    """These take no other head than their own, or need two views."""
    if method in VIEWS:
        return ["stream.augment={strong: {rotate: 15}}"]
    own = {"bic": "bias_corrected", **dict.fromkeys(DARK, "fixed")}
    return [f"student.head={own[method]}"] if method in own else []


def test_every_method_makes_a_whole_scenario_and_says_what_is_its_own(bare, registry):
    methods = registry.names("methods")
    assert {"finetune", "er", "er_ace", "derpp", "lwf", "icarl", "bic", "podnet", "gem", "rwalk"} <= set(methods)
    assert len(methods) == 32
    for method in methods:
        loaded = load(bare(method), settings(method), registry)
        assert loaded.scenario.method == method
        assert loaded.origins["losses", 0, "kind"] == "method"
        assert loaded.origins["train", "optimizer", "kind"] == "file"
        assert "# method" in show(loaded)


def test_methods_are_what_their_papers_say(bare, registry):
    finetune, er, lwf, kd_replay = (
        load(bare(method), [], registry).scenario for method in ("finetune", "er", "lwf", "kd_replay")
    )
    assert ([part.name for part in finetune.losses], finetune.memory.name, finetune.teachers) == (
        ["cross_entropy"],
        "none",
        {},
    )
    assert (er.memory.name, er.memory.options.size, len(er.losses)) == ("reservoir", 500, 1)
    assert lwf.memory.name == "none"
    assert lwf.losses[0].options.over == "new"
    assert (lwf.losses[1].options.temperature, lwf.losses[1].shared.weight) == (2.0, 1.0)
    assert lwf.losses[1].shared.between == ("student", "previous")
    assert kd_replay.losses[1].shared.weight.name == "old_fraction"
    assert kd_replay.memory.options.size == 500


IN_DOCS = {
    "mir": {"memory.retrieval.kind": "mir", "memory.retrieval.candidates": 50, "train.replay_batch_size": 10},
    "der": {"losses.1.weight": 0.3, "losses.1.variant": "mse", "memory.epochs": "all", "memory.store": ["logits"]},
    "xder": {"losses.1.weight": 0.3, "losses.2.over": "old", "losses.2.weight": 0.8, "losses.3.margin": 0.7,
             "losses.3.weight": 0.001, "losses.4.kind": "supcon", "losses.4.over": "future", "losses.4.views": 2,
             "losses.4.temperature": 5, "losses.4.weight": 0.05, "memory.rewrite": 0.85},
    "fdr": {"losses.1.variant": "l2", "losses.1.temperature": 1, "losses.1.weight": 1, "memory.store": ["logits"]},
    "lwf_mc": {"losses.0.kind": "binary_cross_entropy", "losses.0.over": "new", "memory.kind": "none"},
    "icarl": {"memory.kind": "herding", "memory.size": 2000, "student.head.rows": "memory", "train.mix_memory": True},
    "eeil": {"losses.1.scope": "per_task", "losses.2.over": "newest", "phases.0.rows": "balanced",
             "train.mix_memory": True},
    "lucir": {"losses.1.weight.value": 5, "student.head.fixed_old": True, "student.head.imprint": True,
              "train.mix_memory": True},
    "podnet": {"student.head.proxies": 10, "student.head.scale": 8, "losses.1.weight.of": "seen",
               "phases.0.trains": "head"},
    "bic": {"memory.size": 1800, "phases.0.keep": 200, "phases.0.share": 0.1, "phases.0.trains": "bias",
            "train.mix_memory": True},
    "wa": {"student.head.align": True, "student.head.positive": True, "train.mix_memory": True},
    "agem": {"train.gradient.kind": "agem", "train.replay_batch_size": 256, "memory.kind": "class_balanced"},
    "gem": {"train.gradient.margin": 0.5, "train.replay_batch_size": 500, "memory.kind": "experience_balanced"},
    "ewc": {"losses.1.mode": "separate", "losses.1.fisher": "exact", "losses.1.weight": 100},
    "ewc_online": {"losses.1.mode": "online", "losses.1.gamma": 1, "losses.1.weight": 100},
    "si": {"losses.1.damping": 1, "losses.1.gradient": "task", "losses.1.weight": 0.5},
    "mas": {"losses.1.kind": "mas", "losses.1.weight": 1},
    "rwalk": {"losses.1.kind": "rwalk", "losses.1.weight": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("method", IN_DOCS)
def test_each_is_what_the_table_of_methods_says(method, bare, registry):
    path = bare(method)
    own = "head" in registry.get("methods", method).load().get("student", {})
    path.write_text(path.read_text().replace(", head: linear", "") if own else path.read_text())
    made = resolved(load(path, [], registry).scenario)
    for place, wanted in IN_DOCS[method].items():
        found = made
        for key in place.split("."):
            found = found[int(key) if key.isdigit() else key]
        assert found == wanted, place


def terms(scenario):
    """Kind, sides and weight of each term."""
    found = []
    for part in scenario.losses:
        weight = part.shared.weight
        named = weight if isinstance(weight, float) else {"kind": weight.name, **weight.options.model_dump()}
        found.append((part.name, part.shared.between, named))
    return found


def test_er_ace_keeps_new_rows_to_their_own_classes(bare, registry):
    scenario = load(bare("er_ace"), [], registry).scenario
    assert terms(scenario) == [
        ("cross_entropy", ("student@new",), 1.0),
        ("cross_entropy", ("student@replay",), 1.0),
    ]
    assert [part.options.over for part in scenario.losses] == ["batch", "auto"]


def test_derpp_is_alpha_mse_and_beta_labels_of_two_draws(bare, registry):
    """Seq-CIFAR-10 with 500 rows: α = 0.2, β = 0.5; all columns from the start."""
    scenario = load(bare("derpp"), settings("derpp"), registry).scenario
    assert terms(scenario) == [
        ("cross_entropy", ("student@new",), 1.0),
        ("kd", ("student@replay1", "stored@replay1"), 0.2),
        ("cross_entropy", ("student@replay2",), 0.5),
    ]
    assert [part.options.over for part in scenario.losses] == ["all"] * 3
    assert scenario.losses[1].options.variant == "mse"
    assert (scenario.train.replay_draws, scenario.memory.options.size) == (2, 500)
    assert (scenario.memory.options.store, scenario.teachers["stored"].options.classes) == (("logits",), "all")


def test_icarls_loss_is_binary_and_its_head_comes_with_it(bare, registry):
    path = bare("icarl")
    path.write_text(path.read_text().replace(", head: linear", ""))
    loaded = load(path, [], registry)
    assert terms(loaded.scenario) == [
        ("binary_cross_entropy", None, 1.0),
        ("binary_kd", ("student", "previous"), 1.0),
    ]
    assert loaded.scenario.losses[0].options.over == "new"
    assert (loaded.scenario.student.head.name, loaded.scenario.student.head.options.rows) == ("ncm", "memory")
    assert (loaded.scenario.memory.name, loaded.scenario.memory.options.size) == ("herding", 2000)
    assert loaded.origins["student", "head", "kind"] == "method"
    assert loaded.origins["student", "model", "kind"] == "file"


@pytest.mark.parametrize("method", ["wa", "bic"])
def test_wa_and_bic_share_the_loss_out_by_old_classes(method, bare, registry):
    path = bare(method)
    path.write_text(path.read_text().replace(", head: linear", ""))
    scenario = load(path, [], registry).scenario
    assert terms(scenario) == [
        ("cross_entropy", None, {"kind": "new_fraction", "value": 1.0, "of": "classes"}),
        ("kd", ("student", "previous"), {"kind": "old_fraction", "value": 1.0, "of": "classes"}),
    ]
    told = scenario.losses[1].options
    assert (told.temperature, told.variant, told.convention) == (2.0, "ce", "plain")
    if method == "wa":
        assert (scenario.student.head.options.align, scenario.phases) == (True, ())
        return
    (phase,) = scenario.phases
    assert (scenario.student.head.name, phase.rows, phase.trains) == ("bias_corrected", "held_out", "bias")
    assert (phase.share, phase.from_experience) == (0.1, 1)
    assert scenario.memory.options.size + phase.keep == 2000


def test_dgr_shares_the_loss_out_by_experiences(bare, registry):
    scenario = load(bare("dgr"), [], registry).scenario
    assert terms(scenario) == [
        ("cross_entropy", ("student@new",), {"kind": "new_fraction", "value": 1.0, "of": "experiences"}),
        ("cross_entropy", ("student@replay",), {"kind": "old_fraction", "value": 1.0, "of": "experiences"}),
    ]
    made = scenario.memory.options
    assert (scenario.memory.name, made.hidden, made.latent, made.lr) == ("generator", (400, 400), 100, 0.001)
    assert not scenario.teachers


def test_gdumb_trains_a_fresh_student_on_memory(bare, registry):
    (phase,) = load(bare("gdumb"), [], registry).scenario.phases
    assert (phase.rows, phase.reset, phase.epochs, phase.batch_size) == ("memory", True, 256, 16)
    assert (phase.optimizer.keywords["lr"], phase.optimizer.keywords["momentum"]) == (0.05, 0.9)
    assert phase.optimizer.keywords["weight_decay"] == 1e-6


def test_of_student_and_train_a_method_fills_in_what_is_left_out(bare, registry):
    loaded = load(bare("mir"), ["train.replay_batch_size=5"], registry)
    assert (loaded.scenario.train.batch_size, loaded.scenario.train.replay_batch_size) == (10, 5)
    assert loaded.origins["train", "batch_size"] == "method"
    assert loaded.origins["train", "replay_batch_size"] == "--set"
    assert loaded.origins["train", "epochs"] == "default"
    assert loaded.origins["student", "head", "kind"] == "file"
    path = bare("mir")
    path.write_text(path.read_text().replace("train: {", "train: {batch_size: 7, "))
    loaded = load(path, [], registry)
    assert (loaded.scenario.train.batch_size, loaded.origins["train", "batch_size"]) == (7, "file")
    assert loaded.scenario.train.replay_batch_size == 10


def test_what_a_scenario_has_of_its_own_stays_its_own(bare, registry):
    """Parts within `student` and `train` are never mixed: a head of one's own has none of the method's options."""
    path = bare("wa")
    loaded = load(path, [], registry)
    assert (loaded.scenario.student.head.options.align, loaded.origins["student", "head", "align"]) == (
        False,
        "default",
    )


def test_a_part_without_a_kind_is_the_methods_with_other_options(bare, registry):
    path = bare("derpp")
    path.write_text(path.read_text().replace("head: linear", "head: fixed") + "memory: {size: 7}\n")
    loaded = load(path, [], registry)
    memory = resolved(loaded.scenario)["memory"]
    assert (memory["kind"], memory["size"], memory["store"]) == ("reservoir", 7, ["logits"])
    assert [loaded.origins["memory", key] for key in ("kind", "size")] == ["method", "file"]
    path.write_text(path.read_text().replace("{size: 7}", "{kind: class_balanced, size: 7, store: [logits]}"))
    assert resolved(load(path, [], registry).scenario)["memory"]["kind"] == "class_balanced"


def test_a_part_without_a_kind_is_a_mistake_where_the_method_has_none(bare, mistakes):
    path = bare("finetune")
    path.write_text(path.read_text() + "memory: {size: 7}\n")
    assert "memory: the memory's 'kind' is missing" in mistakes(path)[0]


def test_what_a_method_gives_is_not_changed_by_who_loads_it(bare, registry):
    before = resolved(load(bare("derpp"), ["student.head=fixed"], registry).scenario)
    load(bare("derpp"), ["student.head=fixed", "losses.0.weight=9", "memory.size=3", "train.replay_draws=3"], registry)
    assert resolved(load(bare("derpp"), ["student.head=fixed"], registry).scenario) == before


def test_without_a_method_the_head_is_still_asked_for(bare, mistakes):
    path = bare("er")
    path.write_text(path.read_text().replace(", head: linear", ""))
    assert mistakes(path) == ["m.yaml:4:1: student.head: is missing"]


@pytest.mark.parametrize("method", DARK)
def test_dark_experience_needs_all_columns_or_says_what_to_do(method, bare, mistakes, registry):
    (line,) = mistakes(bare(method))
    assert "set student.head: fixed, or teachers: {stored: stored}" in line
    own = load(bare(method, "teachers: {stored: stored}\n"), [], registry).scenario
    assert own.teachers["stored"].options.classes == "known"


def test_the_scenarios_own_sections_come_before_the_methods(bare, registry):
    loaded = load(bare("er", "memory: {kind: class_balanced, size: 9}\n"), ["losses.0.label_smoothing=0.1"], registry)
    assert loaded.scenario.memory.name == "class_balanced"
    assert loaded.scenario.losses[0].options.label_smoothing == 0.1
    assert loaded.origins["memory", "size"] == "file"
    assert loaded.origins["losses", 0, "kind"] == "method"
    assert loaded.origins["losses", 0, "label_smoothing"] == "--set"
    assert load(bare("er"), [], registry).origins["memory", "size"] == "method"
    assert load(bare("er"), ["memory.size=3"], registry).origins["memory", "kind"] == "method"


def test_a_method_set_on_the_command_line_fills_in_as_well(bare, registry):
    loaded = load(bare("finetune"), ["method=er"], registry)
    assert loaded.scenario.memory.name == "reservoir"
    assert resolved(loaded.scenario)["method"] == "er"


def test_an_unknown_method_is_a_mistake_with_a_suggestion(bare, mistakes):
    assert mistakes(bare("kd_relpay")) == [
        "m.yaml:2:1: method: method 'kd_relpay' is not known (did you mean 'kd_replay'?)"
    ]
    assert mistakes(bare("er"), "method=lfw") == [
        "--set method=lfw: method: method 'lfw' is not known (did you mean 'lwf'?)"
    ]


def test_a_name_of_another_kind_is_told_where_it_belongs(bare, mistakes):
    """Papers on domains call FixMatch and mean teacher what the others are, too."""
    known = (
        "--set transfer=fixmatch: transfer: transfer 'fixmatch' is not known (that is a method: write method: fixmatch)"
    )
    assert mistakes(bare("er"), "transfer=fixmatch") == [known]
    assert mistakes(bare("er"), "transfer=ema") == [
        "--set transfer=ema: transfer: transfer 'ema' is not known (that is a teacher)"
    ]


def test_single_options_of_every_methods_memory_can_be_changed(bare, registry):
    """Whether the method says its kind alone or options with it."""
    changed = 0
    for method in registry.names("methods"):
        memory = load(bare(method), settings(method), registry).scenario.memory
        if memory.name == "none":
            continue
        key = {"generator": "latent"}.get(memory.name, "size")
        read = load(bare(method, f"memory: {{{key}: 21}}\n"), settings(method), registry)
        assert read.scenario.memory.name == memory.name
        assert getattr(read.scenario.memory.options, key) == 21
        assert (read.origins["memory", "kind"], read.origins["memory", key]) == ("method", "file")
        changed += 1
    assert changed > 15
