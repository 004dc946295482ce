"""Everything that turns a transformer with its LoRA into a training step: optimizer, average, and the way it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from simpletune.config.settings import Settings
from simpletune.errors import ConfigError, EnvironmentNotReady
from simpletune.models import compile_cache
from simpletune.models.adapters import trainable_parameters
from simpletune.models.compiled import why_not
from simpletune.models.family import Family, TextEncoding, UnsupportedModel
from simpletune.models.graphs import Graphs
from simpletune.models.registry import get_family
from simpletune.trainer.ema import Ema
from simpletune.trainer.execution import Execution, choose, gather_facts
from simpletune.trainer.optimizers import build_optimizer
from simpletune.trainer.processes import Processes
from simpletune.trainer.step import Predict, TrainingStep

Say = Callable[[str], None]


@dataclass(frozen=True)
class Assembled:
    """A training step and what it moves. `execution` is how it was meant to run when it was made."""

    step: TrainingStep
    parameters: dict[str, Parameter]
    optimizer: Optimizer
    ema: Ema | None
    execution: Execution


def assemble(
    settings: Settings,
    family: Family,
    transformer: nn.Module,
    processes: Processes,
    total_steps: int,
    empty_caption: TextEncoding | None = None,
    say: Say = lambda _line: None,
) -> Assembled:
    """Make the step for a transformer that has its LoRA already (`models.adapters.attach_lora`).

    `total_steps` are the whole run's: what decides how the step runs must be the same after a resume.
    `say` is told in one line how the step will run, and again when that changes because something fails.
    Raises as `execution.choose`, `compile_cache.prepare` and `optimizers.build_optimizer`; ConfigError when
    `execution` is "compile" and this model can't be.
    """
    transformer.train()
    if settings.gradient_checkpointing:
        enable_checkpointing(transformer, settings.gradient_checkpointing_interval)
    eager = _uncompiled(settings, family, transformer)
    execution, predict = _way(settings, family, transformer, processes.device, total_steps, eager, say)
    say(f"execution: {execution.reason}")
    if execution.compiled:
        say("the first step compiles: half a minute to a minute, less with code that an earlier run kept")
    parameters = dict(trainable_parameters(transformer))
    tensors = list(parameters.values())
    optimizer = build_optimizer(settings, tensors)
    ema = Ema(parameters, settings.ema_decay, settings.ema_update_interval) if settings.use_ema else None
    step = TrainingStep(
        settings,
        family,
        predict,
        tensors,
        optimizer,
        processes,
        empty_caption,
        ema=ema,
        graphs=Graphs(processes.device, say) if execution.captured else None,
        update_captured=execution.update_captured,
        on_compile_error=partial(_without_compiling, settings, eager, say),
    )
    return Assembled(step, parameters, optimizer, ema, execution)


def _uncompiled(settings: Settings, family: Family, transformer: nn.Module) -> Predict:
    """The forward pass by ordinary calls: of the model's own modules, or of what can offload in their place."""
    if not offloads(settings):
        return partial(family.predict, transformer)
    try:
        return family.compiled_predict(transformer, settings, compiled=False)
    except UnsupportedModel as error:
        raise _not_offloaded(settings, error) from error


def offloads(settings: Settings) -> bool:
    """Whether the step keeps weights or activations in host memory."""
    return settings.base_model_offload > 0 or settings.activation_offload


def _way(
    settings: Settings,
    family: Family,
    transformer: nn.Module,
    device: torch.device,
    total_steps: int,
    eager: Predict,
    say: Say,
) -> tuple[Execution, Predict]:
    """How the step runs, and the forward pass for it."""
    blocks = len(getattr(transformer, "transformer_blocks", ()))
    execution = choose(settings.execution, gather_facts(settings, device, blocks=blocks, steps=total_steps))
    if not execution.compiled:
        return execution, eager
    try:
        predict = family.compiled_predict(transformer, settings)
    except UnsupportedModel as error:
        if settings.execution == "compile":
            raise _not_compiled(error) from error
        way = "graph over eager kernels" if execution.captured else "eager"
        return replace(execution, compiled=False, reason=f"{way}: {error}"), eager
    note = compile_cache.prepare()
    if note is not None:
        say(note)
    return execution, predict


def check_forward(settings: Settings, targets: Sequence[str]) -> None:
    """Raise ConfigError where LoRAs on `targets` can't be compiled, or trained on an offloaded base, and have to be.

    To be asked before anything is encoded.
    """
    if settings.execution != "compile" and not offloads(settings):
        return
    try:
        get_family(settings.model_family).check_compiled(targets, settings)
    except UnsupportedModel as error:
        raise (_not_offloaded(settings, error) if offloads(settings) else _not_compiled(error)) from error


def _not_compiled(error: UnsupportedModel) -> ConfigError:
    return ConfigError(f'"execution" is compile: {error}', 'set "execution" to "auto", or "lora_target" to "attention"')


def _not_offloaded(settings: Settings, error: UnsupportedModel) -> ConfigError:
    key, off = ("base_model_offload", "0") if settings.base_model_offload else ("activation_offload", "false")
    return ConfigError(f'"{key}": {error}', f'set "{key}" to {off}, "lora_dropout" to 0 or "lora_target" to "blocks"')


def _without_compiling(settings: Settings, eager: Predict, say: Say, error: Exception) -> Predict:
    """What is left when the compiler fails: the eager forward pass, unless compiling was asked for."""
    reason = why_not(error)
    if settings.execution == "compile":
        raise EnvironmentNotReady(
            f'"execution" is compile: torch.compile failed: {reason}', 'set it to "auto"'
        ) from error
    say(f"execution: eager kernels: torch.compile failed: {reason}")
    return eager


def enable_checkpointing(transformer: nn.Module, interval: int) -> None:
    """Recompute the activations of every `interval`-th block in the backward pass instead of keeping them."""
    place: dict[int, int] = {}  # blocks by the order in which they first run

    def run_block(block: nn.Module, *inputs: Any) -> Any:
        if place.setdefault(id(block), len(place)) % interval == 0:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    transformer.enable_gradient_checkpointing(run_block)
