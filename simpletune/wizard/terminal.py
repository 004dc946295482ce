"""Questions on a real terminal. Questionary keeps the state of a choice or a line; how it looks is in looks.py.

A question is drawn in place and leaves one line when it is answered. Everything is laid out again for the terminal's
size at every drawing, so a resized window needs nothing special.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import questionary
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition, has_completions
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.shortcuts import print_formatted_text
from prompt_toolkit.styles import Style
from questionary.prompts.common import InquirerControl

from simpletune.wizard.completion import PathCompletion
from simpletune.wizard.looks import (
    BACK_LABEL,
    Line,
    above_typed,
    answer_line,
    choice_screen,
    footer,
    name_of,
    start_of,
    tidied,
)
from simpletune.wizard.screen import Back, Screen
from simpletune.wizard.streams import hangup_is_end_of_file, keys_ignored, lost_is_end_of_file, on_hangup
from simpletune.wizard.text import cut, paragraph, signs_for, unwrapped, wrapped_diff_line
from simpletune.wizard.typed import judged

STYLE = Style(
    [
        ("heading", "dim"),
        ("title", "bold"),
        ("about", "dim"),
        ("panel", ""),
        ("problem", "bold fg:ansired"),
        ("pointer", "bold fg:ansicyan"),
        ("pointed", "bold fg:ansicyan"),
        ("option", ""),
        ("note", ""),
        ("detail", ""),
        ("recommended", "fg:ansigreen"),
        ("disabled", "dim"),
        ("footer", "dim"),
        ("mark", "fg:ansicyan"),
        ("name", ""),
        ("answer", "bold"),
        ("added", "fg:ansigreen"),
        ("removed", "fg:ansired"),
        ("place", "fg:ansicyan"),
    ]
)
_DIFF_STYLES = (
    ("---", "class:title"),
    ("+++", "class:title"),
    ("@@", "class:place"),
    ("+", "class:added"),
    ("-", "class:removed"),
)
_MENU_LINES = 8  # the line typed in, and completions
_PATIENCE, _LOOK_AGAIN = 3.0, 0.05  # seconds that Tab waits for completions, and between two looks at them


class TerminalPrompter:
    """A `Prompter` for a terminal that can move its cursor. `input` and `output` are prompt_toolkit's, for tests."""

    def __init__(self, input: Input | None = None, output: Output | None = None) -> None:
        self._input = input
        self._output = output or _terminal_output()
        self._signs = signs_for(sys.stdout)

    def ask(self, screen: Screen) -> Any:
        """The value of the chosen option, or the typed text that its check accepts; see `Prompter.ask`."""
        screen = tidied(screen, self._signs)
        return self._typed(screen) if screen.options is None else self._chosen(screen)

    def say(self, lines: Sequence[str]) -> None:
        for line in unwrapped(lines):
            for part in paragraph(self._signs.clean(line), self._columns):
                self._print([("", part)])

    def show_diff(self, lines: Iterable[str]) -> None:
        for line in unwrapped(list(lines)):
            style = next((style for start, style in _DIFF_STYLES if line.startswith(start)), "")
            for part in wrapped_diff_line(self._signs.clean(line), self._columns):
                self._print([(style, part)])

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        with lost_is_end_of_file():
            self._output.write(cut(f"{self._signs.clean(what)} ...", self._columns - 1, self._signs.ellipsis))
            self._output.flush()
        try:
            with keys_ignored(sys.stdin), hangup_is_end_of_file():
                yield
        finally:
            self._output.write_raw("\r")
            self._output.erase_end_of_line()
            with lost_is_end_of_file():
                self._output.flush()

    @property
    def _columns(self) -> int:
        return self._output.get_size().columns

    def _print(self, line: Line) -> None:
        with lost_is_end_of_file():
            print_formatted_text(FormattedText(line), style=STYLE, output=self._output)

    def _chosen(self, screen: Screen) -> Any:
        options = screen.options or ()
        while True:
            at = self._run(self._choice_question(screen))
            if at == len(options) and screen.can_go_back:
                raise Back
            if isinstance(at, int) and 0 <= at < len(options) and not options[at].disabled:
                self._print(answer_line(name_of(screen), options[at].label, self._columns, self._signs))
                return options[at].value

    def _typed(self, screen: Screen) -> str:
        while True:
            text, problem = judged(screen, str(self._run(self._text_question(screen))))
            if problem is None:
                self._print(answer_line(name_of(screen), text, self._columns, self._signs))
                return text
            screen = replace(screen, default=text, problem=self._signs.clean(problem))

    def _run(self, question: questionary.Question) -> Any:
        application = question.application

        def end() -> None:
            if application.is_running and application.loop:
                application.loop.call_soon_threadsafe(_exit, application, EOFError())

        with lost_is_end_of_file(), on_hangup(end):
            return question.unsafe_ask()

    def _choice_question(self, screen: Screen) -> questionary.Question:
        """Values are the options' places, because a Choice without a value answers with its title."""
        options = screen.options or ()
        entries = [
            questionary.Choice(option.label, value=at, disabled=option.disabled) for at, option in enumerate(options)
        ]
        if screen.can_go_back:
            entries.append(questionary.Choice(BACK_LABEL, value=len(options)))
        question = questionary.select(
            "",
            entries,
            default=entries[start_of(screen)],
            use_jk_keys=False,
            style=STYLE,
            **self._application_options(),
        )
        application = question.application
        control = next(each for each in application.layout.find_all_controls() if isinstance(each, InquirerControl))

        def drawn() -> FormattedText:
            size = self._output.get_size()
            return _as_text(choice_screen(screen, control.pointed_at, size.columns, size.rows - 1, self._signs))

        # Questionary's own layout holds an invisible line in which some keys type and accept; this one has none.
        application.layout = Layout(Window(FormattedTextControl(drawn, show_cursor=False), always_hide_cursor=True))
        _bind(application, _keys_of_all(screen), _keys_of_choice(control))
        return question

    def _text_question(self, screen: Screen) -> questionary.Question:
        first = screen.recommended if screen.default is None else screen.default
        question = questionary.text(
            name_of(screen),
            default="" if first is None else str(first),
            style=STYLE,
            completer=PathCompletion(files=screen.path == "file") if screen.path else None,
            complete_in_thread=True,
            **self._application_options(),
        )
        application = question.application
        above = self._window(lambda columns, rows: above_typed(screen, columns, rows - 6, self._signs))
        below = self._window(lambda columns, _: footer(screen, columns, self._signs))
        inner = application.layout
        _make_room_once_needed(inner.current_window, inner.current_buffer)
        application.layout = Layout(HSplit([above, inner.container, below]), focused_element=inner.current_window)
        _bind(application, _keys_of_all(screen), _keys_of_text(completes=screen.path is not None))
        return question

    def _window(self, lines: Callable[[int, int], list[Line]]) -> Window:
        def drawn() -> FormattedText:
            size = self._output.get_size()
            return _as_text(lines(size.columns, size.rows))

        return Window(FormattedTextControl(drawn), dont_extend_height=True)

    def _application_options(self) -> dict[str, Any]:
        return {"input": self._input, "output": self._output, "erase_when_done": True}


