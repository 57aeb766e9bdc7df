"""Named presets: what a scenario leaves out is filled in by the method it names.

Each function gives a fragment of a scenario. A section that the scenario has of its own replaces the method's whole; of
`student` and `train` alone, which every scenario has, the method fills in the keys that a scenario leaves out. Where
the numbers come from, and what differs from the papers, is in docs/methods.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clkd.hooks import hookimpl
from clkd.options import Options

if TYPE_CHECKING:
    from clkd.registry import Register

Fragment = dict[str, Any]

PREVIOUS: Fragment = {"previous": "previous"}
STORED: Fragment = {"stored": {"kind": "stored", "classes": "all"}}
LEARNED = ["student", "previous"]
RESERVOIR: Fragment = {"kind": "reservoir", "size": 500}
DARK: Fragment = {"kind": "reservoir", "size": 500, "store": ["logits"]}
DARKER: Fragment = {**DARK, "epochs": "all"}
EXEMPLARS: Fragment = {"kind": "herding", "size": 2000}
MIXED: Fragment = {"mix_memory": True}
NEW: Fragment = {"kind": "cross_entropy", "between": ["student@new"]}
REPLAYED: Fragment = {"kind": "cross_entropy", "name": "replayed", "between": ["student@replay"]}


def finetune() -> Fragment:
    """Train on each experience as it comes: the lower bound that every method must beat."""
    return {"losses": ["cross_entropy"], "memory": "none", "transfer": "none"}


def joint() -> Fragment:
    """Joint training: in each experience an untrained student learns from all rows so far, the bound from above."""
    return {
        "losses": ["cross_entropy"],
        "memory": {"kind": "random", "size": "all"},
        "transfer": "none",
        "train": {**MIXED, "reset": True},
    }


def er() -> Fragment:
    """Experience replay: as many replayed rows as new ones in each step (Chaudhry et al. 2019)."""
    return {"losses": ["cross_entropy"], "memory": RESERVOIR}


def er_ace() -> Fragment:
    """ER-ACE (Caccia et al. 2022): new rows compete among their batch's classes only, from the start."""
    return {"losses": [{**NEW, "over": "batch"}, REPLAYED], "memory": RESERVOIR}


def mir() -> Fragment:
    """Maximally interfered retrieval (Aljundi et al. 2019, MI-1): 10 of 50 candidates; they are scored in eval mode."""
    memory = {**RESERVOIR, "retrieval": {"kind": "mir", "candidates": 50}}
    return {"losses": ["cross_entropy"], "memory": memory, "train": {"batch_size": 10, "replay_batch_size": 10}}


def gdumb() -> Fragment:
    """GDumb (Prabhu et al. 2020): trained on memory alone; random rows of each class, one cosine and no CutMix."""
    optimizer = {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-6}
    phase = {"name": "gdumb", "rows": "memory", "reset": True, "epochs": 256, "batch_size": 16}
    return {
        "losses": ["cross_entropy"],
        "memory": {"kind": "class_balanced", "size": 500},
        "phases": [{**phase, "optimizer": optimizer, "scheduler": {"kind": "cosine", "eta_min": 0.0005}}],
    }


def der() -> Fragment:
    """Dark experience replay (Buzzega et al. 2020): as in the paper, all classes have their column from the start."""
    return {
        "student": {"head": "fixed"},
        "teachers": STORED,
        "losses": [{**NEW, "over": "all"}, _dark("replay", 0.3)],
        "memory": DARKER,
    }


def derpp() -> Fragment:
    """DER++ (Buzzega et al. 2020): DER, and the labels of a second draw; the rest as in `der`."""
    second = {**REPLAYED, "between": ["student@replay2"], "over": "all", "weight": 0.5}
    return {
        "student": {"head": "fixed"},
        "teachers": STORED,
        "losses": [{**NEW, "over": "all"}, _dark("replay1", 0.2), second],
        "memory": DARKER,
        "train": {"replay_draws": 2},
    }


def xder() -> Fragment:
    """X-DER (Boschini et al. 2022): DER++ that rewrites what it stored, and prepares the columns of classes to come.

    The present's labels compete among themselves and the past's among the past; a margin keeps the two apart.
    """
    past = {**REPLAYED, "between": ["student@replay2"], "over": "old", "weight": 0.8, "if_undefined": "skip"}
    apart = {"kind": "logit_margin", "margin": 0.7, "weight": 0.001, "if_undefined": "skip"}
    prepared = {"kind": "supcon", "over": "future", "temperature": 5, "weight": 0.05, "if_undefined": "skip"}
    return {
        "student": {"head": "fixed"},
        "teachers": STORED,
        "losses": [{**NEW, "over": "new"}, _dark("replay1", 0.3), past, apart, prepared],
        "memory": {**DARK, "rewrite": 0.85},
        "train": {"replay_draws": 2},
    }


