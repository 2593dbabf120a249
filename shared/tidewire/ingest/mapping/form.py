"""Forms as JSON: application/x-www-form-urlencoded (URL Standard, section 5), as GitHub and Slack send it."""

import re
from urllib.parse import unquote_to_bytes

import msgspec

from tidewire.errors import InvalidRequest

MEDIA_TYPE = "application/x-www-form-urlencoded"
MAX_FIELDS = 1_000

# What encoders leave as it is. JSON has quotes or begins with a bracket: a body that was signed as JSON is no form,
# whatever the content type says, which no signature covers.
_FORM = re.compile(rb"(?!\[)[A-Za-z0-9%+&=*._~!'(),;:@/?$[\]-]*")


def form_to_json(body: bytes) -> bytes:
    """Return the JSON text of a form: that in `payload`, if it is the only field, else an object of texts.

    A field that stands several times is a list. Bytes that are not UTF-8 become U+FFFD. Raises InvalidRequest.
    """
    if not _FORM.fullmatch(body):
        raise InvalidRequest(f"The body is not {MEDIA_TYPE}")
    fields = body.split(b"&")
    if len(fields) > MAX_FIELDS:
        raise InvalidRequest(f"The form has more than {MAX_FIELDS:,} fields")
    found: dict[str, list[str]] = {}
    for field in fields:
        if field:
            name, _, value = field.partition(b"=")
            found.setdefault(_text(name), []).append(_text(value))
    if found.keys() == {"payload"} and len(found["payload"]) == 1:
        return found["payload"][0].encode()
    return msgspec.json.encode({name: texts[0] if len(texts) == 1 else texts for name, texts in found.items()})


def _text(encoded: bytes) -> str:
    return unquote_to_bytes(encoded.replace(b"+", b" ")).decode("utf-8", "replace")
