"""JMESPath expressions (https://jmespath.org/specification.html): validated at the start, searched per delivery."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tidewire.errors import MappingError
from tidewire.ingest.mapping.payload import Payload, encode, is_finite

MAX_LENGTH = 4_096  # characters

# Besides jmespath's own errors (ValueError): `a < b` of a string and a number, floor() of more than a double holds.
_FAILURES = (ValueError, TypeError, ArithmeticError, AttributeError)


class Expression:
    """A compiled expression. The constructor raises ValueError with the problem of the text."""

    def __init__(self, text: str) -> None:
        import jmespath

        if len(text) > MAX_LENGTH:
            raise ValueError(f"has more than {MAX_LENGTH:,} characters")
        try:
            self._compiled = jmespath.compile(text)
        except jmespath.exceptions.JMESPathError as error:
            raise ValueError(f"is not JMESPath: {_reason(error)}") from None
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        for node in _nodes(self._compiled.parsed):
            _check_call(node)
        self._path = _plain_path(self._compiled.parsed)

    def search(self, payload: Payload) -> Any:
        """Return the value found, None if there is none. Raises MappingError, without any part of the payload."""
        from jmespath.visitor import Options

        try:
            return self._compiled.search(payload.value, Options(custom_functions=function_class()(payload.headers)))
        except _FAILURES as error:
            raise MappingError(f"cannot be computed: {_failure(error)}") from None

    def holds(self, payload: Payload) -> bool:
        """Whether the result is true in JMESPath: not false, null or empty. Raises MappingError."""
        value = self.search(payload)
        return value is not None and value is not False and value not in ("", [], {})

    def json(self, payload: Payload) -> bytes | None:
        """Return the JSON text of the result, None if it is missing or null. Raises MappingError.

        A plain path (`deployment.payload`, `tasks[0]`, `@`) returns the text of the body byte by byte; any other
        expression keeps the digits of numbers and formats the rest anew.
        """
        if self._path is not None:
            part = payload.part(self._path)
            return None if part == b"null" else part
        value = self.search(payload)
        try:
            return None if value is None else encode(value)
        except _FAILURES:
            raise MappingError("is not a JSON value") from None


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a node of the parsed expression and all its descendants."""
    pending = [node]
    while pending:
        node = pending.pop()
        yield node
        pending += [child for child in node.get("children", ()) if isinstance(child, dict)]


def _check_call(node: Mapping[str, Any]) -> None:
    """Refuse an unknown function and a wrong number of arguments now; jmespath would only at the first delivery."""
    if node["type"] != "function_expression":
        return
    name, given, table = node["value"], len(node["children"]), function_class().FUNCTION_TABLE
    if name not in table:
        raise ValueError(f"calls an unknown function; known are {', '.join(sorted(table))}")
    parameters = table[name]["signature"]
    is_variadic = bool(parameters) and bool(parameters[-1].get("variadic"))
    if given < len(parameters) or (given > len(parameters) and not is_variadic):
        at_least = "at least " if is_variadic else ""
        raise ValueError(f"calls {name}() with {given} arguments: it takes {at_least}{len(parameters)}")


def _plain_path(node: Mapping[str, Any]) -> list[str | int] | None:
    """Return the keys and indexes of a path without wildcards, None for any other expression."""
    match node["type"]:
        case "current" | "identity":
            return []
        case "field" | "index":
            return [node["value"]]
        case "subexpression" | "index_expression":
            path: list[str | int] = []
            for child in node["children"]:
                part = _plain_path(child)
                if part is None:
                    return None
                path += part
            return path
        case _:
            return None


@functools.cache
def function_class() -> Any:
    """Return the class of the functions that expressions can call: JMESPath's and `header`."""
    from jmespath import functions

    class Functions(functions.Functions):
        """JMESPath's functions and `header(name)`, because `@` is the payload alone."""

        def __init__(self, headers: Mapping[str, str]) -> None:
            self._headers = headers

        def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:
            """Call a function; an overflow (a sum beyond a double) is an error and not null."""
            result = super().call_function(function_name, resolved_args)
            if not is_finite(result):
                raise OverflowError
            return result

        @functions.signature({"types": ["string"]})
        def _func_header(self, name: str) -> str | None:
            return self._headers.get(name.lower())

        @functions.signature({"types": []})
        def _func_to_string(self, value: Any) -> str:
            # jmespath's own writes 1e5 as 100000.0.
            return value if isinstance(value, str) else encode(value).decode()

    return Functions


def _reason(error: Exception) -> str:
    """Return the problem in one line, without jmespath's drawing of the position."""
    from jmespath import exceptions

    if isinstance(error, exceptions.EmptyExpressionError):
        return "it is empty"
    if isinstance(error, exceptions.IncompleteExpressionError):
        return "it ends too early"
    if isinstance(error, exceptions.LexerError):
        return f"{error.message} at column {error.lexer_position + 1}"
    if isinstance(error, exceptions.ParseError):
        return f"unexpected {error.token_value!r} at column {error.lex_position + 1}"
    return "it cannot be read"


def _failure(error: Exception) -> str:
    """Return what failed; jmespath's own text holds the value, which is event data."""
    from jmespath import exceptions

    if isinstance(error, exceptions.JMESPathTypeError):
        expected = ", ".join(error.expected_types)
        return f"{error.function_name}() takes {expected}, not {error.actual_type}"
    if isinstance(error, ArithmeticError):
        return "a number is too large"
    if isinstance(error, TypeError):
        return "it compares or sorts values of different types"
    return "a function does not accept this value"
