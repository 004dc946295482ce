"""simpletune doctor: what is printed, wide and narrow, and its exit codes."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from readiness_helpers import CARD, GIB, NEEDED, NO_CUDA, a_machine, access, isolate, make_project, packages

from simpletune.cli.doctor import check_lines, doctor, verdict
from simpletune.cli.main import run
from simpletune.machine.forecast import Forecast, PhaseMemory
from simpletune.machine.package_index import IndexAccess
from simpletune.machine.ways_down import Change
from simpletune.wizard.checks import FAILED, OK, SKIPPED, WARNING, Check
from simpletune.wizard.readiness import packages as packages_module
from simpletune.wizard.readiness import run as run_module
from simpletune.wizard.text import width

SNAPSHOT = Path(__file__).parent / "snapshots" / "doctor.txt"
SMALL_CARD = replace(CARD, name="NVIDIA GeForce RTX 3050", memory_total=4 * GIB, memory_free=3 * GIB)
MIRROR_DOWN = IndexAccess("https://mirror.example", False, "https://mirror.example can't be reached: refused",
                          "check the network, or name a mirror with PIP_INDEX_URL")  # fmt: skip

# name -> (machine, the hub's answer, the index's answer, config.json or None, arguments)
SCENES = {
    "ready": (a_machine(CARD), access(), None, {"validation_prompt": "a cat"}, []),
    "a fresh machine without a card": (a_machine(torch=NO_CUDA), access(**NEEDED), None, None, []),
    "everything in the way": (
        a_machine(SMALL_CARD, replace(CARD, index=1, name="NVIDIA Tesla P40", compute_capability=(6, 1))),
        access(**NEEDED), MIRROR_DOWN, {"base_model_precision": "no_change", "optimizer": "adamw"}, [],
    ),
    "the wrong PyTorch": (a_machine(CARD, torch=NO_CUDA), access(), None, {}, ["--offline"]),
    "mistakes in the files": (a_machine(CARD), access(), None, {"lora_rnk": 4, "train_batch_size": 0}, []),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Stand in a folder of a name that is the same everywhere, with a disk and a Python that are too."""
    packages(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages_module.platform, "python_version", lambda: "3.12.4")
    monkeypatch.setattr(packages_module, "sys", type(sys)("sys"))
    packages_module.sys.executable, packages_module.sys.maxsize = "/venv/bin/python", 2**63
    monkeypatch.setattr(run_module, "_disk_of", lambda place: (Path("/home/me"), 1))
    monkeypatch.setattr(run_module, "disk_free", lambda place: 10**12)
    monkeypatch.setattr(run_module, "forecast", a_forecast)
    monkeypatch.setattr(run_module, "ways_down", lambda plan, limit: CHANGES if limit < 4 * GIB else ())
    return tmp_path


CHANGES = (
    Change("use_t5", False, GIB, "encode text", "long captions are followed less well"),
    Change("base_model_precision", "int8-quanto", GIB, "train", "next to nothing"),
)


def a_forecast(plan):
    """Figures that stay when the estimate learns."""
    train = 2.4 if plan.base_model_precision == "int8-quanto" else 4.3
    sizes = {"encode text": 6.4, "encode images": 1.8, "train": train, "validate": train + 0.6}
    phases = tuple(PhaseMemory(name, {"weights": int(size * GIB)}) for name, size in sizes.items())
    return Forecast(phases, {"latents": 10**6, "captions": 10**7, "checkpoints": 10**8})


def show(scene, folder, monkeypatch, capsys, columns=80, arguments=()):
    machine, hub, index, settings, scene_arguments = SCENES[scene]
    isolate(monkeypatch, machine, hub, index)
    monkeypatch.setenv("COLUMNS", str(columns))
    if settings is not None and not (folder / "config.json").exists():
        make_project(folder, **settings)
    code = run(["doctor", *scene_arguments, *arguments])
    return code, capsys.readouterr().out


