"""The best checkpoint, by a rule that is said with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simpletune.evaluate.results import BASE, Best, Metric

SLACK = 0.01
"""So much CLIP-T may be lost beyond doubt; about what separates two seeds' means of a prompt."""
LIKENESS = ("cmmd", "kid_dino", "kid_statistics", "centroid_dino", "centroid_statistics", "held_out_loss")
"""What likeness is judged by: the first of these that was measured."""


def choose(metrics: Sequence[Metric], variants: Sequence[str], chance: float = 0.0) -> Best:
    """Of all variants but the base: the likest to the training set, among those that don't clearly draw more possible
    copies than the base and than `chance` would, and that haven't clearly lost their prompts."""
    found = {metric.name: metric for metric in metrics if metric.values}
    likeness = next((found[name] for name in LIKENESS if name in found), None)
    adherence = found.get("clip_t")
    copies = next((found[name] for name in ("memorized_dino", "memorized_statistics") if name in found), None)
    rule = _rule(likeness, adherence, copies, chance)
    if likeness is None:
        return Best(None, rule, "nothing was measured that could decide")
    tuned = [name for name in variants if name != BASE]
    if not tuned:
        return Best(None, rule, "there is no adapter to choose")
    reasons = {name: _against(name, adherence, copies, chance) for name in tuned}
    left = [name for name in tuned if reasons[name] is None]
    if not left:
        return Best(None, rule, "; ".join(f"{name} {why}" for name, why in reasons.items()))
    sign = 1 if likeness.better == "higher" else -1
    best = max(left, key=lambda name: sign * likeness.values[name].value)
    return Best(best, rule, _reason(best, likeness, reasons))


def _rule(likeness: Metric | None, adherence: Metric | None, copies: Metric | None, chance: float) -> str:
    end = "highest" if likeness is not None and likeness.better == "higher" else "lowest"
    parts = [f"{end} {likeness.title}" if likeness is not None else "no measure of likeness"]
    if adherence is not None:
        parts.append(f"of those whose CLIP-T isn't lower than the base's by more than {SLACK} (95% sure)")
    if copies is not None:
        parts.append(f"and whose share of possible copies isn't above the base's and above chance ({chance:.0%})")
    return ", ".join(parts)


def _against(name: str, adherence: Metric | None, copies: Metric | None, chance: float) -> str | None:
    """Why a variant is out of the question; None if it isn't."""
    if copies is not None:
        share = copies.values[name]
        if share.value > copies.values[BASE].value and (share.low or 0) > chance:
            return f"draws possible copies ({share.value:.0%} of its pictures)"
    if adherence is not None:
        high = adherence.values[name].difference_high
        if high is not None and high < -SLACK:
            return f"has lost its prompts (CLIP-T {adherence.values[name].difference:+.3f})"
    return None


def _reason(best: str, likeness: Metric, reasons: Mapping[str, str | None]) -> str:
    measured, base = likeness.values[best], likeness.values[BASE]
    said = f"{likeness.title} {measured.value:.{likeness.digits}f}, the base {base.value:.{likeness.digits}f}: "
    better = (measured.value > base.value) == (likeness.better == "higher")
    said += f"clearly {'better' if better else 'worse'}" if measured.differs else "not clearly different"
    out = [f"{name} {why}" for name, why in reasons.items() if why is not None]
    return said + ("; out: " + "; ".join(out) if out else "")
