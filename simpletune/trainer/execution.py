"""Which way the training step runs, and why: the choice behind the key "execution".

- eager: plain PyTorch calls on diffusers' modules
- compile: the transformer's blocks compiled
- graph: the step captured in CUDA graphs, over compiled blocks where they can be had, else over eager kernels

All compute the same; what differs is how long a step takes, and how long it takes until the first one. Figures, and
the same rules for estimates, which know less: `machine/execution.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from simpletune.config.settings import Settings
from simpletune.errors import ConfigError, EnvironmentNotReady
from simpletune.machine.execution import (
    COMPILING,
    EIGHT_BIT,
    FIRST_FP8,
    OLDEST_TRITON,
    SAVED_ALONE,
    SAVED_IN_GRAPH,
)
from simpletune.machine.toolchain import Gap, gap
from simpletune.trainer.optimizers import is_capturable

_DEVICES = {"cpu": "a CPU", "mps": "an Apple GPU"}
_AUTO = 'set "execution" to "auto"'


@dataclass(frozen=True)
class Facts:
    """What the choice depends on.

    capability: the card's compute capability, None without CUDA. native_bf16: the card computes in bf16 itself, it
    doesn't emulate it. gap: what torch.compile lacks here. capturable: the optimizer's step can be captured. blocks: of
    the transformer. passes: forward and backward passes of the whole run.
    """

    device: str  # as torch calls its type
    capability: tuple[int, int] | None
    native_bf16: bool
    gap: Gap | None
    mixed_precision: str
    base_model_precision: str
    optimizer: str
    capturable: bool
    blocks: int
    passes: int
    matmul: str = "auto"  # what "base_model_matmul" says


@dataclass(frozen=True)
class Execution:
    """captured: micro batches run in CUDA graphs; update_captured: so does the update. compiled: the blocks are.

    reason: what was chosen and, if that isn't the fastest way, why; a line without the key's name and a full stop.
    """

    captured: bool
    compiled: bool
    update_captured: bool
    reason: str


def gather_facts(settings: Settings, device: torch.device, *, blocks: int, steps: int) -> Facts:
    """The facts of this machine and run; `blocks` of the transformer, `steps` the run's optimizer steps.

    Those done before a resume count too: what is left must go on the way the run began, or its numbers would differ.
    """
    on_card = device.type == "cuda"
    return Facts(
        device=device.type,
        capability=torch.cuda.get_device_capability(device) if on_card else None,
        native_bf16=not on_card or torch.cuda.is_bf16_supported(including_emulation=False),
        gap=gap(device.type),
        mixed_precision=settings.mixed_precision,
        base_model_precision=settings.base_model_precision,
        optimizer=settings.optimizer,
        capturable=is_capturable(settings.optimizer, device),
        blocks=blocks,
        passes=steps * settings.gradient_accumulation_steps,
        matmul=settings.base_model_matmul,
    )


def check_wanted(settings: Settings, device: torch.device) -> None:
    """Raise what `choose` will raise, before anything is loaded or encoded for a run that can't start."""
    choose(settings.execution, gather_facts(settings, device, blocks=0, steps=0))


def choose(wanted: str, facts: Facts) -> Execution:
    """How the step runs for a value of "execution".

    Raises ConfigError when the wanted way can't be had with this configuration or device, EnvironmentNotReady when
    something that could be installed is missing for it.
    """
    if facts.matmul in EIGHT_BIT:
        _require_eight_bit(facts)
    if wanted == "eager":
        return Execution(False, False, False, "eager")
    if wanted == "compile":
        _require("compile", _not_compiled(facts), facts)
        return Execution(False, True, False, "compile")
    if wanted == "graph":
        _require("graph", _not_captured(facts), facts)
        return _captured(facts, _not_compiled(facts))
    return _auto(facts)


