"""The optimizers by name: where each comes from, how it is built, and its state as tensors and JSON.

To add an optimizer, add a row to OPTIMIZERS (and its arguments to the schema). Every argument that the configuration
leaves out has its library's own default, weight decay included: 0.01 for adamw, adamw_bf16 and adamw8bit, 0 for
adafactor, lion and prodigy.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from simpletune.errors import EnvironmentNotReady, TrainingFailed, UsageError

if TYPE_CHECKING:
    from simpletune.config.settings import Settings


@dataclass(frozen=True)
class OptimizerSource:
    """One optimizer: its class, what to install for it, and how its LoRA weights are kept.

    `extra` is the extra of this package that brings the library; `defaults` are arguments of ours, which the
    configuration may overrule; `capturable`: on CUDA it runs inside a captured graph, without host synchronization.
    """

    module: str
    class_name: str
    package: str
    extra: str | None = None
    parameter_dtype: torch.dtype = torch.float32
    defaults: Mapping[str, Any] = field(default_factory=dict)
    capturable: bool = False


OPTIMIZERS: Mapping[str, OptimizerSource] = {
    "adamw": OptimizerSource("torch.optim", "AdamW", "torch", capturable=True),
    "adamw_bf16": OptimizerSource(
        "optimi", "AdamW", "torch-optimi", parameter_dtype=torch.bfloat16, defaults={"kahan_sum": True}
    ),
    "adamw8bit": OptimizerSource("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", extra="adamw8bit"),
    "adafactor": OptimizerSource("torch.optim", "Adafactor", "torch"),
    "lion": OptimizerSource("optimi", "Lion", "torch-optimi"),
    "prodigy": OptimizerSource("prodigyopt", "Prodigy", "prodigyopt", extra="prodigy"),
}

# How the same arithmetic is run. Chosen here from the device, so a run may resume on another one.
_EXECUTION = frozenset({"fused", "foreach", "capturable", "triton"})
# Arguments that would change what training means, or need hooks the trainer doesn't have.
_NOT_OFFERED = frozenset(
    {"params", "lr", "differentiable", "maximize", "gradient_release", "max_lr", "fsdp_in_use", "args", "optim_bits"}
)
# The parameter group's names for an argument that it stores under another one.
_RENAMED = frozenset({"beta1", "beta2"})
_NON_FINITE = "non_finite"


def parameter_dtype(name: str) -> torch.dtype:
    """The dtype LoRA weights must have for this optimizer."""
    return OPTIMIZERS[name].parameter_dtype


def is_capturable(name: str, device: torch.device) -> bool:
    """Whether the optimizer's step can be captured in a CUDA graph on this device."""
    return OPTIMIZERS[name].capturable and device.type == "cuda"


def is_installed(name: str) -> bool:
    """Whether the optimizer's library is there, without importing it."""
    return importlib.util.find_spec(OPTIMIZERS[name].module.partition(".")[0]) is not None


def optimizer_arguments(name: str) -> tuple[str, ...]:
    """What `optimizer_config` may hold for this optimizer, from the library's own signature."""
    names = inspect.signature(_optimizer_class(name).__init__).parameters
    return tuple(n for n in names if n != "self" and n not in _NOT_OFFERED | _EXECUTION)


