"""`--vary`: braces and bars in a prompt, and what their wordings are called."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simpletune.errors import UsageError
from simpletune.results.prompts import named_prompts
from simpletune.results.rewording import MOST_WORDINGS, has_alternatives, reworded, wordings

WORDS = st.text(st.characters(exclude_characters="{}|"), max_size=12)


@given(st.lists(st.one_of(WORDS, st.lists(WORDS, min_size=1, max_size=4)), max_size=4))
def test_the_wordings_are_the_product_of_the_alternatives(parts: list[str | list[str]]) -> None:
    """Against itertools: each once, the first alternatives first, double spaces left by empty ones made one."""
    prompt = "start" + "".join(part if isinstance(part, str) else "{" + "|".join(part) + "}" for part in parts)
    choices = [[part] if isinstance(part, str) else part for part in parts]
    expected = ["start" + "".join(chosen) for chosen in itertools.product(*choices)]
    if "{" in prompt:
        expected = [" ".join(wording.split()) for wording in expected]
    assert wordings(prompt) == list(dict.fromkeys(expected))
    assert has_alternatives(prompt) == any(isinstance(part, list) and len(part) > 1 for part in parts)


@given(st.text(alphabet="ab {}|", max_size=30))
def test_any_text_is_wordings_or_a_mistake_that_is_explained(prompt: str) -> None:
    try:
        found = wordings(prompt)
    except UsageError:
        return
    assert len(set(found)) == len(found) > 0
    if "{" in prompt:
        assert not any(re.search(r"[{}]|\s\s", wording) for wording in found)


def test_alternatives_may_hold_alternatives() -> None:
    assert wordings("a {red {fox|owl}|cat}") == ["a red fox", "a red owl", "a cat"]
    assert wordings("a {very |}old {house}") == ["a very old house", "a old house"]
    assert wordings("this | that") == ["this | that"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a {b|c", "a { is never closed"),
        ("a b|c}", "a } closes nothing"),
        ("{|a}", "one of its wordings is empty"),
        ("{a|b}" * 20, f"more than {MOST_WORDINGS:,} wordings"),
        ("{" + "a|" * 5000 + "}", f"more than {MOST_WORDINGS:,} wordings"),
        ("{" * 5000, "nested more than"),
    ],
)
def test_mistakes(prompt: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        wordings(prompt)
    assert len(str(caught.value)) < 200


def test_names_say_the_wording_and_never_depend_on_the_other_alternatives() -> None:
    """So that a list may grow, and the pictures that are there are found again."""
    prompts = {**named_prompts(["a {red|blue} fox"]), "cat": "a {cat|tom}", "plain": "an owl"}
    named = reworded(prompts)
    assert {named[name] for name in ("a-red-fox", "a-blue-fox", "plain")} == {"a red fox", "a blue fox", "an owl"}
    of_cats = {name: text for name, text in named.items() if text in ("a cat", "a tom")}
    assert all(re.fullmatch(r"cat-[0-9a-f]{6}", name) for name in of_cats)
    grown = reworded({**named_prompts(["a {green|red|blue} fox"]), "cat": "a {kitten|cat|tom}"})
    assert grown.items() >= {**of_cats, "a-red-fox": "a red fox", "a-blue-fox": "a blue fox"}.items()
    with pytest.raises(UsageError, match="no prompt has alternatives"):
        reworded(named_prompts(["a fox", "a {fox}"]))
