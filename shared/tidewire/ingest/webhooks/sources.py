"""The sources of `realtime.toml`: senders of webhooks, their signature schemes, and rules that create events."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tidewire.errors import InvalidRequest, SettingsError
from tidewire.ingest.mapping.document import Table, open_document
from tidewire.ingest.mapping.payload import FORM_MEDIA_TYPE, Payload
from tidewire.ingest.mapping.rules import Rule, map_payload, read_rules
from tidewire.ingest.webhooks.github import GitHub
from tidewire.ingest.webhooks.hmac_header import HmacHeader
from tidewire.ingest.webhooks.netlify import Netlify
from tidewire.ingest.webhooks.qstash import QStash
from tidewire.ingest.webhooks.scheme import Delivery, Scheme
from tidewire.ingest.webhooks.slack import Slack
from tidewire.ingest.webhooks.standard_webhooks import StandardWebhooks
from tidewire.ingest.webhooks.stripe import Stripe
from tidewire.model.event import ID_PATTERN, RECEIVED, Event
from tidewire.protocol.headers import parse_media_type

SCHEMES: Mapping[str, type[Scheme]] = {
    "standard-webhooks": StandardWebhooks,
    "github": GitHub,
    "stripe": Stripe,
    "slack": Slack,
    "netlify": Netlify,
    "qstash": QStash,
    "hmac": HmacHeader,
}

_NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
_VARIABLE = r"[A-Z][A-Z0-9_]{0,127}"


class Source(NamedTuple):
    """One table of `sources`. `secrets` are names of environment variables, not the secrets."""

    name: str
    scheme: Scheme
    secrets: tuple[str, ...]
    rules: tuple[Rule, ...]
    file: str

    def keys(self, environ: Mapping[str, str]) -> list[bytes]:
        """Return the keys of the secrets. Raises SettingsError if one is missing or malformed."""
        return [self._key(name, environ.get(name, "").strip()) for name in self.secrets]

    def _key(self, variable: str, secret: str) -> bytes:
        if not secret:
            raise SettingsError(variable, f"is not set: {self.file} names it in sources.{self.name}.secrets")
        try:
            return self.scheme.key(secret)
        except ValueError as error:
            raise SettingsError(variable, f"{error} ({self.file}: sources.{self.name}.scheme)") from None

    def events(self, payload: Payload) -> list[Event]:
        """Return the events of a verified payload, empty if no rule matches. Raises MappingError.

        The event's `source` keeps two providers apart whose deliveries have the same id.
        """
        return map_payload(self.rules, payload, self.delivery_id(payload), {"source": f"{RECEIVED}{self.name}"})

    def delivery_id(self, payload: Payload) -> str:
        """Return the delivery's id, or the hash of its body if it has none; a retry has the same."""
        id = self.scheme.delivery_id(payload)
        if isinstance(id, str) and ID_PATTERN.fullmatch(id):
            return id
        return f"sha256-{hashlib.sha256(payload.body).hexdigest()}"


class Receiver:
    """A source with its keys."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self.source = source
        self._keys: Sequence[bytes] = source.keys(environ)

    def verify(self, delivery: Delivery) -> None:
        """Raise BadSignature unless one of the source's secrets signed the delivery."""
        self.source.scheme.verify(delivery, self._keys)


def read_sources(config_file: str | None) -> dict[str, Source]:
    """Return the sources of REALTIME_CONFIG's document by name, empty without a document. Raises SettingsError."""
    document = open_document(config_file)
    if document is None:
        return {}
    section = document.section("sources")
    sources = {} if section is None else {name: _source(name, table) for name, table in section.members()}
    document.finish()
    return sources


def preview(config_file: str | None, source: str, body: bytes, headers: Mapping[str, str]) -> list[Event]:
    """Return the events that a delivery of this source would become, without checking its signature.

    Raises SettingsError for a wrong document, InvalidRequest for an unknown source or a body that is neither JSON nor
    a form (by its Content-Type), and MappingError if a rule fails.
    """
    sources = read_sources(config_file)
    if source not in sources:
        known = ", ".join(sources) or "none; is REALTIME_CONFIG set?"
        raise InvalidRequest(f"realtime.toml has no source of this name; its sources: {known}")
    lower = {name.lower(): value for name, value in headers.items()}
    is_form = parse_media_type([lower.get("content-type", "")]) == FORM_MEDIA_TYPE
    return sources[source].events(Payload(body, lower, is_form=is_form))


def _source(name: str, table: Table) -> Source:
    if not re.fullmatch(_NAME, name, re.ASCII):
        table.problem(None, "must have a name of 1 to 64 characters of a-z 0-9 _ -: the name is part of the URL")
    chosen = table.choice("scheme", tuple(SCHEMES))
    scheme = SCHEMES[chosen or "github"].read(table)
    secrets = table.texts("secrets", pattern=_VARIABLE, rule="names of environment variables, such as GITHUB_SECRET")
    rules = read_rules(table.tables("events"))
    if not table.value("events"):
        table.problem(None, f"has no rules: write [[sources.{name}.events]]")
    if chosen is not None:  # without a scheme, the known keys are unknown too
        table.finish()
    return Source(name, scheme, secrets, rules, table.document.name)
