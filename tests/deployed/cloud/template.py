"""A built CloudFormation template, with what its functions (`Ref`, `Fn::GetAtt`, …) stand for in this cloud."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

REGION = "eu-central-1"
ACCOUNT = "123456789012"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::URLSuffix": "amazonaws.com",
}

Properties = Mapping[str, Any]
Attributes = Mapping[tuple[str, str], str]
"""What `Fn::GetAtt` gives for a resource's logical id and an attribute; "Ref" is what `Ref` gives."""


class Template:
    """One stack's template, as `osls package` has written it."""

    def __init__(self, text: Mapping[str, Any], attributes: Attributes) -> None:
        self._text = text
        self._attributes = attributes
        self._parameters = {name: item.get("Default", "") for name, item in text.get("Parameters", {}).items()}

    def of_type(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The logical ids and the resolved properties of all resources of this type."""
        for name, item in self._text["Resources"].items():
            if item["Type"] == kind:
                yield name, self.resolve(item["Properties"])

    def outputs(self) -> dict[str, str]:
        """The outputs, as `osls info` prints some of them."""
        return {name: str(self.resolve(item["Value"])) for name, item in self._text["Outputs"].items()}

    def resolve(self, value: Any) -> Any:
        """Return the value with every intrinsic function replaced; raises KeyError for an unknown one."""
        if isinstance(value, list):
            return [found for item in value if (found := self.resolve(item)) is not None]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1:
            [(name, argument)] = value.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._call(name, argument)
        return {name: self.resolve(item) for name, item in value.items()}

    def _call(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref":
                return None if argument == "AWS::NoValue" else self._ref(argument)
            case "Fn::GetAtt":
                return self._attribute(*argument)
            case "Fn::Join":
                separator, parts = argument
                return separator.join(map(str, self.resolve(parts)))
            case "Fn::Sub":
                return re.sub(r"\$\{([^}]+)\}", lambda named: self._named(named[1]), argument)
            case "Fn::If":
                condition, yes, no = argument
                return self.resolve(yes if self._holds(self._text["Conditions"][condition]) else no)
            case _:
                raise KeyError(name)

    def _named(self, name: str) -> str:
        resource, _, attribute = name.partition(".")
        return self._attribute(resource, attribute) if attribute else self._ref(name)

    def _ref(self, name: str) -> str:
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self._parameters:
            return str(self.resolve(self._parameters[name]))
        return self._attribute(name, "Ref")

    def _attribute(self, resource: str, attribute: str) -> str:
        if resource not in self._text["Resources"]:
            raise KeyError(f"the template has no resource {resource}")
        return self._attributes.get((resource, attribute), f"{resource}.{attribute}")

    def _holds(self, condition: Any) -> bool:
        [(name, argument)] = condition.items()
        match name:
            case "Fn::Not":
                return not self._holds(argument[0])
            case "Fn::Equals":
                one, other = map(self.resolve, argument)
                return bool(one == other)
            case _:
                raise KeyError(name)
