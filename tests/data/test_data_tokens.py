"""Tokens of captions: as many as transformers' tokenizers make, and which captions are cut off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simpletune.data.captions.token_counter import estimating, load_counter, tokenizer_identity
from simpletune.data.captions.tokens import TextEncoder, count_tokens, text_encoders

WORDS = [
    "fox",
    "lawn's",
    "it's",
    "(at",
    "dusk)",
    "1920s",
    "naïve",
    "ba\u0308r",
    "赤い",
    "🦊",
    "<|endoftext|>",
    "</s>",
    "a_b",
]


@pytest.fixture(scope="module")
def real(tiny_model: Path) -> dict[str, Any]:
    """transformers' tokenizers, by their folders' names."""
    from simpletune.models.text import load_tokenizer

    return {name: load_tokenizer(tiny_model / name) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}


@pytest.fixture(scope="module")
def older_files(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's tokenizer as older models have it: vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("older") / "tokenizer"
    folder.mkdir()
    described = json.loads((tiny_model / "tokenizer" / "tokenizer.json").read_text("utf-8"))
    vocabulary = described["model"]["vocab"] | {token["content"]: token["id"] for token in described["added_tokens"]}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in described["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def counters(real: dict[str, Any], tiny_model: Path, older_files: Path) -> list[tuple[Any, Any]]:
    """transformers' tokenizers, and what is to count as they do."""
    pairs = [(tokenizer, load_counter(tiny_model / name)) for name, tokenizer in real.items()]
    return [*pairs, (real["tokenizer"], load_counter(older_files))]


captions = st.lists(st.one_of(st.sampled_from(WORDS), st.text(min_size=1, max_size=8)), max_size=12).map(" ".join)


@given(caption=captions)
@settings(max_examples=50, deadline=None)
def test_counts_are_those_of_transformers(counters, caption):
    caption = " ".join(caption.split())
    for tokenizer, counter in counters:
        assert counter.tokens(caption) == len(tokenizer(caption).input_ids)


def test_older_files_load_in_transformers_to_the_same(real, older_files):
    from simpletune.models.text import load_tokenizer

    text = " ".join(WORDS)
    assert load_tokenizer(older_files)(text).input_ids == real["tokenizer"](text).input_ids


