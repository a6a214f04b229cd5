"""What two questions have in common as text."""

import pytest

from scen.routing.keys import WIDTH, pack_texts, unpack_texts
from scen.routing.words import (
    NUM_FIGURES,
    Rarity,
    compare_words,
    fit_rarity,
    trigram_similarity,
)

EDIT = "Who won the Tour de Suisse in 1987?"
RARITY = Rarity(fit_rarity(["who won the race in 1990", "who is the author", "in the end"]))


def figures(span: str) -> list[float]:
    return compare_words(span, EDIT, RARITY)


def test_the_same_words_have_everything_in_common() -> None:
    for text in (EDIT, EDIT.upper(), EDIT.rstrip("?")):
        same = [1, 1, 1, 1, 0, 0, 0, 0, 1, pytest.approx(1 / 3), 0, 0, 0, 0, 0, 1]
        assert figures(text) == same


def test_another_number_is_seen() -> None:
    other = figures(EDIT.replace("1987", "1988"))
    assert (other[4], other[5]) == (1, 1)
    assert other[6] > 0.5
    assert other[0] < 1


def test_a_typo_is_nearly_the_same_word() -> None:
    for typo in ("Suise", "Susise", "Suiisse"):
        ours, theirs = figures(EDIT.replace("Suisse", typo))[:2]
        assert 0.9 < ours < 1
        assert 0.9 < theirs < 1
    assert figures(EDIT.replace("Suisse", "Francia"))[0] < 0.85
    assert figures(EDIT.replace("1987", "1988"))[0] < 0.85


def test_namesakes_differ_in_a_word_beside_a_shared_one() -> None:
    edit = "What gender is Maria Tolnai?"
    rarity = Rarity(fit_rarity(["what gender is it", "which is the gender of", "the sex of whom"]))

    def apart(span: str) -> list[float]:
        return compare_words(span, edit, rarity)[10:13]

    for namesake in ("Which is the gender of Maria Takada?", "The gender of Anna Tolnai is?"):
        assert min(apart(namesake)) > 0.9
    for same in ("Which is the gender of Maria Tolnai?", "maria tolnai's sex", "Tolnai, Maria"):
        assert apart(same)[-1] < 0.3
    assert apart("What gender is Maria Tolnay?")[-1] < 0.3
    longer, lacks, both = apart("What gender is Maria?")
    assert longer == pytest.approx(1)
    assert (lacks, both) == (0, 0)


def test_the_names_of_an_edit_must_be_named() -> None:
    edit = "Who is the mother of John Deseronto?"
    rarity = Rarity(fit_rarity(["john who"]))
    for span, (rarest, share) in {
        "john deseronto's mother": (0, 0),
        "Who is the mother of Attilio Deseronto?": (0.5, 0.5),
        "Who is the mother of John Smith?": (1, 0.5),
    }.items():
        assert compare_words(span, edit, rarity)[13:16] == [rarest, share, 1]
    for nameless in ("who is the mother of jan", "WHO IS JAN", "Who is it?"):
        assert compare_words(edit, nameless, rarity)[13:16] == [0, 0, 0]
    painter = "Who is the son of Jan van Eyck?"
    assert compare_words("Who is Hugo Eyck?", painter, rarity)[14] == pytest.approx(2 / 3)


def test_common_words_weigh_little() -> None:
    without_common = figures("won Tour Suisse 1987")
    without_rare = figures("Who won the de in")
    assert without_common[0] > 0.7
    assert without_rare[0] < 0.5


def test_no_words_have_nothing_in_common() -> None:
    assert figures("?!") == [0.0] * NUM_FIGURES
    assert compare_words(EDIT, "", RARITY) == [0.0] * NUM_FIGURES


def test_all_figures_are_between_0_and_1() -> None:
    for span in (
        EDIT,
        "1",
        "a " * 500,
        "谁 1987",
        "İstanbul",
        "Wer gewann 1987 die Tour de Suisse?",
    ):
        assert all(0 <= value <= 1 for value in figures(span))


def test_likeness() -> None:
    assert trigram_similarity(EDIT, EDIT.lower()) == 1
    assert trigram_similarity(EDIT, "xyz") == 0
    assert trigram_similarity("", "") == 0


def test_texts_survive_as_a_tensor() -> None:
    texts = ["Who is Åse?", "", "谁" * 200, "a" * WIDTH]
    found = unpack_texts(pack_texts(texts))
    assert found == ["Who is Åse?", "", "谁" * (WIDTH // 3), "a" * WIDTH]
