"""What the wizard doesn't ask about stays as somebody wrote it; a changed answer changes its own lines."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from script import RECOMMENDED, Typed, Visit, always, draw, edit, facts, in_turn, visit
from walks import World, possible

from simpletune.config.problems import errors
from simpletune.wizard.compose import changes, checked, contents
from simpletune.wizard.facts import Facts
from simpletune.wizard.review import ADD, EDIT, Choice
from simpletune.wizard.screen import Screen

SPELLINGS = {
    "device": ('"cuda"', '"cpu"', '"auto"'),
    "device_memory_gb": ("24", "24.0", "null"),
    "model_flavour": ('"tiny"', '"sd3-medium"'),
    "pretrained_model_name_or_path": ("null", '"some/model"'),
    "hf_endpoint": ("null", '"http://mirror.example.org:8080"'),
    "base_model_precision": ('"int8-quanto"', '"no_change"'),
    "text_encoder_1_precision": ('"no_change"', '"int8-quanto"'),
    "text_encoder_3_precision": ('"int4-quanto"',),
    "use_t5": ("true", "false"),
    "tokenizer_max_length": ("256",),
    "lora_rank": ("16", "7"),
    "lora_alpha": ("16.0", "3", "null", "1e1"),
    "lora_target": ('"blocks"', '["to_q",  "attn.to_k"]'),
    "learning_rate": ("1e-4", "0.00010", "1.0E-4"),
    "lr_scheduler": ('"cosine"', '"constant"'),
    "max_grad_norm": ("0.10",),
    "gradient_accumulation_steps": ("2",),
    "resolution": ("null", "256"),
    "validation_resolution": ("null", "256", '"512x512, 256x480"'),
    "validation_prompt": ('"a \\u00e9t\\u00e9 ball"', "null"),
    "validation_guidance_skip_layers": ("[1,\n 2]",),
    "output_dir": ('"output/{model_family}"', '"./out"', '"../elsewhere/"'),
    "seed": ("0",),
    "optimizer_config": ('{"betas": [9e-1, 0.99]}',),
    "max_train_steps": ("1000", "null"),
    "num_eval_images": ("2",),
}
"""Ways to write config.json's keys, asked about or not."""
ENTRIES = (
    '{"id": "one", "instance_data_dir": "pictures", "resolution": 512}',
    '{"instance_data_dir": "./pictures/",  "id": "Zw\\u00f6lf", "resolution": null, "crop": true}',
    '{"id": "mega", "instance_data_dir": "PICTURES", "resolution_type": "area", "resolution": 0.25, "repeats": 3}',
    '{"id": "shorter", "type": "local", "instance_data_dir": "pictures", "resolution_type": "pixel", "resolution": 256,'
    ' "max_num_samples": 5, "text_embeds": "b"}',
    '{"id": "off", "disabled": true, "instance_data_dir": "/nowhere"}',
)
CACHES = ('{"id": "a", "dataset_type": "text_embeds", "default": true}', '{"id": "b", "dataset_type": "text_embeds"}')


@st.composite
def config_files(draw_: st.DrawFn) -> str:
    """config.json as somebody might write it: some keys, in any order, spelling and layout."""
    spelled = draw_(st.fixed_dictionaries({}, optional={key: st.sampled_from(ways) for key, ways in SPELLINGS.items()}))
    if "max_train_steps" not in spelled and draw_(st.booleans()):
        spelled["num_train_epochs"] = "12"
    indent, colon = draw_(st.sampled_from(("  ", "    ", "\t"))), draw_(st.sampled_from((": ", ":", " : ")))
    line_end, last = draw_(st.sampled_from(("\n", "\r\n"))), draw_(st.sampled_from(((), ("",))))
    blank = draw_(st.sampled_from(("", line_end)))
    members = [f'{indent}"{key}"{colon}{spelled[key]}' for key in draw_(st.permutations(list(spelled)))]
    return line_end.join(["{", f",{line_end}{blank}".join(members), "}", *last])


