"""Secrets by reference: variables with `ssm:…` or `secretsmanager:…`, resolved at run time.

    REDIS_URL=ssm:/tidewire/prod/redis-url                  a Systems Manager parameter of any type
    REALTIME_JWT_SECRET=secretsmanager:tidewire/prod#jwt    the member `jwt` of a secret that is a JSON object
    REALTIME_PUBLISH_KEYS=secretsmanager:arn:aws:…:secret:tidewire-keys-AbCdEf     a whole secret
    REALTIME_NETLIFY_SECRET=ssm:/tidewire/prod/netlify-secret?      an optional parameter: unset if it is missing

Any variable may be a reference. Values are kept in memory and read again every few minutes, so that a rotated secret
applies without a deployment. Errors contain the names of variables, parameters and secrets, never a value.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

from tidewire.errors import SettingsError
from tidewire.primitives import aws_clients
from tidewire.settings.variables import duration

logger = logging.getLogger(__name__)

MAX_AGE = 300.0  # seconds after which a rotated value is used everywhere
EAGER_AGE = 10.0  # minimum age in seconds of a value that is read again because a server refused it

_PARAMETER = re.compile(r"ssm:(/?[A-Za-z0-9_.\-/]{1,1011}(?::[A-Za-z0-9_.\-]{1,100})?)(\??)", re.ASCII)
_SECRET = re.compile(r"secretsmanager:([A-Za-z0-9/_+=.@:\-]{1,2048})(?:#([^#]{1,256}))?", re.ASCII)
_PARAMETERS_PER_CALL = 10  # limit of ssm:GetParameters

Reader = Callable[[Mapping[str, str]], Mapping[str, str]]


class Environment:
    """The environment with every reference replaced by its value.

    `read` returns the same object while no value has changed, so that the caller can compare by identity.
    """

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        self._environ = dict(environ)
        self._clock = clock  # wall-clock time: the monotonic clock may stop while the process is frozen
        self._references = references(self._environ)
        self._max_age = duration(self._environ, "REALTIME_SECRETS_MAX_AGE", MAX_AGE, 1.0, 86_400.0)
        self._resolved: Mapping[str, str] | None = None
        self._read_at = 0.0

    def read(self) -> Mapping[str, str]:
        """Return the environment; blocks while outdated values are read again. Raises SettingsError at the first read.

        Later reads that fail keep the previous values: an outage of the AWS API must not stop a running process.
        """
        if self._resolved is None:
            self._resolved = {**self._environ, **resolve(self._references)}
            self._read_at = self._clock()
        elif self.is_due:
            self._read_again()
        return self._resolved

    @property
    def is_due(self) -> bool:
        """Whether the next `read` calls AWS, and blocks."""
        return bool(self._references) and self._clock() - self._read_at >= self._max_age

    def request_refresh(self) -> None:
        """Read again at the next call, unless that was just done: a server has refused one of the values."""
        if self._clock() - self._read_at >= EAGER_AGE:
            self._read_at = 0.0

    def _read_again(self) -> None:
        self._read_at = self._clock()
        try:
            found = {**self._environ, **resolve(self._references)}
        except SettingsError as error:
            logger.warning("could not refresh secrets, keeping the previous values: %s", error)
            return
        if found != self._resolved:
            logger.info("a secret was rotated")
            self._resolved = found


def references(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that contain a reference; raises SettingsError if one is malformed."""
    found = {}
    for variable, value in environ.items():
        text = value.strip()
        if text.startswith("ssm:"):
            pattern, form = _PARAMETER, "ssm:/path/name, or ssm:/path/name? if the parameter may be missing"
        elif text.startswith("secretsmanager:"):
            pattern, form = _SECRET, "secretsmanager:name-or-arn or secretsmanager:name-or-arn#key"
        else:
            continue
        if not pattern.fullmatch(text):
            raise SettingsError(variable, f"must be {form}")
        found[variable] = text
    return found


def resolve(names: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each variable's reference, "" for a missing optional one. Raises SettingsError."""
    if not names:  # boto3 is not even imported
        return {}
    matches = {variable: match for variable, name in names.items() if (match := _PARAMETER.fullmatch(name))}
    parameters = {variable: match[1] for variable, match in matches.items()}
    optional = {variable for variable, match in matches.items() if match[2]}
    secrets = {variable: (match[1], match[2]) for variable, name in names.items() if (match := _SECRET.fullmatch(name))}
    return {**dict(_parameters(parameters, optional)), **dict(_secrets(secrets))}


def _parameters(names: Mapping[str, str], optional: Container[str]) -> Iterator[tuple[str, str]]:
    wanted = list(dict.fromkeys(names.values()))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), _PARAMETERS_PER_CALL):
        found |= _get_parameters(wanted[start : start + _PARAMETERS_PER_CALL], names)
    for variable, name in names.items():
        if name not in found and variable not in optional:
            raise SettingsError(variable, f"the parameter {name} does not exist")
        yield variable, found.get(name, "")


def _get_parameters(wanted: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    variable = next(variable for variable, name in names.items() if name in wanted)
    try:
        answer = aws_clients.client("ssm").get_parameters(Names=list(wanted), WithDecryption=True)
    except aws_clients.failures() as error:
        raise SettingsError(
            variable,
            f"the parameters {', '.join(wanted)} cannot be read ({aws_clients.code(error)}, ssm:GetParameters)",
        ) from None
    found = {f"{item['Name']}:{item['Version']}": item["Value"] for item in answer["Parameters"]}
    return found | {item["Name"] + item.get("Selector", ""): item["Value"] for item in answer["Parameters"]}


def _secrets(names: Mapping[str, tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    read: dict[str, str] = {}
    for variable, (secret, key) in names.items():
        if secret not in read:
            read[secret] = _get_secret(variable, secret)
        yield variable, read[secret] if key is None else _member(variable, secret, key, read[secret])


def _get_secret(variable: str, secret: str) -> str:
    arn = re.match(r"arn:[a-z-]+:secretsmanager:([a-z0-9-]+):", secret)
    try:
        answer: dict[str, Any] = aws_clients.client("secretsmanager", arn[1] if arn else None).get_secret_value(
            SecretId=secret
        )
    except aws_clients.failures() as error:
        raise SettingsError(
            variable, f"the secret {secret} cannot be read ({aws_clients.code(error)}, secretsmanager:GetSecretValue)"
        ) from None
    if "SecretString" not in answer:
        raise SettingsError(variable, f"the secret {secret} is binary, not text")
    return str(answer["SecretString"])


def _member(variable: str, secret: str, key: str, text: str) -> str:
    try:
        value = json.loads(text)[key]
    except (ValueError, TypeError, KeyError, IndexError):
        raise SettingsError(variable, f"the secret {secret} is not a JSON object with a member {key}") from None
    if not isinstance(value, str):
        raise SettingsError(variable, f"the member {key} of the secret {secret} is not a string")
    return value
