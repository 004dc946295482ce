"""LoHa, LoKr and DoRA: the base at first, what the LyCORIS library computes, saved and taken up bit for bit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_kinds import KINDS, inputs, lycoris, run, settings, shake, small_model, train
from safetensors.torch import load_file, save_file
from torch import nn

from simpletune.config.architecture import component_config
from simpletune.config.families import FAMILIES, SD3
from simpletune.config.lycoris import LayerKind, factorization, faults, parse
from simpletune.config.lycoris_targets import known_layers, layer_kinds, target_faults
from simpletune.errors import ConfigError
from simpletune.models import adapters, components
from simpletune.models.adapter_start import _chains, kinds_of
from simpletune.models.lora_file import FILE_NAME, check_fits, read_adapter
from simpletune.models.quantize import PRECISIONS
from simpletune.models.sd3_forward import SD3Forward

PRESETS: list[dict[str, Any]] = [
    {"target_module": ["Attention", "FeedForward"]},
    {"target_module": ["Attention"], "module_algo_map": {"FeedForward": {"algo": "loha", "dim": 3}}},
    {"target_module": ["JointTransformerBlock"], "module_algo_map": {"Attention": {"factor": 6, "alpha": 3}}},
    {"target_module": ["JointTransformerBlock"], "exclude_name": [r"transformer_blocks\.0\..*norm"]},
    {"target_module": [], "target_name": [r"transformer_blocks\.1\.attn\.to_[qk]$"]},
    {
        "target_module": [],
        "use_fnmatch": True,
        "name_algo_map": {"transformer_blocks.0.*.to_q": {"algo": "lora", "dim": 2}, "*.to_v": {"factor": 3}},
    },
]
# One of each kind of arithmetic every time; all of them in `make fault-test`.
EVERY = [pytest.param(kind, marks=() if kind in ("dora", "loha", "lokr") else pytest.mark.fault) for kind in KINDS]
LIBRARY_NAMES = {"lora": "LoConModule", "loha": "LohaModule", "lokr": "LokrModule"}


@pytest.fixture(scope="module")
def library() -> Any:
    found = pytest.importorskip("lycoris")
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    return found


@pytest.fixture
def network(library) -> Any:
    """LycorisNetwork, whose presets are kept in the class."""
    kept = {name: getattr(library.LycorisNetwork, name) for name in dir(library.LycorisNetwork) if name.isupper()}
    yield library.LycorisNetwork
    for name, value in kept.items():
        setattr(library.LycorisNetwork, name, value)


# --- which layers, and what they get


@pytest.mark.parametrize("flavour", FAMILIES["sd3"].flavours)
def test_the_modules_around_each_layer_are_known_without_the_model(flavour) -> None:
    model = components.empty_module("transformer", component_config(flavour, "transformer"))
    known = {name: list(chain) for name, chain in known_layers(SD3, SD3.flavours[flavour]).items()}
    assert known == {name: list(chain) for name, chain in _chains(model).items()}


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_layers_and_their_matrices_are_those_the_library_makes(network, library, preset) -> None:
    value = {"algo": "lokr", "linear_dim": 4, "linear_alpha": 2, "factor": 4, "apply_preset": preset}
    assert not [fault for fault in faults(value) if not fault.warning]
    model = small_model()
    kinds = layer_kinds(parse(value), _chains(model))
    network.apply_preset({"enable_conv": False, **preset})
    made = library.create_lycoris(model, 1.0, 4, 2, algo="lokr", factor=4, warn_on_unmatched=False)
    theirs = {lora.lora_name: lora for lora in made.loras}
    assert {f"lycoris_{name.replace('.', '_')}" for name in kinds} == set(theirs)
    for name, kind in kinds.items():
        lora, layer = theirs[f"lycoris_{name.replace('.', '_')}"], model.get_submodule(name)
        shape = (layer.out_features, layer.in_features)
        assert type(lora).__name__ == LIBRARY_NAMES[kind.algo]
        shapes = {short: tuple(tensor.shape) for short, tensor in lora.state_dict().items() if short != "alpha"}
        assert kind.shapes(*shape) == shapes
        assert kind.scaling(*shape) == lora.scale
        assert kind.numbers(*shape) == sum(parameter.numel() for parameter in lora.parameters())


def test_factors_are_those_the_library_takes(library) -> None:
    from lycoris.functional.general import factorization as theirs

    sizes, factors = (1, 2, 6, 12, 48, 127, 250, 360, 1536, 2432, 6144, 9728), (-1, 1, 2, 3, 5, 7, 8, 16, 40, 100)
    assert [[factorization(size, factor) for factor in factors] for size in sizes] == [
        [theirs(size, factor) for factor in factors] for size in sizes
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"algo": "lokrr"}, '"lokr"'),
        ({"algo": "boft"}, "isn't computed here"),
        ({"algo": "lokr", "factor": 0}, '"factor" must be at least 1'),
        ({"algo": "lokr", "linear_dim": 0}, '"linear_dim" must be at least 1'),
        ({"algo": "lokr", "dora_wd": True}, "use_dora"),
        ({"algo": "lokr", "dropout": 0.1}, "dropout"),
        ({"algo": "lokr", "facter": 4}, 'did you mean "factor"'),
        ({"algo": "lokr", "apply_preset": {"targets": ["Attention"]}}, "unknown key"),
        ({"algo": "lokr", "apply_preset": {"module_algo_map": {"Attention": 3}}}, "must be an object"),
        ({"algo": "lokr", "apply_preset": "attn-mlp"}, "not a preset's name"),
        ({"algo": "lokr", "preset": "atn-mlp"}, "none of LyCORIS' presets"),
        ({"algo": "lokr", "preset": ["full"]}, "none of LyCORIS' presets"),
        ({"algo": "lokr", "multiplier": float("nan")}, "finite"),
        ({"algo": "lokr", "multiplier": 0}, "train nothing"),
        ([], "must hold an object"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(value, said) -> None:
    wrong = [fault for fault in faults(value) if not fault.warning]
    assert len(wrong) == 1
    assert said in wrong[0].message


@pytest.mark.parametrize("key", ["target_name", "module_algo_map"])
def test_layers_that_are_named_beside_all_others_are_told(key) -> None:
    """As LyCORIS has it, what isn't said about classes means every linear layer."""
    value = {"algo": "lora", "apply_preset": {key: ["proj_out"] if key == "target_name" else {"Attention": {}}}}
    (told,) = faults(value)
    assert (told.path, told.warning) == (("apply_preset", key), True)
    assert "every linear layer" in told.message
    everything = len(layer_kinds(parse(value), known_layers(SD3, SD3.flavours["tiny"])))
    value["apply_preset"]["target_module"] = []
    assert list(faults(value)) == []
    assert len(layer_kinds(parse(value), known_layers(SD3, SD3.flavours["tiny"]))) < everything