def build_optimizer(settings: Settings, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer over LoRA weights, all on one device and of `parameter_dtype`.

    Raises EnvironmentNotReady when its library is missing, UsageError when it refuses an argument.
    """
    name = settings.optimizer
    optimizer_class = _optimizer_class(name)
    given = {key: tuple(map(float, v)) if key == "betas" else v for key, v in settings.optimizer_config.items()}
    _check_arguments(name, given)
    device = parameters[0].device
    arguments = {**OPTIMIZERS[name].defaults, **given, **_execution_arguments(name, device)}
    rate = settings.learning_rate
    lr = torch.tensor(rate, device=device) if is_capturable(name, device) else rate
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # prodigy prints a line about its weight decay
            return optimizer_class(list(parameters), lr=lr, **arguments)
    except (ValueError, TypeError, AssertionError) as error:
        raise UsageError(
            f"optimizer_config: {name} does not accept {dict(settings.optimizer_config)}: {error}",
            hint="Correct the value, or leave the argument out to use the library's default.",
        ) from error


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate for the next step; a tensor (captured graphs read it) is filled in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The whole state as (tensors by flat name, JSON-able rest), for safetensors and a JSON file.

    Parameters are counted in the order they were given. The tensors are the optimizer's own, not copies.
    """
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {"optimizer": type(optimizer).__name__, "state": {}, "groups": []}
    for index, parameter in enumerate(_parameters(optimizer)):
        plain = _split(f"state.{index}", optimizer.state.get(parameter, {}), tensors)
        rest["state"][str(index)] = plain
    for index, group in enumerate(optimizer.param_groups):
        kept = {key: value for key, value in group.items() if key not in _EXECUTION | {"params", "lr"}}
        rest["groups"].append(_split(f"group.{index}", kept, tensors))
    return tensors, rest


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Put a saved state into a freshly built optimizer over the same weights; from there both go on alike.

    Its arguments stay as built (a changed configuration takes effect), what it has learned comes from the save.
    Raises TrainingFailed when the state belongs to another optimizer or other weights.
    """
    parameters = _parameters(optimizer)
    _check_fits(optimizer, parameters, tensors, rest)
    gathered = _gather(tensors)
    for index, parameter in enumerate(parameters):
        state = {key: _decoded(value) for key, value in rest["state"][str(index)].items()}
        for key, value in gathered.get(f"state.{index}", {}).items():
            state[key] = value.to(_state_device(optimizer, key, parameter), copy=True)
        if state:
            optimizer.state[parameter] = state
    arguments = set(inspect.signature(type(optimizer).__init__).parameters) | _RENAMED
    for index, group in enumerate(optimizer.param_groups):
        saved = {key: _decoded(value) for key, value in rest["groups"][index].items()}
        saved.update({key: value.clone() for key, value in gathered.get(f"group.{index}", {}).items()})
        group.update({key: value for key, value in saved.items() if key not in arguments})


def _optimizer_class(name: str) -> Any:
    source = OPTIMIZERS[name]
    try:
        return getattr(importlib.import_module(source.module), source.class_name)
    except ImportError as error:
        package = f"'simpletune[{source.extra}]'" if source.extra else source.package
        raise EnvironmentNotReady(
            f'optimizer "{name}" needs the package {source.package}, which can\'t be imported ({error})',
            hint=f"pip install {package}",
        ) from error


def _check_arguments(name: str, given: Mapping[str, Any]) -> None:
    offered = optimizer_arguments(name)
    unknown = sorted(set(given) - set(offered))
    if unknown:
        raise UsageError(
            f"optimizer_config: {name} has no argument {', '.join(unknown)}",
            hint=f"It takes {', '.join(offered)}.",
        )


def _execution_arguments(name: str, device: torch.device) -> dict[str, Any]:
    if is_capturable(name, device):
        return {"fused": True, "capturable": True}
    if OPTIMIZERS[name].module == "optimi":
        # Said outright because optimi otherwise decides at its first step, and not again after a resume.
        triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
        return {"triton": triton}
    return {}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _split(prefix: str, values: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put the tensors among `values` into `tensors`; return the others, JSON-able."""
    plain = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}.{key}"] = value.detach()
        else:
            plain[key] = _encoded(value)
    return plain


def _gather(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"state.3.exp_avg": t} -> {"state.3": {"exp_avg": t}}"""
    gathered: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, index, key = name.split(".", 2)
        gathered.setdefault(f"{kind}.{index}", {})[key] = tensor
    return gathered


def _encoded(value: Any) -> Any:
    """Strict JSON has no infinity or NaN; Python's floats otherwise survive it bit for bit."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_NON_FINITE: str(value)}
    return list(value) if isinstance(value, tuple) else value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and _NON_FINITE in value:
        return float(value[_NON_FINITE])
    return tuple(value) if isinstance(value, list) else value


def _state_device(optimizer: torch.optim.Optimizer, key: str, parameter: nn.Parameter) -> torch.device:
    """State lives beside its weight, except torch's step counters, which stay on the host unless captured."""
    group = optimizer.param_groups[0]
    on_host = key == "step" and not (group.get("capturable") or group.get("fused"))
    return torch.device("cpu") if on_host else parameter.device


def _check_fits(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
) -> None:
    name = type(optimizer).__name__
    if rest["optimizer"] != name:
        raise TrainingFailed(
            f"the checkpoint holds the state of the optimizer {rest['optimizer']}, this run uses {name}",
            hint="Resume with the optimizer the run began with, or start in a new output_dir.",
        )
    sizes = [len(parameters), len(optimizer.param_groups)]
    wrong_shape = any(
        saved.shape != parameters[int(index)].shape
        for kind, index, key, saved in ((*name.split(".", 2), tensor) for name, tensor in tensors.items())
        if kind == "state" and key == "exp_avg" and int(index) < len(parameters)
    )
    if wrong_shape or [len(rest["state"]), len(rest["groups"])] != sizes:
        raise TrainingFailed(
            "the checkpoint's optimizer state belongs to an adapter of another rank or other target layers",
            hint="Resume with the settings the run began with, or start in a new output_dir.",
        )
