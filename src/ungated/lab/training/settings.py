"""Typed values: what a recipe or `key=value` says, as the type that a dataclass field or an argument declares.

Settings are bool, int, float, str, None, Literal, unions of these, and lists or tuples of one of them. Conversion is
strict and plain: no interpolation, no environment variables, no code. (OmegaConf was tried here: it would resolve
"${oc.env:...}" of somebody else's recipe, take "???" for a missing value and 2e6 for no integer.)
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

LARGEST = 10**15
_MULTIPLES = {"K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
_INTEGER = re.compile(r"[+-]?\d+(_\d+)*")
_NUMBER = re.compile(r"([+-]?(?:\d+(?:_\d+)*\.?(?:\d+)?|\.\d+)(?:[eE][+-]?\d+)?)([KMGB]?)")
_NONE = ("none", "null")


class Unsuitable(ValueError):
    """A value that is not of the declared type; the message says what it should be."""


def convert(value: object, annotation: Any) -> Any:
    """`value`, as TOML or Python has it, as `annotation`; Unsuitable otherwise.

    An int is a float; a whole float is an int; "none" is None where the type allows None; a bool is only a bool.
    """
    for kind in _alternatives(annotation):
        found, result = _convert_one(value, kind)
        if found:
            return result
    raise Unsuitable(f"should be {describe(annotation)}{_limit(value)}, got {shown(value)}")


def parse(text: str, annotation: Any) -> Any:
    """`text`, as typed on a command line, as `annotation`; Unsuitable otherwise. Understands 2M, 3e-4, 1_000, none."""
    alternatives = _alternatives(annotation)
    for kind in alternatives:
        if get_origin(kind) in (list, tuple) and text not in _NONE:
            return get_origin(kind)(parse(item, get_args(kind)[0]) for item in _items(text))
    for candidate in (_number(text), text):
        for kind in alternatives:
            found, result = _convert_one(candidate, kind)
            if found:
                return result
    raise Unsuitable(f"should be {describe(annotation)}{_limit(_number(text))}, got {shown(text)}")


def supported(annotation: Any) -> bool:
    """Whether `convert` and `parse` can make values of this type."""
    for kind in _alternatives(annotation):
        if get_origin(kind) in (list, tuple):
            if not supported(get_args(kind)[0]):
                return False
        elif get_origin(kind) is not Literal and kind not in (bool, int, float, str, types.NoneType):
            return False
    return True


def describe(annotation: Any) -> str:
    """The type in words: "an integer", "a number or none", ..."""
    words: list[str] = []
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", types.NoneType: "none"}
    alternatives = _alternatives(annotation)
    for kind in sorted(alternatives, key=lambda kind: kind is types.NoneType):
        if get_origin(kind) is Literal:
            words.extend(shown(choice) for choice in get_args(kind))
        elif get_origin(kind) in (list, tuple):
            words.append(f"a list of which each is {describe(get_args(kind)[0])}")
        elif not (kind is int and float in alternatives):
            words.append(names.get(kind, str(kind)))
    return " or ".join(words)


def _limit(value: object) -> str:
    too_large = isinstance(value, (int, float)) and not abs(value) <= LARGEST
    return f" of at most {LARGEST:.0e} in size" if too_large else ""


def shown(value: object) -> str:
    """A value as TOML writes it, cut short where it is long."""
    if value is None:
        return "none"
    return plain(json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, str)) else value)


def plain(text: object) -> str:
    """Foreign text for a message: on one line, control characters escaped, cut short where it is long."""
    whole = str(text)
    cut = whole if len(whole) <= 80 else f"{whole[:77]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)


def hint(wrong: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the nearest known name, or nothing where none is near."""
    near = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, in the order in which a value is tried: text last, since it takes anything."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for member in get_args(annotation) for kind in _alternatives(member)]
    elif annotation is Any:
        kinds = [types.NoneType, bool, int, float, str]
    else:
        kinds = [types.NoneType if annotation is None else annotation]
    order = [types.NoneType, bool, int, float]
    return sorted(kinds, key=lambda kind: order.index(kind) if kind in order else 4 + (kind is str))


def _convert_one(value: object, kind: Any) -> tuple[bool, Any]:
    """(whether it fits, the value)."""
    if kind is types.NoneType:
        return value is None or value in _NONE, None
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind)), value
    if get_origin(kind) in (list, tuple):
        if not isinstance(value, (list, tuple)) or len(value) > 1000:
            return False, None
        item_type = get_args(kind)[0]
        return True, get_origin(kind)(convert(item, item_type) for item in value)
    if kind is bool:
        return isinstance(value, bool), value
    if kind is str:
        return isinstance(value, str), value
    # Compared before it is converted: TOML's integers have no limit.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        return False, None
    if kind is int:
        return value == int(value), int(value)
    return kind is float, float(value)


def _number(text: str) -> object:
    """The bool or number that the text writes, else the text."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text) and len(text) <= 30:
        return int(text)
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > 60:
        return text
    if not match[2]:
        return float(match[1])
    value = float(match[1]) * _MULTIPLES[match[2]]
    # 0.29M is 290_000 and not 290_000.00000000006.
    return round(value) if abs(value - round(value)) < 1e-6 * max(1.0, abs(value)) else value


def _items(text: str) -> list[str]:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return [item.strip().strip("\"'") for item in text.split(",") if item.strip()]


def hints_of(owner: Any) -> dict[str, Any]:
    """Resolved annotations of a class or function; empty where they name what cannot be found."""
    try:
        return typing.get_type_hints(owner)
    except (NameError, TypeError, AttributeError, SyntaxError):
        return {}
