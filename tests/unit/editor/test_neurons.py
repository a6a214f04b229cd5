"""Whitened keys and sigmoid neurons choose the right edit, or none."""

import torch

from scen.base.load import Base
from scen.editor.batch import pad_prompts
from scen.editor.losses import neuron_loss
from scen.editor.neurons import KeyNeurons, KeyPlace, SigmoidNeurons, initial_neuron, read_keys
from scen.editor.prefill import prefill
from scen.editor.whitening import Whitening
from scen.records import EncodedEdit

PLACES = (KeyPlace(1, "mean"), KeyPlace(4, "last"))


def test_each_prompt_goes_to_its_own_edit_and_a_stranger_to_the_base(
    tiny: Base, encoded: list[EncodedEdit]
) -> None:
    batch = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    filled = prefill(tiny.model, batch, 3, (1, 4))
    noise = torch.randn(40, 2, 64, generator=torch.Generator().manual_seed(0))
    key_EKF = read_keys(filled, PLACES)
    whitening = Whitening.fit(noise * key_EKF.std() + key_EKF.mean(0), 0.1)
    bank = KeyNeurons.build(PLACES, key_EKF[:4], whitening, threshold=0.95)
    route = bank.route(filled)
    assert route.expert_B.tolist() == [0, 1, 2, 3, -1, -1]
    assert (route.nearest_B >= 0).all()
    assert torch.all(route.score_B[:4] > 0.99)


def test_an_empty_bank_routes_to_the_base(tiny: Base, encoded: list[EncodedEdit]) -> None:
    filled = prefill(tiny.model, pad_prompts([encoded[0].prompt], tiny.pad_id), 3, ())
    bank = SigmoidNeurons(3, torch.zeros(0, 64), 0.65)
    assert bank.route(filled).is_base


def test_padding_does_not_move_a_key(tiny: Base, encoded: list[EncodedEdit]) -> None:
    together = pad_prompts([e.prompt for e in encoded], tiny.pad_id)
    key_BKF = read_keys(prefill(tiny.model, together, 3, (1, 4)), PLACES)
    for i, edit in enumerate(encoded):
        alone = prefill(tiny.model, pad_prompts([edit.prompt], tiny.pad_id), 3, (1, 4))
        torch.testing.assert_close(read_keys(alone, PLACES)[0], key_BKF[i], rtol=0, atol=1e-4)


def test_sigmoid_neurons_speak_above_theta_only(tiny: Base, encoded: list[EncodedEdit]) -> None:
    filled = prefill(tiny.model, pad_prompts([e.prompt for e in encoded], tiny.pad_id), 3, ())
    h_BF = filled.last(3)
    weight_EF = 4 * h_BF[:2] / h_BF[:2].pow(2).sum(1, keepdim=True)  # w.h = 4 for its own prompt
    route = SigmoidNeurons(3, weight_EF, theta=0.9).route(filled)
    assert route.expert_B[:2].tolist() == [0, 1]
    assert SigmoidNeurons(3, weight_EF, theta=0.9999).route(filled).is_base


def test_whitening_evens_out_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(500, 1, 8, generator=generator) * torch.tensor([50.0, *[1.0] * 7]) + 100
    whitening = Whitening.fit(sample, shrinkage=1e-3)
    white = whitening(sample)[:, 0]
    spread = white.std(0)
    assert spread.max() / spread.min() < 1.5
    assert white.mean(0).abs().max() < 0.1
    restored = Whitening.from_tensors(whitening.tensors())
    assert torch.equal(restored(sample), whitening(sample))


def test_neuron_loss_is_the_published_formula() -> None:
    pos, neg = torch.tensor(0.6), torch.tensor([0.5, 0.3])
    expected = torch.exp(-pos) + (neg.exp() + 0.7).mean() + (neg.exp() - pos + 0.3).mean()
    assert torch.allclose(neuron_loss(pos, neg), expected)
    masked = neuron_loss(pos[None], torch.cat([neg, pos[None]])[None], torch.tensor([[1, 1, 0]]))
    assert torch.allclose(masked[0], expected)
    nothing = neuron_loss(pos[None], neg[None], torch.zeros(1, 2))
    assert torch.allclose(nothing[0], torch.exp(-pos))


def test_a_neuron_starts_from_its_own_seed() -> None:
    first, again = (initial_neuron(64, 7, torch.float32) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, initial_neuron(64, 8, torch.float32))
    assert first.abs().max() <= 1 / 8
