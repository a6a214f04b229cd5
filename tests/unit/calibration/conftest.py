"""Questions about edits whose keys are known: only some places tell edits apart."""

import pytest
import torch

from scen.calibration.fit_encoder import EncoderPlan, RouterKeys
from scen.calibration.fit_router import RouterPlan
from scen.calibration.router_set import Question, RouterSet
from scen.model.keys import KeyPlace

EDITS, RELATIONS, WIDTH = 80, 5, 32
PLACES = (
    KeyPlace(1, "mean"),  # subjects
    KeyPlace(1, "last"),  # noise
    KeyPlace(4, "mean"),  # noise
    KeyPlace(4, "last"),  # relations
)


@pytest.fixture(scope="session")
def plan() -> RouterPlan:
    return RouterPlan(EncoderPlan(16, 16, 8, 8), bound=0.05, gate_steps=60, num_gates=2)


@pytest.fixture(scope="session")
def keys() -> RouterKeys:
    """Of each of 80 edits its prompt, two rephrases and a near miss; 30 unrelated prompts."""
    draw = torch.Generator().manual_seed(0)
    subject_EF = torch.randn(EDITS, WIDTH, generator=draw)
    relation_RF = torch.randn(RELATIONS, WIDTH, generator=draw)
    rows: list[tuple[Question, torch.Tensor, torch.Tensor]] = []

    def ask(edit: int, relation: int, question: Question) -> None:
        rows.append((question, subject_EF[edit], relation_RF[relation]))

    for edit in range(EDITS):
        ask(edit, edit % RELATIONS, Question(f"p{edit}", "prompt", edit, "prompt"))
    for edit in range(EDITS):
        for name in ("given", "made"):
            text = f"{name}{edit}"
            ask(edit, edit % RELATIONS, Question(text, "rephrase", edit, name))
        other = (edit + 1) % RELATIONS
        ask(edit, other, Question(f"n{edit}", "near_miss", edit, "given"))
    for i in range(30):
        far_F = torch.randn(WIDTH, generator=draw)
        rows.append((Question(f"u{i}", "unrelated", -1, "given", False), far_F, far_F.flip(0)))
    key_NKF = torch.randn(len(rows), len(PLACES), WIDTH, generator=draw)
    key_NKF[:, 0] = 0.3 * key_NKF[:, 0] + torch.stack([subject_F for _, subject_F, _ in rows])
    key_NKF[:, 3] = 0.3 * key_NKF[:, 3] + torch.stack([relation_F for _, _, relation_F in rows])
    relations = tuple(edit % RELATIONS for edit in range(EDITS))
    about = RouterSet(tuple(question for question, _, _ in rows), relations)
    return RouterKeys(about, PLACES, key_NKF)
