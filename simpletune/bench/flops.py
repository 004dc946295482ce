"""How many floating-point operations a training step takes, by formula: what TFLOP/s are counted in.

A product of (N, I) and (I, O) is 2 N I O operations. Counted are the products of linear layers and of attention;
element-wise work, norms and the unpacking of quantized weights are not. N image tokens, L text tokens of a sample.

    forward    every linear layer; attention 4 T^2 W over T = N + L tokens of width W (4 N^2 W where it is image-only)
    backward   of a frozen layer the gradient of its input alone, as large as its forward product; of a LoRA's two
               matrices also their own; attention 2.5 times its forward part, because its scores are computed again
    again      the forward pass of checkpointed blocks once more

No gradient goes to what lies before the first LoRA: embeddings, modulation, the first block's projections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from simpletune.config.architecture import component_config
from simpletune.machine.shapes import linear_layers, lora_layers, part_tensors

ATTENTION_BACKWARD = 2.5  # times the forward operations: five products where forward has two
_ONE_VECTOR = ("norm1.linear", "norm1_context.linear", "norm_out.linear", "time_text_embed")
_TEXT = (".add_", ".to_add_out", ".ff_context.", "context_embedder")
_PROJECTIONS = (".to_q", ".to_k", ".to_v", ".add_q_proj", ".add_k_proj", ".add_v_proj")


@dataclass(frozen=True)
class Work:
    """Operations of one sample's step. `linear` are those of linear layers, LoRA included, `attention` the rest."""

    linear_forward: float
    linear_backward: float
    linear_again: float
    attention_forward: float
    attention_again: float

    @property
    def attention_backward(self) -> float:
        return ATTENTION_BACKWARD * self.attention_forward

    @property
    def total(self) -> float:
        linear = self.linear_forward + self.linear_backward + self.linear_again
        return linear + self.attention_forward + self.attention_backward + self.attention_again


def training_work(
    flavour: str,
    tokens: tuple[int, int],
    *,
    lora: tuple[str | tuple[str, ...], int],
    checkpoint_every: int | None,
) -> Work:
    """One sample's forward and backward pass.

    tokens: (image, text); lora: (target, rank) as `lora_target` and `lora_rank` say them; checkpoint_every: how many
    blocks there are to each whose activations are computed again; None where none are.
    """
    layers = list(_layers(flavour, tokens, lora))
    blocks: int = component_config(flavour, "transformer")["num_layers"]
    again = frozenset(range(0, blocks, checkpoint_every)) if checkpoint_every else frozenset()
    attention = _attention(flavour, tokens)
    return Work(
        linear_forward=_embedding(flavour, tokens[0]) + sum(layer.forward for layer in layers),
        linear_backward=sum(layer.backward for layer in layers),
        linear_again=sum(layer.forward for layer in layers if layer.block in again),
        attention_forward=sum(attention),
        attention_again=sum(attention[block] for block in again),
    )


@dataclass(frozen=True)
class _Layer:
    """A linear layer with its LoRA if it has one; `block` is None outside of the blocks."""

    block: int | None
    forward: float
    backward: float


def _layers(flavour: str, tokens: tuple[int, int], lora: tuple[str | tuple[str, ...], int]) -> Iterator[_Layer]:
    tensors = part_tensors(flavour, "transformer")
    target, rank = lora
    adapted = frozenset(lora_layers(flavour, target))
    for name in linear_layers(flavour, "transformer"):
        outputs, inputs = tensors[f"{name}.weight"]
        rows = _rows(name, tokens)
        product, down, up = (2 * rows * one for one in (inputs * outputs, inputs * rank, rank * outputs))
        to_input = _input_has_gradient(name)
        forward, backward = product, product * to_input
        if name in adapted:
            forward += down + up
            backward += down * (1 + to_input) + 2 * up
        yield _Layer(_block(name), forward, backward)


def _rows(name: str, tokens: tuple[int, int]) -> int:
    """How many vectors of a sample pass a layer. The modulation sees one: the time and the pooled text."""
    if any(part in name for part in _ONE_VECTOR):
        return 1
    return tokens[1] if any(part in name for part in _TEXT) else tokens[0]


def _input_has_gradient(name: str) -> bool:
    block = _block(name)
    if block is None:
        return name == "proj_out"
    if any(part in name for part in _ONE_VECTOR):
        return False
    return block > 0 or not name.endswith(_PROJECTIONS)


def _block(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "transformer_blocks" else None


def _attention(flavour: str, tokens: tuple[int, int]) -> list[float]:
    """Forward operations of each block's attention, the second one of a dual block included."""
    config = component_config(flavour, "transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    both, image = (4.0 * count**2 * width for count in (sum(tokens), tokens[0]))
    dual = frozenset(config["dual_attention_layers"])
    return [both + (image if block in dual else 0.0) for block in range(config["num_layers"])]


def _embedding(flavour: str, image_tokens: int) -> float:
    """The convolution that makes tokens of patches: a product for each of them."""
    outputs, channels, *sides = part_tensors(flavour, "transformer")["pos_embed.proj.weight"]
    return 2.0 * image_tokens * outputs * channels * sides[0] * sides[1]
