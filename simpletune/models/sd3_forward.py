"""SD3's transformer as a training step wants it: pure functions of tensors, compiled block by block.

It computes what diffusers' SD3Transformer2DModel computes (MMDiT: Esser et al. 2024, arXiv 2403.03206, section 4;
SD3.5's second attention and its normalized queries and keys included), arranged for speed:

    modulation      AdaLN sees one vector a sample: it is computed for all blocks up front, outside of what is
                    recomputed, reading each quantized weight once
    projections     q, k and v of a stream are one product with their LoRAs (projection.py)
    blocks          equal blocks share one compiled graph; checkpointed ones may keep the result of attention, the
                    dearest thing to recompute
    offloaded       blocks whose weights are in host memory (offload.py) are always recomputed, and so are those whose
                    inputs go there (recompute.py)

Shapes: B samples, T image tokens, L text tokens, S = T + L, F features, n modulation vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from simpletune.models.adapter_layers import ADAPTER, AdapterLayer, LoraLinear, adapter_layers
from simpletune.models.compiled import compile_for_all
from simpletune.models.family import UnsupportedModel
from simpletune.models.offload import offload_of
from simpletune.models.projection import Group, feed_forward, group_of, in_eight_bits, project
from simpletune.models.recompute import Hold, KeptInputs, Run, recomputed

_EPS = 1e-6
_KEPT = frozenset(
    f"_scaled_dot_product_{kind}"
    for kind in ("cudnn_attention", "flash_attention", "efficient_attention", "flash_attention_for_cpu")
)


class Attention(NamedTuple):
    """Projections of one attention, and the weights (head width,) that normalize queries and keys in SD3.5.

    The text's are None in the second attention of SD3.5, and `text_out` also in the last block.
    """

    qkv: Group
    out: Group
    text_qkv: Group | None
    text_out: Group | None
    norms: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # q, k, text's q, text's k


class Block(NamedTuple):
    """A transformer block's tensors. The last one has no `text_feed`: nothing reads its text."""

    attention: Attention
    second: Attention | None
    feed: tuple[Group, Group]
    text_feed: tuple[Group, Group] | None


class Weights(NamedTuple):
    """All of a block: its tensors, and the layers of its AdaLN, of the image and of the text."""

    block: Block
    norms: tuple[Group, Group]


