"""The wizard's screens as the documents show them: taken from the program in a pseudo-terminal, 80 columns wide.

A block of a document is one of these if `<!-- screen: NAME -->` stands above it. What the program shows there depends
on the machine and the hub, so both are described here: a card of 12 GB, and a hub that asks for a licence. All else is
the program itself; a training's figures are made up in training_screens.py. To take them again:

    UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/wizard/test_wizard_documents.py
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import training_screens
from PIL import Image

HOME = "/home/someone"  # as long as what tempfile.mkdtemp makes in /tmp, so that lines break at the same place
CARD = "NVIDIA GeForce RTX 4070"
SUBJECTS = (
    "a harbour at dusk", "a red barn in the snow", "two sailing boats", "an old fisherman", "a bowl of lemons",
    "a street in the rain", "a white horse", "a windmill by the river", "a woman reading", "a field of poppies",
    "a stone bridge", "a sleeping cat", "a boy with a kite", "sunflowers in a vase", "a narrow alley",
    "a lighthouse in a storm", "an orchard in spring", "a market square", "a train station", "a mountain lake",
    "a baker at work", "the sea before dawn", "a girl with a blue scarf", "an empty cafe",
)  # fmt: skip
_HEADING = re.compile(r"^(\d+ of \d+ · .*|Files|Draft|Training)$")
_BLOCK = re.compile(r"^(<!-- screen: ([\w-]+) -->\n```text\n)(.*?)^```$", re.DOTALL | re.MULTILINE)
_CUT = "  ..."
# What a question is called here, and words of its screen.
_BEFORE_PICTURES = (
    ("depth", "How much do you want"),
    ("hardware", "What do you want to train on"),
    ("model", "Which model"),
    ("source", "Where is the model"),
)
_AFTER_PICTURES = (
    ("captions", "Where do the captions"),
    ("resolution", "At which resolution"),
    ("more", "Add another folder"),
    ("precision", "is the base model kept"),
    ("encoders", "are the text encoders kept"),
    ("rank", "Which rank"),
    ("length", "How long does it train"),
    ("prompts", "Which sample pictures"),
    ("output", "Where does the result go"),
)


def paint(folder: Path) -> None:
    """A folder of 24 pictures with a caption beside each."""
    folder.mkdir()
    sizes = ((1600, 1200), (1200, 1600), (1536, 1536), (1920, 1200))
    for index, subject in enumerate(SUBJECTS):
        name = subject.removeprefix("a ").removeprefix("an ").replace(" ", "-")
        Image.new("RGB", sizes[index % 4], "#8090a0").save(folder / f"{name}.jpg", quality=30)
        (folder / f"{name}.txt").write_text(f"an oil painting of {subject}\n", encoding="utf-8")


@contextmanager
def home() -> Iterator[Path]:
    """A person's folder with a project in it, `sd3/paintings`; its name is as long as HOME."""
    folder = Path(tempfile.mkdtemp(prefix="", dir="/tmp"))
    try:
        (folder / "sd3").mkdir()
        paint(folder / "sd3" / "paintings")
        yield folder
    finally:
        shutil.rmtree(folder)


def question(lines: list[str]) -> list[str]:
    """From what was said after the last answer to the end of the screen: a question with what led to it."""
    at = max(index for index, line in enumerate(lines) if _HEADING.match(line))
    while at > 0 and not lines[at - 1].startswith(("? ", "$ ")):
        at -= 1
    return _without_blank_ends(lines[at:])


def _without_blank_ends(lines: list[str]) -> list[str]:
    """Without blank lines at both ends, and with one where there are several: a menu keeps the height it once had."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip("\n")).split("\n")


def shortened(lines: list[str], first: int, last: int) -> list[str]:
    """The first and the last lines, and a mark where others were left out."""
    return lines if len(lines) <= first + last else [*lines[:first], _CUT, *lines[len(lines) - last :]]


def taken() -> dict[str, str]:
    """Every screen by its name: a first time through with everything as recommended, and what may come after it."""
    with home() as folder:
        found = {**_first_time(folder), **_stopped(folder), **_changed(folder), **training_screens.screens()}
        return {name: "\n".join(lines).replace(str(folder), HOME) for name, lines in found.items()}


@contextmanager
def _wizard(folder: Path, config: str = "config.json", login: bool = False) -> Iterator[Any]:
    """`simpletune configure` in the person's project, in a terminal of 80 columns; with `login` the hub gives SD3."""
    from pty_screen import PtyScreen

    command = [sys.executable, __file__, config, *(["--login"] if login else [])]
    state = {"HOME": str(folder), "SIMPLETUNE_STATE": str(folder / ".state")}
    environment = {
        **state,
        "PATH": str(folder),
        "TERM_PROGRAM": None,
        "HF_HUB_OFFLINE": None,
    }  # no VS Code to ask about
    with PtyScreen(command, 80, 70, environment, folder / "sd3") as terminal:
        yield terminal


