"""What stands in the documents for something of the reader's own, and what a test puts there: the only such place."""

import re
from collections.abc import Mapping

from tests.docs.markdown import Block
from tests.functions.tokens import PUBLISH_KEY, SECRET

MADE_UP = "made-up-0123456789abcdef0123456789abcdef"  # long enough for a key or a secret

# In this order; what is in braces is an address of a server that the tests have started.
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
    # All interfaces, where a process has a machine of its own: not on the one that runs the tests.
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
    """A placeholder stands for nothing that the tests know."""


def filled(block: Block, addresses: Mapping[str, str]) -> str:
    """The block's text with every placeholder's value; raises NoValueError where one has none."""
    text = block.text
    for pattern, value in PLACEHOLDERS:
        text = re.sub(pattern, lambda _, value=value: value.format_map(addresses), text, flags=re.MULTILINE)  # type: ignore[misc]
    if left := LEFT_OVER.search(text):
        raise NoValueError(f"{block}: {left[0]} has no value: give it one in tests/docs/placeholders.py")
    return text


def pattern_of(shown: str) -> str:
    """The regular expression of what a document shows; `…` in it, and a cursor, is whatever there is within a line."""
    return ".*".join(map(re.escape, CURSOR.sub("…", shown).strip().split("…")))