def _auto(facts: Facts) -> Execution:
    if facts.device != "cuda":
        return Execution(False, False, False, f"eager: the device is {_DEVICES.get(facts.device, facts.device)}")
    no_graph = _not_captured(facts)
    not_compiled = _not_compiled(facts)
    if facts.matmul not in EIGHT_BIT:
        not_compiled = not_compiled or _not_worthwhile(facts, in_graph=no_graph is None)
    if no_graph is None:
        return _captured(facts, not_compiled)
    if not_compiled is None:
        return Execution(False, True, False, f"compile: {no_graph.what}")
    return Execution(False, False, False, f"eager: {no_graph.what}; {not_compiled.line}")


def _captured(facts: Facts, not_compiled: Gap | None) -> Execution:
    reason = "graph over compiled blocks" if not_compiled is None else f"graph over eager kernels: {not_compiled.line}"
    if not facts.capturable:
        reason += f"; the update runs outside of it: {facts.optimizer} can't be captured"
    return Execution(True, not_compiled is None, facts.capturable, reason)


def _not_captured(facts: Facts) -> Gap | None:
    """Why no CUDA graph can be made."""
    if facts.device != "cuda":
        return Gap(f"CUDA graphs are for NVIDIA cards, and the device is {_DEVICES.get(facts.device, facts.device)}")
    if facts.mixed_precision == "fp16":
        return Gap("the loss scale of fp16 is set outside of CUDA graphs", 'set "mixed_precision" to "bf16"')
    return None


def _not_compiled(facts: Facts) -> Gap | None:
    """Why the blocks can't be compiled."""
    capability = facts.capability
    if facts.gap is not None or capability is None:
        return facts.gap
    has = "this card has compute capability {}.{}".format(*capability)
    if capability < OLDEST_TRITON:
        return Gap(f"{has}, and torch.compile needs 7.0")
    if facts.mixed_precision == "bf16" and not facts.native_bf16:
        return Gap("this card emulates bf16, which torch.compile doesn't", 'set "mixed_precision" to "fp16"')
    if facts.base_model_precision == "fp8-quanto" and capability < FIRST_FP8:
        return Gap(f"{has}, and compiled fp8 needs 8.9", 'set "base_model_precision" to "int8-quanto"')
    return None


def _not_worthwhile(facts: Facts, *, in_graph: bool) -> Gap | None:
    """Why compiling would take longer than it saves over the run; None when it wouldn't.

    Whether code is kept already doesn't count: a run that is resumed must go on the way it began.
    """
    saved = facts.passes * facts.blocks * (SAVED_IN_GRAPH if in_graph else SAVED_ALONE)
    return None if saved > COMPILING else Gap("the run is too short for compiling to pay off")


def _require_eight_bit(facts: Facts) -> None:
    """Products in 8 bits are those of compiled blocks: without, they would take longer than in 16."""
    says, remedy = f'"base_model_matmul" is {facts.matmul}', 'set "base_model_matmul" to "auto"'
    lacking = _not_compiled(facts)
    if facts.device != "cuda":
        lacking = Gap(f"it needs an NVIDIA card, and the device is {_DEVICES.get(facts.device, facts.device)}")
    elif facts.capability is not None and facts.capability < EIGHT_BIT[facts.matmul]:
        needed, has = ("{}.{}".format(*version) for version in (EIGHT_BIT[facts.matmul], facts.capability))
        lacking = Gap(f"it needs compute capability {needed}, and this card has {has}")
    if lacking is not None:
        raised = EnvironmentNotReady if lacking is facts.gap else ConfigError
        raise raised(f"{says}: {lacking.what}", f"{lacking.remedy}, or {remedy}" if lacking.remedy else remedy)


def _require(wanted: str, lacking: Gap | None, facts: Facts) -> None:
    if lacking is None:
        return
    raised = EnvironmentNotReady if lacking is facts.gap else ConfigError
    raise raised(
        f'"execution" is {wanted}: {lacking.what}', f"{lacking.remedy}, or {_AUTO}" if lacking.remedy else _AUTO
    )
