"""What a function keeps while its execution environment is warm, made anew when a secret in it was rotated."""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from shared.config import Settings
from shared.logs import configure
from shared.parameters import Environment

Made = TypeVar("Made")


def configure_on_lambda(settings: Settings) -> None:
    """Write the log as the settings say, where it is this process's own: on Lambda."""
    if "AWS_LAMBDA_RUNTIME_API" in os.environ:
        configure(settings.log_level, settings.log_format)


class Warm(Generic[Made]):
    """What `make` makes of the settings; `retire` is told what is no longer used."""

    def __init__(self, make: Callable[[Settings], Made], retire: Callable[[Made], None]) -> None:
        self._make = make
        self._retire = retire
        self._environment = Environment(os.environ)
        self._made: tuple[object, Made] | None = None

    def current(self) -> Made:
        """Return what fits the secrets as they are now; blocks while they are read. Raises SettingsError at first."""
        environ = self._environment.read()
        if self._made is not None and self._made[0] is environ:
            return self._made[1]
        old, made = self._made, self._make(Settings.from_env(environ))
        self._made = (environ, made)
        if old is not None:
            self._retire(old[1])
        return made

    def doubt(self) -> None:
        """Look for rotated secrets at the next call: something has refused those of now."""
        self._environment.doubt()