def _terminal_output() -> Output:
    """The terminal, never asked where its cursor is: the reply of a slow one would be taken for typed text."""
    output = create_output(sys.stdout)
    if hasattr(output, "enable_cpr"):
        output.enable_cpr = False
    return output


def _make_room_once_needed(window: Window, buffer: Buffer | None) -> None:
    """Below a typed line, keep space for completions only from the first ones on, so that nothing jumps later."""
    offered = False

    def height() -> Dimension:
        nonlocal offered
        offered = offered or (buffer is not None and buffer.complete_state is not None)
        return Dimension(min=_MENU_LINES) if offered else Dimension()

    window.height = height


def _as_text(lines: Sequence[Line]) -> FormattedText:
    return FormattedText(fragment for at, line in enumerate(lines) for fragment in ([("", "\n")] if at else []) + line)


def _exit(application: Application[Any], reason: BaseException) -> None:
    """End with `reason`, unless it is ending already: two keys may arrive at once."""
    if application.is_running and application.future and not application.future.done():
        application.exit(exception=reason)


def _bind(application: Application[Any], *more: KeyBindings) -> None:
    """Later bindings win over Questionary's."""
    own = [application.key_bindings] if application.key_bindings else []
    application.key_bindings = merge_key_bindings([*own, *more])