@pytest.mark.parametrize("name", ["full", "attn-mlp", "attn-only", "unet-transformer-only"])
def test_presets_of_the_library_by_name_choose_nothing_as_there(network, library, name) -> None:
    targets = {"target_module": ["Attention"]}
    value = {"algo": "lokr", "linear_dim": 4, "factor": 4, "preset": name, "apply_preset": targets}
    assert [fault.warning for fault in faults(value)] == [True] * (name != "full")
    network.apply_preset(targets)
    made = library.create_lycoris(small_model(), 1.0, 4, 1, algo="lokr", factor=4, preset=name)
    named = {f"lycoris_{layer.replace('.', '_')}" for layer in layer_kinds(parse(value), _chains(small_model()))}
    assert {lora.lora_name for lora in made.loras} == named


def test_targets_that_the_model_lacks_are_said() -> None:
    value = {"algo": "lokr", "apply_preset": {"target_module": ["Atention"], "target_name": ["(", "elsewhere"]}}
    layers = known_layers(SD3, SD3.flavours["tiny"])
    (broken,) = target_faults(parse(value), layers, "tiny")  # patterns first
    assert "regular expression" in broken.message
    assert broken.hint == 'for shell patterns add "use_fnmatch": true inside "apply_preset"'
    value["apply_preset"]["target_name"] = ["elsewhere"]
    said = [fault.message for fault in target_faults(parse(value), layers, "tiny")]
    assert ['did you mean "Attention"' in said[0], "elsewhere" in said[1]] == [True, True]


def test_a_rank_of_two_whole_matrices_has_no_scale() -> None:
    assert LayerKind("lokr", 10000, 1.0, factor=16).scaling(1536, 1536) == 1.0
    assert LayerKind("lokr", 4, 1.0, factor=16).scaling(1536, 1536) == 0.25
    assert LayerKind("lokr", 10000, 1.0, factor=16).numbers(1536, 1536) == 16 * 16 + 96 * 96


# --- what is computed


@pytest.mark.parametrize(
    "precision",
    ["int8-quanto", *(pytest.param(name, marks=pytest.mark.fault) for name in ("no_change", "int4-quanto"))],
)
@pytest.mark.parametrize("kind", EVERY)
def test_step_zero_is_the_base_bit_for_bit(kind, precision) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = small_model(precision, dtype)
        with torch.no_grad():
            before = run(model, dtype)
            adapters.attach_lora(model, settings(kind))
            assert torch.equal(run(model, dtype), before)


