"""What `aws` does in the documents' commands: the call, to the account at AWS_ENDPOINT_URL. A program."""

import json
import os
import sys

import boto3
from botocore.exceptions import ClientError

from tests.repository.docs.aws_call import call


def main() -> int:
    """Make the call that the arguments name, and print the response."""
    service, operation, parameters = call(sys.argv[1:])
    client = boto3.client(service, region_name=os.environ["AWS_REGION"], endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    try:
        answer = getattr(client, operation)(**parameters)
    except ClientError as error:
        sys.stderr.write(f"{error}\n")
        return 254
    answer.pop("ResponseMetadata")
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
