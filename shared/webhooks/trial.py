"""What a payload would become: the rules of a source without its secrets, its signature and the log."""

from collections.abc import Mapping

from shared.errors import InvalidRequest
from shared.event import Event
from shared.mapping import form
from shared.mapping.payload import Payload
from shared.media_type import media_type
from shared.webhooks.sources import read_sources


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
    is_form = media_type([lower.get("content-type", "")]) == form.MEDIA_TYPE
    return sources[source].events(Payload(body, lower, is_form=is_form))
