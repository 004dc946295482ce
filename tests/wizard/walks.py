"""Every way through the wizard, found by going through it: an explorer takes, wherever it can, what it never took.

Which questions there are, what they offer and which answers lead to further questions is learned on the way, so a new
question or option is walked without a change here. Only what is typed has to be known beforehand: `TYPED`.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from PIL import Image
from pyarrow import parquet
from script import BACK, RECOMMENDED, Typed, Visit, draw, facts, visit

from simpletune.config import architecture
from simpletune.config.families import FAMILIES
from simpletune.wizard.question import OTHER, same
from simpletune.wizard.review import ADD, EDIT, REMOVE, WRITE
from simpletune.wizard.screen import Option, Screen

TYPED: dict[str, tuple[str, ...]] = {
    "hardware.memory": ("10.5",),
    "model.mirror": ("https://hub.example.org",),
    "model.id": ("owner/name",),
    "data.trigger": ("a photo of ohwx ball",),
    "data.split": ("train[:4]",),
    "data.column": ("text",),
    "data.orders": ("3",),
    "data.variants": ("2",),
    "data.weight": ("0.25",),
    "data.resolution": ("192",),
    "data.times": ("7",),
    "lora.rank": ("12",),
    "lora.alpha": ("6", "0.5"),
    "training.steps": ("77", "3 epochs"),
    "training.batch": ("3",),
    "training.learning_rate": ("3e-4",),
    "training.vae_batch_size": ("3",),
    "training.text_encoder_batch_size": ("3",),
    "training.checkpoints": ("40",),
    "samples.prompt.1": ("a red ball",),
    "samples.prompt.2": ("", "a blue ball, at night"),
    "samples.interval": ("15",),
    "samples.held_out": ("1",),
    "output": ("results/of this",),
}
"""What is typed at a question's field (the questions of all data sets by one name), one after the other."""

NO_LIMIT = Option(None, "anything that is typed")
_EDITS = 4  # rows of the review that are picked in one walk
_MOST_SETS = 2
_MOST_WALKS = 60


@dataclass(frozen=True)
class World:
    """Folders of pictures, one for each kind of captions, shards and a data set of them; and models on this disk."""

    root: Path

    @property
    def pictures(self) -> tuple[Path, ...]:
        return tuple(sorted((self.root / "pictures").iterdir()))

    @property
    def table(self) -> Path:
        """A caption table that has a row for every picture of every set."""
        return self.root / "all.csv"

    @property
    def masks(self) -> Path:
        """A folder with a mask for every picture of every set."""
        return self.root / "all masks"

    def model(self, flavour: str) -> Path:
        return self.root / "models" / flavour

    @property
    def file(self) -> Path:
        return self.root / "models" / "model.safetensors"

    @classmethod
    def make(cls, root: Path) -> World:
        draw(root / "pictures" / "with texts", 6)
        draw(root / "pictures" / "named [well] 🐶", 6, texts=False)
        draw(root / "pictures" / "unnamed", 5, texts=False, names="IMG_{}")
        pack(root / "pictures" / "shards", root / "pictures" / "with texts")
        tabulate(root / "pictures" / "colours.parquet", root / "pictures" / "with texts")
        world = cls(root)
        world.draw_table_and_masks()
        for flavour in FAMILIES["sd3"].flavours:
            folder = world.model(flavour)
            for part in ("transformer", "tokenizer", "tokenizer_2"):
                (folder / part).mkdir(parents=True)
            config = architecture.component_config(flavour, "transformer")
            (folder / "transformer" / "config.json").write_text(json.dumps(config))
        world.file.write_bytes(b"weights")
        return world

    def draw_table_and_masks(self) -> None:
        texts = sorted((self.root / "pictures" / "with texts").glob("*.png"))
        named = {path.name: path for folder in self.pictures for path in folder.glob("*.png")}
        named |= {f"{SHARD}/{path.name}": path for path in texts}
        named |= {f"{row:06d}.png": path for row, path in enumerate(texts)}
        self.table.write_text(
            "".join(f"{row}\n" for row in ("file_name,caption", *(f"{name},a ball" for name in named)))
        )
        for name, path in named.items():
            (self.masks / name).parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as picture:
                Image.new("L", picture.size, 255).save(self.masks / name)


