"""`tidewire token`: a subscriber token, signed locally with the deployment's secret, or created by the deployment."""

import os
import time

import click

from tidewire.tools.cli.output import CANNOT_START, Failed, as_json, json_option
from tidewire.tools.cli.server import connect, expect, key_option, request, url_option


@click.command(
    epilog="""\b
Examples:
  export TIDEWIRE_TOKEN=$(tidewire token u1)
  tidewire token u1 --types task-updated,note --ttl 900
  tidewire token --remote u1 --url https://app.example.com"""
)
@click.argument("user", required=False)
@click.option("--types", default="", help="Event types that it allows, separated by commas; default: all.")
@click.option("--ttl", type=click.IntRange(1, 86_400), default=3_600, show_default=True, help="Lifetime in seconds.")
@click.option("--remote", is_flag=True, help="Request it with POST /api/tokens and --key.")
@url_option
@key_option
@json_option
def command(user: str | None, types: str, ttl: int, remote: bool, url: str, key: str | None, as_json_: bool) -> None:
    """Create a subscriber token for USER; without USER, its subscriber receives only events for everyone.

    The command signs it with REALTIME_JWT_SECRET (and REALTIME_JWT_ISSUER and REALTIME_JWT_AUDIENCE if set), without
    a request. With --remote, the deployment creates it.
    """
    wanted = [name for name in types.split(",") if name]
    if remote:
        body = {"userId": user, "types": wanted or None, "ttl": ttl}
        with connect(url, key) as http:
            response = expect(request(http, "POST", "/api/tokens", json=body), 200).json()
        token, ttl = response["token"], response["expiresIn"]
    else:
        token = _sign(user, wanted, ttl)
    if as_json_:
        as_json({"token": token, "expiresIn": ttl, "expiresAt": int(time.time()) + ttl})
    else:
        click.echo(token)


def _sign(user: str | None, types: list[str], ttl: int) -> str:
    from tidewire.model.event import is_user_id
    from tidewire.model.permissions import TYPE_OR_PATTERN, AllowedTypes
    from tidewire.security.signing import Signer
    from tidewire.settings.variables import defined

    env = defined(os.environ)
    secret = env.get("REALTIME_JWT_SECRET")
    if secret is None:
        raise Failed(
            "REALTIME_JWT_SECRET: is not set; set it to the deployment's secret, or use --remote", CANNOT_START
        )
    if user is not None and not is_user_id(user):
        raise click.UsageError("USER must have 1 to 256 characters, none of them control characters")
    if wrong := [name for name in types if not TYPE_OR_PATTERN.fullmatch(name)]:
        raise click.UsageError(f"--types: {wrong[0]!r} is neither an event type nor a prefix and *")
    signer = Signer(secret, env.get("REALTIME_JWT_ISSUER"), env.get("REALTIME_JWT_AUDIENCE"))
    return signer.token(user, AllowedTypes.parse(types) if types else None, ttl)