@st.composite
def data_files(draw_: st.DrawFn) -> str:
    entries = draw_(st.lists(st.sampled_from(ENTRIES), min_size=1, unique=True))
    assume(any("disabled" not in entry for entry in entries))
    caches = CACHES if any('"text_embeds": "b"' in entry for entry in entries) else draw_(st.sampled_from(((), CACHES)))
    return "[" + ",\n ".join(draw_(st.permutations([*entries, *caches]))) + "]\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keeps")
    draw(root / "pictures", 6)
    draw(root / "PICTURES", 5)
    return root


@pytest.fixture(scope="module")
def known(project: Path) -> Facts:
    return facts(project, "80gb")


def put(project: Path, config: str, data: str) -> Path:
    (project / "config.json").write_bytes(config.encode())
    (project / "multidatabackend.json").write_bytes(data.encode())
    return project / "config.json"


@settings(max_examples=60, deadline=None)
@given(config=config_files(), data=data_files())
def test_files_that_are_only_looked_at_stay_byte_for_byte(project: Path, known: Facts, config: str, data: str) -> None:
    """Asked is only what can't be any more; the rest isn't touched, and nothing of it is marked as changed."""
    made = visit(put(project, config, data), lambda _screen: RECOMMENDED, known)
    asked = [screen for screen in made.prompter.screens if screen.id != "review"]
    if any(screen.id == "model" for screen in asked):
        return  # another model: what fitted the old one is asked again
    assert [screen.id for screen in asked if not screen.problem] == [], "asked, and nothing says why"
    marked = {option.value.about for option in made.prompter.screens[-1].options or () if option.label.startswith("*")}
    assert marked <= {screen.id for screen in asked}
    if not asked:
        assert changes(contents(made.state)) == {}


@settings(max_examples=60, deadline=None)
@given(config=config_files(), data=data_files(), seed=st.integers(0, 1000))
def test_a_changed_row_changes_its_own_lines(
    project: Path, world: World, known: Facts, config: str, data: str, seed: int
) -> None:
    before = visit(put(project, config, data), lambda _screen: RECOMMENDED, known)
    assume(before.prompter.asked == ["review"])
    questions = {step.question.id: step.question for step in before.walk.steps}
    rows = [option.value.about for option in before.prompter.screens[0].options or () if option.value.action == EDIT]
    row = rows[seed % len(rows)]
    assume(row not in ("hardware", "hardware.memory", "model"))  # with these, what fits them changes too
    after = visit(project / "config.json", in_turn(("review", edit(row)), (row, Otherwise(world)), then=usual), known)
    keys = {key for asked in {row, *after.prompter.asked} - {"review"} for key in keys_of(after, asked)}
    keys |= {"output_dir"} if "output" in after.prompter.asked else set()
    keys |= {"type"} if row.endswith(".folder") else set()
    assert changed_keys(before, after) <= keys, row
    for line in changed_lines(config, text_of(after, "config.json")):
        assert any(f'"{key}"' in line for key in keys), f"{row}: {line!r}"
    assert questions[row].keys == () or keys & changed_keys(before, after)
    assert wrong_in(after) <= wrong_in(before), row


def wrong_in(made: Visit) -> set[str]:
    """What is wrong with the files as they would be; not that this machine has no GPU."""
    return {found.message for found in errors(checked(made.state).problems) if found.kind == "config"}


def usual(screen: Screen) -> Any:
    """What is asked after an answer that leads to further questions."""
    texts = {"model.mirror": "https://hub.example.org", "model.id": "owner/name", "samples.prompt.1": "a red ball"}
    return Typed(texts[screen.id]) if screen.id in texts else RECOMMENDED