@pytest.mark.parametrize("kind", [kind for kind in EVERY if kind.values[0] not in ("lora", "dora")])
def test_the_library_computes_the_same_with_the_saved_file(library, kind, tmp_path) -> None:
    model = small_model()
    adapters.attach_lora(model, settings(kind))
    shake(model)
    file, stock = _final(model, settings(kind), tmp_path), small_model()
    with torch.no_grad():
        plain, expected = run(stock), run(model)
        found, _ = library.create_lycoris_from_weights(1.0, str(file), stock)
        found.merge_to()
        got = run(stock)
    moved = (expected - plain).abs().max()
    assert moved > 0.05
    assert (got - expected).abs().max() < 1e-4 * moved + 1e-5


@pytest.mark.parametrize("kind", EVERY)
def test_the_forward_pass_of_compiled_blocks_gives_the_same_gradients(kind) -> None:
    """Uncompiled: the arithmetic that torch.compile is given."""
    results = []
    for way in ("modules", "blocks"):
        model = small_model("int8-quanto").train()
        adapters.attach_lora(model, settings(kind))
        shake(model)
        given = inputs()
        if way == "modules":
            velocity = model(**given, return_dict=False)[0]
        else:
            forward = SD3Forward(model, 1, compiled=False)
            velocity = forward(*given.values())
        velocity.square().mean().backward()
        gradients = [parameter.grad for _, parameter in adapters.trainable_parameters(model)]
        results.append((velocity.detach(), gradients))
    (velocity, gradients), (other, others) = results
    assert torch.allclose(velocity, other, rtol=1e-3, atol=1e-4)
    for gradient, same in zip(gradients, others, strict=True):
        assert gradient is not None
        assert (gradient - same).norm() < 2e-3 * gradient.norm() + 1e-7


@pytest.mark.parametrize("kind", EVERY)
def test_an_adapter_that_is_off_is_the_base(kind) -> None:
    model = small_model()
    with torch.no_grad():
        before = run(model)
        adapters.attach_lora(model, settings(kind))
        shake(model)
        with adapters.adapter_enabled(model, False):
            assert torch.equal(run(model), before)
        assert not torch.equal(run(model), before)
        adapters.detach(model)
        assert torch.equal(run(model), before)


# --- files


def _final(model: nn.Module, of: Any, folder: Path) -> Path:
    state, header = adapters.final_state(model, of)
    save_file(state, folder / "pytorch_lora_weights.safetensors", metadata=header)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize(
    "precision",
    [pytest.param(name, marks=() if name == "int8-quanto" else pytest.mark.fault) for name in PRECISIONS],
)
@pytest.mark.parametrize("kind", EVERY)
def test_a_file_and_a_checkpoint_are_put_on_as_they_were_trained(kind, precision, tmp_path) -> None:
    if kind == "dora" and precision == "int2-quanto":
        pytest.skip("refused")
    model, bare = small_model(precision), small_model(precision)
    adapters.attach_lora(model, settings(kind))
    shake(model)
    state, header = adapters.checkpoint_state(model, settings(kind))
    save_file(state, tmp_path / "checkpoint.safetensors", metadata=header)
    with torch.no_grad():
        base, expected = run(bare), run(model)
        for file in (_final(model, settings(kind), tmp_path), tmp_path / "checkpoint.safetensors"):
            factors = read_adapter(file)
            check_fits(factors, bare, "it")
            assert set(factors) == set(kinds_of(bare, settings(kind)))
            with adapters.attached(bare, factors):
                assert torch.allclose(run(bare), expected, rtol=1e-4, atol=1e-5)
            with adapters.attached(bare, factors, 0.0):
                assert torch.equal(run(bare), base)
        assert torch.equal(run(bare), base)


