"""The two files, the data sets they name, the memory each phase takes, and the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from simpletune.config.problems import ERROR, Problem, tidy
from simpletune.data.forecast import plan_of
from simpletune.disk_words import explain, why_unwritable
from simpletune.machine.devices import Device, usable_memory
from simpletune.machine.forecast import Forecast, PhaseMemory, Plan, forecast, on_device
from simpletune.machine.hardware import disk_free
from simpletune.machine.shapes import download_bytes
from simpletune.machine.ways_down import Change, ways_down
from simpletune.wizard.measures import GIB, gib
from simpletune.wizard.measures import size as gb
from simpletune.wizard.readiness.check import FAILED, OK, SKIPPED, WARNING, Check
from simpletune.wizard.readiness.subject import Subject

_MOST_PROBLEMS = 10


def file_checks(subject: Subject) -> Iterator[Check]:
    """The two files' own problems."""
    if subject.config is None or subject.checked is None:
        yield Check("files", SKIPPED, "there is no config.json here", "simpletune configure")
        return
    # What is wrong with the device is said by the line of the card, and in more detail.
    problems = [one for one in subject.checked.problems if (one.kind, one.path) != ("environment", "device")]
    yield from _problems("files", problems, subject.config)
    if subject.settings is None:
        yield Check("data sets", SKIPPED, "looked at when the files are right")
    elif not any(problem.severity == ERROR for problem in problems):
        yield Check("files", OK, f"{subject.config.name} and {subject.settings.data_backend_config.name} are valid")


def data_checks(subject: Subject) -> Iterator[Check]:
    """The pictures and captions."""
    if subject.preflight is None or subject.config is None:
        return
    problems = [tidy(problem) for problem in subject.preflight.problems]
    yield from _problems("data sets", problems, subject.config)
    if not any(problem.severity == ERROR for problem in problems):
        yield Check("data sets", OK, subject.preflight.summary())


def _problems(name: str, problems: Sequence[Problem], config: Path) -> Iterator[Check]:
    for problem in problems[:_MOST_PROBLEMS]:
        place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
        status = FAILED if problem.severity == ERROR else WARNING
        yield Check(name, status, f"{place}: {problem.message}", problem.hint)
    if more := problems[_MOST_PROBLEMS:]:
        status = FAILED if any(problem.severity == ERROR for problem in more) else WARNING
        yield Check(name, status, f"and {len(more)} more", f'simpletune validate "{config}"')


def memory_checks(subject: Subject) -> Iterator[Check]:
    """A line a phase, against what a run can count on of the device's memory."""
    plan, device = _plan(subject), subject.device
    if plan is None:
        return
    limit = None if device is None else _limit(subject, device)
    changes = () if limit is None else ways_down(plan, limit)
    for phase in forecast(plan).phases:
        if device is None or limit is None:
            yield Check(f"to {phase.phase}", OK, f"about {gib(phase.bytes)}")
        else:
            yield _phase(phase, limit, device, changes)


def _plan(subject: Subject) -> Plan | None:
    if subject.settings is None or subject.preflight is None or subject.preflight.plan is None:
        return None
    plan = plan_of(subject.settings, subject.preflight)
    device = subject.device
    return plan if device is None else on_device(plan, device, can_compile=subject.machine.can_compile)


def _limit(subject: Subject, device: Device) -> int | None:
    """The bytes a run can count on: of the device, or less when "device_memory_gb" says so."""
    here = None if device.memory_bytes is None else usable_memory(device.memory_bytes, device.kind)
    asked = subject.settings.device_memory_gb if subject.settings and device.kind == "cuda" else None
    limits = [limit for limit in (here, None if asked is None else int(asked * GIB)) if limit is not None]
    return min(limits, default=None)