SHARD = "colours.tar"


def pack(folder: Path, pictures: Path) -> None:
    """The pictures and texts of a folder as a shard in another."""
    folder.mkdir()
    with tarfile.open(folder / SHARD, "w") as shard:
        for path in sorted(pictures.iterdir()):
            shard.add(path, path.name)


def tabulate(path: Path, pictures: Path) -> None:
    """The pictures of a folder as a data set in one Parquet file."""
    rows = [
        {
            "image": {"bytes": one.read_bytes(), "path": None},
            "text": one.with_suffix(".txt").read_text(),
            "tags": "a, b",
        }
        for one in sorted(pictures.glob("*.png"))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@dataclass
class Explorer:
    """A policy for many walks. `taken` are the answers that files were made with, by screen; `offered` all there are.

    Where nothing can be taken, because what was chosen before leaves no memory, it goes back and takes that back.
    """

    world: World
    machine: str
    taken: set[tuple[str, str]] = field(default_factory=set)
    offered: dict[str, set[str]] = field(default_factory=dict)
    ways: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)  # what led to where it was offered
    follows: dict[str, dict[str, str]] = field(default_factory=dict)  # screen -> answer -> the screen after it
    path: dict[str, str] = field(default_factory=dict)  # this walk's answers
    goal: dict[str, str] = field(default_factory=dict)  # the way to a screen that has answers left
    edits: int = 0
    retreats: bool = False
    walks: int = 0

    def begin(self) -> bool:
        """Set out on another walk, to another of the screens with answers left; False when there are none."""
        left = self.left()
        self.goal = self.ways[left[self.walks % len(left)]] if left else {}
        self.path, self.edits, self.walks = {}, 0, self.walks + 1
        return bool(left) or not self.offered

    def left(self) -> list[tuple[str, str]]:
        """Screens that have answers left, each with one of them."""
        fresh = {screen: self._fresh(screen, sorted(names)) for screen, names in self.offered.items()}
        return [(screen, names[0]) for screen, names in fresh.items() if names]

    def end(self, made: Visit) -> None:
        """Count what the files were made with; what was changed again in the review is taken another time."""
        self.taken |= {(self._key(screen), name) for screen, name in self.path.items() if screen in made.answers}

    def __call__(self, screen: Screen) -> Any:
        known = dict(self._candidates(screen))
        self.retreats |= all(one.disabled for one in screen.options or (NO_LIMIT,) if one.value is not OTHER)
        if self.retreats:
            if not screen.panel or screen.id not in self.path or same(screen.default, screen.recommended):
                return BACK
            self.retreats, self.edits, known = False, _EDITS, {}
        so_far = {other: answer for other, answer in self.path.items() if other != screen.id}
        for one in known:
            self.ways.setdefault((screen.id, one), so_far)
        name = self._pick(screen, list(known), self._fresh(screen.id, known)) if known else "recommended"
        if name == "recommended":
            name = next((one for one, value in known.items() if same(value, screen.recommended)), name)
        self._note(screen, name, known)
        return known.get(name, RECOMMENDED)

    def _fresh(self, screen_id: str, names: Iterable[str]) -> list[str]:
        key = self._key(screen_id)
        return [name for name in names if (key, name) not in self.taken and self.path.get(screen_id) != name]

    def _pick(self, screen: Screen, known: Sequence[str], fresh: Sequence[str]) -> str:
        if screen.id == "review":
            self.edits += 1
            return next((name for name in fresh if self.edits <= _EDITS), WRITE)
        if screen.id == "depth":
            return (*fresh, "everything")[0]
        wanted = self.goal.get(screen.id)
        if wanted in known and len(set(self.follows.get(screen.id, {}).values())) > 1:
            return str(wanted)  # a parting of the ways to what is left
        if not fresh and wanted in known:
            return str(wanted)
        if screen.options is None and screen.recommended is None and not screen.default:
            return (*fresh, *known)[0]
        return fresh[0] if fresh else "recommended"

    def _note(self, screen: Screen, name: str, known: Iterable[str]) -> None:
        before = next(reversed(self.path), None)
        if before is not None and not self.edits:
            self.follows.setdefault(before, {}).setdefault(self.path[before], screen.id)
        if screen.id == "review":
            self.taken.add(("review", name))
        else:
            self.offered.setdefault(screen.id, set()).update(known)
        self.path.pop(screen.id, None)
        self.path[screen.id] = name

    def _key(self, screen_id: str) -> str:
        """A question's name; those of all data sets share one. What there is to train on depends on the machine."""
        name = re.sub(r"^data\.\d+", "data", screen_id)
        return f"{name} on {self.machine}" if screen_id in ("hardware", "model") else name

    def _candidates(self, screen: Screen) -> list[tuple[str, Any]]:
        """Everything that can be answered here, by a name that stays the same from walk to walk."""
        flavour = self.path.get("model", "sd3-medium")
        found = possible(screen, self.world, flavour if flavour != "recommended" else "sd3-medium")
        options = [option.value for option in screen.options or ()]
        return [(self._name(screen, value, options), value) for value in found]

    def _name(self, screen: Screen, value: Any, options: list[Any]) -> str:
        if isinstance(value, Typed):
            return f'"{value.text}"'
        if screen.id == "review":
            return f"edit {self._key(value.about)}" if value.action == EDIT else str(value.action)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"option {options.index(value)}" if number else str(value)


