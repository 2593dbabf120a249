"""The generic scheme: an HMAC of the body in a header, with configurable name, prefix, hash and encoding."""

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.document import Table
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_any
from tidewire.model.event import ID_PATTERN

HASHES = ("sha256", "sha512", "sha384", "sha1")
ENCODINGS = ("hex", "base64")
_HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"


@dataclass(frozen=True, slots=True)
class HmacHeader(Scheme):
    """`<header>: <prefix><signature>`, or a list of these separated by commas or spaces, one per secret.

    id_header: the name of the header with the delivery's id, None if there is none.
    """

    header: str
    prefix: str
    hash: str
    encoding: str
    id_header: str | None

    @classmethod
    def read(cls, table: Table) -> Self:
        """Read `header`, which is required, and `prefix`, `hash`, `encoding`, `idHeader`."""
        if "header" not in table:
            table.problem("header", "is required: the name of the header that carries the signature")
        return cls(
            header=table.text("header", "", pattern=_HEADER, rule="the name of a header") or "",
            prefix=table.text("prefix", "", pattern=r"[\x20-\x7e]{0,64}", rule="at most 64 ASCII characters") or "",
            hash=table.choice("hash", HASHES, "sha256") or "",
            encoding=table.choice("encoding", ENCODINGS, "hex") or "",
            id_header=table.text("idHeader", pattern=_HEADER, rule="the name of a header"),
        )

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify the signatures; hexadecimal digits may be in either case."""
        text = delivery.header(self.header)
        # The unsplit text too: a prefix may contain a comma or a space.
        items = dict.fromkeys([text, *map(str.strip, text.split(",")), *text.split(" ")])
        given = [item.removeprefix(self.prefix) for item in items if item.startswith(self.prefix)]
        if not given:
            raise BadSignature(f"{self.header} does not begin with the source's prefix")
        digests = [hmac.digest(key, delivery.body, self.hash) for key in keys]
        if self.encoding == "hex":
            check_any([digest.hex() for digest in digests], [signature.lower() for signature in given])
        else:
            check_any([base64.b64encode(digest).decode() for digest in digests], given)
        if self.id_header is not None and not ID_PATTERN.fullmatch(delivery.header(self.id_header)):
            raise BadSignature(f"{self.id_header} is not 1 to 256 visible ASCII characters")

    def delivery_id(self, payload: Payload) -> str | None:
        """Return the value of `idHeader`, None if no such header is configured."""
        return None if self.id_header is None else payload.headers.get(self.id_header.lower())
