"""The chain's check, against every way of lying about a trail."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knarr.audit.canonical import canonical_json, digest_of
from knarr.audit.chain import AuditEntry, AuditHead, ChainFault, check_chain, compute_digest
from tests.audit.specimen import linked

ENTRIES = linked("run", [(f"key {n}", "step", {"n": n}, float(n)) for n in range(1, 9)])
HEAD = AuditHead(position=8, digest=ENTRIES[-1].digest)


def edited(entries: list[AuditEntry], where: int, **changes: object) -> list[AuditEntry]:
    return [entry.model_copy(update=changes) if entry.position == where else entry for entry in entries]


def hashed_again(entries: list[AuditEntry], position: int) -> list[AuditEntry]:
    entry = entries[position - 1]
    return edited(entries, position, digest=compute_digest(entry))


def told(faults: list[ChainFault]) -> set[tuple[str, int]]:
    return {(fault.kind, fault.position) for fault in faults}


def test_a_chain_as_it_was_written_has_no_fault() -> None:
    witnesses = [AuditHead(position=entry.position, digest=entry.digest) for entry in ENTRIES]
    assert check_chain(ENTRIES, HEAD, witnesses) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("body", canonical_json({"n": 4, "but": "edited"})),
        ("kind", "decision"),
        ("key", "another key"),
        ("run_id", "another run"),
        ("at", ENTRIES[3].at + timedelta(microseconds=1)),
        ("previous", "0" * 64),
        ("previous", ""),
        ("digest", "f" * 64),
        ("digest", ""),
    ],
)
def test_every_word_of_an_entry_is_under_its_digest(field: str, value: object) -> None:
    assert ("edited", 4) in told(check_chain(edited(ENTRIES, 4, **{field: value}), HEAD))


def test_an_entry_that_was_edited_and_hashed_again_no_longer_fits_its_successor() -> None:
    forged = hashed_again(edited(ENTRIES, 4, body="{}"), 4)
    assert told(check_chain(forged, HEAD)) == {("edited", 4)}


def test_the_last_entry_edited_and_hashed_again_no_longer_fits_the_head() -> None:
    forged = hashed_again(edited(ENTRIES, 8, body="{}"), 8)
    assert told(check_chain(forged, HEAD)) == {("head rewound", 8)}


def test_a_deleted_entry_is_a_gap_at_its_position() -> None:
    assert told(check_chain(ENTRIES[:3] + ENTRIES[4:], HEAD)) == {("gap", 4)}
    assert told(check_chain(ENTRIES[2:], HEAD)) == {("gap", 1)}


def test_a_gap_closed_by_renumbering_is_found_as_reordering() -> None:
    renumbered = [
        entry.model_copy(update={"position": entry.position - (entry.position > 3)})
        for entry in ENTRIES
        if entry.position != 3
    ]
    faults = check_chain(renumbered, HEAD)
    assert min(fault.position for fault in faults if fault.kind != "tail cut") <= 3
    assert "tail cut" in {fault.kind for fault in faults}


def test_two_entries_that_changed_places_are_reordered() -> None:
    swapped = sorted(edited(edited(ENTRIES, 3, position=-1), 5, position=3), key=lambda entry: entry.position)
    swapped = sorted(edited(swapped, -1, position=5), key=lambda entry: entry.position)
    faults = check_chain(swapped, HEAD)
    assert {fault.position for fault in faults if fault.kind == "reordered"} == {3}


def test_a_cut_tail_shows_at_the_head() -> None:
    assert told(check_chain(ENTRIES[:6], HEAD)) == {("tail cut", 7)}
    assert ("tail cut", 1) in told(check_chain([], HEAD))


def test_a_head_wound_back_alone_shows_at_the_entries() -> None:
    head = AuditHead(position=6, digest=ENTRIES[5].digest)
    assert told(check_chain(ENTRIES, head)) == {("head rewound", 7)}
    assert told(check_chain(ENTRIES, None)) == {("head rewound", 8)}


def test_a_cut_tail_with_its_head_wound_back_shows_only_to_a_witness() -> None:
    head = AuditHead(position=6, digest=ENTRIES[5].digest)
    assert check_chain(ENTRIES[:6], head) == []
    assert told(check_chain(ENTRIES[:6], head, [HEAD])) == {("head rewound", 7)}


def test_a_trail_written_anew_shows_only_to_a_witness() -> None:
    anew = linked("run", [(f"key {n}", "step", {"n": n, "but": "forged"}, float(n)) for n in range(1, 9)])
    head = AuditHead(position=8, digest=anew[-1].digest)
    assert check_chain(anew, head) == []
    witnesses = [AuditHead(position=2, digest=ENTRIES[1].digest), AuditHead(position=0, digest="0" * 64)]
    assert told(check_chain(anew, head, witnesses)) == {("head rewound", 2)}


def test_a_whole_trail_that_is_gone_shows_to_a_witness() -> None:
    assert told(check_chain([], None, [HEAD])) == {("empty", 1), ("head rewound", 1)}


def test_two_entries_at_one_position_are_a_fork() -> None:
    other = linked("run", [(f"key {n}", "step", {"n": n, "branch": 2}, float(n)) for n in range(1, 9)])[4]
    forked = sorted([*ENTRIES, other], key=lambda entry: entry.position)
    assert ("forked", 5) in told(check_chain(forked, HEAD))


def test_a_clock_that_was_set_back_is_noticed_and_nothing_else_is() -> None:
    entries = linked("run", [("a", "step", {}, 0.0), ("b", "step", {}, 5.0), ("c", "step", {}, 4.0)])
    head = AuditHead(position=3, digest=entries[-1].digest)
    assert told(check_chain(entries, head)) == {("clock set back", 3)}


MUTATIONS: list[Callable[[list[AuditEntry], int], list[AuditEntry]]] = [
    lambda entries, at: entries[:at] + entries[at + 1 :],
    lambda entries, at: edited(entries, at + 1, body='{"forged":true}'),
    lambda entries, at: hashed_again(edited(entries, at + 1, body='{"forged":true}'), at + 1),
    lambda entries, at: [*entries[:at], entries[at], *entries[at:]],
    lambda entries, at: edited(entries, at + 1, position=99),
    lambda entries, at: entries[:at],
]


@given(st.integers(0, 7), st.sampled_from(range(len(MUTATIONS))))
def test_no_single_forgery_passes(at: int, which: int) -> None:
    assert check_chain(MUTATIONS[which](ENTRIES, at), HEAD)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(value) == canonical_json(backwards)
    assert digest_of(value) == digest_of(backwards)
    assert all(ord(character) >= 32 for character in canonical_json(value))


def test_canonical_json_refuses_what_json_can_not_hold() -> None:
    with pytest.raises(TypeError, match="only strings as keys"):
        canonical_json({"a": {1: "one"}})
    with pytest.raises(TypeError):
        canonical_json({"a": b"bytes"})
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json([float("nan")])


def test_canonical_json_has_a_form_for_lone_surrogates() -> None:
    assert canonical_json("\ud800").encode() == b'"\\ud800"'
