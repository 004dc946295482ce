"""The wizard with somebody to ask, from the draft that is offered to the files that are written."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simpletune.config.journal import recover, write_together
from simpletune.config.problems import Problem, errors, render
from simpletune.data.survey.wording import how_far
from simpletune.errors import ConfigError, SimpletuneError
from simpletune.wizard import captioning, draft
from simpletune.wizard.compose import changes, checked, contents, diff
from simpletune.wizard.concerns import words_about
from simpletune.wizard.facts import Facts
from simpletune.wizard.flow import Interview, Stopped
from simpletune.wizard.outlook import card, largest_edge
from simpletune.wizard.questions import questions
from simpletune.wizard.screen import Option, Prompter, Screen
from simpletune.wizard.start import Sets, broken, read_base, unused_sets
from simpletune.wizard.state import Answer, Base, State
from simpletune.wizard.walk import Terms, walk

Given = Callable[[Base], Mapping[str, Answer]]
REVIEW, THROUGH, FRESH, NEW, OPEN, STOP = "review", "through", "fresh", "new", "open", "stop"


@dataclass(frozen=True)
class Outcome:
    """What came of it: whether the files are there and training is ready to start, and wished for."""

    written: bool
    train: bool = False


class Session:
    """One use of the wizard on one config.json. Raises Stopped when it is left without writing."""

    def __init__(
        self, prompter: Prompter, config_path: Path, sets: Sets, *, dry_run: bool = False, refit: bool = False
    ) -> None:
        self.prompter = prompter
        self.config_path = config_path
        self.sets = sets
        self.dry_run = dry_run
        self.refit = refit  # the files there are were made for another machine
        self.left_behind = "nothing was written"
        """What somebody who stops now should know."""
        self.facts = Facts(config_path.parent)
        self.run_captioner: captioning.Run = captioning.on_this_terminal

    def run(self, given: Given) -> Outcome:
        """Ask, review, write, and say whether training can start. `given` are the answers of the command line, which
        may depend on the files that are there."""
        recovered = recover(self.config_path)
        if recovered:
            self.prompter.say([recovered])
        kept = self._from_draft()
        base, how = self._begin(kept)
        self.seen = bytes_of(self.config_path)
        flags = given(base)
        answers = {**_without_sets(kept.answers if kept else {}, self.facts, base), **flags}

        def save(answers: Mapping[str, Answer]) -> None:
            own = {name: answer for name, answer in answers.items() if flags.get(name) != answer}
            if draft.save(self.config_path, own, how):
                self.left_behind = "your answers are kept, `simpletune configure` goes on from them"

        interview = Interview(self.prompter, self.facts, base, answers, save, through=how == THROUGH)
        state = self._write(interview)
        if self.dry_run:
            self.prompter.say(["", "A dry run: nothing was written, and the answers are kept for the next start."])
            return Outcome(written=False)
        draft.drop(self.config_path)
        self.left_behind = "the files are written"
        return self._finish(state)

    # --- the beginning

    def _begin(self, kept: draft.Draft | None) -> tuple[Base, str]:
        """The files to start from, and how: what is there, or afresh; as the draft was, if that goes on."""
        wanted = kept.how if kept is not None and kept.how in (REVIEW, THROUGH, FRESH) else None
        while True:
            base = read_base(self.config_path, self.sets, refit=self.refit)
            problems = [] if wanted == FRESH else broken(base)
            if not base.exists and not problems:
                return base, NEW
            how = self._ask_broken(problems) if problems else wanted or self._ask_existing()
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
            "Files",
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
            "Files",
            f"{self.config_path.name} can't be read as it is. What would you like?",
            f"{len(problems)} problem{'s' * (len(problems) != 1)}, the first of them above.",
            Option(OPEN, "open it at the place, then go on", " ".join(editor or ()), None if editor else _NO_EDITOR),
            Option(FRESH, "start afresh", "a copy of the old files is kept beside them"),
            Option(STOP, "stop here", "nothing is changed"),
        )

    def _choose(self, question: str, name: str, title: str, about: str, *options: Option) -> str:
        first = next(option.value for option in options if option.disabled is None)
        screen = Screen(question, name, title, about, options, default=first, can_go_back=False, name=name)
        return str(self.prompter.ask(screen))

    def _edit(self, problem: Problem) -> None:
        editor = _editor()
        assert editor is not None
        command = [*editor, *_at_line(editor[0], Path(problem.file), problem.line)]
        try:
            subprocess.run(command, check=False)
        except OSError as error:
            self.prompter.say([f"{editor[0]} can't be started: {error.strerror}"])

    def _from_draft(self) -> draft.Draft | None:
        """The answers of an earlier, unfinished time, if they are wanted."""
        kept = draft.load(self.config_path)
        if kept is None:
            return None
        when = time.strftime("%d %B, %H:%M", time.localtime(kept.saved))
        number = "one answer was" if len(kept.answers) == 1 else f"{len(kept.answers)} answers were"
        choice = self._choose(
            "draft",
            "Draft",
            "Go on where you stopped?",
            f"{number[0].upper()}{number[1:]} kept on {when}.",
            Option("go on", "go on with them"),
            Option("drop", "start without them", "they are forgotten"),
        )
        if choice == "drop":
            draft.drop(self.config_path)
            return None
        return kept

    # --- the end

    def _write(self, interview: Interview) -> State:
        """Interview until the files are accepted, then write them, together or not at all."""
        problem = None
        while True:
            state = interview.run(problem).state
            self.prompter.say(unused_sets(state))
            made = contents(state)
            wrong = [found for found in errors(checked(state).problems) if found.kind == "config"]
            if wrong:
                self.prompter.say([line for found in wrong for line in render(found).splitlines()])
                problem = "the files would have the errors above: change what they name"
                continue
            if problem := self._changed_meanwhile(interview):
                continue
            if not changes(made):
                self.prompter.say(["The files are as they are already: nothing to write."])
                return state
            self.prompter.show_diff(diff(made, state.folder))
            if self.dry_run:
                return state
            if not self._confirmed() or (problem := self._changed_meanwhile(interview)):
                continue
            try:
                changed = changes(made)
                backups = write_together(self.config_path, made, expected=self.seen)
            except SimpletuneError as error:
                problem = f"nothing was written: {error.message}" + (f"; {error.hint}" if error.hint else "")
                continue
            self.prompter.say(written_lines(changed, backups, state.folder))
            return state

    def _changed_meanwhile(self, interview: Interview) -> str | None:
        """Take up what somebody else wrote since the files were read; a sentence on it, None when nobody did.

        Raises ConfigError when they can't be read any more.
        """
        now = bytes_of(self.config_path)
        names = [path.name for path in {**self.seen, **now} if self.seen.get(path) != now.get(path)]
        if not names:
            return None
        self.seen = now
        if interview.base.exists:
            interview.base = read_base(self.config_path, self.sets, refit=self.refit)
            if problems := broken(interview.base):
                message = f"{names[0]} was changed by somebody else meanwhile, and can't be read now"
                raise ConfigError(message, "correct it and start again: your answers are kept", problems)
            return f"{' and '.join(names)} changed meanwhile, by another hand: this is with that change"
        return f"{' and '.join(names)} was written meanwhile, by another hand: a copy of that will be kept"

    def _confirmed(self) -> bool:
        choice = self._choose(
            "write",
            "Files",
            "Write this?",
            "All of it is written, or nothing.",
            Option("yes", "yes, write it"),
            Option("no", "back to the review"),
        )
        return choice == "yes"

    def _finish(self, state: State) -> Outcome:
        """Whether training can start now, and whether it should; else what is left to do."""
        if not card(state).here:
            self.prompter.say(["", *elsewhere(state)])
            return Outcome(written=True)
        if not self._has_captions(state):
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
            "Training",
            "Ready. Start training now?",
            f"Or later, with: {command}",
            Option("later", "later"),
            Option("now", "now"),
        )
        if choice == "later":
            self.prompter.say([f"Whenever you like: {command}"])
        return Outcome(written=True, train=choice == "now")

    def _has_captions(self, state: State) -> bool:
        """Have the captions written that a model is to write; False, and what to type then, when they aren't yet."""
        screen = captioning.offer(state)
        if screen is None:
            return True
        if self.prompter.ask(screen) == captioning.NOW:
            self.prompter.say([""])
            if captioning.write_captions(state, self.run_captioner):
                return True
        train = f"simpletune train {shlex.quote(str(self.config_path))}"
        self.prompter.say(["", *captioning.later(state), "Then, or already with the one phrase:", train])
        return False