def test_every_screen_is_as_it_was_looked_at(here, monkeypatch, capsys):
    shown = []
    for columns in (80, 40):
        for scene in SCENES:
            folder = here / re.sub(r"\W", "", scene)
            folder.mkdir(exist_ok=True)
            monkeypatch.chdir(folder)
            code, text = show(scene, folder, monkeypatch, capsys, columns)
            long = [line.removeprefix("→ ") for line in map(str.strip, text.splitlines()) if width(line) > columns - 20]
            assert [line for line in long if width(line) > columns and " " in line] == []  # only an address stays whole
            shown.append(f"==== {scene}, {columns} columns, exit {code} ====\n{text}")
    text = "\n".join(shown).replace("\\", "/")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert text == SNAPSHOT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("scene", "code"),
    [("ready", 0), ("a fresh machine without a card", 0), ("everything in the way", 3), ("mistakes in the files", 3)],
)
def test_the_exit_code(here, monkeypatch, capsys, scene, code):
    assert show(scene, here, monkeypatch, capsys)[0] == code


def test_json_is_an_array_of_every_check(here, monkeypatch, capsys):
    code, text = show("everything in the way", here, monkeypatch, capsys, arguments=["--json"])
    found = json.loads(text)
    assert code == 3
    assert {tuple(entry) for entry in found} == {("name", "status", "detail", "next_step")}
    assert {entry["status"] for entry in found} == {OK, WARNING, FAILED}
    assert [entry["name"] for entry in found][:3] == ["python", "packages", "optional"]


def test_a_named_config_is_the_one_looked_at(here, monkeypatch, capsys):
    make_project(here / "elsewhere", lora_rnk=1)
    code, text = show("ready", here, monkeypatch, capsys, arguments=["elsewhere/config.json", "--json"])
    assert code == 3
    assert "lora_rank" in text


def test_a_config_that_is_not_there(here, monkeypatch, capsys):
    code, text = show("ready", here, monkeypatch, capsys, arguments=["nothing.json"])
    assert code == 3
    assert "nothing.json" in text


class Stream(io.StringIO):
    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._terminal


CHECK = Check("model", FAILED, "not here", "fetch it")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8", "no-such-encoding"])
def test_marks_are_ones_the_encoding_has(encoding):
    lines = list(check_lines(CHECK, Stream(encoding), 80))
    if encoding != "no-such-encoding":
        "\n".join(lines).encode(encoding)
    assert lines[0].startswith("✗" if encoding == "utf-8" else "x")
    assert lines[1].strip().endswith("fetch it")


def test_every_status_has_a_mark_of_its_own():
    for encoding in ("utf-8", "ascii"):
        first = [next(check_lines(replace(CHECK, status=status), Stream(encoding), 80))[0]
                 for status in (OK, WARNING, FAILED, SKIPPED)]  # fmt: skip
        assert len(set(first)) == 4


def test_colour_only_where_it_is_welcome(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" not in "".join(check_lines(CHECK, Stream(), 80))
    coloured = "".join(check_lines(CHECK, Stream(terminal=True), 80))
    assert "\x1b[" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == "".join(check_lines(CHECK, Stream(terminal=True), 80))


def test_what_to_type_is_not_broken_within_a_word():
    command = "pip install " + "x" * 60
    lines = list(check_lines(replace(CHECK, next_step=command), Stream(), 40))
    assert any("x" * 60 in line for line in lines)


def test_the_last_line():
    fine, warned = Check("a", OK, ""), Check("b", WARNING, "")
    assert verdict([fine]) == "nothing failed; next: simpletune configure"
    assert verdict([fine, Check("data sets", OK, "")]) == "ready to train"
    assert verdict([warned]) == "nothing failed, with 1 warning; next: simpletune configure"
    assert verdict([CHECK, CHECK, warned]) == "not ready: 2 things to do first, with 1 warning"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_whole_command_piped(tmp_path, encoding):
    """As it is started from a shell, in a terminal that may know no more than ASCII, and without importing torch."""
    config = make_project(tmp_path, model_flavour="tiny", device="cpu")
    code = """
import sys
from simpletune.cli.main import run
code = run(["doctor", sys.argv[1], "--offline"])
print(code, sorted({"torch", "diffusers", "transformers", "peft"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, str(config)]
    found = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
    assert found.stderr == ""
    assert found.stdout.splitlines()[-1] == "0 []"
    assert ("✓" in found.stdout) == (encoding == "utf-8")


def test_help_names_the_exit_codes(capsys):
    assert run(["doctor", "--help"]) == 0
    assert "Exits with 0" in capsys.readouterr().out
    assert doctor.name == "doctor"