def _dark(rows: str, alpha: float) -> Fragment:
    """The squared distance to stored logits of all columns."""
    return {
        "kind": "kd",
        "between": [f"student@{rows}", f"stored@{rows}"],
        "variant": "mse",
        "over": "all",
        "weight": alpha,
    }


def fdr() -> Fragment:
    """Function distance regularisation (Benjamin et al. 2019): answers are stored when an experience ends."""
    old = {**_dark("replay", 1), "variant": "l2", "temperature": 1}
    memory = {"kind": "experience_balanced", "size": 500, "store": ["logits"]}
    return {"student": {"head": "fixed"}, "teachers": STORED, "losses": [{**NEW, "over": "all"}, old], "memory": memory}


def lwf() -> Fragment:
    """Learning without Forgetting (Li & Hoiem 2016): labels teach the new classes only, the previous self the others.

    T = 2 and a weight of 1 as in the paper. Without rows of the past it is known to forget much in class-incremental
    streams (about 20 % on five-way splits where all classes compete), and to do well where the task is told.
    """
    return {
        "teachers": PREVIOUS,
        "losses": [
            {"kind": "cross_entropy", "over": "new"},
            {"kind": "kd", "between": LEARNED, "temperature": 2},
        ],
        "memory": "none",
    }


def kd_replay() -> Fragment:
    """Replay, and distillation from the previous self that counts as much as there are old classes."""
    return {
        "teachers": PREVIOUS,
        "losses": [
            "cross_entropy",
            {"kind": "kd", "between": LEARNED, "temperature": 2, "weight": "old_fraction"},
        ],
        "memory": RESERVOIR,
    }


BINARY: list[Fragment] = [
    {"kind": "binary_cross_entropy", "over": "new"},
    {"kind": "binary_kd", "between": LEARNED},
]


def lwf_mc() -> Fragment:
    """LwF.MC, iCaRL's baseline (Rebuffi et al. 2017): its losses without a memory, answering by the head."""
    return {"teachers": PREVIOUS, "losses": BINARY, "memory": "none"}


def icarl() -> Fragment:
    """iCaRL (Rebuffi et al. 2017)."""
    return {
        "student": {"head": {"kind": "ncm", "rows": "memory"}},
        "teachers": PREVIOUS,
        "losses": BINARY,
        "memory": EXEMPLARS,
        "train": MIXED,
    }


def ncm() -> Fragment:
    """Nearest class mean (Mensink et al. 2013) of exemplars, on features that replay goes on training."""
    return {"student": {"head": {"kind": "ncm", "rows": "memory"}}, "losses": ["cross_entropy"], "memory": EXEMPLARS}


def slda() -> Fragment:
    """Deep SLDA (Hayes & Kanan 2020): the first experience trains the backbone, where the paper has a trained one."""
    return {"student": {"head": "slda"}, "losses": ["cross_entropy"], "memory": "none"}


def eeil() -> Fragment:
    """EEIL (Castro et al. 2018): a softmax for each past experience, then balanced fine-tuning.

    There, new classes keep to what the student said of them before it; where a single one came, nothing is to keep.
    """
    before = {**_answers(over="newest", if_undefined="skip"), "between": ["student", "before"]}
    return {
        "teachers": {**PREVIOUS, "before": "before_phase"},
        "losses": ["cross_entropy", _answers(scope="per_task"), before],
        "memory": EXEMPLARS,
        "train": MIXED,
        "phases": [
            {
                "name": "balanced",
                "rows": "balanced",
                "losses": ["cross_entropy", "kd_previous", "kd_before"],
                "epochs": 30,
                "optimizer": {"kind": "sgd", "lr": 0.01, "momentum": 0.9},
                "from_experience": 1,
            }
        ],
    }


def _answers(**options: Any) -> Fragment:
    """Cross-entropy with the previous self's answers at T = 2, without the factor T²: as papers since LwF print it."""
    return {"kind": "kd", "between": LEARNED, "temperature": 2, "variant": "ce", "convention": "plain", **options}


SHARED_OUT: list[Fragment] = [
    {"kind": "cross_entropy", "weight": "new_fraction"},
    _answers(weight="old_fraction"),
]
"""(1 − λ) · labels + λ · previous self, λ = old classes / classes seen: BiC, eq. 3; WA, eq. 3."""


