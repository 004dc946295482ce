"""Captions by small random models of real classes: in batches, stopped, resumed, with pictures that can't be read."""

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from caption_models import blip, qwen
from data_helpers import colours
from hub_server import serve
from PIL import Image
from safetensors.torch import load_file, save_file

from simpletune import outside
from simpletune.data.captioning.captioner import Options, caption, try_out
from simpletune.data.captioning.file import opened
from simpletune.data.sources.local import Folder
from simpletune.errors import DataError, EnvironmentNotReady, Interrupted, ModelUnavailable, OutOfMemory, UsageError
from simpletune.models.caption_loading import choose_device, choose_dtype, find_model, load_describer
from simpletune.models.captioning import LARGEST_AREA, Answer, Describer, fitted
from simpletune.models.quantize import FrozenLinear

CPU = torch.device("cpu")
DESCRIBE = Describer._describe
COLOURS = ("red", "green", "blue", "black", "white")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {"qwen": str(qwen(folder / "qwen")), "blip": str(blip(folder / "blip"))}


@pytest.fixture
def pictures(save, folder):
    for number in range(5):
        save(f"{number}.png", Image.new("RGB", (60 + 40 * number, 60), COLOURS[number]))
    return Folder(str(folder))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "captions" / "pics.jsonl"


def options(model, **more):
    return Options(model, **{"max_new_tokens": 10, "device": "cpu", **more})


def run(pictures, path, told, asked, overwrite=None):
    with opened(path, overwrite) as store:
        return caption(pictures, pictures.list(), store, asked, told)


def kept(path):
    return {entry["file_name"]: entry["text"] for entry in map(json.loads, path.read_text("utf-8").splitlines())}


def test_every_picture_gets_its_own_caption(models, pictures, path, told):
    outcome = run(pictures, path, told, options(models["qwen"], batch_size=2, trigger="sks dog"))
    assert (outcome.made, outcome.captioned, outcome.total) == (5, 5, 5)
    captions = kept(path)
    assert list(captions) == [f"{number}.png" for number in range(5)]
    assert len(set(captions.values())) > 1
    assert all(text.startswith("sks dog, ") and "\n" not in text for text in captions.values())


def test_a_batch_says_what_single_pictures_do(models):
    describer = load_describer(Path(models["qwen"]), CPU, max_new_tokens=12)
    pictures = [colours(90, 60, 1), colours(300, 60, 2), colours(60, 200, 3)]
    together = describer.describe(pictures)
    assert together == [describer.describe([picture])[0] for picture in pictures]
    assert describer.describe(pictures) == together


def test_a_model_without_a_chat_captions_by_itself_or_goes_on_from_a_beginning(models, pictures, path, told):
    run(pictures, path, told, options(models["blip"], batch_size=3, max_new_tokens=8))
    assert len(kept(path)) == 5
    begun = list(try_out(pictures, pictures.list().files, options(models["blip"], prompt="A Picture of"), told))
    assert all(text.startswith("A Picture of ") for _, text in begun)


def test_a_model_that_wants_to_be_asked_in_another_way(models):
    class Refusing:
        tokenizer = SimpleNamespace()

        def __call__(self, **given):
            raise ValueError("the prompt has no <image>")

    describer = Describer(load_describer(Path(models["blip"]), CPU).model, Refusing(), CPU, None, 8)
    with pytest.raises(UsageError, match="doesn't take pictures this way") as raised:
        describer.describe([colours(60, 60, 1)])
    assert "--prompt" in raised.value.hint


@pytest.mark.parametrize("kind", ["qwen", "blip"])
def test_language_layers_in_fewer_bits(models, kind):
    describer = load_describer(Path(models[kind]), CPU, max_new_tokens=8, quantize="int8")
    frozen = [name for name, layer in describer.model.named_modules() if isinstance(layer, FrozenLinear)]
    assert frozen
    assert not any("vision" in name.split(".") or "visual" in name for name in frozen)
    assert describer.describe([colours(60, 60, 1)])


