"""The study's tables, paired differences and plots: `python compare.py output output-rates [FOLDER]`.

Of the sweeps adapters.json and rates.json. Prints Markdown; FOLDER gets kinds.png (each metric by kind and rank),
changes.png (what one change does, all else being equal) and rates.png (kinds by learning rate). Every figure is of the
runs in a sweep.csv: none is left out.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

KINDS = ("LoRA", "DoRA", "LoHa", "LoKr")
RANKS = (4, 16, 64)
PRECISIONS = {"no_change": "16 bits", "int8-quanto": "int8", "int4-quanto": "int4"}
METRICS = {
    "held_out_loss": "held-out loss (less is better)",
    "kid_statistics": "distance to the set (KID, less is better)",
    "vendi_statistics": "different pictures among 12 (Vendi)",
}
COLOURS = dict(zip(KINDS, ("#2b6cb0", "#dd6b20", "#2f855a", "#97266d"), strict=True))
MARKERS = dict(zip(PRECISIONS, "osv", strict=True))

Run = dict[str, str]
Pair = tuple[Run, Run]


def main() -> None:
    runs, rates = (read(Path(folder) / "sweep.csv") for folder in sys.argv[1:3])
    sys.stdout.write(f"{table(runs)}\n\n{differences(runs)}\n\n{by_rate(rates)}\n")
    if len(sys.argv) > 3:
        folder = Path(sys.argv[3])
        folder.mkdir(parents=True, exist_ok=True)
        draw_kinds(runs, folder / "kinds.png")
        draw_pairs(runs, folder / "changes.png")
        draw_rates(rates, folder / "rates.png")


def read(path: Path) -> list[Run]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def kind_and_rank(run: Run) -> tuple[str, int]:
    kind, rank = run["adapter"].split("-")
    return kind, int(rank)


def of(runs: Iterable[Run], adapter: str, precision: str | None = None) -> list[Run]:
    """The runs of an adapter, over one base or over all."""
    mine = [run for run in runs if run["adapter"] == adapter]
    return mine if precision is None else [run for run in mine if run["base_model_precision"] == precision]


def mean(runs: Sequence[Run], name: str) -> float:
    return statistics.fmean(float(run[name]) for run in runs)


# --- the table: both seeds' mean


def table(runs: Sequence[Run]) -> str:
    head = ["adapter", "KiB", "s", *(f"loss {word}" for word in PRECISIONS.values()), "KID (95% interval)", "Vendi"]
    whole = [run for run in runs if run["base_model_precision"] == "no_change"]
    rows = [
        [
            "the model itself", "", "", f"{mean(whole, 'base_held_out_loss'):.4f}", "", "",
            with_interval(whole, "base_kid_statistics"), f"{mean(whole, 'base_vendi_statistics'):.2f}",
        ],
        *(row(runs, kind, rank) for kind in KINDS for rank in RANKS if of(runs, f"{kind}-{rank}")),
    ]  # fmt: skip
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def row(runs: Sequence[Run], kind: str, rank: int) -> list[str]:
    mine = of(runs, f"{kind}-{rank}")
    whole = of(mine, mine[0]["adapter"], "no_change")
    return [
        f"{kind} {rank}",
        f"{mean(mine, 'adapter_bytes') / 1024:.0f}",
        f"{mean(mine, 'seconds'):.0f}",
        *(f"{mean(of(mine, mine[0]['adapter'], precision), 'held_out_loss'):.4f}" for precision in PRECISIONS),
        with_interval(whole, "kid_statistics"),
        f"{mean(whole, 'vendi_statistics'):.2f}",
    ]


def with_interval(runs: Sequence[Run], name: str) -> str:
    """The mean of the runs' values and, as the interval, from their lowest end to their highest."""
    low, high = min(float(run[f"{name}_low"]) for run in runs), max(float(run[f"{name}_high"]) for run in runs)
    return f"{mean(runs, name):.2f} ({low:.2f} to {high:.2f})"


# --- what one change does, all else being equal


def pairs(runs: Sequence[Run], changed: Callable[[Run], bool], partner: Callable[[Run], tuple[str, ...]]) -> list[Pair]:
    """(without, with) the change, for each run that has it."""
    plain = {partner(run): run for run in runs if not changed(run)}
    return [(plain[partner(run)], run) for run in runs if changed(run) and partner(run) in plain]


def changes(runs: Sequence[Run]) -> dict[str, list[Pair]]:
    def at(precision: str) -> list[Pair]:
        some = [run for run in runs if run["base_model_precision"] in ("no_change", precision)]
        return pairs(
            some, lambda run: run["base_model_precision"] == precision, lambda run: (run["adapter"], run["seed"])
        )

    def dora(run: Run) -> tuple[str, ...]:
        return run["adapter"].split("-")[1], run["base_model_precision"], run["seed"]

    loras = [run for run in runs if kind_and_rank(run)[0] in ("LoRA", "DoRA")]
    return {
        "int8 for 16 bits": at("int8-quanto"),
        "int4 for 16 bits": at("int4-quanto"),
        "DoRA for LoRA": pairs(loras, lambda run: run["adapter"].startswith("DoRA"), dora),
        "another seed": pairs(
            runs, lambda run: run["seed"] == "2", lambda run: (run["adapter"], run["base_model_precision"])
        ),
    }


