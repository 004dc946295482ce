"""Shapes reckoned without torch are those of the modules themselves."""

import pytest
from torch import nn

from simpletune.config.architecture import WEIGHT_PARTS, component_config
from simpletune.config.families import FAMILIES
from simpletune.machine import shapes
from simpletune.models.components import empty_module
from simpletune.models.sd3 import QUANTIZED

FLAVOURS = tuple(FAMILIES["sd3"].flavours)
TIED = {"encoder.embed_tokens.weight"}  # T5 has its embedding under two names


@pytest.fixture(scope="module")
def module():
    made = {}

    def make(flavour, part):
        if (flavour, part) not in made:
            made[flavour, part] = empty_module(part, component_config(flavour, part))
        return made[flavour, part]

    return make


# The encoders and the VAE of the three published flavours are the same.
@pytest.mark.parametrize(
    ("flavour", "part"),
    [(f, "transformer") for f in FLAVOURS] + [(f, p) for f in ("sd3-medium", "tiny") for p in WEIGHT_PARTS[:-1]],
)
def test_a_part_has_the_tensors_of_its_module(module, flavour, part):
    tensors = {name: tuple(tensor.shape) for name, tensor in module(flavour, part).state_dict().items()}
    found = shapes.part_tensors(flavour, part)
    assert dict(found) == {name: shape for name, shape in tensors.items() if name not in TIED}
    linear = [name for name, layer in module(flavour, part).named_modules() if isinstance(layer, nn.Linear)]
    assert sorted(shapes.linear_layers(flavour, part)) == sorted(linear)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_layers_that_are_quantized_and_trained(module, flavour):
    from types import SimpleNamespace

    from simpletune.models.adapter_start import lora_targets

    transformer = module(flavour, "transformer")
    linear = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    assert shapes.quantized_layers(flavour, "transformer") == {name for name in linear if QUANTIZED(name, linear[name])}
    for target in (*FAMILIES["sd3"].lora_targets, ("attn.to_q", "transformer_blocks.1*.ff.*"), ("proj_out",)):
        settings = SimpleNamespace(model_family="sd3", lora_target=target)
        assert set(shapes.lora_layers(flavour, target)) == set(lora_targets(transformer, settings))
        trained = shapes.lora_layers(flavour, target)
        numbers = sum(4 * (linear[name].in_features + linear[name].out_features) for name in trained)
        assert shapes.lora_parameters(flavour, target, 4) == numbers


def test_the_download_is_the_size_of_the_hub_s_files():
    # Sizes of the files in stabilityai/stable-diffusion-3-medium-diffusers, in GB.
    files = 4.17 + 0.247 + 1.39 + 9.52 + 0.168
    assert shapes.download_bytes("sd3-medium", use_t5=True) / 1e9 == pytest.approx(files, rel=0.01)
    assert shapes.download_bytes("sd3-medium", use_t5=False) / 1e9 == pytest.approx(files - 9.52, rel=0.01)
    assert shapes.download_bytes("tiny", use_t5=True) == 0
    with pytest.raises(KeyError):
        shapes.download_bytes("sdxl", use_t5=True)