class Otherwise:
    """Answers anything but what stands there."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, screen: Screen) -> Any:
        shown = {str(screen.default), str(Typed(str(screen.default)))}
        found = next((one for one in possible(screen, self.world) if str(one) not in shown), None)
        assume(found is not None)  # on a small card a question may have one possible answer
        return found


def keys_of(made: Visit, question_id: str) -> tuple[str, ...]:
    step = made.walk.step(question_id)
    return step.question.keys if step is not None else ()


def text_of(made: Visit, name: str) -> str:
    return next(content.decode() for path, content in contents(made.state).items() if path.name == name)


def changed_keys(before: Visit, after: Visit) -> set[str]:
    """The keys of both files whose values differ, or that are only in one."""
    old, new = before.config, after.config
    found = {key for key in {**old, **new} if old.get(key, ...) != new.get(key, ...)}
    olds, news = (json.loads(text_of(made, "multidatabackend.json")) for made in (before, after))
    assert [entry["id"] for entry in olds] == [entry["id"] for entry in news]
    for old, new in zip(olds, news, strict=True):
        found |= {key for key in {**old, **new} if old.get(key, ...) != new.get(key, ...)}
    return found


def changed_lines(before: str, after: str) -> list[str]:
    """Lines with a key or value that differ but for the comma behind them."""
    old, new = ([line.rstrip().removesuffix(",") for line in text.splitlines()] for text in (before, after))
    return [line[2:] for line in difflib.ndiff(old, new) if line[0] in "+-" and line[2:].strip("{} \t")]


# --- single cases


def written(folder: Path, config: dict[str, Any], data: list[dict[str, Any]], **files: str) -> Path:
    """A project of its own, with pictures/; further files by name, with their ending after two underscores."""
    draw(folder / "pictures", 6)
    draw(folder / "more", 5)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return put(folder, json.dumps(config, indent=2), json.dumps(data, indent=2))


PICTURES = {"id": "one", "instance_data_dir": "pictures"}
CUDA = {"device": "cuda", "base_model_precision": "int8-quanto"}


def test_a_new_data_set_names_a_cache_where_the_file_has_no_default(tmp_path: Path) -> None:
    caches = [{"id": name, "dataset_type": "text_embeds", "cache_dir": f"cache/{name}"} for name in ("x", "y")]
    config = written(tmp_path, CUDA, [{**PICTURES, "text_embeds": "y"}, *caches])
    turns = (("review", Choice(ADD)), ("data.1.folder", Typed(str(tmp_path / "more"))))
    made = visit(config, in_turn(*turns, then=always({})))
    entries = json.loads(text_of(made, "multidatabackend.json"))
    assert [entry["id"] for entry in entries] == ["one", "more", "x", "y"]
    assert entries[1]["text_embeds"] == "x"
    assert [found.message for found in checked(made.state).problems if found.kind == "config"] == []


def test_megapixels_become_pixels_when_they_are_changed(tmp_path: Path) -> None:
    config = written(tmp_path, CUDA, [{**PICTURES, "resolution_type": "area", "resolution": 1.0}])
    made = visit(config, in_turn(("review", edit("data.0.resolution")), ("data.0.resolution", 768), then=always({})))
    row = next(option for option in made.prompter.screens[0].options or () if option.label.strip() == "Resolution")
    assert row.note == "1 megapixels"
    entry = json.loads(text_of(made, "multidatabackend.json"))[0]
    assert (entry["resolution"], entry["resolution_type"]) == (768, "pixel_area")


def test_a_prompt_is_changed_in_the_file_it_stands_in(tmp_path: Path) -> None:
    """The names that somebody gave their prompts stay, and so does the file's name."""
    prompts = '{ "my first": "a red ball",\n  "second":   "a blue ball" }\n'
    config = written(tmp_path, {**CUDA, "validation_prompts_file": "mine.json"}, [PICTURES], mine__json=prompts)
    turns = (
        ("review", edit("samples.prompts")), ("samples.prompts", "own"),
        ("review", edit("samples.prompt.2")), ("samples.prompt.2", "a green ball"),
    )  # fmt: skip
    made = visit(config, in_turn(*turns, then=always({})))
    assert text_of(made, "mine.json") == '{ "my first": "a red ball",\n  "green-ball": "a green ball" }\n'
    assert set(changes(contents(made.state))) == {tmp_path / "mine.json"}


