"""The tiny base of the tests is loaded once, and no test sees what another did to its copy."""

import torch

from scen.model.base import Base


def test_a_copy_answers_as_the_base_does(tiny: Base, loaded_tiny: Base) -> None:
    ids = torch.tensor([tiny.template.encode_prompt("Who founded amber?").ids])
    with torch.no_grad():
        assert torch.equal(tiny.model(ids).logits, loaded_tiny.model(ids).logits)
    assert tiny.describe() == loaded_tiny.describe()
    assert not any(weight.requires_grad for weight in tiny.model.parameters())


def test_what_is_done_to_a_copy_stays_there(tiny: Base, loaded_tiny: Base) -> None:
    before = {name: weight.clone() for name, weight in loaded_tiny.model.state_dict().items()}
    size = len(loaded_tiny.tokenizer)
    tiny.model.double()
    tiny.model.model.layers[0].register_forward_hook(lambda *_: None)
    tiny.config.hidden_size = tiny.model.config.hidden_size = 1
    tiny.tokenizer.add_tokens(["<new>"])
    with torch.no_grad():
        for weight in tiny.model.parameters():
            weight.zero_()
    assert tiny.template.tokenizer is tiny.tokenizer
    after = loaded_tiny.model.state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    assert loaded_tiny.dtype == torch.float32
    assert not loaded_tiny.model.model.layers[0]._forward_hooks
    assert loaded_tiny.config.hidden_size == loaded_tiny.model.config.hidden_size == 32
    assert len(loaded_tiny.tokenizer) == size