def test_limits_in_a_tokenizers_file_do_not_count(tiny_model, real, tmp_path):
    shutil.copytree(tiny_model / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    described = json.loads(path.read_text("utf-8"))
    described["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(described), "utf-8")
    counter = load_counter(path.parent)
    assert counter is not None
    assert counter.tokens("one two three four five") == len(real["tokenizer"]("one two three four five").input_ids)


def test_a_tokenizer_whose_tokens_cross_words(tmp_path):
    from tokenizers import Tokenizer, models

    merges = [("a", " "), ("a ", "b")]
    whole = Tokenizer(models.BPE({"a": 0, "b": 1, " ": 2, "a ": 3, "a b": 4, "?": 5}, merges, unk_token="?"))
    whole.save(str(tmp_path / "tokenizer.json"))
    counter = load_counter(tmp_path)
    assert counter is not None
    assert counter.tokens("a b") == 1
    assert counter.tokens("a b a b") == 3


def test_what_is_over_the_limit(tiny_model):
    folders = (tiny_model / "tokenizer", tiny_model / "tokenizer_2")
    pictures = [
        ("short.png", "a fox"),
        ("long\n.png", "a fox " * 100),
        ("again.png", "a fox"),
        ("edge.png", "cat " * 75),
    ]
    (clip,) = count_tokens(pictures, [TextEncoder("CLIP", 77, folders)])
    assert (clip.exact, clip.captions, clip.over) == (True, 3, 1)
    assert clip.examples[0][0] == "long\n.png"
    assert clip.longest == clip.examples[0][1] >= 202
    assert sum(captions for _, captions in clip.histogram) == 3
    assert dict(clip.histogram)[19] == 1
    assert dict(clip.histogram)[77] == 1
    assert clip.line() == f"CLIP: 1 of 3 captions is longer than its 77 tokens (longest: {clip.longest})"
    assert clip.names() == f"long\\n.png ({clip.longest})"


def test_nothing_to_count():
    (counts,) = count_tokens([], [TextEncoder("T5", 154, ())])
    assert (counts.captions, counts.longest, counts.over, counts.examples) == (0, 0, 0, ())


def test_without_tokenizers_it_is_an_estimate(tmp_path):
    encoder = TextEncoder("CLIP", 77, (tmp_path,))
    (counts,) = count_tokens([("a.png", "word " * 10_000), ("b.png", "a red fox on a lawn")], [encoder])
    assert not counts.exact
    assert counts.over == 1
    assert counts.line() == "CLIP: about 1 of 2 captions is longer than its 77 tokens (longest: about 10002)"
    (fine,) = count_tokens([("b.png", "a red fox on a lawn")], [encoder])
    assert fine.line() == "CLIP: 1 caption, none longer than its 77 tokens, by estimate (longest: about 8)"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert load_counter(tmp_path) is None
    assert tokenizer_identity(tmp_path) != tokenizer_identity(tmp_path / "absent")


@pytest.mark.parametrize(
    ("caption", "clip"),  # counted with the vocabulary of CLIP itself
    [
        ("a photo of an astronaut riding a horse", 10),
        (
            "The image shows a red fox sitting on a grassy lawn at dusk, its bushy tail curled around its paws. In the "
            "background there are blurred trees and a wooden fence, softly illuminated by warm sunlight. The overall "
            "atmosphere is calm and serene, reminiscent of a nineteenth-century painting by Rembrandt.",
            62,
        ),
        ("1girl, solo, long hair, looking at viewer, masterpiece, best quality, absurdres, highres, bokeh, 8k", 30),
    ],
)
def test_estimates_are_near(caption, clip):
    assert estimating("CLIP").tokens(caption) == pytest.approx(clip, rel=0.12)
    assert estimating("T5").tokens(caption) == pytest.approx(clip, rel=0.4)


@given(st.text(max_size=60))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_has_an_estimate(text):
    assert estimating("CLIP").tokens(text) >= 2
    assert estimating("T5").tokens(text) >= 1


def run(**changes: Any) -> Any:
    values = {
        "config_path": Path("/nowhere/config.json"),
        "model_family": "sd3",
        "model_flavour": "tiny",
        "pretrained_model_name_or_path": "",
        "pretrained_text_encoders_path": None,
        "revision": None,
        "use_t5": True,
        "tokenizer_max_length": 154,
    }
    return SimpleNamespace(**{**values, **changes})


def folders(settings: Any) -> list[list[str]]:
    return [[str(folder) for folder in encoder.folders] for encoder in text_encoders(settings)]


def test_where_tokenizers_are(tiny_model, tmp_path, monkeypatch):
    own = [[str(tiny_model / "tokenizer"), str(tiny_model / "tokenizer_2")], [str(tiny_model / "tokenizer_3")]]
    assert folders(run()) == own
    assert [encoder.limit for encoder in text_encoders(run())] == [32, 154]
    assert folders(run(use_t5=False)) == own[:1]
    assert folders(run(pretrained_model_name_or_path=str(tiny_model))) == own
    (tmp_path / "model.safetensors").touch()
    single = run(config_path=tmp_path / "config.json", pretrained_model_name_or_path="model.safetensors")
    assert folders(single) == [[], []]
    single.pretrained_text_encoders_path = tiny_model
    assert folders(single) == own


def test_tokenizers_in_the_hubs_cache(tmp_path, monkeypatch):
    asked = []

    def cached(repo_id: str, name: str, revision: str | None = None) -> str | None:
        asked.append((repo_id, name, revision))
        return str(tmp_path / name) if name in ("tokenizer/vocab.json", "tokenizer_3/tokenizer.json") else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    found = folders(run(model_flavour="sd3-medium", revision="main"))
    assert found == [[str(tmp_path / "tokenizer")], [str(tmp_path / "tokenizer_3")]]
    assert {revision for _, _, revision in asked} == {"main"}


def test_counting_imports_neither_torch_nor_transformers(tiny_model):
    code = (
        "import sys; from pathlib import Path; from simpletune.data.captions.tokens import count_tokens, TextEncoder\n"
        "counts = count_tokens([('a', 'a fox')], [TextEncoder('CLIP', 77, (Path(sys.argv[1]),))])\n"
        "assert counts[0].exact, counts\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny_model / "tokenizer")], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
