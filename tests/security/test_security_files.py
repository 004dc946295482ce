"""Tensors, JSON, LoRAs and configs from outside: whatever is wrong with them, a sentence that names the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bounded import bounded, needs_fork
from safetensors.torch import save_file

from simpletune import outside
from simpletune.errors import ModelUnavailable, SimpletuneError, UsageError

pytestmark = needs_fork
DEEP = "[" * 100_000 + "]" * 100_000


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


TENSORS: dict[str, bytes | int] = {
    "empty": b"",
    "four bytes": b"\0\0\0\0",
    "a header of exabytes": header({}, length=2**63),
    "a header of 2^64 - 1": header({}, length=2**64 - 1),
    "a header behind the end": header({}, length=1000),
    "a header of 100 MiB": 100 << 20,
    "a header of 17 MiB of blanks": header(b"{}" + b" " * (17 << 20)),
    "no JSON": header(b"\xff" * 100),
    "deep JSON": header(b'{"__metadata__": ' + DEEP.encode() + b"}"),
    "a list": header([1, 2]),
    "offsets behind the end": header({"a": tensor([4], 0, 1 << 40)}, bytes(16)),
    "negative offsets": header({"a": tensor([4], -16, 0)}, bytes(16)),
    "backward offsets": header({"a": tensor([4], 16, 0)}, bytes(16)),
    "overlapping tensors": header({"a": tensor([4], 0, 16), "b": tensor([4], 8, 24)}, bytes(24)),
    "a hole": header({"a": tensor([4], 8, 24)}, bytes(24)),
    "a shape that overflows": header({"a": tensor([2**32, 2**32, 2**32], 0, 16)}, bytes(16)),
    "a shape of exabytes": header({"a": tensor([2**60], 0, 16)}, bytes(16)),
    "a negative shape": header({"a": tensor([-4], 0, 16)}, bytes(16)),
    "an unknown type": header({"a": tensor([4], 0, 16, "Q7")}, bytes(16)),
    "metadata that is no text": header({"__metadata__": {"a": 1}, "a": tensor([4], 0, 16)}, bytes(16)),
    "trailing bytes": header({"a": tensor([4], 0, 16)}, bytes(1000)),
}


def write_tensors(path: Path, content: bytes | int) -> Path:
    """The bytes; a number is the length of a header of blanks, in a sparse file."""
    if isinstance(content, int):
        with path.open("wb") as file:
            file.write(struct.pack("<Q", content) + b"{}")
            file.truncate(content + 8)
    else:
        path.write_bytes(content)
    return path


def readers() -> dict[str, Callable[[Path], object]]:
    """Everything that opens a .safetensors file somebody names."""
    from simpletune.evaluate.features.style import Csd
    from simpletune.models.lora_file import read_adapter
    from simpletune.models.weight_source import WeightSource
    from simpletune.results.card.facts import _adapter

    def all_of(path: Path) -> None:
        source = WeightSource.open(path)
        for name in source.names():
            source.read(name)

    return {
        "model": all_of,
        "init_lora": read_adapter,
        "--adapter": partial(read_adapter, key="--adapter"),
        "--csd": lambda path: Csd(path, torch.device("cpu")),
        "card": _adapter,
    }


def refusal(reader: Callable[[Path], object], path: Path) -> str:
    try:
        reader(path)
    except SimpletuneError as error:
        return error.message
    return "it was read"


@pytest.mark.fault
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_none(tmp_path, name, tally):
    from simpletune.models.lora_file import trained_with
    from simpletune.results.adapter_choice import damage_of
    from simpletune.results.adapter_origin import model_of

    path = write_tensors(tmp_path / "made by somebody.safetensors", TENSORS[name])

    def every_reader() -> str:
        said = [refusal(reader, path) for reader in readers().values()]
        assert trained_with(path) == {}
        assert model_of(path) is None
        assert path.name in str(damage_of(path))
        return "; ".join(said)

    ending = bounded(every_reader, memory_mib=256, seconds=15)
    assert ending.crash is None
    assert ending.said.count(path.name) == len(readers())
    tally("bad inputs: security", len(readers()) + 3)


def lora(**changed: Any) -> dict[str, torch.Tensor]:
    key = "transformer.transformer_blocks.0.attn.to_q"
    pair = {f"{key}.lora_A.weight": torch.zeros(4, 32), f"{key}.lora_B.weight": torch.zeros(32, 4)}
    named = {"a": f"{key}.lora_A.weight", "b": f"{key}.lora_B.weight", "alpha": f"{key}.alpha"}
    return pair | {named.get(name, name): value for name, value in changed.items()}


def patterns(**config: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in config.items()})}


LORAS: dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]] = {
    "ranks that differ": (lora(a=torch.zeros(5, 32)), {}),
    "one dimension": (lora(a=torch.zeros(4)), {}),
    "five dimensions": (lora(b=torch.zeros(1, 1, 1, 32, 4)), {}),
    "rank 0": (lora(a=torch.zeros(0, 32), b=torch.zeros(32, 0)), {}),
    "whole numbers": (lora(a=torch.zeros(4, 32, dtype=torch.int64)), {}),
    "yes and no": (lora(b=torch.zeros(32, 4, dtype=torch.bool)), {}),
    "complex numbers": (lora(b=torch.zeros(32, 4, dtype=torch.complex64)), {}),
    "another's keys": ({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, {}),
    "half a pair": ({"transformer.x.lora_A.weight": torch.zeros(4, 32)}, {}),
    "a pattern that takes forever": (lora(), patterns(r=4, alpha_pattern={"(transformer_blocks\\.0|.+)+x$": 1})),
    "a pattern that is none": (lora(), patterns(r=4, alpha_pattern={"(": 1})),
    "patterns that are a list": (lora(), patterns(r=4, alpha_pattern=["a"])),
    "an alpha of text": (lora(), patterns(r=4, lora_alpha="four")),
    "an infinite alpha": (lora(), patterns(r=4, lora_alpha=1e400)),
    "a nested alpha": (lora(), patterns(r=4, lora_alpha={"a": 1})),
    "metadata that is deep": (lora(), {"lora_adapter_metadata": DEEP}),
    "metadata that is a list": (lora(), {"lora_adapter_metadata": "[]"}),
}


@pytest.mark.parametrize("name", LORAS)
def test_a_lora_of_odd_tensors_or_metadata(tmp_path, name, tally):
    from simpletune.models.lora_file import read_adapter

    path = tmp_path / "odd.safetensors"
    save_file(*LORAS[name][:1], path, metadata=LORAS[name][1])
    ending = bounded(lambda: read_adapter(path), memory_mib=256, seconds=5)
    assert ending.crash is None
    assert ending.said.startswith(f"init_lora: {path}")
    tally("bad inputs: security", 1)


def test_lora_metadata_that_is_deep_tells_nothing(tmp_path, tally):
    from simpletune.models.lora_file import trained_with
    from simpletune.results.adapter_origin import model_of
    from simpletune.results.card.facts import _adapter

    save_file(lora(), tmp_path / "a.safetensors", metadata={"simpletune": DEEP})
    assert trained_with(tmp_path / "a.safetensors") == {}
    model_of(tmp_path / "a.safetensors")
    assert _adapter(tmp_path / "a.safetensors").steps is None
    tally("bad inputs: security", 3)


JSONS: dict[str, str | int] = {
    "deep": '{"a": ' + DEEP + "}",
    "20 MB": 20 << 20,
    "a number of 10,000 digits": '{"num_layers": ' + "9" * 10_000 + "}",
    "cut off": '{"a": [1, 2',
    "a list": "[1, 2]",
    "text": '"text"',
    "NUL": '{"a": "\0"}',
    "no UTF-8": "\udcff{}",
}


def write_json(path: Path, content: str | int) -> Path:
    if isinstance(content, int):
        path.write_bytes(b'{"a": "' + b"x" * content + b'"}')
    else:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    return path


@pytest.mark.fault
@pytest.mark.parametrize("name", JSONS)
def test_json_of_a_model_or_a_run(tmp_path, name, tally):
    """Configs, indexes, preprocessors and runs: an error of ours, or nothing where nothing has to be there."""
    from simpletune.config.architecture import config_number
    from simpletune.evaluate.features.locate import read_config as feature_config
    from simpletune.evaluate.features.preprocess import read_preprocessing
    from simpletune.evaluate.results import load as read_evaluation
    from simpletune.machine.model_folder import _holds
    from simpletune.models.caption_loading import _config as caption_config
    from simpletune.models.parts import read_config
    from simpletune.models.weight_source import WeightSource
    from simpletune.results.curves import metric_lines
    from simpletune.results.export.subject import _read_run

    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("config.json", "preprocessor_config.json", "model.safetensors.index.json", "run.json",
                 "evaluation.json", "metrics.jsonl"):  # fmt: skip
        write_json(folder / file, JSONS[name])
    for act, error in (
        (lambda: read_config(folder / "config.json"), ModelUnavailable),
        (lambda: caption_config(folder), ModelUnavailable),
        (lambda: feature_config(folder), ModelUnavailable),
        (lambda: read_preprocessing(folder), ModelUnavailable),
        (lambda: WeightSource.open(folder / "model.safetensors.index.json"), ModelUnavailable),
        (lambda: read_evaluation(folder), UsageError),
    ):
        with pytest.raises(error) as refused:
            act()
        assert str(folder) in refused.value.message
        assert len(refused.value.message) < 1000
    assert config_number(folder / "config.json", "num_layers") is None
    assert not _holds(folder, folder / "model.safetensors.index.json")
    assert _read_run(folder) == {}
    assert metric_lines(folder / "metrics.jsonl") == []
    tally("bad inputs: security", 10)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 10**9), ("num_hidden_layers", 1e12), ("block_out_channels", [64] * 100_000), ("depth", 10**6)],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_model_of_a_billion_layers_is_not_built(tmp_path, key, value, nested, tally):
    config = {"text_config": {key: value}} if nested else {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"its {key} is .* no model has more than 1,000"):
        outside.read_model_config(tmp_path / "config.json")
    tally("bad inputs: security", 1)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "c:\\x", ""])
def test_an_index_that_leads_elsewhere(tmp_path, shard, tally):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ValueError, match=r"model.safetensors.index.json: it names .* isn't a file of this folder"):
        outside.check_model_files(tmp_path)
    tally("bad inputs: security", 1)


def test_an_index_of_a_model_reads_nothing_outside_of_its_folder(tmp_path, tally):
    from simpletune.models.weight_source import WeightSource

    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ModelUnavailable, match=r"lacks secret.safetensors"):
        WeightSource.open(index)
    tally("bad inputs: security", 1)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["deep", "cut off", "a list", "200 MB"])
def test_a_tokenizer_that_is_none(tiny_model, tmp_path, name, content, tally):
    import shutil

    from simpletune.data.captions.token_counter import load_counter, tokenizer_identity
    from simpletune.models.text import load_tokenizer

    load_tokenizer(tiny_model / "tokenizer")  # the library is imported once, and not in each child
    folder = Path(shutil.copytree(tiny_model / "tokenizer", tmp_path / "tokenizer"))
    if content == "200 MB":
        with (folder / name).open("ab") as file:
            file.truncate(200 << 20)
    else:
        write_json(folder / name, JSONS[content])

    def load() -> str:
        load_counter(folder)
        tokenizer_identity(folder)
        return type(load_tokenizer(folder)).__name__

    ending = bounded(load, memory_mib=512, seconds=20)
    assert ending.crash is None
    assert str(folder) in ending.said or ending.said.startswith("CLIPTokenizer")
    tally("bad inputs: security", 1)


def test_what_is_not_there_is_no_pickle(tmp_path):
    assert outside.pickles_in(tmp_path) == []
    assert outside.pickles_in(tmp_path / "nothing") == []
    assert not outside.is_pickle(tmp_path / "nothing.safetensors")
