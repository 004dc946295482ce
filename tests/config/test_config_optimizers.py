"""The optimizer arguments of the schema are those of the libraries, with their defaults."""

import importlib
import inspect

import pytest

from simpletune.config.aliases import WITHHELD_ARGUMENTS
from simpletune.config.schema import config_keys, load_schema, optimizer_arguments

NAMES = config_keys()["optimizer"]["enum"]
# What the trainer sets otherwise than the library: adamw_bf16 is for bf16 weights, which need Kahan summation.
OURS = {("adamw_bf16", "kahan_sum"): True}


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_the_library_s(name):
    module, _, function = load_schema("config")["$defs"]["optimizers"][name]["x-library"].rpartition(".")
    library = pytest.importorskip(module)
    signature = inspect.signature(getattr(library, function)).parameters
    listed = optimizer_arguments(name)
    assert set(listed) | set(WITHHELD_ARGUMENTS) >= set(signature)
    assert set(listed) <= set(signature)
    for key, schema in listed.items():
        if "default" in schema:
            default = signature[key].default
            real = OURS.get((name, key), list(default) if isinstance(default, tuple) else default)
            assert schema["default"] == real, key


@pytest.mark.parametrize("name", NAMES)
def test_defaults_build_the_optimizer(name):
    torch = importlib.import_module("torch")
    module, _, function = load_schema("config")["$defs"]["optimizers"][name]["x-library"].rpartition(".")
    if not importlib.util.find_spec(module.partition(".")[0]):
        pytest.skip(f"{module} is not installed")
    arguments = {key: schema["default"] for key, schema in optimizer_arguments(name).items() if "default" in schema}
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    weights = [torch.nn.Parameter(torch.ones(4))]
    built = getattr(importlib.import_module(module), function)(weights, lr=1e-4, **arguments)
    assert [group["params"] for group in built.param_groups] == [weights]


def test_every_optimizer_has_arguments():
    assert list(load_schema("config")["$defs"]["optimizers"]) == NAMES
