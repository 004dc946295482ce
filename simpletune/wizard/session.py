"""The wizard with somebody to ask, from the draft that is offered to the files that are written."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simpletune.config.journal import recover, write_together
from simpletune.config.problems import Problem, errors, render
from simpletune.errors import SimpletuneError
from simpletune.wizard import draft
from simpletune.wizard.compose import changes, checked, contents, diff
from simpletune.wizard.facts import Facts
from simpletune.wizard.flow import Interview, Stopped
from simpletune.wizard.outlook import card
from simpletune.wizard.screen import Option, Prompter, Screen
from simpletune.wizard.start import Sets, broken, read_base
from simpletune.wizard.state import Answer, Base, State

REVIEW, THROUGH, FRESH, OPEN, STOP = "review", "through", "fresh", "open", "stop"


@dataclass(frozen=True)
class Outcome:
    """What came of it: whether the files are there and training is ready to start, and wished for."""

    written: bool
    train: bool = False


class Session:
    """One use of the wizard on one config.json. Raises Stopped when it is left without writing."""

    def __init__(self, prompter: Prompter, config_path: Path, sets: Sets, *, dry_run: bool = False) -> None:
        self.prompter = prompter
        self.config_path = config_path
        self.sets = sets
        self.dry_run = dry_run
        self.facts = Facts(config_path.parent)

    def run(self, given: Mapping[str, Answer]) -> Outcome:
        """Ask, review, write, and say whether training can start. `given` are answers from the command line."""
        recovered = recover(self.config_path)
        if recovered:
            self.prompter.say([recovered])
        base, how = self._begin()
        answers = {**self._from_draft(), **given}
        interview = Interview(self.prompter, self.facts, base, answers, self._save, through=how == THROUGH)
        state = self._write(interview)
        draft.drop(self.config_path)
        return self._finish(state)

    def _save(self, answers: Mapping[str, Answer]) -> None:
        draft.save(self.config_path, answers)

    # --- the beginning

    def _begin(self) -> tuple[Base, str]:
        """The files to start from, and how: what is there, or afresh."""
        while True:
            base = read_base(self.config_path, self.sets)
            if not base.exists:
                return base, FRESH
            problems = broken(base)
            how = self._ask_broken(problems) if problems else self._ask_existing()
            if how == STOP:
                raise Stopped
            if how == FRESH:
                return Base(self.config_path, sets=self.sets), FRESH
            if how == OPEN:
                self._edit(problems[0])
                continue
            return base, how

    def _ask_existing(self) -> str:
        name = self.config_path.name
        return self._choose(
            "existing",
            f"{name} is here already. What would you like?",
            "Keys that aren't asked about stay as they are, in every case but the last.",
            Option(REVIEW, "see all its answers, and change some", "a table, each row to edit"),
            Option(THROUGH, "go through the questions again", "with its answers filled in"),
            Option(FRESH, "start afresh", "a copy of the old files is kept beside them"),
        )

    def _ask_broken(self, problems: list[Problem]) -> str:
        self.prompter.say([line for problem in problems[:5] for line in render(problem).splitlines()])
        editor = _editor()
        return self._choose(
            "broken",
            f"{self.config_path.name} can't be read as it is. What would you like?",
            f"{len(problems)} problem{'s' * (len(problems) != 1)}, the first of them above.",
            Option(OPEN, "open it at the place, then go on", " ".join(editor or ()), None if editor else _NO_EDITOR),
            Option(FRESH, "start afresh", "a copy of the old files is kept beside them"),
            Option(STOP, "stop here", "nothing is changed"),
        )

    def _choose(self, question: str, title: str, about: str, *options: Option) -> str:
        first = next(option.value for option in options if option.disabled is None)
        screen = Screen(question, "Start", title, about, options, default=first, can_go_back=False)
        return str(self.prompter.ask(screen))

    def _edit(self, problem: Problem) -> None:
        editor = _editor()
        assert editor is not None
        command = [*editor, *_at_line(editor[0], Path(problem.file), problem.line)]
        try:
            subprocess.run(command, check=False)
        except OSError as error:
            self.prompter.say([f"{editor[0]} can't be started: {error.strerror}"])

    def _from_draft(self) -> Mapping[str, Answer]:
        """The answers of an earlier, unfinished time, if they are wanted."""
        kept = draft.load(self.config_path)
        if kept is None:
            return {}
        when = time.strftime("%d %B, %H:%M", time.localtime(kept.saved))
        choice = self._choose(
            "draft",
            "Go on where you stopped?",
            f"{len(kept.answers)} answers were kept on {when}.",
            Option("go on", "go on with them"),
            Option("drop", "start without them", "they are forgotten"),
        )
        if choice == "drop":
            draft.drop(self.config_path)
            return {}
        return kept.answers

    # --- the end

    def _write(self, interview: Interview) -> State:
        """Interview until the files are accepted, then write them, together or not at all."""
        problem = None
        while True:
            state = interview.run(problem).state
            made = contents(state)
            wrong = [found for found in errors(checked(state).problems) if found.kind == "config"]
            if wrong:
                self.prompter.say([line for found in wrong for line in render(found).splitlines()])
                problem = "the files would have the errors above: change what they name"
                continue
            if not changes(made):
                self.prompter.say(["The files are as they are already: nothing to write."])
                return state
            if changed := _changed_meanwhile(interview.base):
                interview.base = read_base(self.config_path, self.sets)
                problem = f"{changed} was changed by somebody else meanwhile: this is with that change"
                continue
            self.prompter.show_diff(diff(made, state.folder))
            if self.dry_run:
                return state
            if not self._confirmed():
                problem = None
                continue
            try:
                backups = write_together(self.config_path, made)
            except SimpletuneError as error:
                problem = f"nothing was written: {error.message}" + (f"; {error.hint}" if error.hint else "")
                continue
            self.prompter.say(written_lines(made, backups, state.folder))
            return state

    def _confirmed(self) -> bool:
        choice = self._choose(
            "write",
            "Write this?",
            "All of it is written, or nothing.",
            Option("yes", "yes, write it"),
            Option("no", "back to the review"),
        )
        return choice == "yes"

    def _finish(self, state: State) -> Outcome:
        """Whether training can start now, and whether it should; else what is left to do."""
        if self.dry_run:
            self.prompter.say(["", "A dry run: nothing was written."])
            return Outcome(written=False)
        if not card(state).here:
            self.prompter.say(["", *_elsewhere(state)])
            return Outcome(written=True)
        from simpletune.wizard.checks import checks, left_to_do, ready  # slow to import, and not needed before

        with self.prompter.busy("Checking whether training can start"):
            found = list(checks(self.config_path, machine=self.facts.machine))
        command = f"simpletune train {shlex.quote(str(self.config_path))}"
        if not ready(found):
            lines = [line for text in left_to_do(found) for line in text.splitlines()]
            self.prompter.say(["", "Before training can start:", *lines, "", f"Then: {command}"])
            return Outcome(written=True)
        choice = self._choose(
            "train",
            "Ready. Start training now?",
            f"Or later, with: {command}",
            Option("later", "later"),
            Option("now", "now"),
        )
        return Outcome(written=True, train=choice == "now")


def _elsewhere(state: State) -> list[str]:
    name = state.base.config_path.name
    return [
        f"The files are for another machine ({card(state).name}). Copy {state.folder} there, and the pictures.",
        f"There: simpletune doctor {name}",
        f"then:  simpletune train {name}",
    ]


_NO_EDITOR = "no editor is set: EDITOR names one"


def _editor() -> list[str] | None:
    """The editor of VISUAL or EDITOR, as a command; else a common one that is there."""
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        return shlex.split(named, posix=os.name != "nt")
    found = next((path for name in ("nano", "vim", "vi", "notepad") if (path := shutil.which(name))), None)
    return [found] if found else None


def _at_line(editor: str, path: Path, line: int) -> list[str]:
    """How editors are told a line."""
    name = Path(editor).name.removesuffix(".exe")
    if name in ("code", "codium", "cursor"):
        return ["--wait", "--goto", f"{path}:{line}"]
    if name in ("vi", "vim", "nvim", "nano", "emacs", "micro", "ed"):
        return [f"+{max(1, line)}", str(path)]
    return [str(path)]


def _changed_meanwhile(base: Base) -> str | None:
    """The name of a file that isn't any more what the wizard started from."""
    now = read_base(base.config_path)
    if not base.exists:
        return None  # a fresh start replaces what there is, and keeps a copy
    for before, after in ((base.config_file, now.config_file), (base.data_file, now.data_file)):
        if (before and before.lines) != (after and after.lines):
            found: Any = after or before
            return str(found.path.name)
    return None


def written_lines(made: Mapping[Path, bytes], backups: tuple[Path, ...], folder: Path) -> list[str]:
    """What was written where."""
    names = [os.path.relpath(path, folder) for path in made if path.parent.name != ".simpletune"]
    lines = [f"Written to {folder}: {', '.join(names)}."]
    if backups:
        lines.append(f"The old ones are kept as {', '.join(path.name for path in backups)}.")
    return lines