def bic() -> Fragment:
    """BiC (Wu et al. 2019): 200 of 2,000 rows are kept for the bias alone; those kept are random."""
    return {
        "student": {"head": "bias_corrected"},
        "teachers": PREVIOUS,
        "losses": SHARED_OUT,
        "memory": {"kind": "class_balanced", "size": 1800},
        "train": MIXED,
        "phases": [
            {
                "name": "bias",
                "rows": "held_out",
                "share": 0.1,
                "keep": 200,
                "trains": "bias",
                "epochs": 250,
                "optimizer": {"kind": "adam", "lr": 0.001},
                "from_experience": 1,
            }
        ],
    }


def wa() -> Fragment:
    """Weight aligning (Zhao et al. 2020), with its distillation and herding."""
    head = {"kind": "linear", "align": True, "positive": True}
    return {
        "student": {"head": head},
        "teachers": PREVIOUS,
        "losses": SHARED_OUT,
        "memory": EXEMPLARS,
        "train": MIXED,
    }


def lucir() -> Fragment:
    """LUCIR (Hou et al. 2019), as its code has it with imprinting; features are those after the last ReLU."""
    forget = {"kind": "less_forget", "between": ["student.penultimate", "previous.penultimate"]}
    return {
        "student": {"head": {"kind": "split_cosine", "fixed_old": True, "imprint": True}},
        "teachers": PREVIOUS,
        "losses": ["cross_entropy", {**forget, "weight": {"kind": "imbalance", "value": 5}}, "margin_ranking"],
        "memory": EXEMPLARS,
        "train": MIXED,
    }


def podnet() -> Fragment:
    """PODNet (Douillard et al. 2020): for backbones with stages; new classes start at random, η at 8.

    η is learned. From 1, as in the authors' code, it would first shrink, since here as in the paper it multiplies the
    margin, which is wider than cosines are apart at first.
    """
    flat = {"kind": "less_forget", "between": ["student.penultimate", "previous.penultimate"]}
    stages = {"kind": "pod", "between": LEARNED, "layers": ["stage1", "stage2", "stage3"]}
    weight = {"kind": "imbalance", "of": "seen", "value": 1}
    return {
        "student": {"head": {"kind": "split_cosine", "proxies": 10, "scale": 8, "fixed_old": True}},
        "teachers": PREVIOUS,
        "losses": ["nca", {**flat, "weight": weight}, {**stages, "weight": weight}],
        "memory": EXEMPLARS,
        "phases": [
            {
                "name": "balanced",
                "rows": "balanced",
                "trains": "head",
                "losses": ["nca"],
                "epochs": 20,
                "optimizer": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
                "from_experience": 1,
            }
        ],
    }


def agem() -> Fragment:
    """A-GEM (Chaudhry et al. 2019): memory takes random rows of each class when an experience ends."""
    memory = {"kind": "class_balanced", "size": 500}
    return {"losses": ["cross_entropy"], "memory": memory, "train": {"gradient": "agem", "replay_batch_size": 256}}


def gem() -> Fragment:
    """GEM (Lopez-Paz & Ranzato 2017): all of memory is looked at in each step; γ = 0.5."""
    memory = {"kind": "experience_balanced", "size": 500}
    train = {"gradient": {"kind": "gem", "margin": 0.5}, "replay_batch_size": 500}
    return {"losses": ["cross_entropy"], "memory": memory, "train": train}


def dgr() -> Fragment:
    """Deep generative replay (Shin et al. 2017), as in van de Ven et al. 2022: labels of new and of made-up rows."""
    new, old = ({"kind": kind, "of": "experiences"} for kind in ("new_fraction", "old_fraction"))
    return {"losses": [{**NEW, "weight": new}, {**REPLAYED, "weight": old}], "memory": "generator"}


def ewc() -> Fragment:
    """Elastic weight consolidation (Kirkpatrick et al. 2017): a penalty for each experience; tune its weight."""
    return _held({"kind": "ewc", "weight": 100})


def ewc_online() -> Fragment:
    """Online EWC (Schwarz et al. 2018): one penalty that moves on, γ = 1; tune its weight."""
    return _held({"kind": "ewc", "mode": "online", "weight": 100})


def si() -> Fragment:
    """Synaptic intelligence (Zenke et al. 2017): the path integral is of the losses about rows alone."""
    return _held({"kind": "si", "weight": 0.5, "damping": 1})


def mas() -> Fragment:
    """Memory aware synapses (Aljundi et al. 2018), λ = 1; importance is summed over experiences."""
    return _held({"kind": "mas", "weight": 1})


