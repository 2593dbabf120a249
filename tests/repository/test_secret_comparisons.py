"""Secrets are compared in constant time: a new comparison of another kind fails here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

SECRET = re.compile(r"(^|_)(secrets?|signatures?|digests?|hmac|tokens?|keys?|tickets?|passwords?|sha256|credential)$")
"""Names, and the last words of names, that hold what somebody could guess piece by piece from how long a look took."""

PUBLIC = {
    # The names of keys, not the keys: the compared values are public.
    ("shared/tidewire/settings/secrets.py", "secret not in read"): "the name under which a secret is stored",
}
COMPARING = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Lt, ast.Gt)


def name_of(node: ast.expr) -> str:
    """The last name in an expression, or "" if it has none."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=ast.Attribute(value=value, attr="encode" | "decode" | "strip" | "lower")):
            return name_of(value)
        case ast.Call(func=function):
            return name_of(function)
        case ast.Subscript(value=value):
            return name_of(value)
        case ast.Await(value=value):
            return name_of(value)
        case _:
            return ""


def is_plain(node: ast.expr) -> bool:
    """Whether an expression stands in the code for everyone to read: a number, a text, a constant, None."""
    if isinstance(node, ast.Tuple | ast.Set | ast.List):
        return all(map(is_plain, node.elts))
    return isinstance(node, ast.Constant) or name_of(node).isupper()


def suspicious(source: str) -> Iterator[str]:
    """The source of comparisons that may involve a secret."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], COMPARING):
            sides = [node.left, *node.comparators]
            if any(SECRET.search(name_of(side)) for side in sides) and not any(map(is_plain, sides)):
                yield ast.unparse(node)


def modules() -> list[Path]:
    """Every module that touches a secret: it imports what makes or checks one."""
    found = [*ROOT.glob("shared/**/*.py"), *ROOT.glob("functions/*.py")]
    words = re.compile(r"\b(hmac|jwt|publish_keys|tokens|signing|jwks|webhooks|netlify)\b")
    return [path for path in found if words.search(path.read_text())]


def test_no_secret_is_compared_byte_by_byte() -> None:
    found = {(str(path.relative_to(ROOT)), text) for path in modules() for text in suspicious(path.read_text())}
    assert found - PUBLIC.keys() == set(), "use hmac.compare_digest, over digests where the lengths may differ"
    assert PUBLIC.keys() <= found, "an exception that is none any more is taken off the list"


def test_the_modules_that_verify_secrets_are_checked() -> None:
    names = {str(path.relative_to(ROOT)) for path in modules()}
    assert {
        "shared/tidewire/security/publish_keys.py",
        "shared/tidewire/security/tokens.py",
        "shared/tidewire/security/signing.py",
        "shared/tidewire/security/signed_rewrites.py",
        "shared/tidewire/ingest/webhooks/scheme.py",
    } <= names


@pytest.mark.parametrize(
    "line",
    [
        "if signature == expected: pass",
        "if sent != self._secret: pass",
        "ok = token in self._tokens",
        "if request.headers['x'] == hmac.new(k, b).hexdigest(): key == given",
        "return digest == known.digest",
        "if key.encode() == other: pass",
        "found = [k for k in keys if k.secret == secret]",
    ],
)
def test_such_a_line_would_be_found(line: str) -> None:
    code = f"def f():\n    {line}" if line.startswith("return") else line
    assert list(suspicious(code)) != []


def test_the_comparison_that_is_right_is_not_found() -> None:
    assert list(suspicious("ok = hmac.compare_digest(signature, expected); kind == 'HS256'; token == ''")) == []