def test_captions_that_are_there_stay_and_cost_nothing(models, pictures, path, told, monkeypatch):
    path.parent.mkdir()
    path.write_text('{"file_name": "1.png", "text": "mine"}\n{"file_name": "3.png", "caption": "mine too"}\n')
    asked = spied(monkeypatch)
    outcome = run(pictures, path, told, options(models["qwen"]))
    assert (outcome.before, outcome.made, asked) == (2, 3, [1, 1, 1])
    assert kept_raw(path)[1] == {"file_name": "1.png", "text": "mine"}
    assert kept_raw(path)[3] == {"file_name": "3.png", "caption": "mine too"}
    assert run(pictures, path, told, options("nobody/nothing")).captioned == 5


def test_overwriting_does_them_all(models, pictures, path, told):
    path.parent.mkdir()
    path.write_text('{"file_name": "1.png", "text": "mine"}\n')
    outcome = run(pictures, path, told, options(models["qwen"]), overwrite="x")
    assert (outcome.before, outcome.made) == (0, 5)
    assert "mine" not in kept(path).values()


def test_ctrl_c_keeps_what_is_done(models, pictures, path, told, monkeypatch):
    whole = path.with_name("whole.jsonl")
    run(pictures, whole, told, options(models["qwen"], batch_size=2))
    with monkeypatch.context() as patch:
        spied(patch, KeyboardInterrupt(), at=1)
        with pytest.raises(Interrupted, match="2 of 5 pictures have captions, and they are kept"):
            run(pictures, path, told, options(models["qwen"], batch_size=2))
    assert len(kept(path)) == 2
    run(pictures, path, told, options(models["qwen"], batch_size=2))
    assert path.read_bytes() == whole.read_bytes()


def test_pictures_that_cannot_be_read_are_named_once_and_passed_over(models, pictures, folder, path, told):
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "4.png").write_bytes((folder / "3.png").read_bytes()[:60])
    outcome = run(pictures, path, told, options(models["qwen"]))
    assert (outcome.made, outcome.unreadable, outcome.total) == (3, 2, 5)
    assert [warning.split(":")[0] for warning in told.warnings] == ["2.png", "4.png"]
    assert str(folder) not in "".join(told.warnings)
    for file in folder.iterdir():
        file.write_bytes(b"")
    path.unlink()
    with pytest.raises(DataError, match="none of the 5 pictures can be read"):
        run(pictures, path, told, options(models["qwen"]))


def test_a_model_that_says_nothing(models, pictures, path, told, monkeypatch):
    monkeypatch.setattr(Describer, "_describe", lambda self, pictures: [Answer('"..."', False)] * len(pictures))
    outcome = run(pictures, path, told, options(models["qwen"], trigger="sks"))
    assert (outcome.captioned, outcome.speechless, outcome.total) == (0, 5, 5)
    assert kept(path) == {}
    assert told.warnings[0] == "0.png: the model says nothing about it"


def test_a_batch_that_does_not_fit_is_halved_for_good(models, pictures, path, told, monkeypatch):
    asked = spied(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"), above=2)
    run(pictures, path, told, options(models["qwen"], batch_size=5))
    assert asked == [5, 2, 2, 1]
    assert "out of memory with a batch of 5: going on with --batch-size 2" in told.notes
    assert len(kept(path)) == 5
    spied(monkeypatch, RuntimeError("MPS backend out of memory"), above=0)
    path.unlink()
    with pytest.raises(OutOfMemory, match="with one picture") as raised:
        run(pictures, path, told, options(models["qwen"]))
    assert "--quantize" in raised.value.hint


def test_trying_out_keeps_nothing(models, pictures, told, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    shown = list(try_out(pictures, pictures.list().files[:2], options(models["qwen"]), told))
    assert [name for name, _ in shown] == ["0.png", "1.png"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5000, 2), (1, 4000), (64, 64), (3000, 2000), (1000, 999)])
def test_pictures_get_a_size_that_every_model_takes(size):
    picture = fitted(Image.new("RGB", size, "red"))
    assert min(picture.size) >= 56
    assert max(picture.size) <= 21 * min(picture.size)
    assert picture.width * picture.height <= 1.02 * LARGEST_AREA
    assert (picture.size == size) == (size == (64, 64))


def test_fp32_on_a_processor_only_where_it_fits():
    assert choose_dtype("auto", CPU, 2_000_000_000, 64 << 30) == torch.float32
    assert choose_dtype("auto", CPU, 2_000_000_000, 8 << 30) == torch.bfloat16
    assert choose_dtype("fp16", CPU, 1, 1) == torch.float16


