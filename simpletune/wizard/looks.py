"""A screen as lines of styled text for a terminal of some size. Pure: no terminal, no widget.

A line is a list of (style, text); the styles are named in `simpletune/wizard/terminal.py`. Whoever sees no colour
loses nothing: what a style says is also said by a word or a sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from simpletune.wizard.screen import Option, Screen
from simpletune.wizard.text import Signs, cut, cut_middle, hanging_indent, padded, width, wrap

Fragment = tuple[str, str]
Line = list[Fragment]

BACK_LABEL = "Back"
BACK_NOTE = "to the question before"
_MARGIN = "  "
_LEAST_REMARK = 24  # columns; with less beside the labels, remarks go below
_LEAST_OPTIONS = 6  # lines; the lines above give way to keep these
_NAME_COLUMNS = 22


def tidied(screen: Screen, signs: Signs) -> Screen:
    """The screen with every text safe to show."""
    safe = signs.clean
    options = screen.options and tuple(
        replace(
            option,
            label=safe(option.label),
            note=safe(option.note),
            disabled=None if option.disabled is None else safe(option.disabled),
        )
        for option in screen.options
    )
    return replace(
        screen,
        heading=safe(screen.heading),
        title=safe(screen.title),
        about=safe(screen.about),
        reason=safe(screen.reason),
        panel=tuple(safe(line) for line in screen.panel),
        problem=None if screen.problem is None else safe(screen.problem),
        options=options,
    )


def name_of(screen: Screen) -> str:
    """What the question is called in the line that stays: "Model" of "3 of 14 · Model"."""
    return screen.heading.replace(" - ", " · ").rpartition(" · ")[2] or screen.title


def same(one: Any, other: Any) -> bool:
    """Equal and of one type: True is not 1."""
    return type(one) is type(other) and bool(one == other)


def start_of(screen: Screen) -> int:
    """The option the pointer starts at: the default, else the recommended one, else the first that can be chosen.

    Raises ValueError when nothing can be chosen.
    """
    options = screen.options or ()
    for wanted in (screen.default, screen.recommended):
        for at, option in enumerate(options):
            if wanted is not None and not option.disabled and same(option.value, wanted):
                return at
    enabled = [at for at, option in enumerate(options) if not option.disabled]
    if enabled:
        return enabled[0]
    if screen.can_go_back:
        return len(options)
    raise ValueError(f"no option of the question {screen.id!r} can be chosen")


def header(screen: Screen, columns: int, rows: int) -> list[Line]:
    """Heading, title, what it is, figures, the last answer's problem; the middle ones leave when `rows` are few."""
    heading = _styled(wrap(screen.heading, columns), "class:heading")
    title = _styled(wrap(screen.title, columns), "class:title")
    about = _styled(wrap(screen.about, columns), "class:about") if screen.about else []
    panel = [[("class:panel", line)] for text in screen.panel for line in _panel(text, columns)]
    problem = _problem(screen.problem, columns)
    panel = [[], *panel] if panel else []
    taken = len(heading) + len(title) + len(problem) + _LEAST_OPTIONS
    if taken + len(panel) > rows:
        panel = []
    if taken + len(panel) + len(about) > rows:
        about = []
    return [*heading, *title, *about, *panel, *problem, []]


def _panel(text: str, columns: int) -> list[str]:
    return wrap(text, columns, _MARGIN, _MARGIN + hanging_indent(text, columns))


def _problem(problem: str | None, columns: int) -> list[Line]:
    if problem is None:
        return []
    return [[], *_styled(wrap(f"Problem: {problem}", columns, "", " " * len("Problem: ")), "class:problem")]


def _styled(lines: Sequence[str], style: str) -> list[Line]:
    return [[(style, line)] for line in lines]


def recommendation(screen: Screen, columns: int, signs: Signs) -> list[Line]:
    """What is recommended as a typed answer, and why."""
    value = "" if screen.recommended is None else signs.clean(str(screen.recommended))
    text = ", ".join(part for part in (value, screen.reason) if part)
    return _styled(wrap(f"recommended: {text}", columns), "class:recommended") if text else []


def footer(screen: Screen, keys: Sequence[str], columns: int, signs: Signs) -> list[Line]:
    """What the keys do, whole entries to a line."""
    entries = [*keys, *(["Shift+Tab goes back"] if screen.can_go_back else []), "Ctrl-C stops and keeps a draft"]
    lines, line = [], ""
    for entry in entries:
        joined = f"{line}{signs.dot}{entry}" if line else entry
        if line and width(joined) > columns:
            lines.append(line)
            joined = entry
        line = joined
    return [[], *_styled([*lines, line], "class:footer")]


