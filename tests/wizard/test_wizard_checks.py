"""Everything a run needs, looked at: what fails, what only warns, and what is to be done about it."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hub_server import make_model
from readiness_helpers import (
    CARD,
    GIB,
    NEEDED,
    NO_CUDA,
    REPO,
    a_machine,
    access,
    isolate,
    make_project,
    packages,
)

from simpletune.machine.package_index import IndexAccess
from simpletune.wizard import checks as module
from simpletune.wizard.checks import FAILED, OK, SKIPPED, WARNING, Check, checks, left_to_do, ready
from simpletune.wizard.readiness import machine as machine_module
from simpletune.wizard.readiness import model as model_module
from simpletune.wizard.readiness import run as run_module


@pytest.fixture
def look(monkeypatch):
    """Check a machine; the answer is a list of checks by name."""

    def checked(config=None, machine=None, hub=None, index=None, **how):
        packages(monkeypatch)
        isolate(monkeypatch, machine or a_machine(CARD), hub, index)
        found = {}
        for check in checks(config, **how):
            found.setdefault(check.name, []).append(check)
        return found

    return checked


def statuses(found):
    return {name: [check.status for check in group] for name, group in found.items()}


def test_a_machine_that_is_ready_and_no_files(look):
    found = look()
    assert set(statuses(found)) == {
        "python", "packages", "optional", "pytorch", "gpu", "kernels", "main memory", "model", "package index", "files",
        "disk",
    }  # fmt: skip
    assert found["files"][0].status == SKIPPED
    assert "simpletune configure" in found["files"][0].next_step
    assert ready(check for group in found.values() for check in group)


def test_a_project_that_is_ready(look, tmp_path):
    found = look(make_project(tmp_path, validation_prompt="a cat"))
    assert {status for group in statuses(found).values() for status in group} == {OK}
    assert {"files", "data sets", "to encode text", "to encode images", "to train", "to validate"} < set(found)
    assert "4 pictures" in found["data sets"][0].detail


@pytest.mark.parametrize(
    ("settings", "machine", "status"),
    [
        (None, a_machine(CARD), OK),
        (None, a_machine(CARD, torch=NO_CUDA), FAILED),
        (None, a_machine(), WARNING),
        ({}, a_machine(), FAILED),
        ({"device": "cpu"}, a_machine(), WARNING),
        ({"device": "cpu"}, a_machine(CARD, torch=NO_CUDA), WARNING),
        ({"model_flavour": "tiny"}, a_machine(), OK),
        ({"model_flavour": "tiny"}, a_machine(CARD, torch=NO_CUDA), WARNING),
        ({}, a_machine(CARD, torch=NO_CUDA), FAILED),
        ({"device": "cuda"}, a_machine(CARD, torch=NO_CUDA), FAILED),
    ],
)
def test_a_card_fails_only_where_a_run_would_have_used_it(look, tmp_path, settings, machine, status):
    config = None if settings is None else make_project(tmp_path, **settings)
    assert statuses(look(config, machine))["gpu"] == [status]


def test_a_card_that_can_t_be_used_beside_one_that_can_is_a_warning(look):
    old = replace(CARD, index=1, name="Old", compute_capability=(6, 1))
    assert statuses(look(None, a_machine(CARD, old)))["gpu"] == [OK, WARNING]


def test_a_device_that_is_not_here(look, tmp_path):
    config = make_project(tmp_path, device="mps")
    found = look(config, a_machine(CARD))
    assert found["device"][0].status == FAILED
    assert "auto" in found["device"][0].next_step


def test_why_a_card_is_out_of_use_and_what_to_type(look):
    (check,) = look(None, a_machine(CARD, torch=NO_CUDA))["gpu"]
    assert "has no CUDA" in check.detail
    assert check.next_step == "pip install --force-reinstall torch==2.13.0"


@pytest.mark.parametrize(
    ("versions", "name", "status", "detail", "step"),
    [
        ({}, "packages", OK, "all 2", None),
        ({"numpy": None}, "packages", FAILED, "missing: numpy", "pip install 'numpy>=1.26'"),
        ({"torch": "2.14.0"}, "packages", FAILED, "torch 2.14.0 (needed: <2.14", "pip install 'torch<2.14,>=2.11'"),
        ({"torch": "2.13.0+cu130"}, "packages", OK, "all 2", None),
        ({}, "optional", OK, "bitsandbytes 0.50.2", None),
        ({"bitsandbytes": None}, "optional", OK, "pip install 'simpletune[adamw8bit]'", None),
        ({"bitsandbytes": "0.40"}, "optional", WARNING, "bitsandbytes 0.40", "pip install 'bitsandbytes>=0.48'"),
    ],
)  # fmt: skip
def test_packages_are_held_against_what_simpletune_asks_for(monkeypatch, versions, name, status, detail, step):
    from simpletune.wizard.readiness.packages import package_checks

    packages(monkeypatch, **versions)
    check = next(check for check in package_checks() if check.name == name)
    assert (check.status, check.next_step) == (status, step)
    assert detail in check.detail
    assert "ruff" not in check.detail


def test_the_packages_of_this_environment_are_those_of_pyproject():
    from simpletune.wizard.readiness.packages import package_checks

    assert {check.status for check in package_checks()} == {OK}


def test_a_licence_is_a_failure_for_files_that_name_the_model_and_a_warning_before(look, tmp_path):
    (before,) = look(hub=access(**NEEDED))["model"]
    (after,) = look(make_project(tmp_path), hub=access(**NEEDED))["model"]
    assert (before.status, after.status) == (WARNING, FAILED)
    assert "accept the licence at" in after.next_step
    assert "nobody is logged in" in after.detail


def test_a_model_on_this_machine_needs_nothing(look, tmp_path):
    hub = access(reachable=False, cached=True, message="all its files are on this machine")
    assert statuses(look(make_project(tmp_path), hub=hub))["model"] == [OK]


def test_offline_asks_nobody(look, monkeypatch, tmp_path):
    found = look(make_project(tmp_path), online=False)
    assert [found[name][0].status for name in ("model", "package index")] == [SKIPPED, SKIPPED]
    assert REPO in found["model"][0].detail


def test_the_tiny_model_is_built_in(look, tmp_path):
    (check,) = look(make_project(tmp_path, model_flavour="tiny"))["model"]
    assert (check.status, "built in" in check.detail) == (OK, True)


def test_a_local_folder_that_is_not_whole(look, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    config = make_project(tmp_path / "project", pretrained_model_name_or_path=str(folder))
    (check,) = look(config)["model"]
    assert check.status == FAILED
    assert "lacks scheduler" in check.detail
    whole = make_project(tmp_path / "other", pretrained_model_name_or_path=str(make_model(tmp_path / "whole")))
    assert statuses(look(whole))["model"] == [OK]


def test_a_mirror_of_the_package_index_that_is_down_is_a_warning(look):
    index = IndexAccess("https://mirror.example", False, "https://mirror.example can't be reached", "check the network")
    assert statuses(look(index=index))["package index"] == [WARNING]


def test_mistakes_in_the_files_are_each_a_failure(look, tmp_path):
    config = make_project(tmp_path, lora_rnk=4, train_batch_size=0)
    found = look(config)
    assert statuses(found)["files"] == [FAILED, FAILED]
    assert any("lora_rank" in check.detail for check in found["files"])
    assert "config.json:4:3: " in found["files"][0].detail
    assert statuses(found)["data sets"] == [SKIPPED]


def test_a_file_that_is_not_there(look, tmp_path):
    found = look(tmp_path / "nothing.json")
    assert FAILED in statuses(found)["files"]


def test_many_mistakes_are_counted(look, tmp_path):
    config = make_project(tmp_path, **{f"nonsense_{number}": 1 for number in range(30)})
    assert "20 more" in look(config)["files"][-1].detail


def test_no_pictures(look, tmp_path):
    config = make_project(tmp_path)
    for picture in (tmp_path / "pictures").glob("*.png"):
        picture.write_bytes(b"no picture")
    found = look(config)
    assert statuses(found)["data sets"] == [FAILED]
    assert "to train" not in found


def test_too_large_for_the_card_names_the_way_down(look, tmp_path):
    small = replace(CARD, memory_total=4 * GIB, memory_free=4 * GIB)
    config = make_project(tmp_path, base_model_precision="no_change")
    found = look(config, a_machine(small))
    (train,) = found["to train"]
    assert (train.status, train.next_step is not None) == (FAILED, True)
    assert 'set "base_model_precision" to "int' in train.next_step
    assert not ready(check for group in found.values() for check in group)


def test_a_limit_of_one_s_own_counts(look, tmp_path):
    config = make_project(tmp_path, device_memory_gb=1.5)
    (train,) = look(config)["to train"]
    assert "1.5 GiB" in train.detail
    assert train.status == FAILED


def test_other_programs_on_the_card_are_a_warning(look, tmp_path):
    busy = replace(CARD, memory_free=GIB)
    (train,) = look(make_project(tmp_path), a_machine(busy))["to train"]
    assert (train.status, "other programs" in train.detail) == (WARNING, True)


def test_a_card_that_doesn_t_tell_its_memory_is_not_judged(look, tmp_path):
    unknown = replace(CARD, memory_total=None, memory_free=None)
    (train,) = look(make_project(tmp_path), a_machine(unknown))["to train"]
    assert train.status == OK


def test_a_full_disk(look, tmp_path):
    found = look(make_project(tmp_path), replace(a_machine(CARD), disk_free=10**9))["disk"]
    assert any(check.status == FAILED and "weights take 15" in check.detail for check in found)


def test_a_folder_that_can_t_be_written_to(look, tmp_path, monkeypatch):
    config = make_project(tmp_path)
    monkeypatch.setattr(run_module.os, "access", lambda place, mode: mode != os.W_OK)
    found = look(config)["disk"][0]
    assert (found.status, found.detail.partition(": ")[2]) == (FAILED, "permission denied")


def test_bf16_on_a_card_that_emulates_it(look, tmp_path):
    turing = replace(CARD, compute_capability=(7, 5))
    (check,) = look(make_project(tmp_path), a_machine(turing))["kernels"]
    assert (check.status, check.next_step) == (WARNING, 'set "mixed_precision" to "fp16"')


def test_fp8_on_a_mac(look, tmp_path):
    mac = a_machine(torch=replace(NO_CUDA, version="2.13.0"), system="Darwin", architecture="arm64", release="15.1")
    (check,) = look(make_project(tmp_path, base_model_precision="fp8-quanto"), mac)["kernels"]
    assert (check.status, "base_model_precision" in check.next_step) == (FAILED, True)


@pytest.mark.parametrize(("wsl", "hint"), [(None, "close"), (2, ".wslconfig")])
def test_little_main_memory(look, wsl, hint):
    (check,) = look(None, a_machine(CARD, memory_available=GIB, wsl=wsl))["main memory"]
    assert (check.status, hint in check.next_step) == (WARNING, True)


def test_no_text_is_shown_with_a_token_or_a_control_character(monkeypatch):
    token = "hf_" + "Z" * 30
    monkeypatch.setattr(module, "_all", lambda subject, deep: [Check("x", FAILED, f"\x1b[31m {token}", f"use {token}")])
    (check,) = checks(None)
    assert token not in repr(check)
    assert "\x1b" not in check.detail


def test_what_is_left_to_do_is_numbered():
    found = [
        Check("a", OK, "fine"),
        Check("hub", FAILED, "no licence", "accept it"),
        Check("b", WARNING, "slow", "hurry"),
        Check("c", FAILED, "nothing helps"),
    ]
    assert not ready(found)
    assert left_to_do(found) == ["1. hub: no licence\n   accept it", "2. c: nothing helps"]
    assert ready([found[0], found[2]])
    assert left_to_do([found[0]]) == []


def answer(stdout="", stderr="", code=0):
    return lambda *args, **kwargs: subprocess.CompletedProcess([], code, stdout, stderr)


@pytest.mark.parametrize(
    ("result", "status", "detail"),
    [
        (answer('noise\n{"name": "int8-quanto", "ok": true, "detail": "7 us"}\n'), OK, "int8-quanto: 7 us"),
        (answer('{"name": "fp8-quanto", "ok": false, "detail": "not there"}\n', code=1), FAILED, "not there"),
        (answer(stderr="Traceback\nRuntimeError: CUDA error\n\n", code=1), FAILED, "RuntimeError: CUDA error"),
        (answer(code=-11), FAILED, "exit code -11"),
    ],
)
def test_what_deep_makes_of_the_other_process(look, monkeypatch, result, status, detail):
    monkeypatch.setattr(machine_module.subprocess, "run", result)
    (check,) = look(deep=True)["products"]
    assert (check.status, detail in check.detail) == (status, True)
    assert (check.next_step is None) == (status == OK)


def test_deep_gives_up_on_a_device_that_hangs(look, monkeypatch):
    def hang(*args, **kwargs):
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(machine_module.subprocess, "run", hang)
    assert look(deep=True)["products"][0].status == FAILED


def test_deep_computes_on_this_processor(look):
    found = look(None, a_machine(), deep=True)["products"]
    assert [check.status for check in found] == [OK] * 5


HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "optimum", "rich", "questionary")


def test_nothing_heavy_is_imported(tmp_path):
    config = make_project(tmp_path)
    code = f"""
