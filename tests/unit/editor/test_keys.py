"""Keys are the `down_proj` inputs of a prompt's own words, whatever it is batched with."""

import torch

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.keys import KeyPlace, read_keys
from scen.editor.prefill import prefill
from scen.records import EncodedEdit

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))


def test_padding_does_not_move_a_key(tiny: Base, encoded: list[EncodedEdit]) -> None:
    together = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    key_BKF = read_keys(prefill(tiny.model, together, 3, (1, 4)), PLACES)
    for i, edit in enumerate(encoded):
        alone = prefill(tiny.model, pad_prompts([edit.prompt], tiny.pad_id), 3, (1, 4))
        torch.testing.assert_close(read_keys(alone, PLACES)[0], key_BKF[i], rtol=0, atol=1e-4)


def test_keys_come_in_the_order_of_their_places(tiny: Base, encoded: list[EncodedEdit]) -> None:
    filled = prefill(tiny.model, pad_prompts([e.prompt for e in encoded], tiny.pad_id), 3, (1, 4))
    key_BKF = read_keys(filled, PLACES)
    assert (key_BKF.shape, key_BKF.dtype) == ((len(encoded), 2, 64), torch.float32)
    assert torch.equal(key_BKF[:, 0], filled.mean(1).float())
    assert torch.equal(key_BKF[:, 1], filled.last(4).float())
    assert torch.equal(read_keys(filled, PLACES[::-1]), key_BKF.flip(1))


def test_a_place_has_a_name() -> None:
    assert [place.name for place in PLACES] == ["mean@1", "last@4"]
