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
_LEAST_NOTE = 11  # columns; with less beside the labels, notes stand below only
_LEAST_DETAIL = 6  # lines there may always be, if a third of the window's are less
_LEAST_REASON = 24  # the same for why an option is unavailable, which is never cut
_MANY_OPTIONS, _FEW_OPTIONS = 8, 5  # lines of options that other lines give way for
_WIDE = 60  # columns from which there is room for more than the necessary
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
    """What the question is called in the line that stays; without a name, "Model" of "3 of 14 · Model"."""
    return screen.name or screen.heading.replace(" - ", " · ").rpartition(" · ")[2] or screen.title


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


def choice_screen(screen: Screen, pointed: int, columns: int, rows: int, signs: Signs) -> list[Line]:
    """All of a choice while it is asked, in at most `rows` lines if there are at least a dozen.

    What is too much leaves in this order: what the question is about, the options furthest from the pointer, the
    figures, the details of the option.
    """
    listed = _listed(screen, pointed, columns, signs)
    detail = _detail(listed, pointed, columns, max(_LEAST_DETAIL, rows // 3), signs)
    keys = footer(screen, columns, signs)
    all_options = sum(len(row.lines) for row in listed)
    for about, panel, below, least in (
        (True, True, detail, _MANY_OPTIONS),
        (False, True, detail, _MANY_OPTIONS),
        (False, True, detail, _FEW_OPTIONS),
        (False, False, detail, _FEW_OPTIONS),
        (False, False, [], 0),
    ):
        above = header(screen, columns, about, panel)
        room = rows - len(above) - len(below) - len(keys)
        if room >= min(all_options, least):
            break
    return [*above, *_around(listed, pointed, max(room, 3), signs), *below, *keys]


def above_typed(screen: Screen, columns: int, rows: int, signs: Signs) -> list[Line]:
    """What stands above the line that is typed, in at most `rows` lines if there are at least half a dozen."""
    recommended = _recommendation(screen, columns, signs)
    for about, panel in ((True, True), (False, True), (False, False)):
        lines = [*header(screen, columns, about, panel), *recommended]
        if len(lines) <= rows:
            break
    return lines


def header(screen: Screen, columns: int, about: bool, panel: bool) -> list[Line]:
    """Heading, title, what it is about, figures, the problem of the last answer, between two empty lines."""
    lines: list[Line] = [[], *_styled(wrap(screen.heading, columns), "class:heading")]
    lines += _styled(wrap(screen.title, columns), "class:title")
    if screen.about and about:
        lines += _styled(wrap(screen.about, columns), "class:about")
    if screen.panel and panel:
        lines += [[], *_styled([part for text in screen.panel for part in _panel(text, columns)], "class:panel")]
    if screen.problem:
        problem = wrap(f"Problem: {screen.problem}", columns, "", " " * len("Problem: "))
        lines += [[], *_styled(problem, "class:problem")]
    return [*lines, []]


def _panel(text: str, columns: int) -> list[str]:
    return wrap(text, columns, _MARGIN, _MARGIN + hanging_indent(text, columns))


def _styled(lines: Sequence[str], style: str) -> list[Line]:
    return [[(style, line)] for line in lines]


def _recommendation(screen: Screen, columns: int, signs: Signs) -> list[Line]:
    text = signs.clean(recommended_text(screen))
    return _styled(wrap(text, columns), "class:recommended") if text else []


def recommended_text(screen: Screen) -> str:
    """What is recommended as a typed answer, and why: "recommended 1500: 26 pictures, each seen about 60 times"."""
    value = "" if screen.recommended is None else f" {screen.recommended}"
    reason = f": {screen.reason}" if screen.reason else ""
    return f"recommended{value}{reason}" if value or reason else ""


def footer(screen: Screen, columns: int, signs: Signs) -> list[Line]:
    """What the keys do, whole entries to a line."""
    choose = "Up/Down and Enter choose" if columns >= _WIDE else "Enter chooses"
    entries = ["Enter accepts" if screen.options is None else choose]
    entries += ["Tab completes"] if screen.path else []
    entries += ["Shift+Tab goes back"] if screen.can_go_back else []
    entries += ["Ctrl-C stops and keeps a draft"]
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
    label = padded(f"? {name}", _NAME_COLUMNS) if columns >= _WIDE else f"? {name}"
    answer = signs.clean(answer).strip() or "(nothing)"
    room = columns - width(label) - 2
    shown_answer = cut_middle(answer, room, signs.ellipsis)
    return [("class:mark", label[:2]), ("class:name", label[2:] + "  "), ("class:answer", shown_answer)]


@dataclass(frozen=True)
class _Row:
    """One option as it is listed, and what there is to say about it that did not fit."""

    lines: tuple[Line, ...]
    rest: tuple[str, ...]


def _listed(screen: Screen, pointed: int, columns: int, signs: Signs) -> list[_Row]:
    back = Option(None, BACK_LABEL, BACK_NOTE if columns >= _WIDE else "")
    options = [*(screen.options or ()), *([back] if screen.can_go_back else [])]
    label_columns = min(max(width(option.label) for option in options), max(12, (columns - 4) // 2))
    return [_row(screen, option, at == pointed, label_columns, columns, signs) for at, option in enumerate(options)]


def _row(screen: Screen, option: Option, here: bool, label_columns: int, columns: int, signs: Signs) -> _Row:
    style = "class:disabled" if option.disabled else "class:pointed" if here else "class:option"
    pointer = signs.pointer if here else " "
    labels = wrap(option.label, label_columns) if width(option.label) > label_columns else [option.label]
    room = columns - label_columns - 5
    remarks, rest = _remarks(screen, option, room, signs)
    lines: list[Line] = []
    for at in range(max(len(labels), len(remarks))):
        label = labels[at] if at < len(labels) else ""
        remark = remarks[at] if at < len(remarks) else []
        text = padded(label, label_columns) if remark else label
        lead = ("class:pointer", f" {pointer} ") if at == 0 else ("", "   ")
        lines.append([lead, (style, text), *([("", "  "), *remark] if remark else [])])
    if not remarks and option.disabled:
        lines += [[("class:disabled", line)] for line in wrap(unavailable(option), columns - 1, "     ")]
    return _Row(tuple(lines), tuple(rest))


def unavailable(option: Option) -> str:
    """Why it can't be chosen, in words that need no colour."""
    return f"unavailable: {option.disabled}"


def _remarks(screen: Screen, option: Option, room: int, signs: Signs) -> tuple[list[Line], list[str]]:
    """What stands beside an option (lines of fragments), and what of it did not fit."""
    if option.disabled:
        return _styled(wrap(unavailable(option), room) if room >= _LEAST_REASON else [], "class:disabled"), []
    marked = screen.recommended is not None and same(option.value, screen.recommended)
    note, mark = option.note, "recommended" if marked else ""
    reason = f"{mark}: {screen.reason}" if marked and screen.reason else mark
    for beside, rest in ((reason, []), (mark, [reason] if reason != mark else [])):
        if width(signs.dot.join(part for part in (note, beside) if part)) <= room:
            return _beside(note, beside, signs), rest
    left = room - (width(mark + signs.dot) if mark else 0)
    note_cut = cut(note, left, signs.ellipsis) if left >= _LEAST_NOTE else ""
    mark = mark if width(mark) <= room else ""
    return _beside(note_cut, mark, signs), [text for text in (note, reason if reason != mark else "") if text]


def _beside(note: str, mark: str, signs: Signs) -> list[Line]:
    line = [("class:note", note)] if note else []
    line += [("class:recommended", signs.dot + mark if note else mark)] if mark else []
    return [line] if line else []


def _detail(listed: Sequence[_Row], pointed: int, columns: int, most: int, signs: Signs) -> list[Line]:
    """What did not fit beside the option pointed at, in as many lines as any option needs, so that nothing jumps."""
    wrapped = [[line for text in row.rest for line in wrap(text, columns, _MARGIN)] for row in listed]
    height = min(max(len(lines) for lines in wrapped), most)
    here = wrapped[pointed]
    if len(here) > height:
        here = [*here[: height - 1], cut(here[height - 1] + " " * columns, columns, signs.ellipsis)]
    return [[], *_styled(here, "class:detail"), *([] for _ in range(height - len(here)))] if height else []


def _around(listed: Sequence[_Row], pointed: int, room: int, signs: Signs) -> list[Line]:
    """The options around the pointer that fit into `room` lines; a line says how many there are before and behind."""
    first = last = pointed
    grown = True
    while grown:
        grown = False
        for lower, upper in ((first, last + 1), (first - 1, last)):
            if lower >= 0 and upper < len(listed) and _height(listed, lower, upper) <= room:
                first, last, grown = lower, upper, True
                break
    above, below = first, len(listed) - 1 - last
    return [
        *([[("class:footer", f"   {signs.ellipsis} {above} more above")]] if above else []),
        *(line for row in listed[first : last + 1] for line in row.lines),
        *([[("class:footer", f"   {signs.ellipsis} {below} more below")]] if below else []),
    ]


def _height(listed: Sequence[_Row], first: int, last: int) -> int:
    """Lines that the options from `first` to `last` take, with those that say what is left out."""
    left_out = (first > 0) + (last < len(listed) - 1)
    return sum(len(row.lines) for row in listed[first : last + 1]) + left_out