def _phase(phase: PhaseMemory, limit: int, device: Device, changes: Sequence[Change] | None) -> Check:
    name, need = f"to {phase.phase}", phase.bytes
    of = "of the GPU" if device.kind != "cpu" else "of main memory"
    detail = f"about {gib(need)}{phase.how and f' ({phase.how})'}, and a run can count on {gib(limit)} {of}"
    if need > limit:
        return Check(name, FAILED, detail, _way_down(phase.phase, changes))
    if device.kind == "cuda" and device.free_bytes is not None and need > device.free_bytes:
        step = "close them, or wait until they are done"
        return Check(name, WARNING, f"{detail}, but other programs leave {gib(device.free_bytes)} free now", step)
    return Check(name, OK, detail)


def _way_down(phase: str, changes: Sequence[Change] | None) -> str:
    """What was found to make this phase fit, or where it is said."""
    if not changes:
        return "choose a smaller model: nothing makes this one fit"
    own = [change for change in changes if change.phase == phase]
    if not own:
        return "the changes named above help here too"
    return "; ".join(f'set "{change.key}" to {_value(change.value)} ({change.cost})' for change in own)


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def disk_checks(subject: Subject) -> Iterator[Check]:
    """Where things are written: free space against what is needed, a line a disk; and whether it may be written."""
    if subject.settings is not None and (folder := _unwritable(subject.settings.output_dir)) is not None:
        why, remedy = explain(OSError(why_unwritable(folder), ""))
        yield Check("disk", FAILED, f"{folder} can't be written to: {why}", f'{remedy}, or name another "output_dir"')
    needs: dict[int, tuple[Path, int, list[str]]] = {}
    for place, size, what in _needs(subject):
        existing, disk = _disk_of(place)
        at, total, names = needs.get(disk, (existing, 0, []))
        needs[disk] = (at, total + size, [*names, what] if size else names)
    for at, size, names in needs.values():
        yield _disk(at, size, names)


def _needs(subject: Subject) -> Iterator[tuple[Path, int, str]]:
    """What is written where, in bytes, at most: what is cached already is not taken off."""
    settings, plan = subject.settings, _plan(subject)
    if settings is None or plan is None:
        yield settings.output_dir if settings else Path(), 0, ""
    else:
        expected: Forecast = forecast(plan)
        yield settings.output_dir, expected.disk["checkpoints"], "checkpoints"
        yield settings.image_sets[0].cache_dir_vae, expected.disk["latents"], "encoded pictures"
        yield settings.text_embeds_of(settings.image_sets[0]).cache_dir, expected.disk["captions"], "encoded captions"
    cached = subject.access is not None and subject.access.cached
    if subject.repo_id is not None and not cached:
        use_t5 = settings.use_t5 if settings else True
        yield _hub_cache(), download_bytes(subject.flavour.name, use_t5), f"{subject.flavour.name}'s weights"


def _disk(place: Path, size: int, names: Sequence[str]) -> Check:
    free = disk_free(place)
    if free is None:
        return Check("disk", SKIPPED, f"the system doesn't say what is free at {place}")
    needed = f"; {', '.join(names)} take {gb(size)}" if size else ""
    detail = f"{gb(free)} free at {place}{needed}"
    if size > free:
        return Check("disk", FAILED, detail, f"free {gb(size - free)}, or choose another disk")
    return Check("disk", OK, detail)


def _disk_of(place: Path) -> tuple[Path, int]:
    """The folder that is there of a path to be, and a number that tells its disk from others."""
    existing = _existing(place)
    return existing, existing.stat().st_dev


def _existing(place: Path) -> Path:
    absolute = Path(os.path.abspath(place))  # noqa: PTH100
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def _unwritable(place: Path) -> Path | None:
    """The folder that would have to be written to and can't be."""
    existing = _existing(place)
    return None if os.access(existing, os.W_OK) and existing.is_dir() else existing


def _hub_cache() -> Path:
    """Where the hub's library keeps what it downloads, by its documented variables."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(named).expanduser() if named else Path(home).expanduser() / "hub"