def elsewhere(state: State) -> list[str]:
    """What to do with files that are for another machine."""
    name = state.base.config_path.name
    return [
        f"The files are for another machine ({card(state).name}). Copy {state.folder} there, and the pictures.",
        f"There: simpletune doctor {name}",
        f"then:  simpletune train {name}",
    ]


def next_lines(state: State) -> list[str]:
    """What to type now."""
    if not card(state).here:
        return elsewhere(state)
    return [*captioning.later(state), f"Next: simpletune train {shlex.quote(str(state.base.config_path))}"]


def picture_lines(state: State) -> list[str]:
    """What was found in the folders, where nobody was asked about them: counts, and what may go wrong."""
    lines = []
    for index, entry in enumerate(state.images):
        found = state.facts.survey(state.place(index))
        words = words_about(found, largest_edge(state), strategy=entry.get("caption_strategy", "textfile"))
        lines += [f"{entry['id']}: {how_far(found)}", *(f"  {word}" for word in words)]
    return lines


_NO_EDITOR = "no editor is set: EDITOR names one"


def _editor() -> list[str] | None:
    """The editor of VISUAL or EDITOR, as a command; else a common one that is there."""
    for named in (os.environ.get("VISUAL", ""), os.environ.get("EDITOR", "")):
        with suppress(ValueError):  # a quote that isn't closed
            if words := shlex.split(named, posix=os.name != "nt"):
                return words
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


def bytes_of(config_path: Path) -> dict[Path, bytes | None]:
    """The content of the files that the wizard starts from; None for one that isn't there."""
    base = read_base(config_path)
    files = (base.config_file, base.data_file, base.prompts_file, base.lycoris_file)
    paths = {config_path, config_path.parent / base.data_name, *(file.path for file in files if file is not None)}
    return {path: path.read_bytes() if os.path.isfile(path) else None for path in paths}  # noqa: PTH113 - it never raises


def _without_sets(answers: Mapping[str, Answer], facts: Facts, base: Base) -> Mapping[str, Answer]:
    """The answers without those to what `--set` gives: that was said later."""
    if not base.sets:
        return answers
    reached = walk(questions, facts, base, answers, Terms(everything=True))
    said = {step.question.id for step in reached.steps if base.sets_any(step.question.id, step.question.keys)}
    return {name: answer for name, answer in answers.items() if name not in said}


def written_lines(made: Iterable[Path], backups: tuple[Path, ...], folder: Path) -> list[str]:
    """What was written where."""
    names = [os.path.relpath(path, folder) for path in made if path.parent.name != ".simpletune"]
    lines = [f"Written to {folder}: {', '.join(names)}."]
    if backups:
        lines.append(f"The old ones are kept as {', '.join(path.name for path in backups)}.")
    return lines
