"""The answers the wizard recommends, each with a reason a first-timer understands: all of them, from where they are."""

from __future__ import annotations

from simpletune.wizard.concerns import words_about
from simpletune.wizard.data_proposals import (
    caption_options,
    looks_like_tags,
    propose_captions,
    propose_crop,
    propose_repeats,
    propose_resolution,
    propose_trigger,
    resolutions,
    table_note,
)
from simpletune.wizard.prompt_proposals import outside_prompt, propose_prompts
from simpletune.wizard.proposal import Proposal
from simpletune.wizard.training_proposals import (
    propose_batch,
    propose_checkpoint_interval,
    propose_learning_rate,
    propose_rank,
    propose_steps,
    propose_validation_interval,
)

__all__ = [
    "Proposal",
    "caption_options",
    "looks_like_tags",
    "outside_prompt",
    "propose_batch",
    "propose_captions",
    "propose_checkpoint_interval",
    "propose_crop",
    "propose_learning_rate",
    "propose_prompts",
    "propose_rank",
    "propose_repeats",
    "propose_resolution",
    "propose_steps",
    "propose_trigger",
    "propose_validation_interval",
    "resolutions",
    "table_note",
    "words_about",
]
