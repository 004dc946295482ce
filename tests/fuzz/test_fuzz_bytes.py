"""Any bytes in any of the files: said what is wrong, where, and within a second; never a traceback."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from valid_files import PAIRS

from simpletune.config.problems import Problem, render_all
from simpletune.config.validate import check, exit_code

FILES = ("config.json", "multidatabackend.json", "prompts.json")
CONFIG, DATA = PAIRS["full"].text()
PROMPTS = '{"dog": "a photo of a dog"}'
DEEP = 100_000


def content_with(name: str, data: bytes) -> dict[str, bytes]:
    return {"config.json": CONFIG.encode(), "multidatabackend.json": DATA.encode(), "prompts.json": PROMPTS.encode(),
            name: data}  # fmt: skip


def problems_with(place: Path, name: str, data: bytes, overrides: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    """What is said when one of the files holds `data`; the text of it is made too, as a person would see it."""
    planned = {place / file: content for file, content in content_with(name, data).items()}
    before = time.process_time()
    found = check(place / "config.json", overrides, planned).problems
    text = render_all(found)
    assert time.process_time() - before < 10
    assert all(len(line) < 600 for line in text.splitlines()), text[:2000]
    assert all(problem.line or problem.file.startswith("--set") for problem in found), text
    return found


BYTES = {
    "nothing": b"",
    "blanks": b" \n\t\r\n",
    "zeros": b"\x00" * 100,
    "a picture": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 4,
    "a zip": b"PK\x03\x04" + bytes(range(255, -1, -1)) * 4,
    "UTF-16": '{"seed": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"seed": 1}'.encode("utf-16-be"),
    "Latin-1": '{"validation_prompt": "Café"}'.encode("latin-1"),
    "half a surrogate pair in bytes": b'{"validation_prompt": "\xed\xa0\xbd"}',
    "half a surrogate pair": b'{"validation_prompt": "\\ud83d", "\\udc00": 1}',
    "lists": b"[" * DEEP,
    "closed lists": b"[" * DEEP + b"]" * DEEP,
    "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "lists deep inside": b'{"lora_target": ' + b"[" * DEEP + b"]" * DEEP + b', "seed": -1}',
    "many keys": b"{" + b",".join(b'"k%d": 1' % number for number in range(2000)) + b"}",
    "one key many times": b"{" + b",".join([b'"seed": 1'] * 2000) + b"}",
    "a long key": b'{"' + b"k" * 100_000 + b'": 1}',
    "a long value": b'{"device": "' + b"v" * 100_000 + b'", "seed": "' + b"1" * 100_000 + b'", "lora_rank": 1.5}',
    "a long number": b'{"seed": ' + b"7" * 100_000 + b', "learning_rate": 0.' + b"0" * 100_000 + b"1}",
    "a long word": b'{"seed": ' + b"w" * 100_000 + b"}",
    "terminal escapes": b'{"\\u001b[31mred": "\\u001b]0;title\\u0007", "\x1b[2J": 1}',
    "a null object": b"null",
    "text": b'"text"',
    "a number": b"16",
}


@pytest.mark.parametrize("data", BYTES.values(), ids=list(BYTES))
def test_bytes(place: Path, data: bytes) -> None:
    assert exit_code(problems_with(place, "config.json", data)) == 2


@pytest.mark.fault
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("data", BYTES.values(), ids=list(BYTES))
def test_bytes_in_each_file(place: Path, name: str, data: bytes, tally) -> None:
    found = problems_with(place, name, data)
    assert exit_code(found) == 2
    assert len(found) < 100
    tally("bad inputs: files of other bytes", 1)


@pytest.mark.parametrize("name", FILES)
def test_a_byte_order_mark_and_other_line_ends_are_fine(place: Path, name: str) -> None:
    text = content_with("", b"")[name]
    for changed in (b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n"), text.replace(b"  ", b"\t")):
        assert problems_with(place, name, changed) == ()


@pytest.mark.parametrize(
    "key", ["lora_target", "seed", "optimizer_config.eps", "dataset.0.caption_filter", "output_dir"]
)
def test_overrides(place: Path, key: str) -> None:
    for value in ("[" * DEEP, "1e400", "7" * 100_000, "\x00", "\x1b[31m", '"' + "x" * 100_000 + '"', "{", "nan"):
        if key != "output_dir" or len(value) > 5000:
            assert exit_code(problems_with(place, "config.json", CONFIG.encode(), (f"{key}={value}",))) == 2


@pytest.mark.fault
def test_random_bytes(place: Path, tally) -> None:
    draw = random.Random(1)
    for number in range(300):
        name = FILES[number % 3]
        data = content_with("", b"")[name] if number % 2 else draw.randbytes(draw.randrange(200))
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(data) + 1)
            data = data[:at] + draw.randbytes(draw.randrange(4)) + data[at + draw.randrange(30) :]
        problems_with(place, name, data)
    tally("bad inputs: files of random bytes", 300)
