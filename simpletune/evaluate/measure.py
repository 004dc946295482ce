"""From features to metrics: each value with its interval, and its difference to the base with one of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from simpletune.evaluate.metrics import Array, Statistic, intervals, mean_of
from simpletune.evaluate.metrics.cosine import likeness_to_centroid, prompt_adherence
from simpletune.evaluate.metrics.discrepancy import cmmd, kid
from simpletune.evaluate.metrics.diversity import pairwise_distance, vendi_score
from simpletune.evaluate.metrics.memorization import Threshold, nearest, threshold
from simpletune.evaluate.results import BASE, Better, Measured, Metric, SigmaLoss

MakeStatistic = Callable[[Array], Statistic]


@dataclass(frozen=True)
class View:
    """What one feature model sees: each variant's pictures (N, D) in one order, the training set's (M, D), and those of
    real pictures after the VAE, `unseen` if none of them was trained on."""

    name: str
    model: str
    variants: Mapping[str, Array]
    training: Array | None = None
    restored: Array | None = None
    unseen: bool = False


@dataclass(frozen=True)
class _Title:
    """What a metric is called and says; the fields of `Metric` of these names."""

    name: str
    title: str
    group: str
    better: Better
    about: str
    source: str
    digits: int = 3
    unit: str = ""


def adherence(view: View, prompts_ND: Array, captions_ND: Array | None) -> Metric:
    """CLIP-T; `captions_ND` are those of the restored pictures."""
    title = _Title(
        "clip_t",
        "CLIP-T",
        "adherence",
        "higher",
        "How well a picture fits its prompt: the cosine of both in CLIP's space.",
        "Hessel et al. 2021, arXiv 2104.08718",
    )
    values = {name: mean_of(prompt_adherence(x_ND, prompts_ND)) for name, x_ND in view.variants.items()}
    ceiling = None
    if view.restored is not None and captions_ND is not None:
        ceiling = mean_of(prompt_adherence(view.restored, captions_ND)), len(view.restored)
    return _metric(title, view.model, values, _count(view), ceiling)


def likeness(view: View) -> list[Metric]:
    """To the training set, as far as this view can tell; [] without one."""
    training = view.training
    if training is None:
        return []
    metrics = []
    if view.name == "clip" and _pairs(view, training):
        about = "How far the pictures as a whole are from the training set, in CLIP's space."
        title = _Title("cmmd", "CMMD", "likeness", "lower", about, "Jayasumana et al. 2024, arXiv 2401.09603")
        metrics.append(_of_pictures(title, view, lambda x_ND: cmmd(x_ND, training), unseen_only=True))
    if view.name in ("dino", "statistics"):
        if _pairs(view, training):
            about = "How far the pictures as a whole are from the training set, in these features; times 1000."
            source = "Binkowski et al. 2018, arXiv 1801.01401"
            title = _Title(f"kid_{view.name}", f"KID ({_short(view)})", "likeness", "lower", about, source)
            metrics.append(_of_pictures(title, view, lambda x_ND: kid(x_ND, training), unseen_only=True))
        metrics.append(_to_centroid(view, training, "centroid", "Cosine to the set", "the training set's middle"))
    if view.name == "csd":
        metrics.append(_to_centroid(view, training, "style", "Style", "the training set's middle style"))
    return metrics


def diversity(view: View) -> list[Metric]:
    """Of the pictures among themselves; [] for the views that don't judge it, and for a single picture."""
    if view.name not in ("dino", "statistics") or _count(view) < 2:
        return []
    pairs = _Title(
        f"pairwise_{view.name}",
        f"Pairwise distance ({_short(view)})",
        "diversity",
        "higher",
        "How different the pictures are from each other: 1 - cosine, the mean of all pairs.",
        "Ruiz et al. 2023, arXiv 2208.12242",
    )
    vendi = _Title(
        f"vendi_{view.name}",
        f"Vendi score ({_short(view)})",
        "diversity",
        "higher",
        "How many wholly different pictures they amount to; it grows with their number.",
        "Friedman & Dieng 2022, arXiv 2210.02410",
        2,
    )
    drawn = {name: intervals.jackknife(vendi_score(x_ND), len(x_ND)) for name, x_ND in view.variants.items()}
    return [
        _of_pictures(pairs, view, pairwise_distance),
        Metric(**vars(vendi), measured_on=view.model, values=_compared(drawn, _count(view))),
    ]


@dataclass(frozen=True)
class Memorized:
    """Each variant's distances to the nearest training picture (N,), which that is (N,), and what counts as a copy."""

    distances: Mapping[str, Array]
    nearest: Mapping[str, Array]
    threshold: Threshold
    metrics: tuple[Metric, ...]

    def flagged(self, variant: str) -> list[int]:
        """Its pictures that count as copies, the nearest first."""
        distances = self.distances[variant]
        places = np.flatnonzero(distances < self.threshold.distance)
        return sorted(places.tolist(), key=lambda place: float(distances[place]))


