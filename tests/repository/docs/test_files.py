"""Excerpts of files (settings, rules, a listing, a log) are valid for the programs that read or write such files."""

import ast
import json
import logging
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from tidewire.ingest.eventbridge_rules import BusRules
from tidewire.ingest.webhooks.sources import read_sources
from tidewire.monitoring.logs import TextLines
from tidewire.settings.config import Settings

from tests.repository.docs.conftest import Addresses
from tests.repository.docs.excuses import excuse_of
from tests.repository.docs.kinds import USAGE, kind_of, of_kind
from tests.repository.docs.markdown import Block
from tests.repository.docs.placeholders import MADE_UP, filled
from tests.repository.docs.stand_ins import check as check_call
from tests.support import servers
from tests.support.api import OPENAPI, Api, check
from tests.support.processes import ROOT, Instance, wait_until

SECONDS = 10.0


class Given(NamedTuple):
    """Fixtures for the checks."""

    request: pytest.FixtureRequest
    folder: Path

    @property
    def written(self) -> list[dict[str, object]]:
        """Return the JSON lines that an instance has written."""
        lines: list[dict[str, object]] = self.request.getfixturevalue("written")
        return lines


def settings(block: Block, given: Given) -> None:
    """Variables: the settings accept them."""
    lines = [line.partition("#")[0].strip() for line in filled(block, Addresses(given.request)).splitlines()]
    variables = dict(line.split("=", 1) for line in lines if line)
    keys = {"REALTIME_JWT_SECRET": MADE_UP, "REALTIME_PUBLISH_KEYS": MADE_UP}
    Settings.from_env({**keys, **variables})


def toml(block: Block, given: Given) -> None:
    """Rules: the parser of realtime.toml accepts them."""
    file = given.folder / "realtime.toml"
    file.write_text(block.text)
    assert tomllib.loads(block.text).keys() <= {"sources", "eventbridge"}, "neither parser reads another table"
    read_sources(str(file))
    BusRules.read(str(file))


def json_text(block: Block, given: Given) -> None:
    """JSON: it parses."""
    json.loads(block.text)


def yaml_file(block: Block, given: Given) -> None:
    """A YAML file: its program accepts it."""
    loaded = yaml.safe_load(block.text)
    file = given.folder / "file.yml"
    file.write_text(block.text)
    if {"scrape_configs", "rule_files", "groups"} & loaded.keys():
        command = ["check", "rules"] if "groups" in loaded else ["check", "config", "--syntax-only"]
        done = subprocess.run([servers.find("promtool"), *command, file], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    elif "service" in loaded and "receivers" in loaded:  # an OpenTelemetry collector's
        for pipeline in loaded["service"]["pipelines"].values():
            assert all(set(names) <= loaded[part].keys() for part, names in pipeline.items()), pipeline
    else:
        assert excuse_of(block) is not None, (
            f"{block}: check it here with the program that reads it, or list it in tests/repository/docs/excuses.py"
        )


def event(block: Block, given: Given) -> None:
    """An event: it could be published. tests/functions/test_webhooks.py checks that a delivery becomes it."""
    check(json.loads(block.text), "Event")


def usage(block: Block, given: Given) -> None:
    """A list of commands: the programs accept them."""
    for line in block.text.splitlines():
        named = USAGE.match(line)
        assert named is not None, line
        program, *arguments = shlex.split(named[1])
        check_call(program, arguments)


def picture(block: Block, given: Given) -> None:
    """A diagram: its functions exist."""
    names = re.findall(r"functions/(\w+)", block.text)
    assert names
    for name in names:
        assert (ROOT / "functions" / f"{name}.py").is_file(), name


def spans(block: Block, given: Given) -> None:
    """A trace diagram: its spans are routes of the API, or created by shared/tidewire/monitoring/opentelemetry.py."""
    names = re.findall(r"[├└]─ (\S+ \S+) ", block.text)
    paths = json.loads(OPENAPI.read_text())["paths"]
    assert names
    for name in names:
        first, second = name.split()
        made = f'f"{first} {{' in (ROOT / "shared" / "tidewire" / "monitoring" / "opentelemetry.py").read_text()
        assert made or first.lower() in paths[second], name


def log(block: Block, given: Given) -> None:
    """Log lines as text: the code writes such lines."""
    for line in block.text.splitlines():
        level, logger, _ = re.split(r":? ", line, maxsplit=2)
        assert any(re.fullmatch(pattern, line.replace("…", "x")) for pattern in lines_of(logger, level)), line


def lines_of(logger: str, level: str) -> Iterator[str]:
    """Yield the lines that a module can write at this level, without their time, as regular expressions."""
    tree = ast.parse((ROOT / "shared" / f"{logger.replace('.', '/')}.py").read_text())
    for call in ast.walk(tree):
        match call:
            case ast.Call(ast.Attribute(ast.Name("log"), method), [ast.Constant(str(message)), *_]):
                if method.upper() == level:
                    number = logging.getLevelNamesMapping()[level]
                    record = logging.LogRecord(logger, number, "", 0, message, None, None)
                    written = TextLines().format(record).partition(" ")[2]
                    yield re.sub(r"%[sd]", ".+", re.escape(written))
            case _:
                pass


def log_line(block: Block, given: Given) -> None:
    """A log line as JSON: a real one has the same fields, with values of the same types."""
    shown = json.loads(block.text)
    real = [line for line in given.written if line["message"] == shown["message"]]
    assert real, f"no line has the message {shown['message']}"
    types = [{name: type(value) for name, value in line.items()} for line in (shown, real[0])]
    assert types[0] == types[1]


def insights(block: Block, given: Given) -> None:
    """A query for CloudWatch Logs: the selected lines have its fields."""
    [message] = re.findall(r'message = "(\w+)"', block.text)
    [real, *_] = [line for line in given.written if line["message"] == message]
    selected = set(re.findall(r"\b[a-z_]+\b", block.text.split("|")[0])) - {"fields", "timestamp"}
    grouped = {name for names in re.findall(r"avg\((\w+)\)|\bby (\w+)", block.text) for name in names if name}
    assert selected
    assert selected | grouped <= real.keys()


CHECKS: Mapping[str, Callable[[Block, Given], None]] = {
    "settings": settings,
    "toml": toml,
    "json": json_text,
    "yaml": yaml_file,
    "event": event,
    "usage": usage,
    "picture": picture,
    "spans": spans,
    "log": log,
    "log line": log_line,
    "insights": insights,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, object]]]:
    """The JSON lines that an instance writes during a publish and a stream."""
    instance = Instance(tmp_path_factory.mktemp("instance"), {"REALTIME_STREAM_SECONDS": "100ms"})
    with closing(Api(instance.start())) as api:
        try:
            api.publish({"type": "t", "data": None})
            with api.stream() as stream:
                stream.rest()
            wait_until(lambda: '"message":"stream"' in instance.log(), SECONDS)
            yield [json.loads(line) for line in instance.log().splitlines() if line.startswith("{")]
        finally:
            instance.stop()


@pytest.mark.parametrize("block", of_kind(*CHECKS), ids=str)
def test_an_excerpt_of_a_file_is_valid(block: Block, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    kind = kind_of(block)
    assert kind is not None
    CHECKS[kind](block, Given(request, tmp_path))
