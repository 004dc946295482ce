"""The model card: what it says, that its metadata says the same to a machine, and what it never says."""

import ast
import getpass
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from finished_runs import STEPS, facts_of, make_run, take_pictures, write_adapter
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from simpletune import files
from simpletune.errors import UsageError
from simpletune.evaluate import results as evaluated
from simpletune.results.card import card_text, is_ours, write_card
from simpletune.results.card.gallery import Shown
from simpletune.results.card.naming import name_of
from simpletune.results.hub.contents import items
from simpletune.results.report.page import tiles
from simpletune.results.report.run import read

MEDIUM = "stabilityai/stable-diffusion-3-medium-diffusers"
COMMUNITY = "https://huggingface.co/stabilityai/stable-diffusion-3-medium/blob/main/LICENSE.md"
ODD = "x | y *z* <b>&amp; \"q\" 's' `c` [l](http://e.org) ![i](u) \\ # --- $a$ @me\n---\nkey: value\r\n\t{{x}} ü 🐈"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "project")


def top_of(text):
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    return yaml.safe_load(match[1])


def rendered(text):
    """The body as a page, by a renderer of CommonMark with tables that lets HTML through, as the hub's does."""
    return (
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S))
    )


def test_a_card_of_a_run(run):
    take_pictures(run, {"cat": "a cat", "dog": "a dog"})
    card = write_card(run)
    text = card.path.read_text(encoding="utf-8")
    data = ModelCard.load(card.path).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc0-1.0", "diffusers", "text-to-image")
    assert {"lora", "diffusers", "text-to-image", "template:diffusion-lora"} <= set(data.tags)
    assert [(one["text"], one["output"]["url"]) for one in data.get("widget")] == [
        ("a cat", "card/01-tuned.jpg"),
        ("a dog", "card/02-tuned.jpg"),
    ]
    page = rendered(text)
    assert re.findall(r'<img src="([^"]+)"', page) == [
        f"card/0{number}-{which}.jpg" for number in (1, 2) for which in ("base", "tuned")
    ]
    assert all((run / name).is_file() for name in card.pictures)
    assert f"trained on 2 pictures in {STEPS} steps" in page
    assert "<strong>0.5000</strong> (before training 0.9000)" in page
    assert "<td>64 x 64</td>\n<td>2</td>" in page
    assert files.sha256(run / "pytorch_lora_weights.safetensors") in page
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    called = {word.arg: ast.unparse(word.value) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)
              for word in node.keywords}  # fmt: skip
    assert called["max_sequence_length"] == "32"
    assert (called["prompt"], called["width"], called["dtype"]) == ("'a cat'", "64", "torch.float32")


def test_the_time_of_all_starts(run):
    """phases.json is of the last one alone; the report counts alike."""
    assert "| cpu |" in write_card(run).path.read_text(encoding="utf-8")
    lines = [{"kind": "step", "step": step, "loss": 0.5, "samples_per_second": 0.5} for step in range(1, STEPS + 1)]
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert "| cpu, 40 s of steps |" in write_card(run).path.read_text(encoding="utf-8")
    assert ("Time in steps", "40 s", "") in tiles(read(run))


@pytest.mark.parametrize(
    ("keys", "flavour_of_code"),
    [
        ({"model_flavour": "sd3-medium", "mixed_precision": "bf16", "tokenizer_max_length": 200}, MEDIUM),
        ({"model_flavour": "sd3.5-large", "use_t5": False}, "stabilityai/stable-diffusion-3.5-large"),
    ],
)
def test_the_base_of_the_hub(tmp_path, keys, flavour_of_code):
    run = make_run(tmp_path, **keys)
    text = write_card(run).path.read_text(encoding="utf-8")
    data = top_of(text)
    assert (data["base_model"], data["base_model_relation"]) == (flavour_of_code, "adapter")
    assert (data["license"], data["license_name"]) == ("other", "stabilityai-ai-community")
    assert data["license_link"].startswith("https://huggingface.co/stabilityai/")
    assert "Powered by Stability AI" in text
    assert f'base = "{flavour_of_code}"' in text
    assert ("tokenizer_3=None" in text) == (keys.get("use_t5") is False)
    assert f"max_sequence_length={keys.get('tokenizer_max_length', 154)}," in text
    assert any(item.name == "NOTICE" for item in items(facts_of(run), ()))


