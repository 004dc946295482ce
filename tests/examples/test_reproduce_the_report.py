"""docs/reproduce-the-report.md, command by command as it stands there, on the tiny model and a made-up data set."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import caption_models
import datasets
import huggingface_hub.constants
import pytest
from hub_server import serve
from hub_uploads import serve_uploads
from PIL import Image
from safetensors.torch import load_file
from test_docs import shell_lines
from wikiart_set import SARGENT, write_wikiart

from simpletune.cli.main import run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reproduce-the-report.md"
TOKEN = "canary-of-the-report"

# What is other than on the page: programs of others, sizes, steps and models.
NOT_OURS = ("python3", ".", "pip", "export", "hf")
CONFIG: dict[str, Any] = {
    "model_flavour": "tiny",
    "device": "cpu",
    "device_memory_gb": None,
    "mixed_precision": "no",
    "text_encoder_3_precision": "no_change",
    "resolution": 64,
    "max_train_steps": 6,
    "lr_warmup_steps": 1,
    "num_eval_images": 4,
    "checkpoint_step_interval": 3,
    "validation_step_interval": 3,
    "validation_num_inference_steps": 2,
    "num_validation_images": 1,
    "validation_resolution": "64x64",
}
DATA = {"resolution": 64, "max_num_samples": 20}
SEEDS = {"axes": {"seed": [1, 2]}, "evaluate": ["--captions", "2", "--clip", "none", "--dino", "none", "--steps", "2"]}
WORDS = {"1024x1024": "64x64", "832x1216": "48x64", "16": "2"}  # sizes; captions that are drawn
MORE: dict[str, list[str]] = {
    "caption": ["--max-new-tokens", "8"],  # and --model
    "generate": ["--steps", "2"],
    "evaluate": ["--steps", "2", "--clip", "none", "--dino", "none"],
    "doctor": ["--offline"],
}
ARTISTS = ["claude-monet", SARGENT, "mary-cassatt"] * 24


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, a login, and caches that aren't the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shutil.copytree(ROOT / "examples" / "sargent", tmp_path / "examples" / "sargent")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_names_every_step() -> None:
    calls = [words for words in shell_lines(PAGE.read_text(encoding="utf-8")) if words[0] == "simpletune"]
    named = [words[1] for words in calls]
    steps = "doctor data caption validate train report generate evaluate sweep card push"
    assert list(dict.fromkeys(named)) == steps.split()


@pytest.mark.fault
def test_every_command_of_the_page_runs(
    empty_machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model = caption_models.qwen(empty_machine / "captioner")
    monkeypatch.setitem(MORE, "caption", [*MORE["caption"], "--model", str(model)])
    capfd.readouterr()
    pictures = write_wikiart(empty_machine / "repository", ARTISTS, (64, 64))
    with ExitStack() as hubs:
        data = hubs.enter_context(serve(empty_machine / "repository", "datasets", "huggan/wikiart"))
        models = hubs.enter_context(serve_uploads(TOKEN))
        for words in shell_lines(PAGE.read_text(encoding="utf-8")):
            monkeypatch.setenv("HF_ENDPOINT", models.endpoint if words[1] == "push" else data.endpoint)
            code = follow(words, monkeypatch)
            told = "".join(capfd.readouterr())
            with (empty_machine / "transcript.txt").open("a", encoding="utf-8") as transcript:
                transcript.write(f"$ {' '.join(words)}\n{told}\n")
            assert code == 0, f"{' '.join(words)}\n{told}"
            assert not re.search(f"Traceback|Warning|{TOKEN}", told), told
        pushed = models.repos["ada/sargent-sd3-lokr"].files
    his = [pictures[row] for row, artist in enumerate(ARTISTS) if artist == SARGENT][: DATA["max_num_samples"]]
    check_made(empty_machine / "sargent", his)
    check_pushed(pushed, empty_machine / "sargent" / "output")


def follow(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Do what a line of the page says, with this test's model and sizes; its exit code."""
    if words[0] in NOT_OURS:
        return 0
    if words[0] == "cp":
        shutil.copytree(words[2], words[3])
        make_small(Path(words[3]))
        return 0
    if words[0] == "cd":
        monkeypatch.chdir(words[1])
        return 0
    assert words[0] == "simpletune"
    return run([WORDS.get(word, word) for word in words[1:]] + MORE.get(words[1], []))


def make_small(folder: Path) -> None:
    for name, change in (("config.json", CONFIG), ("multidatabackend.json", DATA), ("seeds.json", SEEDS)):
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        whole = value[0] if isinstance(value, list) else value
        whole |= change
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def check_made(folder: Path, his: list[bytes]) -> None:
    """Everything that the page says is there."""
    fetched = sorted(folder.glob("cache/pictures/sargent/*/pictures/*"))
    assert [path.read_bytes() for path in fetched] == his
    captions = [json.loads(line) for line in (folder / "captions" / "sargent.jsonl").read_text().splitlines()]
    assert len(captions) == len(his)
    assert all(line["text"].startswith("a painting by John Singer Sargent") for line in captions)
    output = folder / "output"
    adapter = load_file(output / "pytorch_lora_weights.safetensors")
    assert any("lokr_w1" in name for name in adapter)
    assert {"loss.png", "learning-rate.svg", "gradient-norm.png"} <= {
        path.name for path in (folder / "plots").iterdir()
    }
    sheet = next((output / "generated").glob("*/sheet.png"))
    with Image.open(sheet) as opened:
        opened.verify()
    assert len(list(sheet.parent.glob("base/*.png"))) == len(list(sheet.parent.glob("step-*/*.png"))) == 4 * 2 * 2
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "evening dress" in page
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "A LoKr for " in card
    assert re.search(r"\| Pairwise distance \(statistics\).*\| 8 \|", card), "what was evaluated stands on it"
    assert (folder / "data.html").exists()
    rows = (folder / "seeds" / "sweep.csv").read_text().splitlines()
    assert len(rows) == 1 + len(SEEDS["axes"]["seed"])
    assert (folder / "seeds" / "comparison.html").exists()


def check_pushed(files: dict[str, bytes], output: Path) -> None:
    assert files["pytorch_lora_weights.safetensors"] == (output / "pytorch_lora_weights.safetensors").read_bytes()
    assert files["README.md"] == (output / "README.md").read_bytes()
    assert not any(name.endswith(".jsonl") for name in files)