def _first_time(folder: Path) -> dict[str, list[str]]:
    """Answer every question, keeping its screen; write the files."""
    found: dict[str, list[str]] = {}
    with _wizard(folder) as terminal:

        def see(name: str, shown: str, *keys: str) -> None:
            found[name] = question(terminal.wait_for(shown))
            terminal.press(*keys)

        for name, shown in _BEFORE_PICTURES:
            see(name, shown, "enter")
        terminal.wait_for("Where are the pictures")
        terminal.press("paintings")
        see("folder", "? Folder paintings", "enter")
        for name, shown in _AFTER_PICTURES:
            see(name, shown, "enter")
        see("review", "Is this right?", "enter")
        found["write"] = shortened(_before_writing(terminal.wait_for("Write this?")), 9, 9)
        terminal.press("enter")
        lines = terminal.wait_for("Then: simpletune train")
        found["left"] = _from(lines, "Written to")
        terminal.end()
    return found


def _before_writing(lines: list[str]) -> list[str]:
    """The changes that are shown before the files are written, and the question."""
    review = max(index for index, line in enumerate(lines) if line.startswith("? Review"))
    return _without_blank_ends(lines[review + 1 :])


def _stopped(folder: Path) -> dict[str, list[str]]:
    """Ctrl-C at the third question of another project, and its next start."""
    with _wizard(folder, "other/config.json") as terminal:
        for _name, shown in _BEFORE_PICTURES[:2]:
            terminal.wait_for(shown)
            terminal.press("enter")
        terminal.wait_for("Which model")
        terminal.press("ctrl-c")
        lines = terminal.wait_for("stopped:")
        terminal.end()
        found = {"stopped": _from(lines, "stopped:")}
    with _wizard(folder, "other/config.json") as terminal:
        lines = terminal.wait_for("Go on where you stopped?")
        found["draft"] = [re.sub(r"kept on .*", "kept on 14 March, 15:09.", line) for line in question(lines)]
    return found


def _changed(folder: Path) -> dict[str, list[str]]:
    """The first project again, with another rank, and logged in by now."""
    with _wizard(folder, login=True) as terminal:
        found = {"again": question(terminal.wait_for("is here already"))}
        terminal.press("enter")
        terminal.wait_for("Is this right?")
        _to_row(terminal, "Rank")
        terminal.wait_for("Which rank")
        terminal.press("down", "enter")
        lines = question(terminal.wait_for("Is this right?", "(was 16)"))
        marked = next(i for i, line in enumerate(lines) if "(was 16)" in line)
        found["changed"] = [*lines[:3], _CUT, *lines[marked - 1 : marked + 2], _CUT]
        _to_row(terminal, "Write the files")
        found["difference"] = _before_writing(terminal.wait_for("Write this?"))
        terminal.press("enter")
        found["ready"] = question(terminal.wait_for("Start training now?"))
    return found


def _to_row(terminal: Any, label: str) -> None:
    """Move the pointer of the review to a row, and pick it."""
    for _ in range(60):
        at = next(line for line in terminal.settle() if line.startswith(" › "))
        if label in at:
            break
        terminal.press("down")
    terminal.press("enter")


def _from(lines: list[str], beginning: str) -> list[str]:
    return _without_blank_ends(lines[next(i for i, line in enumerate(lines) if line.startswith(beginning)) :])


def named(text: str) -> list[str]:
    """The names of the screens a document shows."""
    return [match[2] for match in _BLOCK.finditer(text)]


def filled(text: str, screens: Mapping[str, str]) -> str:
    """The document with its screens as they are now. Raises KeyError for a name that isn't one."""
    return _BLOCK.sub(lambda match: f"{match[1]}{screens[match[2]]}\n```", text)


def describe_the_world(login: bool) -> None:
    """Replace what the program finds out about this machine and the hub. For the process under the terminal only."""
    from simpletune.config.installed import TorchBuild
    from simpletune.machine import hardware, hub_access, package_index
    from simpletune.machine.gpus import Gpu

    gib = 1 << 30
    card = Gpu(0, CARD, 12 * gib, 11 * gib, "580.65.06", (8, 9), "GPU-a")
    torch = TorchBuild("2.13.0+cu130", "13.0", None)
    machine = hardware.Machine(
        (card,), 32 * gib, 28 * gib, 400 * 10**9, 12, torch, processor="Some processor", driver_cuda=(13, 0)
    )

    def ask(repo: str, *_: object, **__: object) -> hub_access.Access:
        asked = hub_access.Access(
            repo, hub_access.HUB, True, login, hub_access.UNKNOWN, False, "", None, available=login
        )
        return asked if login else hub_access._gated(asked, Exception())

    hardware.look = lambda _folder: machine
    hardware.disk_free = lambda _folder: machine.disk_free
    hub_access.check_access = ask
    package_index.check_index = lambda: package_index.IndexAccess("https://index.example", True, "it answers")


def main() -> None:
    describe_the_world("--login" in sys.argv)
    from simpletune.cli.main import main as simpletune

    simpletune(["configure", *(word for word in sys.argv[1:] if word != "--login")])


if __name__ == "__main__":
    main()
