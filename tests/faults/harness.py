"""Trainings that are killed, stopped and failed, and whether what is left is what a run left alone leaves."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from points import Point
from project import Project, make_project

from simpletune.results.run_folder import RUN_FILE, STATE_FILE, latest, list_checkpoints, verify

HERE = Path(__file__).parent
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
EVERY = bool(os.environ.get("FAULT_ALL"))
STEPS, INTERVAL = 12, 3
# Everything random is used, so that everything random has to be taken up again: twelve steps are four epochs of five
# pictures in two buckets, two batches a step, one picture kept back.
KEYS: dict[str, Any] = {
    "max_train_steps": STEPS,
    "checkpoint_step_interval": INTERVAL,
    "checkpoints_total_limit": 2,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_eval_images": 1,
    "validation_step_interval": 4,
    "lora_dropout": 0.2,
    "caption_dropout_probability": 0.3,
    "use_ema": True,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 2,
}
_NUMBER = re.compile(r"\d+")
# They tell times, or are drawn from them; a manifest holds digests that `verify` compares.
_TIMED = re.compile(r"metrics\.jsonl|manifest\.json|phases\.json|plots\.png|README\.md|.*\.log|\.run\.lock")
_HEX = re.compile(r"/[0-9a-f]{2}(?=/|$)|[0-9a-f]{64}")
_TIMES = ("samples_per_second", "data_wait", "memory_gib", "paused")


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative for a signal), all it printed, and how long it took."""

    code: int
    said: str
    seconds: float


class Zygote:
    """The warmed process whose forks are the runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._what: dict[str, Any] = {}
        warm = make_project(folder / "warm", **KEYS | {"max_train_steps": 1, "validation_prompt": "a red ball"})
        self._said = folder / "warming.log"
        with self._said.open("w") as said:
            self._process = self._started(warm.config, said)
        try:
            assert self._answer() == {"ready": True}
        except AssertionError:
            self.close()
            raise

    def _started(self, config: Path, said: IO[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py"), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=os.environ | ENVIRONMENT,
            cwd=self.folder,
        )

    def run(self, project: Project, *overrides: str, **what: Any) -> Ended:
        """`simpletune train` in a fork. what: see zygote.prepare; kill_after: seconds until SIGKILL."""
        log = project.folder / "said.log"
        sets = [word for override in overrides for word in ("--set", override)]
        request = {
            "arguments": ["train", str(project.config), *sets],
            "folder": str(project.folder),
            "output": str(log),
            **self._what,
            **what,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Ended(answer["code"], log.read_text(encoding="utf-8", errors="replace"), answer["seconds"])

    def hasty(self) -> Zygote:
        """The same process; its runs leave out what takes long and bears on no fault (see zygote.hasten)."""
        other = copy.copy(self)
        other._what = {"hasty": True}
        return other

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the warmed process has died\n{self._said.read_text()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Reference:
    """A project with its caches filled, and what a run of it leaves that nobody disturbed."""

    project: Project
    files: Mapping[str, str]
    """The SHA-256 of every file it left, by its path in the output folder."""
    losses: Sequence[Mapping[str, Any]]
    checkpoints: Mapping[int, Mapping[str, str]]
    """The digests of the files of every step's checkpoint, from a run that kept them all."""
    seconds: float
    interval: int
    """Steps between two checkpoints."""

    def copy(self, folder: Path, *, encoded: bool = True) -> Project:
        """The project before its first training, with its caches or without."""
        left_out = ["output", "*.log", *([] if encoded else ["cache"])]
        shutil.copytree(self.project.folder, folder, ignore=shutil.ignore_patterns(*left_out))
        return Project(folder)


def make_reference(zygote: Zygote, folder: Path, **keys: Any) -> Reference:
    project = make_project(folder, **KEYS | keys)
    often = ("checkpoint_step_interval=1", "checkpoints_total_limit=99")
    encoded = zygote.run(project, f"output_dir={folder / 'every'}", *often)
    ended = zygote.run(project)
    assert (encoded.code, ended.code) == (0, 0), encoded.said + ended.said
    every = {step: digests(path) for step, path in list_checkpoints(folder / "every")}
    shutil.rmtree(folder / "every")
    interval = json.loads(project.config.read_text())["checkpoint_step_interval"]
    return Reference(project, digests(project.output), lines(project), every, ended.seconds, interval)