class SD3Forward:
    """noisy latents (B, C, H, W), timesteps (B,), text (B, L, D), pooled (B, E) -> velocity (B, C, H, W).

    Gradients, where they are wanted, are recorded from the first block with a LoRA on. From there every
    `checkpointing`-th block is recomputed in the backward pass, its attention only with `keep_attention` off; None
    recomputes nothing. `compiled` compiles on first use. `matmul`: the kind of 8 bits (eight_bit.py) that the image's
    feed-forward layers are computed in, where they have no LoRA. An adapter that is switched off now is left out for
    good. `skip_layers` are the numbers of blocks that are left out, as for skip-layer guidance.
    `inputs`: where recomputed blocks' inputs wait for the backward pass, instead of on the device.
    Raises UnsupportedModel for a LoRA outside of the blocks' attention and feed-forward layers, and in training for
    lora_dropout.
    """

    def __init__(
        self,
        transformer: Any,
        checkpointing: int | None,
        *,
        compiled: bool,
        keep_attention: bool = True,
        matmul: str | None = None,
        inputs: KeptInputs | None = None,
    ) -> None:
        _check_loras(transformer)
        self._model = transformer
        blocks = list(transformer.transformer_blocks)
        self._offload, self._inputs = offload_of(transformer), inputs
        away = () if self._offload is None else self._offload.numbers
        whole = partial(weights_of, matmul=matmul)
        self._weights = {number: whole(block) for number, block in enumerate(blocks) if number not in away}
        self._staged = {} if self._offload is None else {n: self._offload.in_each_place(n, whole) for n in away}
        self._parameters = [[given for given in block.parameters() if given.requires_grad] for block in blocks]
        self._first = next((number for number, block in enumerate(blocks) if _has_lora(block)), 0)
        heads = blocks[0].attn.heads
        compiler: Callable[..., Any] = compile_for_all if compiled else partial
        self._modulation = compiler(modulation)
        self._plain = compiler(run_block, heads=heads)
        self._checkpointed = compiler(_checkpointed, heads=heads, keep_attention=keep_attention)
        self._checkpointing = checkpointing

    def __call__(
        self, noisy_latents: Tensor, timestep: Tensor, text: Tensor, pooled: Tensor, skip_layers: Sequence[int] = ()
    ) -> Tensor:
        model, recording = self._model, torch.is_grad_enabled()
        height, width = noisy_latents.shape[-2:]
        with torch.no_grad():
            temb = model.time_text_embed(timestep, pooled)
            embedded = functional.silu(temb)
            numbers = [number for number in range(len(self._parameters)) if number not in skip_layers]
            self._begin(numbers, recording)
            runs = {number: self._here(number, embedded) for number in numbers if number in self._weights}
            image = model.pos_embed(noisy_latents).contiguous()
            words = model.context_embedder(text)
        for number in numbers:
            if recording and number == self._first:
                # Its input needs no gradient. Asking for it keeps this block equal to the next ones: one graph less.
                image, words = image.requires_grad_(), words.requires_grad_()
            trained = recording and number >= self._first
            with torch.set_grad_enabled(trained):
                hold = partial(self._fetched, number, embedded, []) if number in self._staged else runs[number]
                image, words = self._through(number, hold, image, words, trained)
        patches = model.proj_out(model.norm_out(image, temb))
        return unpatchify(patches, height, width, model.config.patch_size)

    def _begin(self, numbers: Sequence[int], recording: bool) -> None:
        """Say which blocks' weights, and which blocks' inputs, will be needed in this pass, and in which order."""
        back = [number for number in reversed(numbers) if number >= self._first] if recording else []
        if self._offload is not None:
            away = self._offload.numbers
            self._offload.begin([n for n in numbers if n in away], [n for n in back if n in away])
        if self._inputs is not None:
            self._inputs.begin([number for number in reversed(back) if self._is_recomputed(number)])

    def _is_recomputed(self, number: int) -> bool:
        every = self._checkpointing
        return number in self._staged or (every is not None and number % every == 0)

    def _through(self, number: int, hold: Hold, image: Tensor, words: Tensor, trained: bool) -> tuple[Tensor, Tensor]:
        again = trained and self._is_recomputed(number)
        if again and (number in self._staged or self._inputs is not None):
            return recomputed(hold, image, words, self._parameters[number], self._inputs, number)
        with hold() as run:
            return run(image, words, checkpointed=again)

    def _here(self, number: int, embedded: Tensor) -> Hold:
        """A block that is on the device."""
        weights = self._weights[number]
        run = self._run_of(weights, self._vectors(embedded, weights))
        return lambda: nullcontext(run)

    @contextmanager
    def _fetched(self, number: int, embedded: Tensor, vectors: list[tuple[Tensor, Tensor]]) -> Iterator[Run]:
        """A block that comes from host memory; its vectors are computed the first time."""
        assert self._offload is not None
        with self._offload.held(number, whole=not vectors) as place:
            weights = self._staged[number][place]
            if not vectors:
                with torch.no_grad():
                    vectors.append(self._vectors(embedded, weights))
            yield self._run_of(weights, vectors[0])

    def _run_of(self, weights: Weights, vectors: tuple[Tensor, Tensor]) -> Run:
        def run(image: Tensor, text: Tensor, checkpointed: bool = False) -> tuple[Tensor, Tensor]:
            chosen = self._checkpointed if checkpointed else self._plain
            result: tuple[Tensor, Tensor] = chosen(image, text, *vectors, weights.block)
            return result

        return run

    def _vectors(self, embedded: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
        """The image's and the text's modulation vectors of a block, (B, n, F)."""
        width = embedded.shape[1]
        image, text = (self._modulation(embedded, norm).unflatten(1, (-1, width)) for norm in weights.norms)
        return image, text


def modulation(embedded: Tensor, group: Group) -> Tensor:
    """embedded (B, F) -> (B, O). For one sample as a sum, which the compiler fuses with unpacking a weight of bytes."""
    (frozen,) = group.frozen
    weight, bias = frozen.weight(), frozen.bias
    if embedded.shape[0] > 1 or frozen.bits < 8:
        return functional.linear(embedded, weight, bias)
    product = (embedded[:, None, :].float() * weight.float()).sum(-1)
    if bias is not None:
        product = product + bias.float()
    return product.to(embedded.dtype)


def run_block(
    image: Tensor, text: Tensor, image_vectors: Tensor, text_vectors: Tensor, block: Block, *, heads: int
) -> tuple[Tensor, Tensor]:
    """One MMDiT block: image (B, T, F), text (B, L, F) -> the same."""
    is_last = block.text_feed is None
    normal_image = functional.layer_norm(image, image.shape[-1:], eps=_EPS)
    seen_image = _modulate(normal_image, image_vectors, shift=0, scale=1)
    normal_text = functional.layer_norm(text, text.shape[-1:], eps=_EPS)
    seen_text = _modulate(normal_text, text_vectors, shift=1 if is_last else 0, scale=0 if is_last else 1)
    from_image, from_text = joint_attention(seen_image, seen_text, block.attention, heads)
    image = torch.addcmul(image, _vector(image_vectors, 2), from_image)
    if block.second is not None:
        seen_again = _modulate(normal_image, image_vectors, shift=6, scale=7)
        image = torch.addcmul(image, _vector(image_vectors, 8), self_attention(seen_again, block.second, heads))
    fed = _feed_forward(image, image_vectors, block.feed, joined=True)
    image = torch.addcmul(image, _vector(image_vectors, 5), fed)
    if block.text_feed is None or from_text is None:
        return image, text
    text = torch.addcmul(text, _vector(text_vectors, 2), from_text)
    fed = _feed_forward(text, text_vectors, block.text_feed, joined=False)
    return image, torch.addcmul(text, _vector(text_vectors, 5), fed)


def joint_attention(image: Tensor, text: Tensor, attention: Attention, heads: int) -> tuple[Tensor, Tensor | None]:
    """Both streams attend to both. The text's result is None in the last block."""
    assert attention.text_qkv is not None
    q, k, v = _queries(image, attention.qkv, attention.norms[:2], heads, joined=True)
    text_q, text_k, text_v = _queries(text, attention.text_qkv, attention.norms[2:], heads, joined=False)
    result = _attend(torch.cat([q, text_q], 1), torch.cat([k, text_k], 1), torch.cat([v, text_v], 1))
    from_image, from_text = result[:, : image.shape[1]], result[:, image.shape[1] :]
    (image_out,) = project(from_image, attention.out, joined=True)
    if attention.text_out is None:
        return image_out, None
    (text_out,) = project(from_text, attention.text_out, joined=False)
    return image_out, text_out


def self_attention(image: Tensor, attention: Attention, heads: int) -> Tensor:
    (out,) = project(
        _attend(*_queries(image, attention.qkv, attention.norms[:2], heads, joined=True)), attention.out, joined=True
    )
    return out


def _queries(
    x: Tensor, group: Group, norms: Sequence[Tensor | None], heads: int, *, joined: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one stream, (B, tokens, heads, head width)."""
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in project(x, group, joined=joined))
    return _root_mean_square(q, norms[0]), _root_mean_square(k, norms[1]), v


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, S, heads, head width) each -> (B, S, F)."""
    result = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return result.transpose(1, 2).flatten(2)


def _feed_forward(x: Tensor, vectors: Tensor, groups: tuple[Group, Group], *, joined: bool) -> Tensor:
    seen = _modulate(functional.layer_norm(x, x.shape[-1:], eps=_EPS), vectors, shift=3, scale=4)
    return feed_forward(seen, groups, joined=joined)


def _modulate(x: Tensor, vectors: Tensor, *, shift: int, scale: int) -> Tensor:
    return torch.addcmul(_vector(vectors, shift), x, 1 + _vector(vectors, scale))  # one kernel, where it isn't compiled


def _vector(vectors: Tensor, number: int) -> Tensor:
    """One modulation vector of each sample, (B, 1, F), for all of its tokens."""
    return vectors[:, number, None]


def _root_mean_square(x: Tensor, weight: Tensor | None) -> Tensor:
    """RMSNorm over the last dimension; Zhang and Sennrich 2019, arXiv 1910.07467. None leaves x as it is."""
    if weight is None:
        return x
    inverse = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + _EPS)
    return (x.float() * inverse).to(weight.dtype) * weight


def unpatchify(patches: Tensor, height: int, width: int, patch: int) -> Tensor:
    """(B, T, patch * patch * C) -> (B, C, height, width)."""
    grid = patches.unflatten(1, (height // patch, width // patch)).unflatten(-1, (patch, patch, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height, width)


def attention_bytes(transformer: Any, samples: int, tokens: int) -> int:
    """What keeping the results of all attentions takes, in 16 bits, for so many samples of so many tokens each."""
    blocks = transformer.transformer_blocks
    attentions = len(blocks) + sum(block.attn2 is not None for block in blocks)
    return 2 * attentions * samples * tokens * int(transformer.inner_dim)


def _checkpointed(
    image: Tensor,
    text: Tensor,
    image_vectors: Tensor,
    text_vectors: Tensor,
    block: Block,
    *,
    heads: int,
    keep_attention: bool,
) -> tuple[Tensor, Tensor]:
    def run(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return run_block(image, text, image_vectors, text_vectors, block, heads=heads)

    policy: dict[str, Any] = {}
    if keep_attention:
        policy["context_fn"] = _KEEPING
    result: tuple[Tensor, Tensor] = checkpoint(run, image, text, use_reentrant=False, **policy)
    return result


def _policy(_context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    name = getattr(operation, "_opname", "")
    return CheckpointPolicy.MUST_SAVE if name in _KEPT else CheckpointPolicy.MUST_RECOMPUTE


_KEEPING: Any = partial(create_selective_checkpoint_contexts, _policy)
_KEEPING.cache_hash = "attention"


def weights_of(module: Any, matmul: str | None = None) -> Weights:
    """All tensors of a JointTransformerBlock; `matmul` as in `block_of`."""
    return Weights(block_of(module, matmul), (group_of(module.norm1.linear), group_of(module.norm1_context.linear)))


def block_of(module: Any, matmul: str | None = None) -> Block:
    """A JointTransformerBlock's tensors; the image's feed-forward products in 8 bits of kind `matmul`."""
    return Block(
        _attention_of(module.attn),
        None if module.attn2 is None else _attention_of(module.attn2),
        _feed_of(module.ff, matmul),
        None if module.ff_context is None else _feed_of(module.ff_context),
    )


def _attention_of(module: Any) -> Attention:
    has_text = module.added_kv_proj_dim is not None
    text = group_of(module.add_q_proj, module.add_k_proj, module.add_v_proj) if has_text else None
    text_out = group_of(module.to_add_out) if has_text and not module.context_pre_only else None
    norms = [getattr(module, name, None) for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k")]
    q, k, text_q, text_k = (None if norm is None else norm.weight.detach() for norm in norms)
    return Attention(
        group_of(module.to_q, module.to_k, module.to_v),
        group_of(module.to_out[0]),
        text,
        text_out,
        (q, k, text_q, text_k),
    )


def _feed_of(module: Any, matmul: str | None = None) -> tuple[Group, Group]:
    return in_eight_bits(group_of(module.net[0].proj), matmul), in_eight_bits(group_of(module.net[2]), matmul)


def _has_lora(block: nn.Module) -> bool:
    return any(isinstance(module, AdapterLayer) and module.is_on for module in block.modules())


def _check_loras(transformer: nn.Module) -> None:
    on = [(name, layer) for name, layer in adapter_layers(transformer) if layer.is_on]
    loras = [layer for _, layer in on if isinstance(layer, LoraLinear)]
    drops = transformer.training and any(not isinstance(lora.lora_dropout[ADAPTER], nn.Identity) for lora in loras)
    check_loras([name for name, _ in on], drops)


def check_loras(layers: Sequence[str], drops: bool) -> None:
    """Raise UnsupportedModel for LoRAs on such layers that this forward pass can't compute."""
    for name in layers:
        if ".attn" not in name and ".ff" not in name:
            raise UnsupportedModel(f"{name} has an adapter, outside of attention and feed-forward layers")
    if drops:
        raise UnsupportedModel("lora_dropout is computed layer by layer")
