"""Whether somebody can be asked, and by which prompter."""

from __future__ import annotations

import os
import sys

from simpletune.wizard.screen import Prompter
from simpletune.wizard.streams import is_terminal


def may_prompt() -> bool:
    """Whether questions can be asked: stdin and stdout are both terminals. Piped lines are never taken as answers."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def wants_plain_lines() -> bool:
    """Whether the environment asks for questions as plain lines: ACCESSIBLE=1, or a TERM that can't move its cursor."""
    accessible = os.environ.get("ACCESSIBLE", "") not in {"", "0", "false", "no"}
    return accessible or os.environ.get("TERM") in {"dumb", "unknown"}


def prompter() -> Prompter:
    """The prompter for this terminal. Questionary is imported only if it is needed: it takes a tenth of a second."""
    if wants_plain_lines():
        from simpletune.wizard.plain import PlainPrompter

        return PlainPrompter()
    from simpletune.wizard.terminal import TerminalPrompter

    return TerminalPrompter()
