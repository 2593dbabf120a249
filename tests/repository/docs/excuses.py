"""The complete list of blocks that do not run here, or not with the named program, and the reasons.

A block that calls a stand-in (stand_ins.py) must be listed, and so must a block that is only read. An entry
without a matching block fails. Listed blocks are checked as far as possible: a stand-in's call against the program's
own list of commands and options; a block that is only read for its syntax, and for the files or fields that it names.
"""

from typing import NamedTuple

from tests.repository.docs.markdown import Block


class Excuse(NamedTuple):
    """A block, identified by the beginning of its first line, and the reason why it does not run completely here."""

    document: str
    begins: str
    reason: str
    read_only: bool = False  # not started, because its program is missing here

    def fits(self, block: Block) -> bool:
        """Return whether this entry describes the block."""
        return self.document == block.document and block.text.startswith(self.begins)


ACCOUNT = "needs an AWS account; the call is checked against AWS's model of the service, or osls and serverless.yml"

EXCUSES = (
    Excuse(
        "bench/README.md",
        "scripts/bench   ",
        "takes hours; the benchmark's own parser checks the arguments",
        read_only=True,
    ),
    Excuse("docs/deploy.md", "export AWS_REGION", f"{ACCOUNT}; tests/deployed runs all of it in a local cloud"),
    Excuse("docs/deploy.md", "aws service-quotas", ACCOUNT),
    Excuse("docs/deploy.md", "put netlify-secret", ACCOUNT),
    Excuse("docs/deploy.md", "scripts/osls remove", ACCOUNT),
    Excuse("docs/lambda.md", "scripts/package", f"{ACCOUNT}; tests/repository/deploy builds bundle and template"),
    Excuse("docs/lambda.md", "put() { aws ssm put-parameter", ACCOUNT),
    Excuse("docs/lambda.md", "aws sqs start-message-move-task", ACCOUNT),
    Excuse(
        "docs/lambda.md",
        "cargo install",
        "needs Rust; tests/integration/lambda_runtime has a stand-in",
    ),
    Excuse(
        "docs/lambda.md",
        "aws-lambda-rie",
        "needs AWS's emulator, and the block above",
        read_only=True,
    ),
    Excuse("docs/transports.md", "aws events put-events", ACCOUNT),
    Excuse(
        "docs/operate/tracing.md",
        "receivers: ",
        "needs a collector; that its parts exist is checked",
        read_only=True,
    ),
    Excuse("docs/operate/logs.md", "fields @timestamp", "needs CloudWatch; a real line has the fields", read_only=True),
)

# Cheap inline commands run. For the others, by their beginning: the test that runs the command; here only their options
# are checked.
RUN_ELSEWHERE = {
    "aws ": "tests/repository/docs/aws_call.py",
    "tidewire ": "tests/integration/cli/running.py",
    "python -m tidewire": "tests/integration/cli/running.py",
    "python -m functions.local": "tests/support/processes.py",
    "python3 scripts/netlify_build.py": "tests/repository/test_netlify_build.py",
    "scripts/bench": "bench/__main__.py",  # takes minutes to hours, so no test runs it
    "scripts/chaos": "tests/faults/test_chaos.py",
    "scripts/fuzz": "tests/properties/test_delivery.py",
    "scripts/mutate": "scripts/mutate.py",  # takes an hour, so no test runs it
    "scripts/netlify dev": "tests/integration/netlify/test_netlify_dev.py",
    "scripts/osls": "tests/repository/deploy/conftest.py",  # only `package`: the rest needs an AWS account
    "scripts/package": "tests/repository/deploy/conftest.py",
    "scripts/test tests/": "tests/contract/conftest.py",
}


def excuse_of(block: Block) -> Excuse | None:
    """Return the entry for a block, or None if it runs completely."""
    return next((excuse for excuse in EXCUSES if excuse.fits(block)), None)


def is_read_only(block: Block) -> bool:
    """Return whether a block is not started."""
    excuse = excuse_of(block)
    return excuse is not None and excuse.read_only
