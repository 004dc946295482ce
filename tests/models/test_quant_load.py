"""Streaming weights: equal to what the stock libraries load, never twice in memory, clear about what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from simpletune.errors import ModelUnavailable
from simpletune.models.load import stream_into
from simpletune.models.quantize import FrozenLinear, all_but, frozen_linear, quantized_layer_report
from simpletune.models.weight_source import WeightSource, fingerprint

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.blocks = nn.ModuleList([nn.Linear(32, 32, bias=False), nn.LayerNorm(32)])
        self.register_buffer("table", torch.zeros(3, 4))


def _meta(make):
    with torch.device("meta"):
        return make()


def _saved(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, path)
    return state


def _loaded(path: Path, make=Net, **options) -> nn.Module:
    module = _meta(make)
    stream_into(module, WeightSource.open(path), **{"device": CPU, "dtype": torch.float32} | options)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_arrives_cast_frozen_and_unmapped(tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "net.safetensors"
    state = _saved(Net(), file)
    module = _loaded(file, dtype=dtype)
    with file.open("r+b") as opened:
        opened.write(b"\x00" * file.stat().st_size)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name].to(dtype)), name
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_chosen_layers_are_quantized_and_the_others_are_not(tmp_path: Path) -> None:
    state = _saved(Net(), tmp_path / "net.safetensors")
    module = _loaded(
        tmp_path / "net.safetensors", precision="int8-quanto", quantize=all_but("first"), dtype=torch.bfloat16
    )
    report = quantized_layer_report(module)
    assert (report.quantized, report.unquantized) == (("blocks.0",), ("first",))
    expected = frozen_linear(state["blocks.0.weight"], None, "int8-quanto", torch.bfloat16)
    assert torch.equal(module.blocks[0].data, expected.data)
    assert report.quantized_bytes == 32 * 32 + 32 * 2


def test_progress_reaches_the_total_in_bytes(tmp_path: Path) -> None:
    _saved(Net(), tmp_path / "net.safetensors")
    seen: list[tuple[int, int]] = []
    _loaded(tmp_path / "net.safetensors", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == sum(tensor.numel() * 4 for tensor in Net().state_dict().values())


def test_shards_and_folders_are_read_through_their_index(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    names = sorted(state)
    weight_map = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for shard in set(weight_map.values()):
        save_file({name: state[name] for name in names if weight_map[name] == shard}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    module = _loaded(tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match="lacks model-00002-of-00002"):
        WeightSource.open(tmp_path)


def test_views_rename_and_split(tmp_path: Path) -> None:
    fused = torch.randn(48, 32)
    rest = {"first.weight": torch.randn(32, 16), "first.bias": torch.randn(32), "n.w": torch.ones(32)}
    save_file({"fused": fused, "n.b": torch.zeros(32), "table": torch.ones(3, 4), **rest}, tmp_path / "x.safetensors")
    views = {name: lambda source, name=name: source.raw(name) for name in ("first.weight", "first.bias", "table")}
    views |= {
        "blocks.0.weight": lambda source: source.rows("fused", 16, 48),
        "blocks.1.weight": lambda source: source.raw("n.w"),
        "blocks.1.bias": lambda source: source.raw("n.b"),
    }
    module = _meta(Net)
    source = WeightSource.open(tmp_path / "x.safetensors").viewed(views)
    assert stream_into(module, source, device=CPU, dtype=torch.float32).unused == ()
    assert torch.equal(module.blocks[0].weight, fused[16:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5_equals_the_stock_loader_with_ties_and_fp32_wo(tmp_path: Path, dtype: torch.dtype, stored: str) -> None:
    config = T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    T5EncoderModel(config).save_pretrained(tmp_path)
    stock = T5EncoderModel.from_pretrained(tmp_path, dtype=dtype).eval()
    source = WeightSource.open(tmp_path)
    if stored not in source:
        renamed = {stored: lambda source: source.raw("shared.weight")}
        views = {name: lambda source, name=name: source.raw(name) for name in source.names() - {"shared.weight"}}
        source = source.viewed(views | renamed)
    module = _meta(lambda: T5EncoderModel(config))
    stream_into(module, source, device=CPU, dtype=dtype)
    expected = stock.state_dict()
    assert {name: tensor.dtype for name, tensor in module.state_dict().items()} == {
        name: tensor.dtype for name, tensor in expected.items()
    }
    assert module.shared.weight is module.encoder.embed_tokens.weight
    ids = torch.arange(12).view(1, -1)
    with torch.no_grad():
        assert torch.equal(module(ids).last_hidden_state, stock(ids).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", ["int8-quanto", "int4-quanto", "fp8-quanto"])
def test_a_quantized_t5_computes_in_the_dtypes_of_the_stock_one(
    tmp_path: Path, dtype: torch.dtype, precision: str
) -> None:
    config = T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    stock = T5EncoderModel(config).eval()
    stock.save_pretrained(tmp_path)
    module = _loaded(tmp_path, lambda: T5EncoderModel(config), dtype=dtype, precision=precision)
    wo = module.encoder.block[0].layer[1].DenseReluDense.wo
    assert isinstance(wo, FrozenLinear)
    assert wo.compute_dtype == (torch.float32 if dtype == torch.float16 else dtype)
    ids = torch.arange(12).view(1, -1)
    with torch.no_grad():
        got, expected = module(ids).last_hidden_state, stock(ids).last_hidden_state
    assert torch.nn.functional.cosine_similarity(got.float().flatten(), expected.flatten(), dim=0) > 0.97


def test_clip_position_ids_are_computed(tmp_path: Path) -> None:
    config = CLIPTextConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    stock = CLIPTextModel(config).eval()
    stock.save_pretrained(tmp_path)
    module = _loaded(tmp_path, lambda: CLIPTextModel(config))
    ids = torch.arange(10).view(1, -1)
    with torch.no_grad():
        assert torch.equal(module(ids).last_hidden_state, stock(ids).last_hidden_state)


def test_a_missing_tensor_names_file_and_tensor(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in Net().state_dict().items() if name != "first.weight"}
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(ModelUnavailable, match=r"net\.safetensors lacks first\.weight"):
        _loaded(tmp_path / "net.safetensors")


def test_another_shape_names_both(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    save_file(state | {"first.bias": torch.zeros(7)}, tmp_path / "net.safetensors")
    with pytest.raises(ModelUnavailable, match=r"first\.bias has shape \[7\], the model wants \[32\]"):
        _loaded(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.safetensors", None, "doesn't exist"),
        ("broken.safetensors", b"\x00" * 30, "can't be read"),
        ("model.ckpt", b"x", "not a .safetensors file"),
        ("model.safetensors.index.json", b"[]", "not an index"),
    ],
)
def test_a_file_that_is_no_source_says_why(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelUnavailable, match=message):
        WeightSource.open(tmp_path / name)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no \.safetensors file"):
        WeightSource.open(tmp_path)


_MEASURE = """
import sys, threading, torch
from pathlib import Path
from torch import nn
from simpletune.models.load import stream_into
from simpletune.models.weight_source import WeightSource

