"""At which size sample pictures are made: the last thing that needs memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simpletune.config.architecture import largest_side
from simpletune.config.rules_sizes import sizes
from simpletune.machine.forecast import VALIDATE
from simpletune.wizard.outlook import ROOM, card, fits, largest_edge, memory_note, outlook, plan
from simpletune.wizard.proposals import Proposal
from simpletune.wizard.question import Question
from simpletune.wizard.screen import Option
from simpletune.wizard.state import MISSING, State


def _sizes(state: State) -> tuple[Option, ...]:
    wanted, limit = outlook(state), card(state).usable
    edges = [edge for edge in (512, 768, 1024) if edge <= state.flavour.resolution] or [state.flavour.resolution]
    options = []
    for edge in edges:
        changed = replace(wanted, validation_sizes=((edge, edge),))
        refused = None if fits(state, changed, VALIDATE) else f"too large: {memory_note(changed, None, VALIDATE)}"
        options.append(Option(edge, f"{edge} x {edge}", memory_note(changed, limit, VALIDATE), refused))
    others = dict.fromkeys((state.base.config.get("validation_resolution"), _in_effect(state)))
    options += [
        Option(other, _shown_sides(other), "as the file has it", _too_wide(state, other))
        for other in others
        if other is not None and other not in edges
    ]
    return tuple(options)


def _in_effect(state: State) -> Any:
    return state.config.get("validation_resolution") or state.value("resolution") or state.flavour.resolution


def _too_wide(state: State, value: Any) -> str | None:
    longest, most = max(side for size in sizes(value) for side in size), largest_side(state.flavour.name)
    return f"{state.flavour.name} goes up to {most} pixels a side" if longest > most else None


def _shown_sides(value: Any) -> str:
    return f"{value} x {value}" if isinstance(value, int) else str(value)


def _propose_size(state: State) -> Proposal[int]:
    wanted = plan(state)
    trained = largest_edge(state)
    edges = [edge for edge in (512, 768, 1024) if edge <= max(trained, 512)]
    edges = edges if state.flavour.resolution >= 512 else [state.flavour.resolution]
    fitting = [
        edge for edge in edges if fits(state, replace(wanted, validation_sizes=((edge, edge),)), VALIDATE, room=ROOM)
    ]
    value = max(fitting, default=edges[0])
    return Proposal(value, "the size it is trained at" if value >= edges[-1] else "the largest that fits")


def _read_size(state: State) -> Any:
    known = state.base.exists or "validation_resolution" in state.config
    return _in_effect(state) if known else MISSING


def _write_size(state: State, value: Any) -> None:
    default = state.value("resolution") or state.flavour.resolution
    if value != default or "validation_resolution" in state.config:
        state.config["validation_resolution"] = value


VALIDATION_SIZE = Question(
    id="samples.size",
    section="Sample pictures",
    row="Their size",
    title="At which size are sample pictures made?",
    about="The last thing that needs memory: the picture is decoded at full size.",
    options=_sizes,
    propose=_propose_size,
    read=_read_size,
    write=_write_size,
    show=_shown_sides,
    fine=True,
    fitted="machine",
    figures=True,
    keys=("validation_resolution",),
)
