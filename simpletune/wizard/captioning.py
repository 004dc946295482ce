"""Captions that a model writes once the files are there: the offer, the run, and the command for later.

It runs as a process of its own, so that the memory for its model is given back, and a stop loses nothing. Until it is
done the files say one phrase for all pictures and train as they are; then it sets the data file to use the captions.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence

from simpletune.wizard.questions.captions import captioned_later
from simpletune.wizard.screen import Option, Screen
from simpletune.wizard.state import State

Run = Callable[[Sequence[str]], int]
"""Runs a command on this terminal and gives its exit code."""

NOW, LATER = "now", "later"


def offer(state: State) -> Screen | None:
    """The question whether captions are written now; None when no set waits for them."""
    waiting = captioned_later(state)
    if not waiting:
        return None
    which = "the captions" if len(state.images) == 1 else f"the captions of {' and '.join(waiting)}"
    return Screen(
        "caption",
        "Captions",
        f"Have {which} written now?",
        "The model is downloaded first, 4.3 GB, if it isn't here. It can be stopped, and goes on where it was.",
        (
            Option(NOW, "now", "then training can start"),
            Option(LATER, "later", "until then one phrase stands for all pictures"),
        ),
        default=NOW,
        can_go_back=False,
        name="Captions",
    )


def write_captions(state: State, run: Run) -> bool:
    """Run the captioner for each set that waits; whether all of them have their captions."""
    from simpletune.data.captioning.target import captions_command

    config = state.base.config_path
    commands = [[*captions_command(config, set_id=one), "--replace"] for one in captioned_later(state)]
    return all(run(command) == 0 for command in commands)


def later(state: State) -> list[str]:
    """What to type to have the captions written; nothing when no set waits for them."""
    config = shlex.quote(str(state.base.config_path))
    commands = [f"simpletune caption {config} --dataset {shlex.quote(one)} --replace" for one in captioned_later(state)]
    if not commands:
        return []
    return ["The captions are still to be written; until then one phrase stands for all. For them:", *commands]


def on_this_terminal(command: Sequence[str]) -> int:
    """Run a command with this terminal. Ctrl-C reaches it too: it stops by itself, and is waited for."""
    process = subprocess.Popen(list(command))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
