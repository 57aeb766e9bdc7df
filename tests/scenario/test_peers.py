"""Peers in a scenario: what is read, and every mistake with its place."""

import pytest

from clkd.scenario.load import load

OLD = "student: {model: resnet8, head: linear}\n"
PEERS = OLD + "peers:\n  mate: {model: resnet20, head: linear}\n"
LOSSES = """\
  - cross_entropy
  - {kind: kd, name: mutual, between: [student, mate]}
  - {kind: cross_entropy, between: [mate]}
  - {kind: kd, between: [mate, student]}
"""
TAUGHT = (OLD, PEERS, "  - cross_entropy\n", LOSSES)


def test_a_peer_is_read_with_its_defaults(write, registry):
    scenario = load(write(*TAUGHT), [], registry).scenario
    assert scenario.peers["mate"].model.name == "resnet20"
    assert scenario.peers["mate"].own_view is False
    assert load(write(*TAUGHT), ["peers.mate.own_view=true"], registry).scenario.peers["mate"].own_view


def test_students_may_be_members_and_teachers_made_of_peers(write, registry):
    more = (
        "teachers:\n  both: {kind: ensemble, members: [student, mate], by: min_logit}\n"
        "  old: {kind: previous, of: mate}\n"
    )
    heard = LOSSES + "".join(f"  - {{kind: kd, between: [mate, {name}]}}\n" for name in ("both", "old"))
    loaded = load(write(OLD, PEERS, "teachers:\n", more, "  - cross_entropy\n", heard), [], registry)
    assert loaded.scenario.teachers["both"].options.members == ("student", "mate")
    assert loaded.scenario.teachers["old"].options.of == "mate"


MISTAKES = [
    ((OLD, PEERS), "s.yaml:7:3: peers.mate: no loss teaches this peer: name it first in a loss's 'between'"),
    ((OLD, PEERS.replace("mate", "student")), "peers.student: 'student' is another model's name already"),
    ((OLD, PEERS.replace("mate", "previous")), "peers.previous: 'previous' is another model's name already"),
    ((OLD, PEERS.replace("mate", '"my mate"')), "peers.my mate: a peer's name is made of letters"),
    ((OLD, PEERS.replace("resnet20", "resnt20")), "peers.mate.model: model 'resnt20' is not known (did you mean"),
    (
        (*TAUGHT, "[mate, student]", "[mate, mate]"),
        "losses.3.between: both sides are the same, so 'mate' would learn nothing",
    ),
    (
        (*TAUGHT, "[mate, student]", "[mat, student]"),
        "losses.3.between.0: model 'mat' is not known (did you mean 'mate'?)",
    ),
    (
        (*TAUGHT, "[mate, student]", "[external, mate]"),
        "losses.3.between: the first side learns, and 'external' is a teacher: write [mate, external]",
    ),
    ((*TAUGHT, "between: [mate]", "between: [mate, student]"), "losses.2.between: name one model; got 2"),
    (
        (*TAUGHT, "{kind: previous}", "{kind: previous, of: mat}"),
        "teachers.previous.of: 'mat' is not trained here (did you mean 'mate'?)",
    ),
    (
        (*TAUGHT, "{kind: previous}", "stored", "[student, previous]", "[mate@replay, previous@replay]",
         "size: 500", "size: 500, store: [logits]"),
        "memory keeps nothing that 'mate' said: losses.4 can only teach the student by it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), MISTAKES)
def test_a_mistake_names_its_key_and_its_place(change, expected, write, mistakes):
    assert any(expected in line for line in mistakes(write(*change))), mistakes(write(*change))
