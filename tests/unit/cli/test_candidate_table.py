"""The table of likely edits fits a terminal, whatever number of views a router has."""

from rich.console import Console

from scen.cli.view import candidate_table


def shown(candidates: list[dict[str, object]]) -> str:
    console = Console(width=80)
    with console.capture() as told:
        console.print(candidate_table(candidates, 1.5))
    return told.get()


def test_each_place_has_the_mean_of_its_views() -> None:
    views = {f"{place}.{i}": i / 10 for place in ("mean@6", "last@18") for i in range(1, 4)}
    prompt = "What is the name of the constellation which HD 177808 belongs to, if it does?"
    found = {"edit_id": "zsre-0097", "prompt": prompt, "score": 6.5, "similarities": views}
    text = shown([found])
    assert "zsre-0097    6.50   What is the name of the constellation" in text
    assert "mean@6 0.20  last@18 0.20" in text
    assert "mean@6.1" not in text


def test_a_score_may_have_nothing_behind_it() -> None:
    lines = shown([{"edit_id": "a", "prompt": "Who?", "score": 0.7, "similarities": {}}])
    assert [line.split() for line in lines.splitlines()][-2:] == [["a", "0.70", "Who?"], []]