def test_the_version_of_the_base(tmp_path):
    run = make_run(tmp_path, model_flavour="sd3-medium")
    described = json.loads((run / "run.json").read_text())
    described["model"]["commit"] = "c0ffee" + "0" * 34
    (run / "run.json").write_text(json.dumps(described))
    assert f'revision="c0ffee{"0" * 34}"' in write_card(run).path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        ("license: other\nlicense_name: mine\nlicense_link: LICENSE.md",
         {"license": "other", "license_name": "mine",
          "license_link": f"https://huggingface.co/{MEDIUM}/blob/main/LICENSE.md"}),
        ("tags: [x]", {"license": "other", "license_name": "stabilityai-ai-community", "license_link": COMMUNITY}),
        ("license: [", {"license": "other", "license_name": "stabilityai-ai-community", "license_link": COMMUNITY}),
    ],
)  # fmt: skip
def test_the_licence_of_a_local_base_is_its_own_cards(tmp_path, own, expected):
    model = tmp_path / "secret model"
    model.mkdir()
    (model / "README.md").write_text(f"---\n{own}\n---\n")
    run = make_run(tmp_path / "project", model_flavour="sd3-medium", pretrained_model_name_or_path=str(model))
    text = write_card(run).path.read_text(encoding="utf-8")
    data = top_of(text)
    assert {key: value for key, value in data.items() if key.startswith("license")} == expected
    assert data["base_model"] == MEDIUM
    assert "secret model" not in text
    assert "a local copy or version" in text


def test_a_base_without_a_licence(tmp_path):
    run = make_run(tmp_path, model_flavour="sd3-medium", pretrained_model_name_or_path="somebody/tuned-sd3")
    text = write_card(run).path.read_text(encoding="utf-8")
    assert top_of(text)["license"] == "unknown"
    assert "No licence is given for the base" in text


# --- text from outside

ODDER = [ODD, "---", "no", "1:30", "", " ", "a\n---\nb", "\x85\u2028\ufeff", "- a", "1. a", "+", "="]
texts = st.text(max_size=60) | st.sampled_from(ODDER)


@pytest.fixture(scope="module")
def some_facts(tmp_path_factory):
    return facts_of(
        make_run(
            tmp_path_factory.mktemp("some") / "project", data={"instance_prompt": "x", "prepend_instance_prompt": True}
        )
    )


@settings(max_examples=60)
@given(prompt=texts, negative=texts, trigger=texts)
def test_metadata_says_the_same_to_a_machine(some_facts, prompt, negative, trigger):
    entry = dict(some_facts.run.data_sets[0])
    entry["instance_prompt"] = replace(entry["instance_prompt"], value=trigger)
    facts = replace(some_facts, run=replace(some_facts.run, data_sets=(entry,)))
    text = card_text(facts, (Shown(prompt, negative, 1, 64, 64, "card/01-base.jpg", "card/01-tuned.jpg"),))
    text.encode("utf-8")
    card = ModelCard(text)
    (widget,) = card.data.get("widget")
    kept = [one.encode("utf-8", "replace").decode() for one in (prompt, negative, trigger)]
    assert widget["text"] == kept[0]
    assert widget.get("parameters", {}).get("negative_prompt", "") == kept[1]
    assert (card.data.get("instance_prompt") or "") == kept[2]
    (code,) = re.findall(r"```python\n(.*?)\n```\n", text, re.DOTALL)
    words = [word for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) for word in node.keywords]
    assert {word.arg: ast.literal_eval(word.value) for word in words if word.arg == "prompt"} == {"prompt": kept[0]}
    page = rendered(text)
    assert page.count("<img") == 2
    assert (page.count("<h2>"), page.count("<li>"), page.count("<ol>")) == (8, 2, 0)
    assert not re.search("<b>|<script|<em>|<a [^>]*e\\.org", page)


def test_odd_text_is_shown_as_it_is(run):
    page = rendered(card_text(facts_of(run), (Shown(ODD, "", 1, 64, 64, None, "card/01-tuned.jpg"),)))
    assert "x | y *z* &lt;b&gt;&amp;amp; &quot;q&quot;" in page


def test_a_very_long_prompt(run):
    prompt = "a cat, " * 714
    take_pictures(run, {"long": prompt, "short": "a dog"})
    text = write_card(run).path.read_text(encoding="utf-8")
    assert top_of(text)["widget"][0]["text"] == prompt
    body = text.split("\n---\n", 1)[1]
    assert max(map(len, body.splitlines())) < 600
    assert 'prompt="a dog"' in body


# --- what is shown, and what isn't


def test_only_the_final_adapters_pictures_are_shown(run):
    take_pictures(run, {"cat": "a cat"}, step=10)
    assert write_card(run).pictures == ()
    take_pictures(run, {"cat": "a cat", "dog": "a dog"}, side=1024)
    card = write_card(run)
    assert len(card.pictures) == 4
    with Image.open(run / card.pictures[0]) as picture:
        assert picture.size == (768, 768)
        assert not picture.getexif()
    write_adapter(run / "pytorch_lora_weights.safetensors", 10)
    assert write_card(run).pictures == ("card/01-base.jpg", "card/01-tuned.jpg")
    assert sorted(path.name for path in (run / "card").iterdir()) == ["01-base.jpg", "01-tuned.jpg"]


