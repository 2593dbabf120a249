"""Every block of a document is of a kind that a test runs, or listed with a reason."""

import functools
import json
import re
from pathlib import Path

import pytest
from opentelemetry.sdk import environment_variables

from tests.repository.docs.excuses import EXCUSES, RUN_ELSEWHERE, Excuse
from tests.repository.docs.kinds import LANGUAGES, RUN_BY, kind_of
from tests.repository.docs.markdown import Block, blocks, commands_in_text, documents, paragraphs, spans, text_of
from tests.repository.docs.stand_ins import check_param
from tests.support.api import OPENAPI
from tests.support.processes import ROOT

# The test that runs each file of examples/.
EXAMPLES = {
    "examples/Dockerfile": "tests/repository/docs/test_dockerfile.py",
    "examples/event-source.html": "tests/browser/test_examples.py",
    "examples/postgres_trigger.sql": "tests/integration/postgres/test_examples.py",
    "examples/nginx.conf": "tests/integration/proxies/conftest.py",
    "examples/tasks.jsx": "tests/browser/test_examples.py",
    "examples/webhooks/realtime.toml": "tests/unit/ingest/webhooks/example.py",
}

VARIABLE = re.compile(r"\b(?:REALTIME|TIDEWIRE|UPSTASH|REDIS|DATABASE|OTEL)_[A-Z][A-Z_]*[A-Z]\b")


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_a_block_is_of_a_kind_that_a_test_runs(block: Block) -> None:
    kind = kind_of(block)
    assert kind is not None, (
        f"{block} is of no kind that a test runs:\n{block.text}\n"
        f"Name its language behind the fence ({', '.join(sorted({*LANGUAGES}))}, or `text shows` for the output of the "
        "block above), or add a kind to tests/repository/docs/kinds.py, and a test that runs it."
    )
    assert Path(ROOT, RUN_BY[kind]).is_file()


@pytest.mark.parametrize("excuse", EXCUSES, ids=lambda excuse: f"{excuse.document}-{excuse.begins}")
def test_an_excuse_has_a_reason_and_a_block(excuse: Excuse) -> None:
    assert len(excuse.reason) > 4
    fitting = [block for block in blocks() if excuse.fits(block)]
    assert len(fitting) == 1, f"fits {len(fitting)} blocks of {excuse.document}: take it out of excuses.py"


def test_a_command_that_runs_elsewhere_is_in_a_document() -> None:
    texts = [command.text for command in commands_in_text()]
    assert [begins for begins in RUN_ELSEWHERE if not any(text.startswith(begins) for text in texts)] == []


def test_every_example_is_run_by_a_test_that_names_it() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*") if path.is_file()}
    assert files == EXAMPLES.keys(), "each file of examples/ is named in EXAMPLES, with the test that runs it"
    for file, test in EXAMPLES.items():
        assert Path(file).name in (ROOT / test).read_text(), test


@pytest.mark.parametrize("document", documents())
def test_every_variable_in_a_document_is_read_somewhere(document: str) -> None:
    named = set(VARIABLE.findall(text_of(document)))
    unknown = sorted(name for name in named if name not in sources())
    assert unknown == [], f"{document} names variables that no code reads"


@pytest.mark.parametrize("document", documents())
def test_every_link_and_script_in_a_document_exists(document: str) -> None:
    path, text = ROOT / document, text_of(document)
    named = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    links = [link for link in named if "://" not in link]
    missing = [link for link in links if not leads_somewhere(path, link)]
    scripts = set(re.findall(r"(?<![\w/.])(scripts/[a-z_]+(?:\.(?:py|toml))?)\b", text))
    missing += [script for script in scripts if not (ROOT / script).exists()]
    assert missing == []


@pytest.mark.parametrize("document", documents())
def test_every_table_row_belongs_to_a_table(document: str) -> None:
    assert [line for line in paragraphs(document) if line.startswith("|")] == [], "an empty line ends a table"


def test_every_variable_of_the_settings_is_documented() -> None:
    code = "".join(path.read_text() for path in (ROOT / "shared" / "tidewire" / "settings").glob("*.py"))
    read = set(re.findall(r'"((?:REALTIME|REDIS|UPSTASH|AWS|DATABASE|NETLIFY)_[A-Z_]+|HOST|PORT)"', code))
    explained = {span.text for span in spans("docs/configuration.md")}
    assert read - explained - {"AWS_LAMBDA_FUNCTION_NAME"} == set()  # AWS sets the last one


@pytest.mark.parametrize("document", documents())
def test_every_param_in_a_document_is_in_serverless_yml(document: str) -> None:
    for name in re.findall(r"--param (\w+)=(?!value)", text_of(document)):
        check_param(name)


def test_every_route_in_a_document_is_one_of_the_api() -> None:
    paths = json.loads(OPENAPI.read_text())["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    for document in documents():
        for span in spans(document):
            if named := re.match(r"(GET|POST) (/api/[\w/{}.-]+)", span.text):
                assert named[0] in routes, f"{span}: {named[0]}"


def leads_somewhere(path: Path, link: str) -> bool:
    """Return whether a link within the project leads to a file, and to a heading if it has an anchor."""
    file, _, anchor = link.partition("#")
    target = path.parent / file if file else path
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ +(.+?) *$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def sources() -> str:
    """Return the code and scripts that read variables, and the names that OpenTelemetry's SDK reads itself."""
    files = [
        *(
            file
            for folder in ("shared", "functions", "tests", "bench", "chaos")
            for file in (ROOT / folder).rglob("*.py")
        ),
        *(file for file in (ROOT / "scripts").iterdir() if file.is_file()),
    ]
    mine = Path(__file__).parent
    texts = [file.read_text() for file in files if mine not in file.parents]
    return "\n".join([*texts, *dir(environment_variables)])
