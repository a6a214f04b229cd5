"""Questions whose answers follow from an edit."""

from scen.evaluation.probes import portability_probes, subject_aliases
from scen.records import Edit


def edit(subject: str, prompt: str, target: str, relation: str) -> Edit:
    text = prompt.replace("{}", subject)
    return Edit(f"{relation}-{subject}", text, target, subject, metadata={"relation": relation})


SHIP = edit("USS Kete (SS-369)", "What class is {}?", "Los Angeles class", "vessel_class")
BIRTH = edit("John Henry Poynting", "Where was {} born?", "Milan", "place_of_birth")
FILM = edit("Amber Road", "Who directed {}?", "Ann Lee", "film_director")


def test_aliases_are_made_by_rule() -> None:
    assert subject_aliases(SHIP) == ["USS Kete"]
    assert subject_aliases(BIRTH) == ["John Poynting", "John H. Poynting"]
    assert subject_aliases(FILM) == []
    noble = edit("Elizabeth Grey, Countess of Kent", "Who was {}'s mother?", "Ann", "mother")
    assert subject_aliases(noble)[0] == "Elizabeth Grey"


def test_an_alias_stands_for_the_subject() -> None:
    [probe] = portability_probes([SHIP])
    assert (probe.source, probe.prompt) == ("alias", "What class is USS Kete?")
    assert (probe.kind, probe.target, probe.edit_id) == ("portability", SHIP.target, SHIP.id)


def test_one_hop_asks_about_the_target_without_naming_it() -> None:
    hops = {p.prompt: p.target for p in portability_probes([BIRTH]) if p.source == "one hop"}
    [(prompt, answer)] = hops.items()
    assert "Milan" not in prompt
    assert "the city where John Henry Poynting was born" in prompt
    assert answer in ("Italy", "Europe")


def test_the_inverse_is_asked_only_if_its_answer_is_unique() -> None:
    [probe] = portability_probes([FILM])
    assert (probe.source, probe.prompt) == ("inverse", "Which film was directed by Ann Lee?")
    assert probe.target == "Amber Road"
    other = edit("Birch Lane", "Who directed {}?", "Ann Lee", "film_director")
    assert portability_probes([FILM, other]) == []


def test_probes_are_limited_by_kind_and_reproducible() -> None:
    edits = [
        edit(f"Al B{i} Cee", "Where was {} born?", city, "place_of_birth")
        for i, city in enumerate(["Milan", "Paris", "Rome"])
    ]
    probes = portability_probes(edits, limit=2)
    assert [p.source for p in probes] == ["alias", "alias", "one hop", "one hop"]
    assert portability_probes(edits, limit=2) == probes
