"""A vision-language model asked what a picture shows: those with a chat template are given the prompt, those without
one (BLIP, GIT) caption by themselves, going on from the prompt if one is given.

Decoding is greedy: the same pictures in the same batches on the same machine give the same words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from simpletune.disk_words import in_words
from simpletune.errors import OutOfMemory, UsageError
from simpletune.models.memory import ran_out

PROMPT = (
    "Describe this picture in one to three sentences for somebody who can't see it: the subject, what it does, its "
    "surroundings, colours, light, and the style or medium. Name only what can be seen."
)
LARGEST_AREA = 768 * 768
"""Pixels. More detail than a caption has words for; a few hundred tokens of a model that takes any size."""

_SMALLEST_EDGE, _LARGEST_ASPECT = 56, 20


@dataclass(frozen=True)
class Answer:
    """What a model said of a picture; `cut` when it was stopped before it was done."""

    text: str
    cut: bool


class Describer:
    """A loaded model with its processor, asked for one description a picture."""

    def __init__(
        self, model: nn.Module, processor: Any, device: torch.device, prompt: str | None, max_new_tokens: int
    ) -> None:
        """`prompt`: what to ask or, for a model without a chat template, how its answers begin; None: the default."""
        self.model, self.processor, self.device = model, processor, device
        self.max_new_tokens = max_new_tokens
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"  # what is generated follows what is right-most
        self._chats = bool(getattr(processor, "chat_template", None))
        self._beginning = "" if self._chats else " ".join((prompt or "").split())
        self._text = self._asked(prompt or PROMPT) if self._chats else self._beginning or None
        self._dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self._ends = _end_tokens(model)

    def prepare(self, pictures: Sequence[Image.Image]) -> Any:
        """The model's inputs for RGB pictures, on the host. The processor raises what it likes when it refuses them."""
        images = [fitted(picture) for picture in pictures]
        given: dict[str, Any] = {"images": [[image] for image in images] if self._chats else images}
        if self._text is not None:
            given |= {"text": [self._text] * len(images), "padding": True}
        return self.processor(**given, return_tensors="pt")

    @torch.inference_mode()
    def describe(self, pictures: Sequence[Image.Image]) -> list[Answer]:
        """What the model says of each picture.

        Raises OutOfMemory when they don't fit at once, UsageError when the model needs to be asked in another way.
        """
        try:
            with quiet():
                return self._describe(pictures)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            problem = first_line(error)
        raise OutOfMemory(problem)  # out of the handler, which keeps the failed batch's tensors alive

    def _describe(self, pictures: Sequence[Image.Image]) -> list[Answer]:
        try:
            inputs = self.prepare(pictures).to(self.device, dtype=self._dtype)
            made = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens)
        except (ValueError, TypeError, KeyError) as error:
            message = f"the model doesn't take pictures this way: {first_line(error)}"
            raise UsageError(message, "it may need a --prompt of a certain form, or none: see its page") from error
        if self._chats and not self.model.config.is_encoder_decoder:
            made = made[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [Answer(self._own(text), not self._ended(row)) for text, row in zip(texts, made.tolist(), strict=True)]

    def _asked(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    def _own(self, text: str) -> str:
        """An answer that goes on from a beginning, with that in the letters it was given in."""
        text, begun = text.strip(), self._beginning
        return begun + text[len(begun) :] if begun and text.lower().startswith(begun.lower()) else text

    def _ended(self, row: list[int]) -> bool:
        return any(token in self._ends for token in row[1:]) or len(row) < self.max_new_tokens


def fitted(picture: Image.Image) -> Image.Image:
    """An RGB picture in a size that every model takes: at most LARGEST_AREA pixels, no sliver and no speck."""
    width, height = picture.size
    across, down = min(width, _LARGEST_ASPECT * height), min(height, _LARGEST_ASPECT * width)
    left, top = (width - across) // 2, (height - down) // 2
    scale = min(1.0, (LARGEST_AREA / (across * down)) ** 0.5)
    scale = max(scale, _SMALLEST_EDGE / min(across, down))
    size = round(across * scale), round(down * scale)
    box = (left, top, left + across, top + down)
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def greedy(model: Any) -> None:
    """Take the likeliest word each time, whatever the model's own settings draw."""
    settings = model.generation_config
    settings.do_sample, settings.num_beams = False, 1
    settings.temperature = settings.top_p = settings.top_k = None
    settings.max_length = None


def _end_tokens(model: Any) -> frozenset[int]:
    found = model.generation_config.eos_token_id
    return frozenset(found if isinstance(found, list) else [] if found is None else [found])


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars and remarks."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What an error says, in one line: of a file that the system refuses its name, and why in words."""
    said = next((line.strip() for line in in_words(error).splitlines() if line.strip()), type(error).__name__)
    file = getattr(error, "filename", None)
    return f"{Path(file).name}: {said}" if isinstance(file, str | Path) else said
