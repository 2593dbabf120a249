"""The placeholders of the documents and their values in tests. Nothing else replaces text in a document."""

import re
from collections.abc import Mapping

from tests.repository.docs.markdown import Block
from tests.support.tokens import PUBLISH_KEY, SECRET

MADE_UP = "made-up-0123456789abcdef0123456789abcdef"  # long enough for a key or a secret

# In this order. A name in braces is the address of a server that the tests start.
PLACEHOLDERS: tuple[tuple[str, str], ...] = (
    (r"http://(127\.0\.0\.1|localhost):8787", "{local}"),
    (r"(?<!origin )(?<!origins=)https://app\.example\.com", "{local}"),
    (r"https://…\.execute-api\.eu-central-1\.amazonaws\.com", "{local}"),
    (r"rediss?://(127\.0\.0\.1:6379|…|default:…@…\.upstash\.io:6379)", "{redis}"),
    (r"postgres(ql)?://…", "{postgres}"),
    (r"https://…\.", "https://made-up."),
    (r"(?<=REALTIME_PUBLISH_KEYS=)…|(?<=TIDEWIRE_KEY=)…", PUBLISH_KEY),
    (r"(?<=REALTIME_JWT_SECRET=)…", SECRET),
    (r"^ *KEY=\$\(openssl rand -hex 32\)$", f"KEY={PUBLISH_KEY}"),
    # The documents listen on all interfaces of a dedicated machine; the tests on loopback only.
    (r"\bHOST=0\.0\.0\.0", "HOST=127.0.0.1"),
    (r"<dead letters' ARN>", "arn:aws:sqs:eu-central-1:123456789012:tidewire-prod-dead-letters"),
    (r"<redrive queue's ARN>", "arn:aws:sqs:eu-central-1:123456789012:tidewire-prod-redrive"),
    (r"<ARN of an SNS topic>", "arn:aws:sns:eu-central-1:123456789012:alarms"),
    (r"<stage>", "prod"),
    (r"…", MADE_UP),
)
LEFT_OVER = re.compile(r"<[a-z][^<>\n]*>")  # `<token>`; a redirection has a space or a path behind it
CURSOR = re.compile(r"\b1A[\w.-]{7,}…?")


class NoValueError(Exception):
    """A placeholder has no value in the tests."""


def filled(block: Block, addresses: Mapping[str, str]) -> str:
    """Return the block's text with placeholders replaced; raises NoValueError if one has no value."""
    text = block.text
    for pattern, value in PLACEHOLDERS:
        if re.search(pattern, text, re.MULTILINE):  # the address of a server starts it
            text = re.sub(pattern, value.format_map(addresses).replace("\\", r"\\"), text, flags=re.MULTILINE)
    if left := LEFT_OVER.search(text):
        raise NoValueError(f"{block}: {left[0]} has no value: add one to tests/repository/docs/placeholders.py")
    return text


def pattern_of(shown: str) -> str:
    """Return the regular expression for shown output; `…` and a cursor match any text within a line."""
    return ".*".join(map(re.escape, CURSOR.sub("…", shown).strip().split("…")))
