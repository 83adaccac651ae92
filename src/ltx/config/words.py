"""The words of a command line, `key=value`, as texts."""

from __future__ import annotations

import re
from typing import Any

QUOTES = '""'  # an empty text among values by name, which Hydra reads only so
DASHES = ("-", "\N{EM DASH}", "\N{EN DASH}")  # an editor makes one of the latter of two hyphens


def key_of(override: str) -> str:
    """Return an override's key."""
    return override.lstrip("+~?").partition("=")[0]


def head_of(override: str) -> str:
    """Return the first part of an override's key."""
    return key_of(override).partition(".")[0]


def text(value: Any) -> str:
    """Write a plain value as Hydra reads it on the command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text(v) or QUOTES}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def quoted(value: Any) -> str:
    """Write a plain value as Hydra reads it, texts in quotes: its grammar knows few characters outside of them."""
    if isinstance(value, list):
        return "[" + ",".join(map(quoted, value)) + "]"
    if not isinstance(value, str):
        return text(value)
    escaped = value.replace("'", "\\'")  # within quotes Hydra reads a backslash as itself, except before a quote
    return f"'{escaped}'"


def plain_root(word: str) -> str:
    """Quote the value of `root=DIR` for Hydra, whose grammar knows few characters: any folder's name just works."""
    key, equals, value = word.partition("=")
    if key != "root" or not equals or value[:1] in ("'", '"', "$") or not value:
        return word
    return f"root={quoted(value)}"


def unreadable(word: str) -> str:
    """Say why a word is no `key=value`, and how it is probably meant."""
    key, equals, value = word.partition("=")
    if word.startswith(DASHES):
        return f"values are set without dashes: {word.lstrip(''.join(DASHES))}"
    if word[:1] in ("'", '"'):
        return f"write it without the quotes around all of it: {word.strip(word[0])}"
    if not equals and ":" in word:
        return f"write {word.replace(':', '=', 1)}"
    if not equals:
        return f"give it a value, {word or 'key'}=VALUE"
    if " " in value and "=" in value:
        return "these are several words; write them without the quotes around all of them"
    if not all(key.lstrip("+~").split(".")):
        return "a key is one or more names with dots between them, method.levels"
    if value.startswith("="):
        return f"write {key}={value.lstrip('=')}"
    if any(value.count(opening) != value.count(closing) for opening, closing in ("()", "[]", "{}")):
        return "a bracket is not closed"
    if value.endswith(",") or ",," in value:
        return "a value is missing beside a comma"
    if re.search(r":[,}]", value):
        return f"an empty text needs quotes, and these need others around all of the word: '{key}={{NAME:{QUOTES}}}'"
    if value.startswith("{"):
        return "values by name are written {NAME:VALUE,NAME:VALUE}"
    return f"special characters need quotes of their own: \"{key}='...'\""