def rwalk() -> Fragment:
    """Riemannian walk (Chaudhry et al. 2018), without its sampling of exemplars."""
    return _held({"kind": "rwalk", "weight": 0.1})


def _held(regulariser: Fragment) -> Fragment:
    return {"losses": ["cross_entropy", regulariser], "memory": "none"}


def pseudo_label() -> Fragment:
    """Pseudo-labels (Lee 2013): what the student is sure of, it learns as if it were told; without the paper's ramp."""
    return _own_labels(sees="student")


def fixmatch() -> Fragment:
    """FixMatch (Sohn et al. 2020): sure decisions about the weak view are learned in the strong one."""
    return _own_labels(sees="weak")


def _own_labels(sees: str) -> Fragment:
    """Labels where there are some, elsewhere the student's own decisions; it is asked in eval mode."""
    decisions = {"kind": "hard", "between": ["student", "itself"], "rows": "unlabelled", "threshold": 0.95}
    decisions["if_undefined"] = "skip"  # where all rows of an experience have labels
    return {
        "teachers": {"itself": {"kind": "ema", "decay": 0, "sees": sees}},
        "losses": ["cross_entropy", decisions],
        "memory": RESERVOIR,
    }


def mean_teacher() -> Fragment:
    """Mean teacher (Tarvainen & Valpola 2017), by the divergence of probabilities where the paper squares."""
    follow = {"kind": "kd", "between": ["student", "slow"], "temperature": 1}
    return {
        "teachers": {"slow": {"kind": "ema", "decay": 0.99, "sees": "weak"}},
        "losses": ["cross_entropy", follow],
        "memory": RESERVOIR,
    }


METHODS = {
    "finetune": "cross-entropy alone: the lower bound",
    "joint": "trained anew on all rows so far in each experience: the upper bound",
    "er": "experience replay from a reservoir of 500 rows",
    "er_ace": "replay in which new rows do not push old classes away (Caccia et al. 2022)",
    "mir": "replay of the rows that a step would hurt most (Aljundi et al. 2019)",
    "gdumb": "trained on a balanced memory alone, from the start each time (Prabhu et al. 2020)",
    "der": "dark experience replay: stored logits (Buzzega et al. 2020)",
    "derpp": "dark experience replay and labels of a second draw (Buzzega et al. 2020)",
    "xder": "dark experience replay whose stored logits are rewritten (Boschini et al. 2022)",
    "fdr": "distance to stored probabilities (Benjamin et al. 2019)",
    "lwf": "learning without forgetting: previous self, no memory",
    "lwf_mc": "iCaRL's losses without its memory (Rebuffi et al. 2017)",
    "kd_replay": "reservoir of 500 rows, distilled from the previous self",
    "icarl": "binary losses, herding, nearest mean of exemplars (Rebuffi et al. 2017)",
    "ncm": "replay, and the nearest mean of exemplars",
    "slda": "streaming linear discriminant analysis on a frozen backbone (Hayes & Kanan 2020)",
    "eeil": "distillation for each past experience, balanced fine-tuning (Castro et al. 2018)",
    "lucir": "cosine head, less-forget constraint, margin ranking (Hou et al. 2019)",
    "podnet": "pooled outputs, several directions a class (Douillard et al. 2020)",
    "bic": "distillation and a corrected bias of new classes (Wu et al. 2019)",
    "wa": "distillation and aligned weights of new classes (Zhao et al. 2020)",
    "agem": "no step may raise the loss on memory (Chaudhry et al. 2019)",
    "gem": "no step may raise the loss on any past experience (Lopez-Paz & Ranzato 2017)",
    "dgr": "deep generative replay: a variational autoencoder makes up what is replayed (Shin et al. 2017)",
    "ewc": "elastic weight consolidation (Kirkpatrick et al. 2017)",
    "ewc_online": "online elastic weight consolidation (Schwarz et al. 2018)",
    "si": "synaptic intelligence (Zenke et al. 2017)",
    "mas": "memory aware synapses (Aljundi et al. 2018)",
    "rwalk": "Riemannian walk (Chaudhry et al. 2018)",
    "pseudo_label": "unlabelled rows by the student's own sure decisions (Lee 2013)",
    "fixmatch": "the same, from a weak view to a strong one (Sohn et al. 2020)",
    "mean_teacher": "the student's moving average teaches it in another view (Tarvainen & Valpola 2017)",
}


@hookimpl
def clkd_register_methods(register: Register) -> None:
    """The methods that clkd ships."""
    for name, summary in METHODS.items():
        register(name, f"clkd.scenario.methods:{name}", config=Options, summary=summary)
