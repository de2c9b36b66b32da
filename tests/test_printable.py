"""Text that moves no cursor: what a terminal could act on is never printed, and all else stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt_core.cli.writing import write_report
from tinygpt_core.printable import (
    escape_unprintable,
    is_printable,
    replace_control_characters,
    replace_unprintable,
)
from tinygpt_core.tokenizer import replace_control_characters as of_the_tokenizer

texts = st.text(st.characters(exclude_categories=()))  # half surrogate pairs, too


@pytest.mark.parametrize("show", [escape_unprintable, replace_unprintable])
@given(text=texts)
def test_what_is_shown_is_printable(show: Callable[[str], str], text: str) -> None:
    assert show(text).isprintable()
    printable = "".join(filter(str.isprintable, text))
    assert show(printable) == printable


@given(text=texts)
def test_line_breaks_may_stay(text: str) -> None:
    shown = replace_unprintable(text, keep="\n\t")
    assert len(shown) == len(text) and is_printable(shown, keep="\n\t")
    assert is_printable(text, keep="\n\t") == (shown == text)


def test_ways_to_show_a_character() -> None:
    assert escape_unprintable("a\x1b[2J é\u202e\U000e0001") == r"a\x1b[2J é\u202e\U000e0001"
    assert replace_unprintable("a\x1b[2J é\n") == "a\ufffd[2J é\ufffd"
    assert replace_control_characters("a\tb\x1b") == r"a\u0009b\u001b"
    assert of_the_tokenizer is replace_control_characters


def test_a_report_has_no_control_characters_wherever_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    write_report("a\x07b\x1b[2J\tc\n")
    assert capsys.readouterr().out == "a\ufffdb\ufffd[2J\tc\n"
