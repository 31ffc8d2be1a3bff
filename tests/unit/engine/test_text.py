"""Pieces to text: whole characters, and nothing of a stop string."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprstream.core.generation import TokenLogprob
from hyprstream.engine.text import TextAssembler


def assemble(pieces: list[bytes], stops: list[str]) -> tuple[str, list[str], bool]:
    assembler = TextAssembler(stops)
    shown: list[str] = []
    for piece in pieces:
        text = assembler.push(piece)
        shown.append(text.text)
        if text.is_stopped:
            return "".join(shown), shown, True
    return "".join(shown) + assembler.flush().text, shown, False


def one_character_at_a_time(text: str, stops: list[str]) -> str:
    """The law, spelled out: the first stop string to be complete cuts the text where it begins."""
    for end in range(1, len(text) + 1):
        begins = [end - len(s) for s in stops if text[:end].endswith(s)]
        if begins:
            return text[: min(begins)]
    return text


def test_a_character_whose_bytes_come_in_two_tokens_appears_when_it_is_complete() -> None:
    euro = "€".encode()
    assert assemble([b"a", euro[:1], euro[1:], b"b"], [])[1] == ["a", "", "€", "b"]


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    assert assemble([b"a", "€".encode()[:2]], [])[0] == "a"


def test_bytes_that_are_not_utf8_become_replacement_characters() -> None:
    assert assemble([b"a\xffb"], [])[0] == "a\ufffdb"


def test_a_stop_string_that_straddles_tokens_is_never_half_shown() -> None:
    text, shown, is_stopped = assemble([b"one ST", b"O", b"P two"], ["STOP"])
    assert (text, shown, is_stopped) == ("one ", ["one ", "", ""], True)


def test_what_only_looked_like_a_stop_string_appears_after_all() -> None:
    assert assemble([b"ST", b"OOL"], ["STOP"]) == ("STOOL", ["", "STOOL"], False)


def test_what_was_held_back_appears_when_the_text_ends() -> None:
    assert assemble([b"a ST"], ["STOP"])[0] == "a ST"


ALPHABET = st.sampled_from("ab€")


@given(
    text=st.text(ALPHABET, max_size=24),
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 72), max_size=12),
)
def test_stop_strings_do_not_depend_on_where_tokens_end(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    data = text.encode()
    bounds = sorted({0, len(data), *(c for c in cuts if c <= len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    assert assemble(pieces, stops)[0] == one_character_at_a_time(text, stops)


@given(st.text(ALPHABET, max_size=24), st.lists(st.text(ALPHABET, min_size=1, max_size=3)))
def test_no_shown_text_is_ever_taken_back(text: str, stops: list[str]) -> None:
    final = one_character_at_a_time(text, stops)
    assembler, shown = TextAssembler(stops), ""
    for byte in text.encode():
        step = assembler.push(bytes([byte]))
        shown += step.text
        assert final.startswith(shown)
        if step.is_stopped:
            break


def logprob(token: int) -> TokenLogprob:
    return TokenLogprob(token, bytes([token]), -1.0)


def test_a_log_probability_comes_with_the_text_its_token_begins() -> None:
    assembler = TextAssembler(["XY"])
    assert assembler.push(b"aX", logprob(1)).logprobs == (logprob(1),)
    assert assembler.push(b"b", logprob(2)).logprobs == (logprob(2),)


def test_tokens_inside_a_stop_string_have_no_log_probability() -> None:
    assembler = TextAssembler(["XY"])
    assert assembler.push(b"X", logprob(1)).logprobs == ()
    assert assembler.push(b"Y", logprob(2)).logprobs == ()
    assert assembler.flush().logprobs == ()


@pytest.mark.parametrize("stops", [[], ["ZZ"]])
def test_every_log_probability_is_given_out_once(stops: list[str]) -> None:
    assembler = TextAssembler(stops)
    pieces = [b"a", b"\xe2\x82", b"\xac", b"Z", b"b", b"Z"]
    given_out = [lp for i, p in enumerate(pieces) for lp in assembler.push(p, logprob(i)).logprobs]
    assert [*given_out, *assembler.flush().logprobs] == [logprob(i) for i in range(len(pieces))]