def recorded(zygote: Zygote, reference: Reference, folder: Path) -> list[Point]:
    """Every call of a run that changes a file, of a whole one with empty caches; sorted, so that every process finds
    the same.

    Of calls that are alike but for a step, for how often they came before or for which entry of a cache they are of,
    the first and the last stand for all. FAULT_ALL=1 gives all.
    """
    project, to = reference.copy(folder / "recorded", encoded=False), folder / "recorded.json"
    assert zygote.run(project, points={"do": "record", "to": str(to)}).code == 0
    seen: list[Point] = sorted((name, count) for name, count in json.loads(to.read_text())[0])
    alike: dict[str, list[Point]] = {}
    for point in seen:
        alike.setdefault(_NUMBER.sub("N", _HEX.sub("*", point[0])), []).append(point)
    return seen if EVERY else [point for points in alike.values() for point in dict.fromkeys((points[0], points[-1]))]


def digests(folder: Path) -> dict[str, str]:
    """Of all files that must be the same after every way to the same step; where the project lies is left out."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not _TIMED.fullmatch(path.name))
    return {path.relative_to(folder).as_posix(): _digest(path) for path in found}


def _digest(path: Path) -> str:
    data = path.read_bytes()
    with suppress(ValueError):  # of a damaged file
        data = _compared(path, data)
    return hashlib.sha256(data).hexdigest()


def _compared(path: Path, data: bytes) -> bytes:
    if path.name == RUN_FILE:
        data = data.replace(str(path.parent.parent).encode(), b"")
    elif path.suffix == ".safetensors":  # the header's metadata come in any order
        end = 8 + int.from_bytes(data[:8], "little")
        data = json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    elif path.name == STATE_FILE:  # it says which settings it was made with, among them where checkpoints are due
        state = json.loads(data)
        state["run"] = {key: state["run"][key] for key in ("data", "total_steps", "step_state")}
        data = json.dumps(state, sort_keys=True).encode()
    return data


def lines(project: Project) -> list[dict[str, Any]]:
    """metrics.jsonl without its times; a line that a kill cut short is left out, as every reader does."""
    path = project.output / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in found]


def steps_done(project: Project) -> int:
    """The last step that metrics.jsonl tells of."""
    return max((line["step"] for line in lines(project) if line["kind"] == "step"), default=0)


def resumes_at(project: Project) -> int:
    """The step of the newest checkpoint that verifies, 0 for none; none that has its name may be damaged."""
    for _, path in list_checkpoints(project.output):
        assert verify(path) == [], f"{path} is damaged"
    found = latest(project.output, lambda warning: None)
    return int(found.name.partition("-")[2]) if found is not None else 0


def most_lost(interval: int) -> int:
    """Steps: those since the last checkpoint was due, and those that were trained while that one was being written.

    The next one waits until it is written, so that these are fewer than an interval, too.
    """
    return 2 * interval


def check_checkpoints(project: Project, reference: Reference) -> None:
    """Every checkpoint that is there, and every adapter that is left of one, holds to the bit what an undisturbed run
    had at that step."""
    for step, path in list_checkpoints(project.output):
        found = {name: digest for name, digest in digests(path).items() if not name.startswith(".")}
        wanted = reference.checkpoints[step]
        assert found == {name: wanted.get(name) for name in found}, path


def check_whole(project: Project, reference: Reference, *, pictured: bool = True, aside: Sequence[str] = ()) -> None:
    """The run came to its end as if nothing had happened: losses, weights, optimizer, average, pictures, and no file
    too many. Which checkpoints are left besides the last one depends on where it was stopped.

    pictured: whether every picture is asked for; a run goes on without one that the disk refuses, and says so. aside:
    folders of checkpoints that were to be set aside.
    """
    assert lines(project) == reference.losses
    check_checkpoints(project, reference)
    names = ("checkpoint-", *aside, *(() if pictured else ("samples/", "card/", "gallery.png")))
    left, wanted = without(digests(project.output), names), without(reference.files, names)
    assert sorted(left) == sorted(wanted)
    assert [name for name in wanted if left[name] != wanted[name]] == []
    assert max(step for step, _ in list_checkpoints(project.output)) == max(reference.checkpoints)


def without(found: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if not name.startswith(names)}
