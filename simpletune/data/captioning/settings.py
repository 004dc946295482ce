"""A data set's entry made to use captions that were written for it, with its author's text kept."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune.config.document import Keys, display
from simpletune.config.edited import edited
from simpletune.config.journal import write_together
from simpletune.config.load import settings_of
from simpletune.config.problems import errors, shown
from simpletune.config.validate import Checked, check, exit_code
from simpletune.data.sources import ImageFile, Listing, Source, SourceError, open_source
from simpletune.errors import ConfigError, UsageError

# Keys that tell where other captions are, or how they are read: none of them fits the new file.
_OF_OTHER_CAPTIONS = ("filename_column", "caption_column", "width_column", "height_column", "only_instance_prompt")
_LOOKED_AT = 20


@dataclass(frozen=True)
class Edit:
    """A change of the data file: its path, what it held when the change was made, what it holds then."""

    config_path: Path
    path: Path
    before: bytes
    after: bytes

    @property
    def lines(self) -> list[str]:
        """The change as a unified diff."""
        old, new = (content.decode("utf-8", "replace").splitlines() for content in (self.before, self.after))
        name = display(self.path)
        return [shown(line) for line in difflib.unified_diff(old, new, name, name, n=2, lineterm="")]

    def write(self) -> tuple[Path, ...]:
        """Write it; returns the backup that was made. Raises UsageError when the file was changed meanwhile."""
        return write_together(self.config_path, {self.path: self.after}, expected={self.path: self.before})


def entry_source(config: Path, set_id: str, captions: Path | None) -> tuple[Source, str, str | None]:
    """The source of a data set's pictures, where that is for people, and the mirror of the hub that the config names.

    `captions` is what `entry_edit` is given: the files are judged as they will be, so that they may name captions that
    aren't there yet. Raises ConfigError when they have other problems, SourceError when the source needs a package.
    """
    settings = settings_of(config, _after(config, set_id, captions)[1].view)
    image_set = next(one for one in settings.image_sets if one.id == set_id)
    return open_source(image_set, settings.hf_endpoint), image_set.where, settings.hf_endpoint


def entry_edit(config: Path, set_id: str, captions: Path | None) -> Edit | None:
    """The change of the data file that makes a data set use `captions` (None: the .txt files beside its pictures).

    None when it uses them already. Raises ConfigError when the files would have problems with it.
    """
    edit, _ = _after(config, set_id, captions)
    return None if edit.before == edit.after else edit


def _after(config: Path, set_id: str, captions: Path | None) -> tuple[Edit, Checked]:
    """The data file as it will be, and both files as they are then, without errors."""
    planned = {} if captions is None else {captions: b""}
    keys = _entry(check(config, planned=planned).view.images, set_id)
    file = keys.document.file
    path = Path(os.path.abspath(file.path))  # noqa: PTH100
    before = after = path.read_bytes()
    changed = _changed(keys, captions)
    if changed != dict(keys.values) and not file.problems:
        entries = list(file.value)
        entries[_index(keys)] = changed
        after = edited(file, entries).encode()
    return Edit(config, path, before, after), _checked(config, {**planned, path: after})


def captions_already(config: Path, set_id: str, ours: Path | None, source: Source, listing: Listing) -> str | None:
    """How a data set has captions already, by other means than `ours` (None: .txt files); None when it has none.

    Raises SourceError when the source can't be read.
    """
    planned = {} if ours is None else {ours: b""}
    keys = _entry(check(config, planned=planned).view.images, set_id)
    strategy = keys["caption_strategy"]
    if keys["only_instance_prompt"]:
        return '"only_instance_prompt" is its caption'
    if strategy == "textfile":
        return None if ours is None else _text_files(source, listing)
    if _uses(keys, ours):
        named = [key for key in ("filename_column", "caption_column") if keys[key] is not None]
        return f'"{named[0]}" says how they are read' if named else None
    path = keys.path("metadata_path") if strategy in ("csv", "jsonl", "parquet") else None
    return f'"caption_strategy" is "{strategy}"' + (f", from {shown(display(path))}" if path else "")


def refuse_errors(config: Path) -> None:
    """Raise ConfigError with all problems when the files have errors as they are."""
    _checked(config, {})


def _text_files(source: Source, listing: Listing) -> str | None:
    having = [file for file in listing.files if file.may_have_text]
    if not any(_has_text(source, file) for file in having[:_LOOKED_AT]):
        return None
    return f"{len(having):,} of its {len(listing.files):,} pictures have .txt files"


def _has_text(source: Source, file: ImageFile) -> bool:
    try:
        return bool(source.read_text(file, 1))
    except SourceError:
        raise
    except OSError:  # it is there, and can't be read
        return True


def _changed(keys: Keys, captions: Path | None) -> dict[str, Any]:
    """The entry with its captions set, and without keys that are about others."""
    entry = {key: value for key, value in keys.values.items() if key not in _OF_OTHER_CAPTIONS}
    if not entry.get("prepend_instance_prompt"):
        entry.pop("instance_prompt", None)  # which was the caption of all, and has no effect any more
    if captions is None:
        entry.pop("metadata_path", None)
        return entry | ({"caption_strategy": "textfile"} if "caption_strategy" in entry else {})
    path = keys["metadata_path"] if _uses(keys, captions) else _relative(captions, keys)
    return entry | {"caption_strategy": "jsonl", "metadata_path": path}


def _uses(keys: Keys, captions: Path | None) -> bool:
    """Whether a data set's captions are those in a file."""
    if keys["caption_strategy"] != "jsonl" or captions is None:
        return False
    path = keys.path("metadata_path")
    return path is not None and os.path.realpath(path) == os.path.realpath(captions)


def _relative(captions: Path, keys: Keys) -> str:
    """The captions' path as the data file names it: relative to its own folder when it is below that."""
    base = keys.base("metadata_path")
    return (captions.relative_to(base) if captions.is_relative_to(base) else captions).as_posix()


def _entry(images: tuple[Keys, ...], set_id: str) -> Keys:
    found = next((entry for entry in images if entry["id"] == set_id), None)
    if found is None:
        raise UsageError(f'the data set "{shown(set_id)}" is gone from the data file', "start again")
    return found


def _index(keys: Keys) -> int:
    index = keys.prefix[0]
    assert isinstance(index, int)
    return index


def _checked(config: Path, planned: Mapping[Path, bytes]) -> Checked:
    """Both files as they will be. Raises ConfigError with all problems when they have errors."""
    checked = check(config, planned=planned)
    if exit_code(checked.problems) == ConfigError.exit_code:
        count = len(errors(checked.problems))
        message = f"{count} error{'s' * (count > 1)} in the settings"
        raise ConfigError(message, "correct the files and try again", checked.problems)
    return checked
