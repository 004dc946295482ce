import pytest

from simpletune.config.families import SD3, matches, matching_modules, module_names


@pytest.mark.parametrize(
    ("pattern", "takes"),
    [
        ("to_q", True),
        ("attn.to_q", True),
        ("transformer_blocks.3.attn.to_q", True),
        ("transformer_blocks.*.attn.*", True),
        ("transformer_blocks.[0-3].attn.to_q", True),
        ("tn.to_q", False),
        ("transformer_blocks.3", False),
        ("attn.to_", False),
    ],
)
def test_patterns(pattern, takes):
    assert matches(pattern, "transformer_blocks.3.attn.to_q") is takes


@pytest.mark.parametrize("flavour", SD3.flavours.values(), ids=lambda flavour: flavour.name)
def test_presets_take_layers_of_every_flavour(flavour):
    names = module_names(SD3, flavour)
    for suffixes in SD3.lora_targets.values():
        taken = [name for suffix in suffixes for name in matching_modules(suffix, names)]
        assert len(taken) == len(set(taken)) >= 4 * flavour.block_count