def possible(screen: Screen, world: World, flavour: str = "sd3-medium") -> list[Any]:
    """Every answer that a screen takes: its options, and what is typed at its field."""
    found = [
        option.value
        for option in screen.options or ()
        if option.disabled is None and option.value is not OTHER and _is_wanted(screen, option)
    ]
    if screen.options is None or any(option.value is OTHER for option in screen.options):
        found += [Typed(text) for text in _texts(screen, world, flavour)]
    return found


def _is_wanted(screen: Screen, option: Option) -> bool:
    if option.note == "as it is now":  # what was typed before, which is typed again
        return False
    if screen.id.endswith(".more"):
        return not option.value or int(screen.id.split(".")[1]) < _MOST_SETS - 1
    return screen.id != "review" or option.value.action in (EDIT, ADD, REMOVE)


def _texts(screen: Screen, world: World, flavour: str) -> tuple[str, ...]:
    if screen.path == "folder" and screen.id.startswith("data."):
        return tuple(map(str, world.pictures))
    name = re.sub(r"^data\.\d+", "data", screen.id)
    paths = {
        "model.folder": world.model(flavour), "model.encoders": world.model("tiny"), "model.file": world.file,
        "data.captions": world.table, "data.masks": world.masks,
    }  # fmt: skip
    if name in paths:
        return (str(paths[name]),)
    texts = TYPED.get(name, ())
    assert texts or screen.options is None, f"what is typed at {screen.id}? TYPED doesn't say"
    return texts


@dataclass(frozen=True)
class Walked:
    """One walk that was made, and where."""

    config: Path
    machine: str
    visit: Visit
    path: dict[str, str]

    def __str__(self) -> str:
        return f"{self.machine} {self.config.parent.name}"


def walk_all(
    root: Path, machines: Sequence[str], each: Callable[[Walked], None] = lambda _walked: None
) -> list[Walked]:
    """Walk until every answer to every question was given once, on each machine what depends on it."""
    world = World.make(root / "world")
    walks: list[Walked] = []
    taken: set[tuple[str, str]] = set()
    for machine in machines:
        explorer = Explorer(world, machine, taken)
        number = 0
        while explorer.begin():
            assert number < _MOST_WALKS, f"there is always something left on {machine}: {explorer.left()}"
            config = root / f"{machine}-{number}" / "config.json"
            made = visit(config, explorer, facts(config.parent, machine))
            explorer.end(made)
            walked = Walked(config, machine, made, dict(explorer.path))
            each(walked)
            walks.append(walked)
            number += 1
    return walks
