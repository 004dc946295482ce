"""The licence of the base, which goes with every adapter for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from simpletune.config.families import Licence
from simpletune.results.card.facts import Base

COMMUNITY = "stabilityai-ai-community"
_NOTICES = {
    COMMUNITY: (
        "This Stability AI Model is licensed under the Stability AI Community License, "
        "Copyright © Stability AI Ltd. All Rights Reserved"
    )
}
_CREDITS = {COMMUNITY: "Powered by Stability AI"}


def licence_of(base: Base) -> Licence | None:
    """What the base's own card says; else what the flavour was published under, where the base is that model.

    None where nobody says.
    """
    if base.own_card is not None and (found := _from_card(base.own_card, base)) is not None:
        return found
    is_published = base.built_in is not None or base.is_copy or base.hub_id == base.flavour.hub_id
    return base.flavour.licence if is_published else None


def notice_of(licence: Licence | None) -> str | None:
    """The sentence that the licence wants kept with every copy; None where it wants none."""
    return _NOTICES.get(licence.name or "") if licence is not None else None


def credit_of(licence: Licence | None) -> str | None:
    """The words that the licence wants displayed; None where it wants none."""
    return _CREDITS.get(licence.name or "") if licence is not None else None


def _from_card(card: Path, base: Base) -> Licence | None:
    """The licence in a model card's metadata; None when it has none or can't be read."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import ModelCard

    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return None
    identifier, name, link = _text(data.get("license")), _text(data.get("license_name")), data.get("license_link")
    if identifier is None:
        return None
    return Licence(identifier, name, _address(_text(link), base))


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _address(link: str | None, base: Base) -> str | None:
    """Where a licence's text is: a name relative to the base's repository as a whole address."""
    if link is None or urlsplit(link).scheme in {"http", "https"}:
        return link
    if base.hub_id is None:
        return None
    return f"https://huggingface.co/{base.hub_id}/blob/main/{link.lstrip('./')}"