def answer_line(name: str, answer: str, columns: int, signs: Signs) -> Line:
    """The one line that stays of an answered question; names stand in a column where there is room."""
    name = cut(name, columns // 2, signs.ellipsis)
    label = padded(f"? {name}", _NAME_COLUMNS) if columns >= 60 else f"? {name}"
    answer = signs.clean(answer) or "(nothing)"
    room = columns - width(label) - 2
    shown_answer = cut_middle(answer, room, signs.ellipsis)
    return [("class:mark", label[:2]), ("class:name", label[2:] + "  "), ("class:answer", shown_answer)]


@dataclass(frozen=True)
class _Row:
    """One option as it is listed. `whole` says whether all there is to say about it stands in `lines`."""

    lines: tuple[Line, ...]
    detail: tuple[str, ...]
    whole: bool


def choices(screen: Screen, pointed: int, columns: int, rows: int, signs: Signs) -> list[Line]:
    """The options in at most about `rows` lines, those around the pointer when there are more, and, below, what did not
    fit beside the one that is pointed at."""
    options = [*(screen.options or ()), *([Option(None, BACK_LABEL, BACK_NOTE)] if screen.can_go_back else [])]
    label_columns = min(max(width(option.label) for option in options), max(12, (columns - 4) // 2))
    listed = [_row(screen, option, at == pointed, label_columns, columns, signs) for at, option in enumerate(options)]
    below = _detail(listed, pointed, columns)
    room = max(3, rows - len(below))
    return [*_around(listed, pointed, room, signs), *below]


def _row(screen: Screen, option: Option, here: bool, label_columns: int, columns: int, signs: Signs) -> _Row:
    style = "class:disabled" if option.disabled else "class:pointed" if here else "class:option"
    pointer = signs.pointer if here else " "
    labels = wrap(option.label, label_columns) if width(option.label) > label_columns else [option.label]
    room = columns - label_columns - 5
    remarks, detail, whole = _remarks(screen, option, room, signs)
    lines: list[Line] = []
    for at in range(max(len(labels), len(remarks))):
        label = labels[at] if at < len(labels) else ""
        remark = remarks[at] if at < len(remarks) else []
        text = padded(label, label_columns) if remark else label
        lead = ("class:pointer", f" {pointer} ") if at == 0 else ("", "   ")
        lines.append([lead, (style, text), *([("", "  "), *remark] if remark else [])])
    if not remarks and option.disabled:
        lines += [[("class:disabled", line)] for line in wrap(unavailable(option), columns - 1, "     ")]
    return _Row(tuple(lines), tuple(detail), whole)


def unavailable(option: Option) -> str:
    """Why it can't be chosen, in words that need no colour."""
    return f"unavailable: {option.disabled}"


def _remarks(screen: Screen, option: Option, room: int, signs: Signs) -> tuple[list[Line], list[str], bool]:
    """What stands beside an option (lines of fragments), all there is to say about it, and whether that is the same."""
    if option.disabled:
        lines = wrap(unavailable(option), room) if room >= _LEAST_REMARK else []
        return _styled(lines, "class:disabled"), [], True
    dot = signs.dot
    marked = screen.recommended is not None and same(option.value, screen.recommended)
    reason = f"recommended: {screen.reason}" if marked and screen.reason else "recommended" if marked else ""
    detail = [text for text in (option.note, reason) if text]
    if not detail:
        return [], [], True
    if width(dot.join(detail)) <= room:
        note = [("class:note", option.note + (dot if reason else ""))] if option.note else []
        return [[*note, *([("class:recommended", reason)] if reason else [])]], detail, True
    short = "recommended" if marked else ""
    if room < _LEAST_REMARK and not (short and room >= width(short)):
        return [], detail, False
    if not short:
        return [[("class:note", cut(option.note, room, signs.ellipsis))]], detail, False
    left = room - width(short) - width(dot)
    note = [("class:note", option.note + dot)] if option.note and width(option.note) <= left else []
    return [[*note, ("class:recommended", short)]], detail, False


def _detail(listed: Sequence[_Row], pointed: int, columns: int) -> list[Line]:
    """All there is to say about the option pointed at, in as many lines as any option needs, so that nothing jumps."""
    if all(row.whole for row in listed):
        return []
    wrapped = [[line for text in row.detail for line in wrap(text, columns, _MARGIN)] for row in listed]
    height = max(len(lines) for lines in wrapped)
    here = _styled(wrapped[pointed], "class:detail")
    return [[], *here, *([] for _ in range(height - len(here)))]


def _around(listed: Sequence[_Row], pointed: int, room: int, signs: Signs) -> list[Line]:
    """The options around the pointer that fit into `room` lines; a line says how many there are before and behind."""
    heights = [len(row.lines) for row in listed]
    if sum(heights) <= room:
        return [line for row in listed for line in row.lines]
    first = last = pointed
    taken = heights[pointed] + 2
    while True:
        grown = False
        if last + 1 < len(listed) and taken + heights[last + 1] <= room:
            last, grown = last + 1, True
            taken += heights[last]
        if first > 0 and taken + heights[first - 1] <= room:
            first, grown = first - 1, True
            taken += heights[first]
        if not grown:
            break
    more = [
        [("class:footer", f"   {signs.ellipsis} {count} more {where}" if count else "")]
        for count, where in ((first, "above"), (len(listed) - 1 - last, "below"))
    ]
    return [more[0], *(line for row in listed[first : last + 1] for line in row.lines), more[1]]