import sys
from pathlib import Path
from simpletune.wizard.checks import checks
list(checks(Path(sys.argv[1]), online=False))
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(config)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.strip() == "[]"


def test_the_wizard_may_hand_over_the_machine_it_knows(monkeypatch):
    packages(monkeypatch)
    isolate(monkeypatch)
    found = list(checks(None, machine=a_machine(CARD)))
    assert any(CARD.name in check.detail for check in found)


def test_without_a_card_the_estimate_is_told_and_not_judged(look, tmp_path):
    found = look(make_project(tmp_path), a_machine())
    assert statuses(found)["to train"] == [OK]
    assert "kernels" not in found


def test_a_card_that_can_t_be_used_yet_is_what_the_estimate_is_held_against(look, tmp_path):
    found = look(make_project(tmp_path), a_machine(CARD, torch=NO_CUDA), deep=True)
    assert "22.8 GiB of the GPU" in found["to train"][0].detail
    assert found["products"][0].status == SKIPPED


@pytest.mark.parametrize("online", [True, False])
def test_a_model_that_is_neither_here_nor_a_name_on_the_hub(monkeypatch, tmp_path, online):
    packages(monkeypatch)
    monkeypatch.setattr(model_module, "check_index", lambda: IndexAccess("https://x", True, "answers"))
    config = make_project(tmp_path, pretrained_model_name_or_path="./nowhere/model")
    found = list(checks(config, online=online, machine=a_machine(CARD)))
    assert any("nowhere" in check.detail and check.status == FAILED for check in found)
