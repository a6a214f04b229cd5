"""Every prompt that an edit carries is put to the model, in the edit's order."""

from scen.evaluation.probes import Probe, edit_probes, locality_probes
from scen.records import Edit, Rephrase


def test_the_probes_of_an_edit() -> None:
    edit = Edit(
        id="a",
        prompt="Who owns it?",
        target="Ann",
        rephrases=(Rephrase("Whose is it?", "orig"), Rephrase("Its owner?")),
        near_misses=("Who made it?",),
        locality_prompts=("What is red?", "What is blue?"),
    )
    assert edit_probes([edit]) == [
        Probe("reliability", "Who owns it?", "prompt", "a", "Ann"),
        Probe("generality", "Whose is it?", "orig", "a", "Ann"),
        Probe("generality", "Its owner?", "given", "a", "Ann"),
        Probe("near_miss", "Who made it?", "edit", "a", None),
        Probe("locality", "What is red?", "edit", "a", None),
        Probe("locality", "What is blue?", "edit", "a", None),
    ]


def test_edits_stay_in_order() -> None:
    edits = [Edit(id=name, prompt=f"Who is {name}?", target=name) for name in "cab"]
    assert [probe.edit_id for probe in edit_probes(edits)] == ["c", "a", "b"]
    assert edit_probes([]) == []


def test_shared_locality_probes_belong_to_no_edit() -> None:
    assert locality_probes(["What is red?"]) == [Probe("locality", "What is red?", "file")]
