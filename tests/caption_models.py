"""Small random captioning models of real classes, saved to a folder as the hub has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = ("a", "red", "blue", "green", "square", "picture", "of", "the", "on", "white", ".", ",")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer class with bytes and a few words for a vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    vocabulary = {symbol: number for number, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    special = [*_SPECIAL, "<|video_pad|>"]
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )


def qwen_config(vocabulary: int, ids: dict[str, int], text: dict[str, Any], vision: dict[str, Any]) -> Any:
    from transformers import Qwen3VLConfig

    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    rope = {"rope_type": "default", "mrope_section": text.pop("mrope_section"), "mrope_interleaved": True}
    return Qwen3VLConfig(
        text_config={"vocab_size": vocabulary, "rope_parameters": rope | {"rope_theta": 5e6}, **text},
        vision_config=vision,
        tie_word_embeddings=True,
        **{key: ids[token] for key, token in names.items()},
    )


def qwen(folder: Path, seed: int = 2) -> Path:
    """The default model's classes, with a few thousand parameters; it answers in letters, spaces and full stops."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    ids = tokenizer.get_added_vocab()
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 1, "head_dim": 16, "mrope_section": [4, 2, 2], "max_position_embeddings": 4096}
    vision = {"hidden_size": 16, "intermediate_size": 24, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16, "patch_size": 16}
    config = qwen_config(len(tokenizer), ids, text, vision)
    config.text_config.initializer_range = config.vision_config.initializer_range = 0.4
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    letters = {tokenizer.convert_tokens_to_ids(letter) for letter in (*"abcdefghijklmnopqrstuvwxyz.", "\u0120")}
    allowed = letters | {ids["<|im_end|>"]}
    model.generation_config.suppress_tokens = [token for token in range(len(tokenizer)) if token not in allowed]
    model.save_pretrained(folder)
    save_qwen_processor(folder, tokenizer, {"shortest_edge": 1024, "longest_edge": 4096})
    return folder


def save_qwen_processor(folder: Path, tokenizer: Any, size: Mapping[str, int]) -> None:
    """As the hub has it: a file for the pictures, one for videos, the tokenizer's and the chat template."""
    import json

    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    values = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "processor_class": "Qwen3VLProcessor"}
    values |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": dict(size)}
    for name, kind in (
        ("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessorFast"}),
        ("video_preprocessor_config.json", {"video_processor_type": "Qwen3VLVideoProcessor"}),
    ):
        (folder / name).write_text(json.dumps(values | kind), encoding="utf-8")


def blip(folder: Path, seed: int = 3) -> Path:
    """A captioning model without a chat template."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, do_lower_case=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[DEC]"]})
    text = {"vocab_size": len(tokens), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 24}
    text |= {"num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8, "max_position_embeddings": 64}
    text |= {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16}
    text["initializer_range"] = vision["initializer_range"] = 0.5
    torch.manual_seed(seed)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder
