"""SD3's three text encoders: captions in, what the transformer is told out.

Equal to `StableDiffusion3Pipeline.encode_prompt` bit for bit (a test holds that): the penultimate states of CLIP-L and
CLIP-G side by side, zero-padded to T5's width, T5's states after them on the token axis, nothing masked; the pooled
states side by side. Without T5 its states are zeros. Both CLIPs read as many tokens as the model's own files say: 77
in SD3, 32 in tiny.

In the cache an entry has the CLIPs' states without their padding, and T5's only where they say something: at 154
tokens of SD3 1.58 MB of the 1.90 MB that the encoding takes in bf16.

Shapes: B captions, L tokens, D features, E pooled features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from simpletune import outside
from simpletune.errors import ModelUnavailable
from simpletune.models.family import TextEncoding


@dataclass(frozen=True)
class SD3TextEncoders:
    """Encoders that are on one device together; `t5` is None when the run doesn't use it."""

    clips: tuple[tuple[Any, nn.Module], ...]  # (tokenizer, encoder) of CLIP-L and CLIP-G
    t5: tuple[Any, nn.Module] | None
    clip_tokens: int
    t5_tokens: int
    width: int  # D, the transformer's joint_attention_dim
    device: torch.device
    dtype: torch.dtype

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextEncoding:
        """prompt_embeds (B, clip_tokens + t5_tokens, D) and pooled_prompt_embeds (B, E) in the compute dtype."""
        clip_BCD, pooled_BE = self.clip_states(captions)
        return self.joined(clip_BCD, pooled_BE, self.t5_states(captions))

    def encode_batches(self, batches: Sequence[Sequence[str]]) -> Iterator[TextEncoding]:
        return map(self.encode, batches)

    @torch.no_grad()
    def clip_states(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Both CLIPs' states side by side, (B, clip_tokens, up to D), and their pooled states, (B, E)."""
        encoded = [self._clip(tokenizer, encoder, captions) for tokenizer, encoder in self.clips]
        states, pooled = zip(*encoded, strict=True)
        return torch.cat(states, dim=-1), torch.cat(pooled, dim=-1)

    @torch.no_grad()
    def t5_states(self, captions: Sequence[str]) -> Tensor:
        """(B, t5_tokens, D); zeros without T5."""
        if self.t5 is None:
            return torch.zeros(len(captions), self.t5_tokens, self.width, device=self.device, dtype=self.dtype)
        tokenizer, encoder = self.t5
        states_BLD: Tensor = encoder(token_ids(tokenizer, captions, self.t5_tokens).to(self.device))[0]
        return states_BLD.to(self.dtype)

    def joined(self, clip_BCD: Tensor, pooled_BE: Tensor, t5_BLD: Tensor) -> TextEncoding:
        """What the transformer is told, of what the encoders said."""
        padded_BCD = functional.pad(clip_BCD, (0, self.width - clip_BCD.shape[-1]))
        return TextEncoding(torch.cat([padded_BCD, t5_BLD], dim=-2), pooled_BE)

    def _clip(self, tokenizer: Any, encoder: nn.Module, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids_BL = token_ids(tokenizer, captions, self.clip_tokens).to(self.device)
        output = encoder(ids_BL, output_hidden_states=True)
        return output.hidden_states[-2].to(self.dtype), output[0]


def token_ids(tokenizer: Any, captions: Sequence[str], length: int) -> Tensor:
    """(B, length) on the CPU: cut or filled up to `length` tokens."""
    tokens = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids_BL: Tensor = tokens.input_ids
    return ids_BL


_CLIP_STATES, _T5_STATES, _POOLED, _SHAPE = "clip_states", "t5_states", "pooled", "shape"


def pack(encoding: TextEncoding) -> dict[str, Tensor]:
    """One caption's encoding (B = 1, on the CPU) as the tensors to keep: without what is zero by construction.

    clip_states (C, up to D), t5_states (L - C, D) unless there are none, pooled (E,), and shape: L and D. C is found
    and not told: the tokens before the first that says something beyond the CLIPs' width, which is one of T5's, and
    without such a token all but the blank ones at the end. Whatever C is, nothing but zeros is left out.
    """
    states_LD, pooled_E = encoding.prompt_embeds[0], encoding.pooled_prompt_embeds[0]
    width = pooled_E.shape[0]  # the CLIPs' states lie side by side as their pooled states do
    wide = _saying_something(states_LD[:, width:])
    if wide:
        narrow_LD, t5_LD = states_LD[: wide[0]], states_LD[wide[0] :]
    else:
        narrow_LD, t5_LD = states_LD[: 1 + max(_saying_something(states_LD), default=-1)], None
    packed = {_CLIP_STATES: narrow_LD[:, :width], _POOLED: pooled_E, _SHAPE: torch.tensor(states_LD.shape)}
    return packed if t5_LD is None else {**packed, _T5_STATES: t5_LD}


def unpack(packed: Mapping[str, Tensor]) -> TextEncoding:
    """What `pack` was given, bit for bit; B = 1. Raises KeyError when these aren't its tensors."""
    tokens, features = packed[_SHAPE].tolist()
    clip_LD, pooled_E, t5_LD = packed[_CLIP_STATES], packed[_POOLED], packed.get(_T5_STATES)
    states_LD = clip_LD.new_zeros(tokens, features)
    states_LD[: clip_LD.shape[0], : clip_LD.shape[1]] = clip_LD
    if t5_LD is not None:
        states_LD[clip_LD.shape[0] :] = t5_LD
    return TextEncoding(states_LD[None], pooled_E[None])


def _saying_something(states_LD: Tensor) -> list[int]:
    """The tokens, in order, that aren't all zero bits; a negative zero is none."""
    bits_LD = states_LD.contiguous().view(torch.uint8)
    found: list[int] = bits_LD.any(dim=1).nonzero().flatten().tolist()
    return found


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer of the diffusers layout, from local files only. Raises ModelUnavailable naming the folder."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    kind = T5TokenizerFast if folder.name == "tokenizer_3" else CLIPTokenizer
    try:
        outside.check_model_files(folder)
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelUnavailable(
            f"the tokenizer in {folder} can't be loaded: {error}", "download the model's tokenizers again"
        ) from error