def memorization(view: View) -> Memorized | None:
    """By the views that know what is in a picture or what it looks like; None without a training set."""
    if view.name not in ("dino", "statistics") or view.training is None:
        return None
    found = {name: nearest(x_ND, view.training) for name, x_ND in view.variants.items()}
    distances = {name: distance for name, (distance, _) in found.items()}
    limit = threshold(view.training, distances[BASE])
    to_nearest = _Title(
        f"nearest_{view.name}",
        f"Nearest training picture ({_short(view)})",
        "memorization",
        "neither",
        "1 - cosine to the nearest training picture, the mean of all pictures.",
        "Somepalli et al. 2023, arXiv 2212.03860",
    )
    share = _Title(
        f"memorized_{view.name}",
        f"Possible copies ({_short(view)})",
        "memorization",
        "lower",
        f"The share of pictures nearer to a training picture than {limit.distance:.3g}: {limit.rule}. By chance: "
        f"{limit.chance:.0%} of new pictures of the set's kind.",
        "this program's rule, see docs/evaluate.md",
    )
    count = _count(view)
    copies = {name: (distance < limit.distance).astype(float) for name, distance in distances.items()}
    restored = None
    if view.restored is not None and view.unseen:
        restored = mean_of(nearest(view.restored, view.training)[0]), len(view.restored)
    metrics = (
        _metric(to_nearest, view.model, {name: mean_of(one) for name, one in distances.items()}, count, restored),
        Metric(**vars(share), measured_on=view.model, values=_shares(copies, count)),
    )
    return Memorized(distances, {name: index for name, (_, index) in found.items()}, limit, metrics)


def held_out_loss(losses: Mapping[str, Array], sigmas: tuple[float, ...]) -> tuple[Metric, tuple[SigmaLoss, ...]]:
    """The mean loss (pictures, levels) of each variant, and that of each noise level."""
    title = _Title(
        "held_out_loss",
        "Held-out loss",
        "loss",
        "lower",
        "The training loss on pictures that weren't trained on, at fixed noise, evenly over all noise levels.",
        "Esser et al. 2024, arXiv 2403.03206, eq. 13",
        5,
    )
    count = len(losses[BASE])
    whole = {name: mean_of(rows.mean(axis=1)) for name, rows in losses.items()}
    levels = tuple(
        SigmaLoss(sigma, _estimated({name: mean_of(rows[:, level]) for name, rows in losses.items()}, count))
        for level, sigma in enumerate(sigmas)
    )
    return _metric(title, "held-out pictures, masks not applied", whole, count), levels


def round_trip(psnr_N: Array, held_out: bool) -> Metric:
    """The VAE's own PSNR, of no variant."""
    title = _Title(
        "vae_psnr",
        "VAE round trip, PSNR",
        "ceiling",
        "higher",
        "What encoding and decoding alone leaves of a real picture: no adapter draws finer.",
        "10 log10(255^2 / mean squared error)",
        2,
        "dB",
    )
    finite_N = np.minimum(psnr_N, 100.0)  # equal pictures have no end of it, which JSON can't say
    ceiling = mean_of(finite_N), len(finite_N)
    return _metric(title, f"{'held-out' if held_out else 'training'} pictures", {}, 0, ceiling)


def _to_centroid(view: View, training: Array, stem: str, title: str, what: str) -> Metric:
    about = f"How near a picture is to {what}: the cosine, the mean of all pictures."
    source = "Somepalli et al. 2024, arXiv 2404.01292" if stem == "style" else "Ruiz et al. 2023, arXiv 2208.12242"
    named = _Title(f"{stem}_{view.name}", f"{title} ({_short(view)})", "likeness", "higher", about, source)
    return _of_pictures(named, view, lambda x_ND: mean_of(likeness_to_centroid(x_ND, training)))


def _of_pictures(title: _Title, view: View, statistic: MakeStatistic, unseen_only: bool = False) -> Metric:
    """`unseen_only`: of restored training pictures it would say nothing, as each is its own nearest."""
    ceiling = None
    if view.restored is not None and len(view.restored) > 1 and (view.unseen or not unseen_only):
        ceiling = statistic(view.restored), len(view.restored)
    values = {name: statistic(x_ND) for name, x_ND in view.variants.items()}
    return _metric(title, view.model, values, _count(view), ceiling)


def _metric(
    title: _Title,
    measured_on: str,
    statistics: Mapping[str, Statistic],
    count: int,
    ceiling: tuple[Statistic, int] | None = None,
) -> Metric:
    top = None
    if ceiling is not None:
        top = _measured(intervals.bootstrap(ceiling[0], intervals.draws(ceiling[1])), ceiling[1])
    values = _estimated(statistics, count) if statistics else {}
    return Metric(**vars(title), measured_on=measured_on, values=values, ceiling=top)


def _estimated(statistics: Mapping[str, Statistic], count: int) -> dict[str, Measured]:
    counts_RN = intervals.draws(count)
    drawn = {name: intervals.bootstrap(statistic, counts_RN) for name, statistic in statistics.items()}
    return _compared(drawn, count)


def _compared(drawn: Mapping[str, intervals.Resampled], count: int) -> dict[str, Measured]:
    return {name: _measured(one, count, None if name == BASE else one - drawn[BASE]) for name, one in drawn.items()}


def _measured(drawn: intervals.Resampled, count: int, difference: intervals.Resampled | None = None) -> Measured:
    own = drawn.estimate
    if difference is None:
        return Measured(own.value, own.low, own.high, count)
    to_base = difference.estimate
    return Measured(own.value, own.low, own.high, count, to_base.value, to_base.low, to_base.high)


def _shares(copies: Mapping[str, Array], count: int) -> dict[str, Measured]:
    """Shares with their own interval, which isn't empty where nothing was found; differences by resampling."""
    values = _estimated({name: mean_of(one) for name, one in copies.items()}, count)
    return {
        name: Measured(
            measured.value,
            (own := intervals.wilson(int(copies[name].sum()), count)).low,
            own.high,
            count,
            measured.difference,
            measured.difference_low,
            measured.difference_high,
        )
        for name, measured in values.items()
    }


def _count(view: View) -> int:
    return len(view.variants[BASE])


def _pairs(view: View, training: Array) -> bool:
    """Whether there are two pictures of each, which a discrepancy needs."""
    return _count(view) > 1 and len(training) > 1


def _short(view: View) -> str:
    return {"dino": "DINO", "statistics": "statistics", "csd": "CSD"}.get(view.name, view.name)