def test_nothing_private_is_told(tmp_path):
    data = {"instance_prompt": "sks", "prepend_instance_prompt": True, "cache_dir_vae": "secret cache"}
    run = make_run(tmp_path / "home of ada", data=data, hf_endpoint="https://mirror.example")
    take_pictures(run, {"cat": "a cat"})
    told = [item.content if isinstance(item.content, bytes) else item.content.read_bytes()
            for item in items(facts_of(run), write_card(run).pictures)]  # fmt: skip
    for piece in told:
        for private in ("mabel", "private pictures", str(tmp_path), "home of ada", "secret cache", "mirror.example",
                        str(Path.home()) + "/", f"/{getpass.getuser()}/"):  # fmt: skip
            assert private.encode() not in piece


def test_the_shared_settings_are_valid_once_places_are_filled_in(tmp_path):
    from simpletune.config.validate import validate_files

    run = make_run(tmp_path / "project", validation_prompt="a cat")
    shared = tmp_path / "simpletune"
    shared.mkdir()
    for item in items(facts_of(run), ()):
        if item.name.startswith("simpletune/"):
            (tmp_path / item.name).write_bytes(item.content)
    (shared / "path" / "to" / "pictures").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(shared / "path" / "to" / "pictures" / "a.png")
    assert [problem.message for problem in validate_files(shared / "config.json")] == []


def test_what_was_measured_of_this_very_adapter(run):
    take_pictures(run, {"cat": "a cat"})
    digest = files.sha256(run / "pytorch_lora_weights.safetensors")
    value = evaluated.Measured(0.31, 0.30, 0.32, 24, 0.02, 0.01, 0.03)
    metric = evaluated.Metric("clip_t", "CLIP-T", "adherence", "", "higher", "pictures", "", "", 3,
                              {"base": evaluated.Measured(0.29, 0.28, 0.30, 24), "final": value})  # fmt: skip
    evaluation = evaluated.Evaluation(
        format=evaluated.FORMAT, simpletune="0.1.0", model="tiny-2",
        sampling=evaluated.Sampling(("a cat",), (42,), ((64, 64),), 20, 2.0, ""), pictures=24, training_pictures=2,
        held_out_pictures=1,
        variants=(evaluated.Variant("base", "base", None, None, None, "base"),
                  evaluated.Variant("final", "final", STEPS, "x", digest, "final")),
        metrics=(metric,), loss_by_sigma=(),
        flagged=(evaluated.FlaggedPair("final", "a.png", "mabels", "aunt-mabel.png", 0.1, 0.2),),
        memorization_sheet=None, left_out=(), warnings=("only 2 training pictures",),
        best=evaluated.Best("final", "", ""), intervals=evaluated.Intervals(0.95, "bootstrap", 1000, 0), features=(),
    )  # fmt: skip
    evaluated.save(run, evaluation)
    page = rendered(write_card(run).path.read_text(encoding="utf-8"))
    assert "<td>0.310 (0.300 to 0.320)</td>\n<td><strong>+0.020</strong> (+0.010 to +0.030)</td>\n<td>24</td>" in page
    assert "1 picture came out nearer to a training picture" in page
    assert "only 2 training pictures" in page
    assert "mabel" not in page
    write_adapter(run / "pytorch_lora_weights.safetensors", STEPS, fill=b"\2")
    assert "0.310" not in write_card(run).path.read_text(encoding="utf-8")


# --- the file


def test_a_card_that_somebody_changed_stays(run):
    first = write_card(run)
    assert is_ours(first.path)
    assert write_card(run).path.read_bytes() == first.path.read_bytes()
    first.path.write_text(first.path.read_text(encoding="utf-8").replace("A LoRA for", "My LoRA for"), encoding="utf-8")
    before = first.path.read_bytes()
    assert write_card(run).kept
    assert first.path.read_bytes() == before
    first.path.write_text("# all mine")
    assert write_card(run).kept


def test_a_run_that_is_not_finished_has_no_card(run):
    (run / "finished.json").unlink()
    with pytest.raises(UsageError, match="has not done all its steps"):
        write_card(run)


def test_without_its_settings_no_model_is_guessed(run):
    (run / "run.json").write_text("{")
    with pytest.raises(UsageError, match="which says what model"):
        write_card(run)
    assert not (run / "README.md").exists()


@pytest.mark.parametrize(("content", "why"), [(None, "there is no adapter"), (b"short", "can't be read as a LoRA")])
def test_an_adapter_that_cannot_be_read(run, content, why):
    file = run / "pytorch_lora_weights.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(UsageError, match=why):
        write_card(run)


def test_an_adapter_that_was_cut_short(run):
    file = run / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match="can't be read as a LoRA"):
        write_card(run)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("runs/balls", "balls"), ("my cats/output", "my-cats"), ("output", None), ("a--b..c", "a-b.c"), ("ü", "lora"),
     ("-x-.git", "x")],
)  # fmt: skip
def test_what_a_run_is_called(tmp_path, folder, name):
    assert name_of(tmp_path / folder) == (name or tmp_path.name.strip("-."))
    assert name_of(Path.home() / "output") == "lora"