def _keys_of_all(screen: Screen) -> KeyBindings:
    keys = KeyBindings()

    @keys.add(Keys.BackTab, eager=True)
    def _back(event: KeyPressEvent) -> None:
        if screen.can_go_back:
            _exit(event.app, Back())

    @keys.add(Keys.Escape, Keys.Enter, eager=True)
    def _nothing(event: KeyPressEvent) -> None:
        """Alt+Enter would accept an empty answer."""

    @keys.add(Keys.SIGINT)
    def _interrupted(event: KeyPressEvent) -> None:
        _exit(event.app, KeyboardInterrupt())

    return keys


def _keys_of_choice(control: InquirerControl) -> KeyBindings:
    keys = KeyBindings()
    typed = ""

    @keys.add(Keys.ControlD, eager=True)
    def _end(event: KeyPressEvent) -> None:
        _exit(event.app, EOFError())

    @keys.add(Keys.ControlJ, eager=True)
    def _choose(event: KeyPressEvent) -> None:
        """What some terminals and programs send for Enter."""
        event.app.exit(result=control.get_pointed_at().value)

    @keys.add(Keys.Home, eager=True)
    @keys.add(Keys.End, eager=True)
    def _end_of_list(event: KeyPressEvent) -> None:
        enabled = [at for at, choice in enumerate(control.choices) if not choice.disabled]
        control.pointed_at = enabled[0 if event.key_sequence[0].key == Keys.Home else -1]

    @keys.add(Keys.Any)
    def _jump(event: KeyPressEvent) -> None:
        """To the next option that starts with the letters typed, as lists of files do it."""
        nonlocal typed
        for start in (typed + event.data, event.data):
            at = _next_starting(control, start)
            if at is not None:
                typed, control.pointed_at = start, at
                return

    return keys


def _next_starting(control: InquirerControl, start: str) -> int | None:
    """The option at the pointer or behind it (all around) whose label starts with `start`; one letter moves on."""
    count = len(control.choices)
    first = control.pointed_at + (1 if len(start) == 1 else 0)
    for at in ((first + step) % count for step in range(count)):
        choice = control.choices[at]
        if not choice.disabled and str(choice.title).lower().lstrip(" *").startswith(start.lower()):
            return at
    return None


def _complete(buffer: Buffer) -> None:
    """Go to the next completion; the only one is taken, and what lies in that folder is offered."""
    offered = buffer.complete_state.completions if buffer.complete_state else []
    if len(offered) == 1:
        buffer.apply_completion(offered[0])
    else:
        buffer.complete_next()


async def _complete_once_found(buffer: Buffer) -> None:
    """`_complete`, once something is found for what stands there; letters typed meanwhile end that."""
    typed = buffer.text
    for _ in range(round(_PATIENCE / _LOOK_AGAIN)):
        if buffer.text != typed:
            return
        if buffer.complete_state is not None and buffer.complete_state.completions:
            _complete(buffer)
            return
        if buffer.complete_state is None:
            buffer.start_completion()  # does nothing while an earlier search is still under way
        await asyncio.sleep(_LOOK_AGAIN)


def _keys_of_text(*, completes: bool) -> KeyBindings:
    keys = KeyBindings()

    @keys.add(Keys.Tab, filter=Condition(lambda: completes), eager=True)
    def _next(event: KeyPressEvent) -> None:
        """The next completion, as soon as there is one: right after typing they are still being looked for."""
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.completions:
            _complete(buffer)
        else:
            event.app.create_background_task(_complete_once_found(buffer))

    @keys.add(Keys.Enter, filter=has_completions, eager=True)
    def _take(event: KeyPressEvent) -> None:
        """Enter on a highlighted completion takes it; the next Enter accepts the answer."""
        buffer = event.current_buffer
        chosen = buffer.complete_state is not None and buffer.complete_state.current_completion is not None
        buffer.complete_state = None
        if not chosen:
            buffer.validate_and_handle()

    return keys
