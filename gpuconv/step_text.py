"""How a pipeline step is written as text: `name:key=value,key=value`, and back.

    value   = number | true | false | none | word | "text" | (value, ...) | [row; row]
    row     = number, number, ...

`[1,2,1]` has one axis, anything with a `;` has two: `[0,-1,0;-1,5,-1;0,-1,0]`, `[1,2,1;]`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuconv import kernels
from gpuconv.arrays import sequence_to_numpy

Matrix = npt.NDArray[Any]

MATRIX_ARGUMENTS = frozenset({"kernel", "kernel_y", "kernel_x", "footprint"})
"""Arguments whose brackets are arrays, and whose words are names of `gpuconv.kernels`."""

_CLOSING = {"(": ")", "[": "]"}
_WORDS = {"true": True, "false": False, "none": None}
_INTEGER = re.compile(r"[+-]?\d+")
_WORD = re.compile(r"[A-Za-z_]\w*")


def parse_step(text: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value,key=value` → (name, arguments)."""
    name, colon, rest = text.partition(":")
    arguments: dict[str, Any] = {}
    for item in split(rest, ",") if colon and rest.strip() else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (equals and key and value):
            raise ValueError(f"an argument of {name.strip()} must be key=value, got {item.strip()}")
        if key in arguments:
            raise ValueError(f"{key} must be given once, got it twice in {text}")
        arguments[key] = parse_value(key, value)
    return name.strip(), arguments


def format_step(name: str, arguments: Mapping[str, Any]) -> str:
    """(name, arguments) → the text that `parse_step` reads back, the same for equal arguments."""
    if not arguments:
        return name
    items = (f"{key}={format_value(key, arguments[key])}" for key in sorted(arguments))
    return f"{name}:{','.join(items)}"


def split(text: str, separator: str) -> list[str]:
    """`text` cut at each `separator` that no bracket and no quote protects."""
    parts, start, quote = [], 0, ""
    closers: list[str] = []
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in _CLOSING:
            closers.append(_CLOSING[char])
        elif char in _CLOSING.values():
            if not closers or closers.pop() != char:
                raise ValueError(f"brackets must be paired, got {text}")
        elif char == separator and not closers:
            parts.append(text[start:i])
            start = i + 1
    if closers or quote:
        raise ValueError(f"{'quotes' if quote else 'brackets'} must be closed, got {text}")
    return [*parts, text[start:]]


def parse_value(argument: str, text: str) -> Any:
    """One value. Brackets of a matrix argument give an array, all others a tuple."""
    text = text.strip()
    if argument in MATRIX_ARGUMENTS:
        return parse_matrix(argument, text)
    if text[:1] in ("(", "["):
        inner = _unbracket(argument, text)
        items = split(inner, ",") if inner.strip() else []
        if items and not items[-1].strip():
            items.pop()  # (3,) as Python writes it
        return tuple(parse_value(argument, item) for item in items)
    if text[:1] in ("'", '"'):
        return _unquote(argument, text)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        pass
    if _WORD.fullmatch(text):
        return text
    raise ValueError(
        f"{argument} must be a number, true, false, none, a word, (value, ...) or [row; row], "
        f"got {text}"
    )


def parse_matrix(argument: str, text: str) -> Matrix | str | None:
    """`[0,-1,0;-1,5,-1;0,-1,0]`, the same without brackets, or the name of a constant kernel."""
    text = text.strip()
    if text.lower() == "none":
        return None
    if text[:1] in ("'", '"'):
        text = _unquote(argument, text)
    if _WORD.fullmatch(text):
        named_kernel(argument, text)
        return text
    inner = _unbracket(argument, text) if text[:1] in ("(", "[") else text
    rows = [row for row in inner.split(";") if row.strip()]
    values = [[_number(argument, item, text) for item in row.split(",")] for row in rows]
    if len({len(row) for row in values}) != 1:
        raise ValueError(f"{argument} must have rows of one length, got {text}")
    return np.array(values if ";" in inner else values[0])


def named_kernel(argument: str, name: str) -> Matrix:
    """The constant of `gpuconv.kernels` that is called `name`."""
    if name not in kernel_names():
        raise ValueError(
            f"{argument} must be rows such as [0,-1,0;-1,5,-1;0,-1,0] or one of "
            f"{', '.join(kernel_names())}, got {name}"
        )
    matrix: Matrix = getattr(kernels, name)
    return matrix


def kernel_names() -> tuple[str, ...]:
    """The constant kernels of `gpuconv.kernels`, in its order."""
    return tuple(k for k in kernels.__all__ if isinstance(getattr(kernels, k), np.ndarray))


def format_value(argument: str, value: Any) -> str:
    """The text that `parse_value` reads back as `value`."""
    if isinstance(value, np.ndarray) or (argument in MATRIX_ARGUMENTS and is_nested(value)):
        return _format_matrix(argument, sequence_to_numpy(argument, value))
    if isinstance(value, (tuple, list)):
        items = [format_value(argument, item) for item in value]
        return f"({','.join(items)}{',' if len(items) == 1 else ''})"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float)):
        return str(value).lower() if value is None or isinstance(value, bool) else repr(value)
    if isinstance(value, (type, np.dtype)):
        value = np.dtype(value).name
    if isinstance(value, str):
        return _format_text(argument, value)
    kind = type(value).__name__
    raise ValueError(f"{argument} must be a number, text, tuple or array, got {kind}")


def is_nested(value: Any) -> bool:
    """Whether `value` is a Python sequence of numbers or of rows."""
    return isinstance(value, (list, tuple))


def _format_matrix(argument: str, matrix: Matrix) -> str:
    if matrix.ndim == 0 or matrix.ndim > 2 or matrix.size == 0 or matrix.dtype.kind not in "biuf":
        raise ValueError(
            f"{argument} must be an array of numbers with one or two axes, "
            f"got {matrix.dtype} of shape {matrix.shape}"
        )
    rows = [",".join(format_value("", v) for v in row) for row in np.atleast_2d(matrix).tolist()]
    return f"[{';'.join(rows)}{';' if matrix.ndim == 2 and len(rows) == 1 else ''}]"


def _format_text(argument: str, text: str) -> str:
    """A word as it is; quoted where it would read back as something else."""
    if "'" in text:
        raise ValueError(f"{argument} must hold no quote, got {text!r}")
    if _WORD.fullmatch(text) and text.lower() not in (*_WORDS, "inf", "infinity", "nan"):
        return text
    return f"'{text}'"


def _number(argument: str, text: str, whole: str) -> Any:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    except ValueError as error:
        raise ValueError(
            f"{argument} must hold numbers only, got {text or 'nothing'} in {whole}"
        ) from error


def _unbracket(argument: str, text: str) -> str:
    if len(text) < 2 or text[-1] != _CLOSING[text[0]]:
        raise ValueError(f"{argument} must close its brackets, got {text}")
    return text[1:-1]


def _unquote(argument: str, text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{argument} must close its quotes, got {text}") from error
