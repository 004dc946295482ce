"""What a bench found, as values: the phases' figures, or why there are none. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PHASES = ("text", "images", "train", "sample")


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: median, least and most of `calls`."""

    median: float
    low: float
    high: float
    calls: int


@dataclass(frozen=True)
class Memory:
    """Peaks in GiB: of a GPU's memory what torch allocated and what it had reserved; of a processor the process."""

    allocated_gib: float | None
    reserved_gib: float | None
    resident_gib: float | None


@dataclass(frozen=True)
class Failure:
    """Why a phase has no figures. `out_of_memory`: the device had too little of it."""

    reason: str
    out_of_memory: bool = False


@dataclass(frozen=True)
class Rate:
    """Captions or pictures a second, `batch` at a time.

    Text encoders that don't fit together are loaded for each group of captions: `way` then says how (a TextWay), and
    loading_seconds how long that takes, which isn't in the rate.
    """

    per_second: float
    batch: int
    timing: Timing
    memory: Memory
    way: str | None = None
    loading_seconds: float | None = None


@dataclass(frozen=True)
class Training:
    """Steps of `samples` pictures. The yardstick has no more than time and memory.

    tflops: 10^12 operations a second (`bench/flops.py`); share: of what a large product reaches. execution: how the
    step ran. ready_seconds: from a loaded model until the first timed step, compiling and capturing included.
    """

    timing: Timing
    samples: int
    memory: Memory
    ready_seconds: float | None = None
    tflops: float | None = None
    share: float | None = None
    execution: str | None = None

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.timing.median


@dataclass(frozen=True)
class Sampling:
    """One validation picture, (width, height) in pixels."""

    seconds: float
    steps: int
    size: tuple[int, int]
    memory: Memory


@dataclass(frozen=True)
class RunTime:
    """The configured run's seconds by phase, without starting, loading and compiling; `left_out`: phases not known."""

    steps: int
    pictures: int | None
    captions: int | None
    seconds: Mapping[str, float]
    left_out: tuple[str, ...]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Machine:
    """What it was measured on. matmul_tflops: of a large product in the compute dtype, None where not measured."""

    device: str  # cuda | mps | cpu
    name: str
    memory_gib: float | None
    torch: str
    simpletune: str
    matmul_tflops: float | None


@dataclass(frozen=True)
class Report:
    """Everything one bench found. `settings` are the keys of config.json that decide the figures."""

    machine: Machine
    settings: Mapping[str, Any]
    size: tuple[int, int]
    text_tokens: int
    text: Rate | Failure | None = None
    images: Rate | Failure | None = None
    train: Training | Failure | None = None
    sample: Sampling | Failure | None = None
    eager: Training | Failure | None = None
    run: RunTime | None = None
    notes: tuple[str, ...] = ()

    @property
    def speed_up(self) -> float | None:
        """How many times as fast as the eager loop a step is."""
        ours, theirs = self.train, self.eager
        if isinstance(ours, Training) and isinstance(theirs, Training):
            return theirs.timing.median / ours.timing.median
        return None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Of what was asked for, what has no figures; the yardstick's failing is a finding, not a failure."""
        found = (getattr(self, phase) for phase in PHASES)
        return tuple(one for one in found if isinstance(one, Failure))

    def as_json(self) -> dict[str, Any]:
        """Plain values; figures rounded to what they are good for. A phase that failed has `reason`."""
        values: dict[str, Any] = _rounded(asdict(self))
        for name in ("train", "eager"):
            one = getattr(self, name)
            if isinstance(one, Training):
                values[name] |= {
                    "ms_per_step": round(1000 * one.timing.median, 3),
                    "samples_per_second": round(one.samples_per_second, 3),
                    "ms_per_sample": round(1000 * one.timing.median / one.samples, 3),
                }
        values["speed_up"] = None if self.speed_up is None else round(self.speed_up, 3)
        if self.run is not None:
            values["run"]["total_seconds"] = round(self.run.total, 1)
        return values


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return value