def test_the_data_file_in_another_folder(tmp_path: Path) -> None:
    """Its relative paths are meant from where it is."""
    config = written(tmp_path, {**CUDA, "data_backend_config": "data/sets.json"}, [])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sets.json").write_text(json.dumps([{**PICTURES, "instance_data_dir": "../pictures"}]))
    looked = visit(config, always({}))
    assert looked.prompter.asked == ["review"]
    assert changes(contents(looked.state)) == {}
    turns = (("review", Choice(ADD)), ("data.1.folder", Typed(str(tmp_path / "more"))))
    made = visit(config, in_turn(*turns, then=always({})))
    entries = json.loads(text_of(made, "sets.json"))
    assert [entry["instance_data_dir"] for entry in entries] == ["../pictures", "../more"]
    assert [found.message for found in checked(made.state).problems if found.kind == "config"] == []


def test_config_json_without_its_data_file(tmp_path: Path) -> None:
    config = written(tmp_path, {**CUDA, "data_backend_config": "sets.json"}, [])
    made = visit(config, always({"data.0.folder": Typed(str(tmp_path / "pictures"))}))
    assert "data.0.folder" in made.prompter.asked
    assert [entry["id"] for entry in json.loads(text_of(made, "sets.json"))] == ["pictures"]


def test_a_folder_that_is_gone_is_asked_for_again(tmp_path: Path) -> None:
    config = written(tmp_path, CUDA, [{**PICTURES, "instance_data_dir": "gone"}])
    made = visit(config, always({"data.0.folder": Typed(str(tmp_path / "pictures"))}))
    first = made.prompter.screens[0]
    assert first.id == "data.0.folder"
    assert first.problem is not None
    assert first.problem.lower().startswith("there is no folder")
    assert [entry["id"] for entry in json.loads(text_of(made, "multidatabackend.json"))] == ["one"]


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    config = written(tmp_path, CUDA, [PICTURES])
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert changes(contents(visit(config, always({})).state)) == {}


ODD_NAMES = ("a b", ".hidden", "ünï[1]", "🐶👩\u200d👧", "x" * 150, "\u00a0nbsp", "-r", "A", "{half", "...")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_folder_makes_a_name_that_the_schema_takes(tmp_path: Path, name: str) -> None:
    folder = draw(tmp_path / "in" / name, 2)
    config = tmp_path / "project" / "config.json"
    twice = {"data.0.folder": Typed(str(folder)), "data.0.more": True, "data.1.folder": Typed(str(folder))}
    made = visit(config, always(twice))
    ids = [entry["id"] for entry in json.loads(text_of(made, "multidatabackend.json"))]
    assert len({one.casefold() for one in ids}) == 2
    assert [found.message for found in checked(made.state).problems if found.severity == "error"] == []


def test_another_model_on_files_that_are_there(tmp_path: Path) -> None:
    """What fitted the old model isn't kept for the new one: the tiny model has no positions for 1024 pixels."""
    values = {**CUDA, "validation_resolution": 1024, "validation_prompt": "a ball", "lora_rank": 64, "seed": 3}
    config = written(tmp_path, values, [{**PICTURES, "resolution": 1024}])
    made = visit(config, in_turn(("review", edit("hardware")), ("hardware", "cpu"), then=always({})))
    assert made.config["model_flavour"] == "tiny"
    assert (made.config["seed"], made.config["lora_rank"]) == (3, 64)
    assert made.config["validation_resolution"] == 128
    assert json.loads(text_of(made, "multidatabackend.json"))[0]["resolution"] == 128


def test_going_through_the_main_things_keeps_the_fine_points(tmp_path: Path) -> None:
    """They are the files', and what is recommended beside them goes by them: nothing has to be asked twice."""
    values = {**CUDA, "train_batch_size": 6, "learning_rate": 3e-5, "lora_alpha": 3, "max_train_steps": 900}
    config = written(tmp_path, values, [{**PICTURES, "repeats": 5, "crop": True}])
    made = visit(config, always({}), facts(tmp_path, "80gb"), through=True)
    assert len(made.prompter.asked) == len(set(made.prompter.asked)) > 8
    assert {key: made.config[key] for key in ("train_batch_size", "learning_rate", "lora_alpha")} == {
        "train_batch_size": 6, "learning_rate": 3e-5, "lora_alpha": 3,
    }  # fmt: skip
    assert made.config["max_train_steps"] != 900