def test_a_device_that_is_not_there():
    with pytest.raises(EnvironmentNotReady, match="--device cuda:77"):
        choose_device("cuda:77")


def test_the_model_comes_from_the_hub_without_what_is_not_needed(models, tmp_path, monkeypatch, told):
    source = tmp_path / "source"
    shutil.copytree(models["blip"], source)
    (source / "onnx").mkdir()
    for name in ("onnx/config.json", "pytorch_model.bin", "README.md", "run.py"):
        (source / name).write_text("{}")
    with serve(source) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        folder = find_model("owner/model", None, told)
        served = {name for name, _ in hub.served}
    assert served == {path.name for path in Path(models["blip"]).iterdir()}
    assert load_describer(folder, CPU, max_new_tokens=4).describe([colours(60, 60, 1)])


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", "is gated"),
        (404, "RepoNotFound", "the hub has no model 'owner/model'"),
        (404, "RevisionNotFound", "has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses(tmp_path, monkeypatch, told, status, code, said):
    with serve(tmp_path) as hub:
        hub.refusal = (status, code)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        with pytest.raises(ModelUnavailable, match=said) as raised:
            find_model("owner/model", "v9", told)
    assert "pretrained_model" not in raised.value.message + raised.value.hint


def test_offline(tmp_path, monkeypatch, told):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelUnavailable, match=r"isn't \(fully\) on this machine"):
        find_model("owner/model", None, told)


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "model", "a/b/c", "owner/mo del"])
def test_names_that_are_no_models(name, told, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailable):
        find_model(name, None, told)


def broken(models, tmp_path, name, content):
    folder = tmp_path / "broken"
    shutil.copytree(models["blip"], folder)
    path = folder / name
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    else:
        path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "it has no config.json"),
        ("config.json", b"{", "can't be"),
        ("config.json", {"model_type": "clip"}, "can't be used for captions"),
        ("config.json", {"model_type": "own", "auto_map": {"AutoConfig": "code.C"}}, "code of its own"),
        ("model.safetensors", None, "no weights as .safetensors"),
        ("model.safetensors", b"12345678", "can't be read"),
        ("tokenizer.json", b"{}", "can't be used for captions"),
    ],
)
def test_folders_that_hold_no_such_model(models, tmp_path, told, name, content, said):
    folder = broken(models, tmp_path, name, content)
    with pytest.raises(ModelUnavailable, match=said):
        load_describer(find_model(str(folder), None, told), CPU)


def test_what_the_system_refuses_is_said_in_words(models, tmp_path, told, monkeypatch):
    folder = shutil.copytree(models["blip"], tmp_path / "withheld")
    real = open

    def withheld(path, *more, **how):
        if str(path).startswith(str(folder)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *more, **how)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", withheld)  # libraries open by it, and what is ours by pathlib
        with pytest.raises(ModelUnavailable) as caught:
            load_describer(folder, CPU)
    begins, _, ends = caught.value.message.partition(".json: ")
    assert begins.startswith(f"the model in {folder} can't be used for captions: ")
    assert ends == "permission denied"
    monkeypatch.setattr(outside, "check_tensors", lambda path: withheld(path))
    with pytest.raises(ModelUnavailable) as caught:
        find_model(str(folder), None, told)
    assert caught.value.message == f"{folder / 'model.safetensors'} can't be read: permission denied"


def test_weights_that_are_missing_are_not_made_up(models, tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(models["blip"], folder)
    weights = load_file(folder / "model.safetensors")
    del weights[sorted(weights)[0]]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelUnavailable, match="lacks weights"):
        load_describer(folder, CPU)


def spied(monkeypatch, error=None, at=None, above=None):
    """The sizes of the batches a model is asked; `error` at the batch of a number, or for batches above a size."""
    sizes, real = [], DESCRIBE

    def describe(self, pictures):
        sizes.append(len(pictures))
        if error is not None and (len(sizes) - 1 == at or (above is not None and len(pictures) > above)):
            raise error
        return real(self, pictures)

    monkeypatch.setattr(Describer, "_describe", describe)
    return sizes


def kept_raw(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