def differences(runs: Sequence[Run]) -> str:
    lines = ["| change | pairs | held-out loss | KID | Vendi |", "|---|---:|---:|---:|---:|"]
    for name, found in changes(runs).items():
        lines.append(f"| {name} | {len(found)} | {' | '.join(apart(found, metric) for metric in METRICS)} |")
    return "\n".join(lines)


def ratios(found: Sequence[Pair], metric: str) -> list[float]:
    return [100 * (float(new[metric]) / float(old[metric]) - 1) for old, new in found]


def apart(found: Sequence[Pair], metric: str) -> str:
    """Percent: the median of all pairs, and the least and the most."""
    values = ratios(found, metric)
    return f"{statistics.median(values):+.1f}% ({min(values):+.1f} to {max(values):+.1f})"


# --- the learning rate


def by_rate(runs: Sequence[Run]) -> str:
    """Held-out loss and KID of both seeds at each learning rate."""
    rates = sorted({run["learning_rate"] for run in runs}, key=float)
    lines = [f"| adapter | {' | '.join(rates)} |", f"|---|{'---:|' * len(rates)}"]
    for adapter in dict.fromkeys(run["adapter"] for run in runs):
        at = [[run for run in of(runs, adapter) if run["learning_rate"] == rate] for rate in rates]
        cells = [f"{mean(some, 'held_out_loss'):.3f}, {mean(some, 'kid_statistics'):.2f}" for some in at]
        lines.append(f"| {adapter.replace('-', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- plots


def draw_kinds(runs: Sequence[Run], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for offset, kind in zip((-0.15, -0.05, 0.05, 0.15), KINDS, strict=True):
            draw_kind(axis, [run for run in runs if kind_and_rank(run)[0] == kind], kind, metric, offset)
        axis.axhline(mean(runs, f"base_{metric}"), color="grey", linestyle=":", label="the model itself")
        axis.set_xticks(range(len(RANKS)), [str(rank) for rank in RANKS])
        axis.set_xlabel("rank")
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    for precision, word in PRECISIONS.items():
        handles.append(plt.Line2D([], [], color="grey", marker=MARKERS[precision], linestyle="", label=word))
        labels.append(word)
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False)
    figure.savefig(path, dpi=110)


def draw_kind(axis: Axes, runs: Sequence[Run], kind: str, metric: str, offset: float) -> None:
    """A point for each run, and a line through the means."""
    places = {rank: place + offset for place, rank in enumerate(RANKS)}
    for run in runs:
        marker = MARKERS[run["base_model_precision"]]
        axis.plot(places[kind_and_rank(run)[1]], float(run[metric]), marker, color=COLOURS[kind], ms=4, alpha=0.5)
    ranks = [rank for rank in RANKS if of(runs, f"{kind}-{rank}")]
    values = [mean(of(runs, f"{kind}-{rank}"), metric) for rank in ranks]
    axis.plot([places[rank] for rank in ranks], values, color=COLOURS[kind], label=kind)


def draw_pairs(runs: Sequence[Run], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained", sharey=True)
    found = changes(runs)
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for height, name in enumerate(reversed(found)):
            values = ratios(found[name], metric)
            colours = [COLOURS[kind_and_rank(new)[0]] for _, new in found[name]]
            spread = [height + 0.5 * (index / max(1, len(values) - 1) - 0.5) for index in range(len(values))]
            axis.scatter(values, spread, c=colours, s=12, alpha=0.7)
            axis.plot([statistics.median(values)] * 2, [height - 0.35, height + 0.35], color="black")
        axis.axvline(0, color="grey", linewidth=0.8)
        axis.set_title(title.split(" (")[0], fontsize=10)
        axis.set_xlabel("change, %")
    axes[0].set_yticks(range(len(found)), list(reversed(found)))
    handles = [plt.Line2D([], [], color=COLOURS[kind], marker="o", linestyle="", label=kind) for kind in KINDS]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def draw_rates(runs: Sequence[Run], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for kind in KINDS:
            mine = [run for run in runs if kind_and_rank(run)[0] == kind]
            mine.sort(key=lambda run: float(run["learning_rate"]))
            rates = list(dict.fromkeys(float(run["learning_rate"]) for run in mine))
            means = [mean([run for run in mine if float(run["learning_rate"]) == rate], metric) for rate in rates]
            axis.plot(rates, means, color=COLOURS[kind], label=f"{kind} {kind_and_rank(mine[0])[1]}")
            values = [float(run[metric]) for run in mine]
            axis.plot([float(run["learning_rate"]) for run in mine], values, "o", color=COLOURS[kind], ms=4, alpha=0.5)
        axis.axhline(mean(runs, f"base_{metric}"), color="grey", linestyle=":", label="the model itself")
        axis.set_xscale("log")
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
        axis.minorticks_off()
        if metric != "vendi_statistics":  # what breaks apart would flatten the rest
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("learning rate")
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
