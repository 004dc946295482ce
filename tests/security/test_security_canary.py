"""Tokens of the environment, and those in files where none belong, are in nothing that is written or shown."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from project import make_project

from simpletune.cli.main import run
from simpletune.redact import redact
from simpletune.wizard.unattended import PRESETS

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"

# Put together here so that no scanner takes this file for a leak.
ENVIRONMENT = {
    "HF_TOKEN": "hf_" + "CanaryAb12" * 4,
    "WANDB_API_KEY": "c0ffee1234" * 4,
    "AWS_ACCESS_KEY_ID": "AKIA" + "CANARY1234" + "ABCDEF",
    "AWS_SECRET_ACCESS_KEY": "canary/of+aws/" + "x9" * 13,
    "AWS_SESSION_TOKEN": 'canary session with blanks & \u00e4 "quotes" ' + "z" * 20,
    "MY_SERVICE_API_KEY": "just-some-canary-words-of-mine",
}
SHAPED = (
    "ghp_" + "CanaryAb12" * 4,
    "glpat-" + "CanaryAb12" * 2,
    "xoxb-" + "1234567890-Canary",
    "sk-" + "CanaryAb12" * 4,
)
PASSWORD = "canary-password"  # of an address, in files


def secrets() -> list[str]:
    return [*ENVIRONMENT.values(), *SHAPED, PASSWORD]


def spellings(secret: str) -> set[bytes]:
    """As text, in JSON, in HTML, in an address and in UTF-16."""
    from html import escape
    from urllib.parse import quote

    texts = {secret, json.dumps(secret)[1:-1], escape(secret), quote(secret, safe=""), repr(secret)[1:-1]}
    return {text.encode() for text in texts} | {secret.encode("utf-16-le")}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment full of tokens, and all state and caches below one folder."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("SIMPLETUNE_STATE", "XDG_STATE_HOME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "WANDB_DIR",
                 "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME"):  # fmt: skip
        (tmp_path / "state" / name).mkdir(parents=True)
        monkeypatch.setenv(name, str(tmp_path / "state" / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def found_in(folder: Path, but: frozenset[Path] = frozenset()) -> list[str]:
    """Every place below a folder that holds a secret, in names and in bytes."""
    wanted = [(secret, spelled) for secret in secrets() for spelled in spellings(secret)]
    found = []
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() and not path.is_symlink() and path not in but else b""
        text = data + os.fsencode(path.relative_to(folder))
        found += [f"{path.relative_to(folder)}: {secret[:12]}" for secret, spelled in wanted if spelled in text]
    return found


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """What was shown since the last look; no secret is in it."""
    out = "".join(capfd.readouterr())
    leaks = [
        secret[:12]
        for secret in secrets()
        for spelled in spellings(secret)
        if spelled.decode("utf-8", "replace") in out
    ]
    assert leaks == []
    return out


@pytest.mark.fault
@pytest.mark.filterwarnings("ignore")
def test_no_token_of_the_environment_is_written_or_shown(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tally
) -> None:
    keys = {
        "max_train_steps": 2,
        "num_eval_images": 2,
        "checkpoint_step_interval": 1,
        "validation_prompt": "a red ball",
    }
    made = make_project(home / "project", 8, report_to=["tensorboard", "wandb"], tracker_run_name="mine", **keys)
    monkeypatch.chdir(made.folder)
    captions = sorted((made.folder / "pictures").glob("*.txt"))
    captions[0].write_text(f"a ball with {SHAPED[0]}")
    captions[1].write_text(f"a ball, and https://me:{PASSWORD}@host.example/x")
    asked = Path(shutil.copytree(QUICKSTART / "pictures", made.folder / "asked"))
    captions.append(sorted(asked.glob("*.txt"))[0])
    captions[-1].write_text(f"a bus, {SHAPED[1]}")
    (made.folder / "answers.json").write_text(json.dumps(PRESETS["cpu"] | {"data.0.folder": "asked"}))
    commands = [
        ["validate"], ["data", "--html", "data.html"], ["doctor"], ["explain", "lora_rank"], ["train", "--dry-run"],
        ["train"], ["report"], ["generate", "--prompt", "a blue ball"],
        ["evaluate", "--clip", "none", "--dino", "none"], ["export", "output", "--to", "kohya"], ["card"],
        ["configure", "new/config.json", "--answers", "answers.json", "--yes"],
    ]  # fmt: skip
    for command in commands:
        code = run(command)
        out = said(capfd)
        assert code == 0, f"{command}: {out}"
    assert found_in(home, frozenset([*captions[:2], captions[-1]])) == []
    written = {path.suffix for path in home.rglob("*") if path.is_file()}
    assert written >= {".safetensors", ".json", ".jsonl", ".html", ".png", ".md", ".wandb"}
    tally("bad inputs: security", len(commands))


IN_CONFIG = [
    {"hf_endpoint": f"https://me:{PASSWORD}@mirror.example"},
    {"pretrained_model_name_or_path": f"https://me:{PASSWORD}@host.example/model"},
    {"pretrained_model_name_or_path": SHAPED[0]},
    {"validation_prompt": f"a cat, {SHAPED[1]}"},
    {"validation_prompt": ENVIRONMENT["MY_SERVICE_API_KEY"]},
    {"tracker_run_name": SHAPED[2]},
    {"hub_model_id": f"me/{SHAPED[3]}"},
    {"output_dir": f"out-{SHAPED[0]}"},
    {"lora_target": [SHAPED[0]]},
    {SHAPED[0]: 1},
    {"wandb_api_key": ENVIRONMENT["WANDB_API_KEY"]},
    {"api_key": "0123456789" * 4},
    {"HF_TOKEN": ENVIRONMENT["HF_TOKEN"]},
]
SAID = ("looks like an access token", "address with a name or password", "before the @")
"""What the error says, in one way or another."""

IN_DATA = [
    {"instance_prompt": SHAPED[0]},
    {"caption_filter": ["fine", SHAPED[1]]},
    {"s3_endpoint": f"https://me:{PASSWORD}@s3.example", "type": "s3", "s3_url": "s3://bucket/x"},
    {"aws_secret_access_key": ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]},
    {"id": SHAPED[2]},
    {"metadata_path": f"https://{'x' * 20}@host.example/table.csv"},
    {"note": {"deep": [{"deeper": SHAPED[3]}]}},
]


@pytest.mark.parametrize("added", IN_CONFIG + IN_DATA, ids=lambda added: next(iter(added))[:12])
@pytest.mark.parametrize("by_flag", [False, pytest.param(True, marks=pytest.mark.fault)])
def test_a_token_in_the_files_is_an_error_that_does_not_say_it(home, capfd, monkeypatch, added, by_flag, tally):
    (home / "pictures").mkdir()
    data = {"id": "a", "type": "local", "instance_data_dir": "pictures"}
    config: dict[str, object] = {"model_flavour": "tiny", "data_backend_config": "data.json"}
    flags = []
    if by_flag:
        prefix = "dataset.0." if added in IN_DATA else ""
        flags = [
            f"--set={prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in added.items()
        ]
    elif added in IN_DATA:
        data = data | added
    else:
        config = config | added
    (home / "config.json").write_text(json.dumps(config, indent=1))
    (home / "data.json").write_text(json.dumps([data]))
    before = set(home.rglob("*"))
    monkeypatch.chdir(home)
    for command in ("validate", "train"):
        assert run([command, "config.json", *flags]) == 2
        out = said(capfd)
        assert any(words in " ".join(out.split()) for words in SAID), out
    given = frozenset({home / "config.json", home / "data.json"})
    assert found_in(home, given) == []
    assert set(home.rglob("*")) == before
    tally("bad inputs: security", 2)


@pytest.mark.parametrize(
    "text", [*SHAPED, f"see https://me:{PASSWORD}@host.example", ENVIRONMENT["MY_SERVICE_API_KEY"]]
)
def test_a_token_in_a_prompt_is_refused(home, text, tally):
    from simpletune.errors import UsageError
    from simpletune.results.prompts import named_prompts, read_prompts

    (home / "prompts.txt").write_text(f"a cat\n{text}\n")
    (home / "prompts.json").write_text(json.dumps({"cat": text}))
    for act in (lambda: named_prompts([text]), lambda: read_prompts(home / "prompts.txt"),
                lambda: read_prompts(home / "prompts.json")):  # fmt: skip
        with pytest.raises(UsageError, match="looks like an access token") as refused:
            act()
        assert text not in str(refused.value)
    tally("bad inputs: security", 3)


@pytest.mark.parametrize("secret", ENVIRONMENT.values())
def test_a_secret_is_found_however_it_is_written(home, secret):
    from urllib.parse import quote

    for text in (
        secret,
        json.dumps(secret),
        json.dumps({"a": secret}, ensure_ascii=False),
        f"?t={quote(secret, safe='')}",
    ):
        assert redact(text) != text
        assert not any(spelled.decode("utf-8", "replace") in redact(text) for spelled in spellings(secret))


def test_a_traceback_shows_no_secret(home, capfd, monkeypatch, tally):
    """A bug of ours, in the midst of something that holds a token."""
    from simpletune.cli import main

    def broken(**_: object) -> None:
        try:
            raise ValueError(f"{ENVIRONMENT['HF_TOKEN']} and https://me:{PASSWORD}@x.example")
        except ValueError as error:
            raise RuntimeError(f"in between: {ENVIRONMENT['AWS_SESSION_TOKEN']!r} {SHAPED[0]}") from error

    monkeypatch.setattr(main.command, "main", broken)
    assert run(["validate"]) == 1
    assert "RuntimeError" in said(capfd)
    tally("bad inputs: security", 1)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["config.json", "config.toml", "config.env"])
def test_an_import_takes_no_token_along(home, capfd, monkeypatch, name, tally):
    shutil.copytree(QUICKSTART / "pictures", home / "pictures")
    there = [
        {"id": "a", "type": "local", "instance_data_dir": "pictures", "caption_strategy": "textfile", "resolution": 512,
         "cache_dir_vae": "cv", "instance_prompt": f"x {SHAPED[2]}", "caption_filter_list": [SHAPED[3]]},
        {"id": "t", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "ct"},
    ]  # fmt: skip
    (home / "multidatabackend.json").write_text(json.dumps(there))
    given = {"model_family": "sd3", "data_backend_config": "multidatabackend.json", "output_dir": "out",
             "model_type": "lora", "lora_type": "standard", "max_train_steps": "10",
             "wandb_api_key": ENVIRONMENT["WANDB_API_KEY"], "webhook": f"https://me:{PASSWORD}@x.y",
             "hub_token": ENVIRONMENT["HF_TOKEN"], "validation_prompt": f"a {SHAPED[0]}", SHAPED[1]: "1"}  # fmt: skip
    lines = {
        "config.json": json.dumps({f"--{key}": value for key, value in given.items()}),
        "config.toml": "\n".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in given.items()),
        "config.env": "\n".join(f"export {key.upper().replace('-', '_')}='{value}'" for key, value in given.items()),
    }
    (home / name).write_text(lines[name])
    monkeypatch.chdir(home)
    code = run(["import", name, "--output", "ours"])
    assert (code, (home / "ours" / "config.json").is_file()) == (0, True), said(capfd)
    assert "looks like an access token" in " ".join(said(capfd).split())
    assert found_in(home, frozenset({home / name, home / "multidatabackend.json"})) == []
    tally("bad inputs: security", 1)
