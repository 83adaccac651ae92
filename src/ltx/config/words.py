"""The words of a command line, `key=value`, as texts."""

from __future__ import annotations

from typing import Any


def key_of(override: str) -> str:
    """Return an override's key."""
    return override.lstrip("+~?").partition("=")[0]


def head_of(override: str) -> str:
    """Return the first part of an override's key."""
    return key_of(override).partition(".")[0]


def text(value: Any) -> str:
    """Write a plain value as Hydra reads it on the command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{text(v)}" for key, v in value.items()) + "}"
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
