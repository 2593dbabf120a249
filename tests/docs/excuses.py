"""What of the documents is not run here, or not with the program that it names, and why: the whole list.

A block that calls a stand-in (tests/docs/stand_ins.py) must be listed, and so must one that is only read. An entry that
fits no block any more fails too. What is listed is checked as far as it can be: a stand-in's call against the program's
own list of commands and options; of what is only read, the syntax and the files or fields that it names.
"""

from typing import NamedTuple

from tests.docs.markdown import Block


class Excuse(NamedTuple):
    """A block, by how its first line begins, and why it does not do here all that it does for a reader."""

    document: str
    begins: str
    reason: str
    read_only: bool = False  # not even started, as what it begins with is not here

    def fits(self, block: Block) -> bool:
        """Whether this is the block."""
        return self.document == block.document and block.text.startswith(self.begins)


ACCOUNT = "needs an AWS account; AWS's model of the service takes the call, and osls and serverless.yml the options"

EXCUSES = (
    Excuse("bench/README.md", "scripts/bench   ", "hours; the benchmark's own parser takes them", read_only=True),
    Excuse("docs/deploy.md", "export AWS_REGION", f"{ACCOUNT}; tests/deployed does all of it in a cloud of its own"),
    Excuse("docs/deploy.md", "aws service-quotas", ACCOUNT),
    Excuse("docs/deploy.md", "put netlify-secret", ACCOUNT),
    Excuse("docs/deploy.md", "scripts/osls remove", ACCOUNT),
    Excuse("docs/lambda.md", "scripts/package", f"{ACCOUNT}; tests/deploy builds bundle and template"),
    Excuse("docs/lambda.md", "put() { aws ssm put-parameter", ACCOUNT),
    Excuse("docs/lambda.md", "aws sqs start-message-move-task", ACCOUNT),
    Excuse("docs/lambda.md", "cargo install", "needs Rust; tests/lambda_runtime runs on a stand-in of the adapter"),
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

# A command within the text of a document is run there, if that is cheap; else its options are checked, and it is run by
# a test of its own, where the command of the document would do more than a reader wants to wait for. By its beginning.
RUN_ELSEWHERE = {
    "aws ": "tests/docs/aws_call.py",
    "tidewire ": "tests/cli/running.py",
    "python -m tidewire": "tests/cli/running.py",
    "python -m functions.local": "tests/processes.py",
    "python3 scripts/netlify_build.py": "tests/unit/test_netlify_build.py",
    "scripts/chaos": "tests/faults/test_chaos.py",
    "scripts/fuzz": "tests/properties/test_delivery.py",
    "scripts/netlify dev": "tests/netlify/test_netlify_dev.py",
    "scripts/osls": "tests/deploy/conftest.py",  # package, that is: the rest needs an AWS account
    "scripts/package": "tests/deploy/conftest.py",
}


def excuse_of(block: Block) -> Excuse | None:
    """The entry for a block, None where it does here what it does for a reader."""
    return next((excuse for excuse in EXCUSES if excuse.fits(block)), None)


def is_read_only(block: Block) -> bool:
    """Whether a block is not even started."""
    excuse = excuse_of(block)
    return excuse is not None and excuse.read_only
