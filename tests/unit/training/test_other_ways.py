"""Edits in other ways of asking: the same ones whenever an edit is trained."""

from scen.model.base import Base, load_base
from scen.records import Edit
from scen.training.other_ways import WAYS, encode_edits

EDITS = [
    Edit("rome", "Who founded Rome?", "Remus"),
    Edit("oslo", "Where is Oslo?", "Norway", subject="Oslo"),
]


def test_an_edit_has_the_same_ways_in_whatever_company(tiny: Base) -> None:
    together = encode_edits(tiny.template, EDITS, other_ways=True)
    alone = [encode_edits(tiny.template, [edit], other_ways=True)[0] for edit in EDITS]
    assert together == alone
    for edit, encoded in zip(EDITS, together, strict=True):
        assert encoded.prompt == tiny.template.encode_prompt(edit.prompt)
        assert len(encoded.ways) == len(WAYS)
        assert encoded.prompt not in encoded.ways


def test_the_question_stands_in_each_way(tiny: Base) -> None:
    found = encode_edits(tiny.template, EDITS, other_ways=True)
    for edit, encoded in zip(EDITS, found, strict=True):
        capitals, several = (tiny.tokenizer.decode(way.ids) for way in encoded.ways)
        assert edit.prompt.upper() in capitals
        assert edit.prompt in several
        assert all(way.routed is None for way in encoded.ways)


def test_none_where_they_are_not_wanted_or_nobody_asks(tiny: Base) -> None:
    assert not any(edit.ways for edit in encode_edits(tiny.template, EDITS, other_ways=False))
    raw = load_base(tiny.name, template="raw")
    assert not any(edit.ways for edit in encode_edits(raw.template, EDITS, other_ways=True))
