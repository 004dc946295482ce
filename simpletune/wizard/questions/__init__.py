"""All questions, in the order they are asked. To add one, add it to a module here, and its module below."""

from __future__ import annotations

from collections.abc import Iterator

from simpletune.wizard.question import Question
from simpletune.wizard.questions.adapter import adapter
from simpletune.wizard.questions.depth import depth
from simpletune.wizard.questions.hardware import hardware
from simpletune.wizard.questions.model import model
from simpletune.wizard.questions.output import output
from simpletune.wizard.questions.pictures import pictures
from simpletune.wizard.questions.precision import precision
from simpletune.wizard.questions.samples import samples
from simpletune.wizard.questions.sharing import sharing
from simpletune.wizard.questions.training import training
from simpletune.wizard.state import State


def questions(state: State) -> Iterator[Question]:
    """The questions for the answers so far; each is answered in `state` before the next is taken."""
    for part in (depth, hardware, model, pictures, precision, adapter, training, samples, output, sharing):
        yield from part(state)
