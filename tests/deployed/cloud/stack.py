"""One deployed stack: what its template makes, and nothing else."""

import hashlib
from collections.abc import Mapping
from typing import Any

from tests.deployed.cloud.environment import QUOTA, Function, Platform
from tests.deployed.cloud.function_url import FunctionUrl
from tests.deployed.cloud.gateway import HttpApi, Route
from tests.deployed.cloud.template import ACCOUNT, REGION, Template
from tests.deployed.cloud.web import Hosts


class DeploymentError(Exception):
    """CloudFormation would roll this deployment back; the text says why."""


class Stack:
    """The functions, routes and permissions of a template; `id` stands for the names that AWS makes up."""

    def __init__(
        self, text: Mapping[str, Any], platform: Platform, hosts: Hosts, stream_host: str | None = None
    ) -> None:
        self.id = hashlib.sha256(repr(sorted(text["Outputs"].items())).encode()).hexdigest()[:10]
        self.api_domain = f"{self.id}.execute-api.{REGION}.amazonaws.com"
        self.stream_domain = stream_host or f"{self.id}.lambda-url.{REGION}.on.aws"
        self.template = Template(text, self._attributes(text))
        self.functions = {
            logical: Function(platform, properties)
            for logical, properties in self.template.of_type("AWS::Lambda::Function")
        }
        self._permissions = [properties for _, properties in self.template.of_type("AWS::Lambda::Permission")]
        reserved = sum(function.reserved or 0 for function in self.functions.values())
        if reserved:
            raise DeploymentError(
                f"{reserved} reserved concurrent executions: they leave less than {QUOTA} of this account's {QUOTA}"
            )
        self._routes = list(self._read_routes())
        hosts.add(f"https://{self.api_domain}", HttpApi(self.api_domain, self._routes))
        for _, properties in self.template.of_type("AWS::Lambda::Url"):
            function = self.function_of(properties["TargetFunctionArn"])
            invited = properties["AuthType"] == "NONE" and self._invites_everyone(function)
            streams = properties.get("InvokeMode") == "RESPONSE_STREAM"
            app = FunctionUrl(self.stream_domain, function if invited else None, streams=streams)
            hosts.add(f"https://{self.stream_domain}", app)

    @property
    def api_url(self) -> str:
        """The HTTP API's address."""
        return f"https://{self.api_domain}"

    @property
    def stream_url(self) -> str:
        """The function URL of the stream."""
        return f"https://{self.stream_domain}/"

    def function(self, name: str) -> Function:
        """The function of this name: publish, stream, …"""
        (found,) = (one for one in self.functions.values() if one.name.endswith(f"-{name}"))
        return found

    def function_of(self, name: str) -> Function:
        """The function with this name, or this ARN."""
        (found,) = (one for one in self.functions.values() if name in (one.arn, one.name))
        return found

    def invites(self, function: Function, service: str) -> bool:
        """Whether the template lets this service of AWS invoke the function."""
        granted = {"Action": "lambda:InvokeFunction", "Principal": service, "FunctionName": function.arn}
        return any(granted.items() <= permission.items() for permission in self._permissions)

    def mapped_at(self, path: str) -> HttpApi:
        """The HTTP API as a custom domain has it at a path."""
        return HttpApi("previews.example.com", self._routes, path)

    def stop(self) -> None:
        """End every function."""
        for function in self.functions.values():
            function.stop()

    def _attributes(self, text: Mapping[str, Any]) -> dict[tuple[str, str], str]:
        found = {}
        for logical, item in text["Resources"].items():
            properties = item.get("Properties", {})
            match item["Type"]:
                case "AWS::Lambda::Function":
                    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{properties['FunctionName']}"
                    found[logical, "Arn"] = arn
                case "AWS::Lambda::Url":
                    found[logical, "FunctionUrl"] = self.stream_url
                case "AWS::ApiGatewayV2::Api":
                    found[logical, "Ref"] = self.id
                    found[logical, "ApiEndpoint"] = self.api_url
                case "AWS::Events::EventBus":
                    found[logical, "Ref"] = properties["Name"]
                case "AWS::SQS::Queue":
                    name = properties["QueueName"]
                    found[logical, "Ref"] = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"
                    found[logical, "Arn"] = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
                    found[logical, "QueueName"] = name
                case _:
                    pass  # nothing refers to what AWS would make up for it
        return found

    def _read_routes(self) -> "list[Route]":
        stages = [properties["StageName"] for _, properties in self.template.of_type("AWS::ApiGatewayV2::Stage")]
        if stages != ["$default"]:
            return []
        integrations = {
            f"integrations/{logical}.Ref": properties
            for logical, properties in self.template.of_type("AWS::ApiGatewayV2::Integration")
        }
        routes = []
        for _, properties in self.template.of_type("AWS::ApiGatewayV2::Route"):
            integration = integrations[properties["Target"]]
            function = self.function_of(integration["IntegrationUri"])
            invited = self.invites(function, "apigateway.amazonaws.com")
            seconds = integration.get("TimeoutInMillis", 30_000) / 1000
            routes.append(Route(properties["RouteKey"], function if invited else None, seconds))
        return routes

    def _invites_everyone(self, function: Function) -> bool:
        """Since October 2025 a public function URL needs both permissions (Lambda guide, "Control access")."""
        granted = {
            one["Action"]
            for one in self._permissions
            if one["FunctionName"] == function.arn
            and one["Principal"] == "*"
            and (one.get("FunctionUrlAuthType") == "NONE" or one.get("InvokedViaFunctionUrl"))
        }
        return granted >= {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
