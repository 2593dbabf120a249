"""What a payload would become: the rules of a source without its secrets, its signature and the log."""

from collections.abc import Mapping

from tidewire.errors import InvalidRequest
from tidewire.ingest.mapping import form
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.sources import read_sources
from tidewire.model.event import Event
from tidewire.protocol.headers import parse_media_type


def events_of(config_file: str | None, source: str, body: bytes, headers: Mapping[str, str]) -> list[Event]:
    """Return the events that a delivery of this source would append, none where no rule counts it.

    Raises SettingsError where realtime.toml is wrong, InvalidRequest where it has no such source or the body is not
    JSON (or a form, if the header Content-Type says so), and MappingError where a rule does not fit.
    """
    sources = read_sources(config_file)
    if source not in sources:
        known = ", ".join(sources) or "none; is REALTIME_CONFIG set?"
        raise InvalidRequest(f"realtime.toml has no source of this name; it has: {known}")
    lower = {name.lower(): value for name, value in headers.items()}
    is_form = parse_media_type([lower.get("content-type", "")]) == form.MEDIA_TYPE
    return sources[source].events(Payload(body, lower, is_form=is_form))
