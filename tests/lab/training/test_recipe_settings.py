"""Typed values from TOML and from the command line."""

from __future__ import annotations

import math
from typing import Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ungated.lab.training.settings import Unsuitable, convert, describe, hint, parse, supported

WORDS = Literal["learned", "one"]


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("2M", int, 2_000_000),
        ("0.29M", int, 290_000),
        ("70K", int, 70_000),
        ("1.5K", float, 1500.0),
        ("1_000_000", int, 1_000_000),
        ("1e6", int, 1_000_000),
        ("-3", int, -3),
        ("3e-4", float, 3e-4),
        (".5", float, 0.5),
        ("2.", float, 2.0),
        ("7", float, 7.0),
        ("true", bool, True),
        ("False", bool, False),
        ("none", int | None, None),
        ("null", Optional[float], None),  # noqa: UP045
        ("12", Union[int, None], 12),  # noqa: UP007
        ("none", str, "none"),
        ("12", str, "12"),
        ("true", str, "true"),
        ("2M", str, "2M"),
        ("one", WORDS | float, "one"),
        ("0.95", WORDS | float, 0.95),
        ("0.95", str | float, 0.95),
        ("learned", str | float, "learned"),
        ("3", int | float, 3),
        ("3", Any, 3),
        ("none", Any, None),
        ("1,2, 3", list[int], [1, 2, 3]),
        ("[1K, 2K]", tuple[int, ...], (1000, 2000)),
        ("a,1", list[str], ["a", "1"]),
        ("none", list[int] | None, None),
    ],
)
def test_parse(text, annotation, value):
    parsed = parse(text, annotation)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "words"),
    [
        ("abc", int, 'should be an integer, got "abc"'),
        ("1.5", int, 'should be an integer, got "1.5"'),
        ("true", int, "should be an integer"),
        ("1", bool, "should be true or false"),
        ("yes", bool, "should be true or false"),
        ("none", int, "should be an integer"),
        ("nan", float, "should be a number"),
        ("inf", float, "should be a number"),
        ("1e400", float, "should be a number"),
        ("9" * 40, int, "should be an integer"),
        ("2m", int, "should be an integer"),
        ("1__0", int, "should be an integer"),
        ("3e-4", int | None, "should be an integer or none"),
        ("two", WORDS | float, 'should be a number or "learned" or "one"'),
        ("1,x", list[int], 'should be an integer, got "x"'),
        ("x" * 200, int, r'should be an integer, got "x{76}\.\.\.'),
    ],
)
def test_parse_refuses(text, annotation, words):
    with pytest.raises(Unsuitable, match=words):
        parse(text, annotation)


@pytest.mark.parametrize(
    ("value", "annotation", "converted"),
    [
        (3, float, 3.0),
        (2e6, int, 2_000_000),
        ("none", int | None, None),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("one", WORDS, "one"),
    ],
)
def test_convert(value, annotation, converted):
    assert convert(value, annotation) == converted
    assert type(convert(value, annotation)) is type(converted)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ("3", int),
        (True, int),
        (1, bool),
        (True, float),
        (1.5, int),
        (math.nan, float),
        (math.inf, int),
        (10**400, float),
        (10**400, int),
        (3, str),
        (None, int),
        ({"a": 1}, str),
        ([1], int),
        ("two", WORDS),
        ([0] * 2000, list[int]),
    ],
)
def test_convert_refuses(value, annotation):
    with pytest.raises(Unsuitable):
        convert(value, annotation)


def test_a_number_that_is_too_large_is_told_the_limit():
    with pytest.raises(Unsuitable, match=r"a number of at most 1e\+15 in size, got 1e\+30"):
        convert(1e30, float)
    with pytest.raises(Unsuitable, match=r"an integer of at most 1e\+15 in size"):
        parse("10000000000000000", int)


def test_a_value_is_never_looked_up():
    # OmegaConf would read the environment here.
    assert convert("${oc.env:HOME}", str) == "${oc.env:HOME}"
    assert convert("???", str) == "???"


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text):
    for annotation in (int, float, bool, int | None, WORDS | float, list[float]):
        try:
            value = parse(text, annotation)
        except Unsuitable:
            continue
        assert convert(value, annotation) == value


def test_supported_types():
    assert all(supported(kind) for kind in (int, str | None, WORDS | float, list[int], tuple[float, ...], Any))
    assert not any(supported(kind) for kind in (dict, dict[str, int], object, list[dict], int | object))


def test_words_for_types():
    assert describe(float | None) == "a number or none"
    assert describe(int | float) == "a number"
    assert describe(list[int]) == "a list of which each is an integer"


def test_hint_names_the_nearest_or_nothing():
    assert hint("dropuot", ["depth", "dropout"]) == " (did you mean dropout?)"
    assert hint("depth", ["eps"]) == ""
