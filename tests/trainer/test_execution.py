"""Which way the step runs on which machine, and what is said where the wanted way can't be had."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from simpletune.errors import ConfigError, EnvironmentNotReady
from simpletune.machine.toolchain import Gap
from simpletune.trainer.execution import Facts, check_wanted, choose, gather_facts

NO_COMPILER = Gap("no C compiler is found for torch.compile", "install gcc")
H100 = Facts(
    device="cuda",
    capability=(9, 0),
    native_bf16=True,
    gap=None,
    mixed_precision="bf16",
    base_model_precision="int8-quanto",
    optimizer="adamw",
    capturable=True,
    blocks=24,
    passes=5000,
)
CPU = replace(H100, device="cpu", capability=None, capturable=False)
APPLE = replace(CPU, device="mps", gap=Gap("torch.compile is still being made for Apple GPUs"))
T4 = replace(H100, capability=(7, 5), native_bf16=False, mixed_precision="fp16")
FP8 = replace(H100, base_model_precision="fp8-quanto")


def way(wanted, facts):
    found = choose(wanted, facts)
    return "c" * found.captured + "k" * found.compiled + "u" * found.update_captured


# c: captured, k: compiled, u: the update captured too
@pytest.mark.parametrize(
    ("wanted", "facts", "expected", "why"),
    [
        ("auto", H100, "cku", "graph over compiled blocks"),
        ("auto", replace(H100, mixed_precision="no"), "cku", "graph over compiled blocks"),
        ("auto", replace(H100, gap=NO_COMPILER), "cu", "no C compiler is found for torch.compile (install gcc)"),
        ("auto", replace(H100, capability=(6, 1)), "cu", "compute capability 6.1"),
        ("auto", replace(T4, mixed_precision="bf16"), "cu", "emulates bf16"),
        ("auto", FP8, "cku", "graph over compiled blocks"),
        ("auto", replace(FP8, capability=(8, 6)), "cu", "fp8 needs 8.9"),
        ("auto", replace(H100, optimizer="lion", capturable=False), "ck", "lion can't be captured"),
        ("auto", T4, "k", "compile: the loss scale of fp16"),
        ("auto", replace(T4, gap=NO_COMPILER), "", "eager: the loss scale of fp16 is set outside of CUDA graphs; no C"),
        ("auto", CPU, "", "eager: the device is a CPU"),
        ("auto", APPLE, "", "eager: the device is an Apple GPU"),
        ("eager", H100, "", "eager"),
        ("compile", H100, "k", "compile"),
        ("compile", CPU, "k", "compile"),
        ("graph", H100, "cku", "graph over compiled blocks"),
        ("graph", replace(H100, gap=NO_COMPILER), "cu", "graph over eager kernels: no C compiler"),
    ],
)
def test_the_way(wanted, facts, expected, why):
    assert way(wanted, facts) == expected
    assert why in choose(wanted, facts).reason


@pytest.mark.parametrize("facts", [H100, T4])
def test_a_short_run_is_not_compiled_unless_told_so(facts):
    short = replace(facts, passes=10)
    assert "k" not in way("auto", short)
    assert "too short for compiling to pay off" in choose("auto", short).reason
    assert "k" in way("compile", short)


def test_many_blocks_make_compiling_worthwhile_sooner():
    def passes(**facts):
        return next(n for n in range(0, 5000, 10) if choose("auto", replace(H100, passes=n, **facts)).compiled)

    assert passes(blocks=38) < passes()


@pytest.mark.parametrize(
    ("wanted", "facts", "error", "message", "hint"),
    [
        ("graph", CPU, ConfigError, "the device is a CPU", 'set "execution" to "auto"'),
        ("graph", APPLE, ConfigError, "the device is an Apple GPU", 'set "execution" to "auto"'),
        ("graph", T4, ConfigError, "fp16", 'set "mixed_precision" to "bf16", or set "execution" to "auto"'),
        ("compile", APPLE, EnvironmentNotReady, "Apple GPUs", 'set "execution" to "auto"'),
        ("compile", replace(CPU, gap=NO_COMPILER), EnvironmentNotReady, "no C compiler", "install gcc, or set"),
        ("compile", replace(FP8, capability=(8, 0)), ConfigError, "compute capability 8.0", "int8-quanto"),
    ],
)
def test_what_cannot_be_had_is_refused(wanted, facts, error, message, hint):
    with pytest.raises(error) as caught:
        choose(wanted, facts)
    assert type(caught.value) is error
    assert caught.value.message.startswith(f'"execution" is {wanted}: ')
    assert message in caught.value.message
    assert hint in caught.value.hint


def settings(**changes):
    return SimpleNamespace(
        **{
            "execution": "auto", "mixed_precision": "no", "base_model_precision": "no_change", "optimizer": "adamw",
            "gradient_accumulation_steps": 3, "base_model_matmul": "auto", **changes,
        }
    )  # fmt: skip


def test_facts_of_this_machine():
    facts = gather_facts(settings(), torch.device("cpu"), blocks=2, steps=10)
    assert (facts.device, facts.capability, facts.capturable) == ("cpu", None, False)
    assert (facts.blocks, facts.passes) == (2, 30)


def test_a_wish_is_checked_before_the_run():
    check_wanted(settings(), torch.device("cpu"))
    with pytest.raises(ConfigError):
        check_wanted(settings(execution="graph"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"device": "cpu", "capability": None}, ConfigError, "needs an NVIDIA card"),
        ({"capability": (8, 6)}, ConfigError, "needs compute capability 8.9, and this card has 8.6"),
        ({"gap": Gap("there is no C compiler", "install one")}, EnvironmentNotReady, "no C compiler"),
        ({"native_bf16": False}, ConfigError, "emulates bf16"),
    ],
)
def test_products_in_8_bits_are_refused_where_there_are_none(change, error, words):
    able = replace(H100, matmul="fp8", passes=1)
    assert choose("auto", able).compiled, "short as the run is"
    with pytest.raises(error, match=words):
        choose("auto", replace(able, **change))
