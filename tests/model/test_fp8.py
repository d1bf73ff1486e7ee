"""Which layers a recipe converts, what it says of the others, and the modes that convert differently."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.model import Decoder
from smidgen.model.checkpointing import run_checkpointed
from smidgen.model.fp8 import RECIPES, AmaxHistory, Recipe, use_fp8
from smidgen.model.linear import Linear

CPU = torch.device("cpu")
SMALL = {"model.vocab_size": 97, "model.num_layers": 1, "model.max_seq_len": 32}


def tokens(count: int = 24) -> Tensor:
    return torch.randint(0, 97, (2, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_projection_is_either_converted_or_kept_for_a_reason(randomized_decoder: Any, recipe: Recipe) -> None:
    decoder = randomized_decoder("tilda-tiny", SMALL)
    conversion = use_fp8(decoder, recipe, CPU)
    linears = {name for name, module in decoder.named_modules() if isinstance(module, Linear)}
    kept = dict(conversion.kept)
    assert set(conversion.converted) | kept.keys() == linears | {"model.embed_tokens", "lm_head"}
    assert not set(conversion.converted) & kept.keys()
    assert (conversion.recipe, conversion.backend) == (recipe, "reference")
    assert kept == dict.fromkeys(("model.embed_tokens", "lm_head"), "embedding and head keep the compute type")


def test_sizes_that_hardware_cannot_multiply_are_kept_by_recipes_with_one_scale(randomized_decoder: Any) -> None:
    overrides = SMALL | {"model.feed_forward.intermediate_size": 100}
    for recipe in RECIPES:
        kept = dict(use_fp8(randomized_decoder("elite-tiny", overrides), recipe, CPU).kept)
        kept.pop("model.embed_tokens")
        if recipe == "fp8_block":
            assert not kept
        else:
            assert kept.keys() == {f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")}
            assert "divisible by 16" in kept["model.layers.0.mlp.up_proj"]


def test_layers_that_are_quantised_already_are_kept(randomized_decoder: Any) -> None:
    ternary = use_fp8(randomized_decoder("tinylm-tiny", SMALL), "fp8_tensorwise", CPU)
    assert not ternary.converted
    assert {reason for name, reason in ternary.kept if "proj" in name} == {"ternary has its own quantisation"}
    overrides = SMALL | {"model.linear.kind": "fp8_block", "model.linear.power_of_two_scales": True}
    stored = randomized_decoder("tilda-tiny", overrides)
    assert not use_fp8(stored, "fp8_delayed", CPU).converted
    plain = stored(tokens())
    assert use_fp8(stored, "fp8_block", CPU).converted
    assert torch.equal(stored(tokens()), plain), "the option of the model's own scales was lost"


@pytest.mark.parametrize("recipe", RECIPES)
def test_effective_weights_and_inputs_are_those_of_the_product(randomized_decoder: Any, recipe: Recipe) -> None:
    """Inference uses them apart from each other (frozen weights, the latent cache)."""
    decoder: Decoder = randomized_decoder("tilda-tiny", SMALL).eval()
    use_fp8(decoder, recipe, CPU)
    projection = decoder.layers[0].mlp.up_proj
    x = torch.randn(2, 5, projection.in_features, generator=torch.Generator().manual_seed(0))
    apart = projection.quantizer.input(x) @ projection.effective_weight(x.dtype).T
    torch.testing.assert_close(projection(x), apart, rtol=1e-4, atol=1e-5)


def test_nothing_of_delayed_scaling_is_in_the_model_folder_or_changes_in_evaluation(randomized_decoder: Any) -> None:
    decoder: Decoder = randomized_decoder("elite-tiny", SMALL)
    names = decoder.state_dict().keys()
    dynamic = copy.deepcopy(decoder)
    use_fp8(decoder, "fp8_delayed", CPU)
    use_fp8(dynamic, "fp8_tensorwise", CPU)
    assert decoder.state_dict().keys() == names
    decoder.eval()
    assert torch.equal(decoder(tokens()), dynamic.eval()(tokens()))
    histories = [module for module in decoder.modules() if isinstance(module, AmaxHistory)]
    assert len(histories) == 3 * 7
    assert all(history.amax == 0 for history in histories)
    decoder.train()(tokens())
    assert sum(bool(history.amax > 0) for history in histories) == 2 * 7  # inputs and weights


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recomputed_activations_give_the_same_gradients(randomized_decoder: Any, recipe: Recipe, mode: Any) -> None:
    results = []
    for chosen in ("none", mode):
        decoder: Decoder = randomized_decoder("elite-tiny", SMALL)
        use_fp8(decoder, recipe, CPU)
        mlp = decoder.train().layers[0].mlp
        x = torch.randn(2, 24, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
        run_checkpointed(mlp, chosen, x.requires_grad_()).square().sum().backward()
        recorded = [module.amax for module in mlp.modules() if isinstance(module, AmaxHistory)]
        results.append([x.grad, *(p.grad for p in mlp.parameters()), *recorded])
    assert len(results[0]) == 4 + (9 if recipe == "fp8_delayed" else 0)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