@pytest.mark.parametrize("kind", EVERY)
def test_half_the_strength_is_half_the_change_of_the_weight(kind, tmp_path) -> None:
    model, bare = small_model(), small_model()
    adapters.attach_lora(model, settings(kind))
    shake(model)
    factors = read_adapter(_final(model, settings(kind), tmp_path))
    name = "transformer_blocks.1.ff.net.0.proj"
    layer = bare.get_submodule(name)
    x = torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(4))
    changed = factors[name].applied_to(layer.weight)
    expected = x @ (layer.weight + 0.5 * (changed - layer.weight)).t() + layer.bias
    with torch.no_grad(), adapters.attached(bare, factors, 0.5):
        assert torch.allclose(bare.get_submodule(name)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", EVERY)
def test_init_lora_continues_where_the_file_ends(kind, tmp_path) -> None:
    model = small_model()
    adapters.attach_lora(model, settings(kind))
    shake(model)
    again = small_model()
    adapters.attach_lora(again, settings(kind, init_lora=_final(model, settings(kind), tmp_path)))
    with torch.no_grad():
        assert torch.allclose(run(again), run(model), rtol=1e-4, atol=1e-5)
    other = "loha" if kind != "loha" else "lokr"
    with pytest.raises(ConfigError, match=r"another kind|lacks|doesn't train"):
        adapters.attach_lora(small_model(), settings(other, init_lora=tmp_path))
    elsewhere = {name.replace("blocks.1.", "blocks.9.").replace("blocks_1_", "blocks_9_"): tensor
                 for name, tensor in load_file(tmp_path / FILE_NAME).items()}  # fmt: skip
    save_file(elsewhere, tmp_path / "elsewhere.safetensors")
    with pytest.raises(ConfigError, match=r"blocks\.9\..*, which the model lacks"):
        adapters.attach_lora(small_model(), settings(kind, init_lora=tmp_path / "elsewhere.safetensors"))


def _resumed(kind: str, precision: str) -> None:
    """Two steps, saved and taken up, then two more: the numbers of four in one go."""
    models = [small_model(precision) for _ in range(3)]
    for model in models:
        adapters.attach_lora(model, settings(kind))
    whole, first, second = models
    optimizers = [torch.optim.AdamW([p for _, p in adapters.trainable_parameters(model)], lr=0.01) for model in models]
    expected = train(whole, optimizers[0], 4)
    losses = train(first, optimizers[1], 2)
    state, _ = adapters.checkpoint_state(first, settings(kind))
    adapters.load_lora_state(second, {name: tensor.clone() for name, tensor in state.items()})
    optimizers[2].load_state_dict(optimizers[1].state_dict())
    assert losses + train(second, optimizers[2], 2) == expected
    assert expected[-1] < expected[0]
    for (name, parameter), (_, same) in zip(
        adapters.trainable_parameters(whole), adapters.trainable_parameters(second), strict=True
    ):
        assert torch.equal(parameter, same), name


@pytest.mark.parametrize("kind", ["dora", "lokr"])
def test_training_goes_on_bit_for_bit(kind) -> None:
    _resumed(kind, "int8-quanto")


@pytest.mark.fault
@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "int2-quanto"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_on_every_precision_goes_on_bit_for_bit(kind, precision) -> None:
    _resumed(kind, precision)


def _without(name: str) -> Any:
    return lambda state: {key: tensor for key, tensor in state.items() if not key.endswith(name)}


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("lokr", _without("lokr_w1"), "it has transformer_blocks_0_"),
        ("loha", _without("hada_w2_b"), "it has transformer_blocks_0_"),
        ("loha", lambda state: {**state, "text_model.x": torch.zeros(1)}, "it has text_model.x"),
        ("lokr", lambda state: {**state, "lycoris_proj_out.lokr_t2": torch.zeros(2, 2)}, "convolution"),
        ("lokr", lambda state: {**state, "lycoris_proj_out.dora_scale": torch.zeros(2, 1)}, "dora_scale"),
        ("lokr", lambda state: {key: tensor * float("nan") for key, tensor in state.items()}, "NaN or infinity"),
        ("lokr", lambda state: {k.replace("_blocks_1_", "_blocks_7_"): t for k, t in state.items()}, "blocks.7"),
        ("lokr", lambda state: {k: t[:-1] if k.endswith("w2_a") else t for k, t in state.items()}, " wide, the model"),
        ("dora", _without("lora_A.weight"), "lora_B|not a LoRA"),
        ("dora", lambda state: {k: t[1:] if k.endswith("vector") else t for k, t in state.items()}, "not a LoRA"),
    ],
)
def test_a_file_that_is_broken_or_for_another_model_is_refused(kind, change, said, tmp_path) -> None:
    model = small_model()
    adapters.attach_lora(model, settings(kind))
    shake(model)
    file = _final(model, settings(kind), tmp_path)
    save_file({key: tensor.contiguous() for key, tensor in change(load_file(file)).items()}, file)
    with pytest.raises(ConfigError, match=said):
        check_fits(read_adapter(file), small_model(), "it")


def test_names_of_every_layer_are_found_again() -> None:
    from simpletune.models.lycoris_file import _module

    for flavour in SD3.flavours.values():
        for name in known_layers(SD3, flavour):
            assert _module(name.replace(".", "_")) == name


def test_several_algorithms_in_one_file(library, tmp_path) -> None:
    """As a map of classes has it; a LoRA among them is one of PEFT's layers."""
    preset = {"target_module": ["Attention"], "module_algo_map": {"FeedForward": {"algo": "lora", "dim": 3}}}
    mixed = {**lycoris("lokr", factor=4), "lora_alpha": 2.0}
    mixed["lycoris_config"] = {**mixed["lycoris_config"], "apply_preset": preset}
    of = settings("lora", **mixed)
    model, stock = small_model(), small_model()
    adapters.attach_lora(model, of)
    shake(model)
    file = _final(model, of, tmp_path)
    with torch.no_grad():
        found, _ = library.create_lycoris_from_weights(1.0, str(file), stock)
        found.merge_to()
        assert torch.allclose(run(stock), run(model), rtol=1e-3, atol=1e-4)
