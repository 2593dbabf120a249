"""Checks a command of the AWS CLI against AWS's model of the service, from which the CLI derives its names."""

import json
from collections.abc import Sequence
from typing import Any

from botocore import xform_name
from botocore.exceptions import UnknownServiceError
from botocore.model import Shape, StructureShape
from botocore.session import get_session
from botocore.validate import ParamValidator


def check(arguments: Sequence[str]) -> None:
    """Check a call such as `ssm put-parameter --name n …`; raises LookupError or ValueError with the reason."""
    call(arguments)


def call(arguments: Sequence[str]) -> tuple[str, str, dict[str, Any]]:
    """Return the service, the operation and its parameters; raises LookupError or ValueError like `check`."""
    service, name, *rest = arguments
    try:
        model = get_session().get_service_model(service)
    except UnknownServiceError:
        raise LookupError(f"AWS has no service {service}") from None
    operations = {xform_name(operation, "-"): operation for operation in model.operation_names}
    if name not in operations:
        raise LookupError(f"{service} has no command {name}")
    shape = model.operation_model(operations[name]).input_shape
    assert isinstance(shape, StructureShape)
    parameters = _parameters(shape, rest)
    if problems := ParamValidator().validate(parameters, shape).generate_report():
        raise ValueError(problems)
    return service, xform_name(operations[name]), parameters


def _parameters(shape: StructureShape, rest: Sequence[str]) -> dict[str, Any]:
    """Return the options as the operation's parameters."""
    members = {xform_name(member, "-"): member for member in shape.members}
    found: dict[str, Any] = {}
    words = list(rest)
    while words:
        option = words.pop(0).removeprefix("--")
        if option not in members:
            raise LookupError(f"there is no --{option}")
        values: list[str] = []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        member = members[option]
        found[member] = _value(shape.members[member], values)
    return found


def _value(shape: Shape, values: list[str]) -> Any:
    if shape.type_name == "boolean" and not values:
        return True
    if len(values) == 1 and values[0].startswith(("[", "{")):
        return json.loads(values[0])
    if shape.type_name == "list":
        return values
    [value] = values
    if shape.type_name in ("integer", "long"):
        return int(value)
    return float(value) if shape.type_name in ("double", "float") else value