def anonymous():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) << 10

with torch.device("meta"):
    module = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(25)))
stream_into(nn.Sequential(nn.Linear(2, 2)), WeightSource.open(Path(sys.argv[2])), device=torch.device("cpu"),
            dtype=torch.float32, precision="int8-quanto")
start, peak = anonymous(), [0]
stream_into(module, WeightSource.open(Path(sys.argv[1])), device=torch.device("cpu"), dtype=torch.bfloat16,
            precision="int8-quanto", progress=lambda *_: peak.append(anonymous() - start))
print(max(peak), anonymous() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
def test_neither_full_precision_nor_two_copies_are_ever_held(tmp_path: Path) -> None:
    weights = torch.randn(25, 2048, 2048)
    save_file({f"{index}.weight": weights[index].clone() for index in range(25)}, tmp_path / "big.safetensors")
    save_file({"0.weight": torch.randn(2, 2), "0.bias": torch.randn(2)}, tmp_path / "small.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "big.safetensors"), str(tmp_path / "small.safetensors")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak, end = (int(number) / 2**20 for number in run.stdout.split())
    assert 95 < end < 130, f"{end:.0f} MiB held of 100 MiB in int8 (400 MiB in the file)"
    assert peak < end + 100, f"{peak:.0f} MiB at the peak: a layer is 16 MiB in fp32, 400 are all"


def test_a_fingerprint_sees_every_byte_of_a_small_file_and_samples_a_large_one(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"a" * 1000)
    before = fingerprint(small)
    small.write_bytes(b"a" * 999 + b"b")
    assert fingerprint(small) != before
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(70 << 20)
    before = fingerprint(large)
    with large.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    assert fingerprint(large) != before
    with pytest.raises(ModelUnavailable, match="can't be read"):
        fingerprint(tmp_path / "none")
