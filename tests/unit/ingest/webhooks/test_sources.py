"""The sources of `realtime.toml`: read as documented, or refused with the path of the wrong key."""

from pathlib import Path

import pytest
from tidewire.errors import SettingsError
from tidewire.ingest.webhooks.github import GitHub
from tidewire.ingest.webhooks.hmac_header import HmacHeader
from tidewire.ingest.webhooks.qstash import QStash
from tidewire.ingest.webhooks.sources import SCHEMES, Source, read_sources

from tests.unit.ingest.webhooks.signers import SIGNERS


def sources(text: str, folder: Path) -> dict[str, Source]:
    file = folder / "realtime.toml"
    file.write_text(text)
    return read_sources(str(file))


def test_every_scheme_is_tested() -> None:
    assert SCHEMES.keys() == SIGNERS.keys()


def test_a_source_is_its_scheme_its_secrets_and_its_rules(tmp_path: Path) -> None:
    text = "\n".join(signer.table(name) for name, signer in SIGNERS.items())
    read = sources(text, tmp_path)
    assert list(read) == list(SIGNERS)
    assert isinstance(read["github"].scheme, GitHub)
    assert read["github"].secrets == ("WEBHOOK_SECRET", "WEBHOOK_SECRET_NEXT")
    assert read["qstash"].scheme == QStash("https://app.example.com/api/webhooks/qstash")
    assert read["hmac"].scheme == HmacHeader("X-Signature", "sha512:", "sha512", "base64", "X-Delivery")
    assert {len(source.rules) for source in read.values()} == {1}


def test_a_source_without_options_has_the_plainest(tmp_path: Path) -> None:
    signer = SIGNERS["hmac"]._replace(settings='header = "X-Signature"')
    assert sources(signer.table("a"), tmp_path)["a"].scheme == HmacHeader("X-Signature", "", "sha256", "hex", None)


def test_without_sources_there_are_none(tmp_path: Path) -> None:
    assert sources("", tmp_path) == {}
    assert sources("[eventbridge]\n", tmp_path) == {}


RULE = '[[sources.a.events]]\ntype = "t"\n'
WRONG = [
    ("[source.a]", "source is unknown; known keys: eventbridge, sources"),
    ("sources = 1", "sources must be a table"),
    ("[sources]\na = 1", "sources.a must be a table"),
    (
        '[sources."a/b"]\nscheme = "github"\nsecrets = ["A"]\n[[sources."a/b".events]]\ntype = "t"',
        'sources."a/b" must have a name of 1 to 64',
    ),
    ('[sources.a]\nsecrets = ["A"]\n' + RULE, "sources.a.scheme is required: one of standard-webhooks, github"),
    (
        '[sources.a]\nscheme = "gitlab"\nsecrets = ["A"]\n' + RULE,
        "sources.a.scheme must be one of standard-webhooks, github",
    ),
    ('[sources.a]\nscheme = "github"\n' + RULE, "sources.a.secrets is required: names of environment variables"),
    (
        '[sources.a]\nscheme = "github"\nsecrets = []\n' + RULE,
        "sources.a.secrets must be names of environment variables",
    ),
    (
        '[sources.a]\nscheme = "github"\nsecrets = "A"\n' + RULE,
        "sources.a.secrets must be names of environment variables",
    ),
    ('[sources.a]\nscheme = "github"\nsecrets = ["whsec_hunter2"]\n' + RULE, "sources.a.secrets must be names of"),
    ('[sources.a]\nscheme = "github"\nsecrets = ["A"]', "sources.a has no rules: write [[sources.a.events]]"),
    ('[sources.a]\nscheme = "github"\nsecrets = ["A"]\nevents = []', "sources.a has no rules"),
    ('[sources.a]\nscheme = "github"\nsecret = "A"\nsecrets = ["A"]\n' + RULE, "sources.a.secret is unknown"),
    ('[sources.a]\nscheme = "github"\nsecrets = ["A"]\nurl = "u"\n' + RULE, "sources.a.url is unknown"),
    ('[sources.a]\nscheme = "qstash"\nsecrets = ["A"]\n' + RULE, "sources.a.url is required: the public URL"),
    ('[sources.a]\nscheme = "qstash"\nsecrets = ["A"]\nurl = "/x"\n' + RULE, "sources.a.url must be a URL"),
    ('[sources.a]\nscheme = "hmac"\nsecrets = ["A"]\n' + RULE, "sources.a.header is required"),
    (
        '[sources.a]\nscheme = "hmac"\nsecrets = ["A"]\nheader = "a b"\n' + RULE,
        "sources.a.header must be the name of",
    ),
    (
        '[sources.a]\nscheme = "hmac"\nsecrets = ["A"]\nheader = "a"\nhash = "md5"\n' + RULE,
        "sources.a.hash must be one of",
    ),
    (
        '[sources.a]\nscheme = "hmac"\nsecrets = ["A"]\nheader = "a"\nencoding = "b64"\n' + RULE,
        "sources.a.encoding must be",
    ),
    (
        '[sources.a]\nscheme = "hmac"\nsecrets = ["A"]\nheader = "a"\nidHeader = 1\n' + RULE,
        "sources.a.idHeader must be",
    ),
    (
        '[sources.a]\nscheme = "github"\nsecrets = ["A"]\n[[sources.a.events]]\ntyp = "t"',
        "sources.a.events[0].typ is unknown",
    ),
]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_a_wrong_source_is_named_by_the_path_of_its_key(text: str, problem: str, tmp_path: Path) -> None:
    """And never with its value, which may be a secret."""
    with pytest.raises(SettingsError) as caught:
        sources(text, tmp_path)
    assert f"realtime.toml: {problem}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
