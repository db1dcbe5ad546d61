"""Strategy expressions: `fuzzy`, `fuzzy(alpha=0.3)`, `additive(per_channel=true) + fuzzy`.

A value is a number, true, false, none, a quoted string, or bare text up to the next comma.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from noisegan.errors import NoiseganError

_TERM = re.compile(r"(?P<name>[A-Za-z][\w-]*)\s*(?:\((?P<arguments>.*)\))?", re.DOTALL)
_ARGUMENT = re.compile(r"(?P<key>[A-Za-z]\w*)\s*=\s*(?P<value>.+)", re.DOTALL)
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


def parse_expression(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split an expression into (name, arguments) pairs, in order of application.

    Raises:
        NoiseganError: when the text is not an expression.
    """
    terms = []
    for part in _split(text, "+", text):
        term = _TERM.fullmatch(part)
        if term is None:
            raise _malformed(text, f"{part!r} is not a strategy" if part else "a strategy is missing")
        arguments: dict[str, Any] = {}
        for item in _split(term["arguments"], ",", text) if (term["arguments"] or "").strip() else []:
            argument = _ARGUMENT.fullmatch(item)
            if argument is None:
                raise _malformed(text, f"{item!r} is not key=value")
            if argument["key"] in arguments:
                raise _malformed(text, f"{argument['key']!r} is given twice")
            arguments[argument["key"]] = _value(argument["value"])
        terms.append((term["name"], arguments))
    return terms


def _split(text: str, mark: str, whole: str) -> list[str]:
    """Parts of `text` between the marks that stand outside brackets and quotes; errors quote the `whole`."""
    parts, depth, quote, escaped = [""], 0, "", False
    for character in text:
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in "\"'":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                raise _malformed(whole, f"a {character!r} closes nothing")
        if character == mark and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if quote or depth:
        raise _malformed(whole, "a bracket or quote is not closed")
    return [part.strip() for part in parts]


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _malformed(text: str, why: str) -> NoiseganError:
    return NoiseganError(
        f"cannot read the noise expression {text!r}: {why}; write for example fuzzy, 'fuzzy(alpha=0.3)' "
        "or 'additive+fuzzy'"
    )
