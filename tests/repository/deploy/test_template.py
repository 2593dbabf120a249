"""The CloudFormation template: valid, with minimal permissions, and with alarms."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tidewire.settings.config import Settings
from tidewire.settings.secrets import references

from tests.repository.deploy.conftest import OTLP
from tests.support.api import OPENAPI
from tests.support.processes import ROOT

pytestmark = [
    pytest.mark.xdist_group("template"),
    pytest.mark.timeout(180),
]  # a build, on a shared machine

FUNCTIONS = {"publish", "webhooks", "tokens", "ops", "receive", "stream", "poll"}


def of_type(template: dict[str, Any], type: str) -> dict[str, Any]:
    return {name: item["Properties"] for name, item in template["Resources"].items() if item["Type"] == type}


def functions(template: dict[str, Any]) -> dict[str, Any]:
    return {item["FunctionName"].split("-")[-1]: item for item in of_type(template, "AWS::Lambda::Function").values()}


def test_the_template_is_valid(template: dict[str, Any], previews: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """With streams on a function URL, and with streams on API Gateway."""
    assert of_type(template, "AWS::ApiGateway::Method") == {}
    (url,) = of_type(template, "AWS::Lambda::Url").values()
    assert url["InvokeMode"] == "RESPONSE_STREAM"

    other, *_ = previews.values()
    assert of_type(other, "AWS::Lambda::Url") == {}
    methods = {item["HttpMethod"]: item["Integration"] for item in of_type(other, "AWS::ApiGateway::Method").values()}
    assert methods["GET"]["ResponseTransferMode"] == "STREAM"
    assert methods["GET"]["TimeoutInMillis"] == 900_000
    assert "response-streaming-invocations" in json.dumps(methods["GET"]["Uri"])
    # W3005: osls writes dependencies that CloudFormation would infer.
    cfn_lint = str(Path(sys.executable).parent / "cfn-lint")
    files = [tmp_path / "function-url.json", tmp_path / "rest-api.json"]
    for file, text in zip(files, (template, other), strict=True):
        file.write_text(json.dumps(text))
    command = [cfn_lint, *map(str, files), "--ignore-checks", "W3005"]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def names(template: dict[str, Any]) -> dict[str, set[str]]:
    """The names that the stack uses in the account, in the store and in its parameters, by kind."""
    found: dict[str, set[str]] = {
        "export": {output["Export"]["Name"] for output in template["Outputs"].values() if "Export" in output}
    }
    for resource in template["Resources"].values():
        for key, value in resource.get("Properties", {}).items():
            named = re.search(r"(?<!Metric)(?<!Stage)Name$", key)  # both belong to a named resource
            if named and isinstance(value, str):
                found.setdefault(f"{resource['Type']} {key}", set()).add(value)
    variables = [function["Environment"]["Variables"] for function in functions(template).values()]
    found["prefix"] = {values["REALTIME_PREFIX"] for values in variables}
    found["parameter"] = {value for values in variables for value in values.values() if str(value).startswith("ssm:")}
    arns = re.findall(r"\$\{AWS::AccountId\}:([^\"]+)", json.dumps(template))
    found["right"] = {arn for arn in arns if arn.startswith(("log-group:", "rule/")) or "AWS::Region" not in arn}
    return found


def test_stages_and_previews_share_no_names(template: dict[str, Any], previews: dict[str, dict[str, Any]]) -> None:
    """No resource name, prefix, parameter or permission."""
    stages = {"prod": names(template), **{stage: names(preview) for stage, preview in previews.items()}}
    kinds = {"export", "prefix", "parameter", "right", "AWS::Events::EventBus Name", "AWS::SQS::Queue QueueName"}
    for stage, found in stages.items():
        assert found.keys() >= kinds | {"AWS::Lambda::Function FunctionName", "AWS::ApiGatewayV2::Api Name"}
        assert found["prefix"] == {f"rt-{stage}"}
    assert stages["pr-7"].keys() == stages["pr-8"].keys()
    for one, other in itertools.combinations(stages.values(), 2):
        assert {kind: shared for kind in one if (shared := one[kind] & other.get(kind, set()))} == {}


def test_clients_get_the_address_of_the_stream(template: dict[str, Any], previews: dict[str, dict[str, Any]]) -> None:
    """The function URL, or the REST API with its stage: cfn-lint checks that both resources exist."""
    rest_api = "https://${ApiGatewayRestApi}.execute-api.${AWS::Region}.${AWS::URLSuffix}/pr-7/api/events"
    variants = ((template, "${StreamLambdaFunctionUrl.FunctionUrl}api/events"), (previews["pr-7"], rest_api))
    for made, address in variants:
        for name in ("tokens", "poll"):
            assert functions(made)[name]["Environment"]["Variables"]["REALTIME_STREAM_URL"] == {"Fn::Sub": address}


def test_concurrency_is_reserved_only_by_parameters(
    template: dict[str, Any], previews: dict[str, dict[str, Any]]
) -> None:
    """A new account has 10 concurrent executions, of which 10 must stay unreserved: a deployment would fail."""
    assert [name for name, one in functions(template).items() if "ReservedConcurrentExecutions" in one] == []
    for name, function in functions(previews["pr-7"]).items():
        assert function["ReservedConcurrentExecutions"] == (5 if name == "stream" else 2), name


def test_every_function_has_its_settings(template: dict[str, Any]) -> None:
    """arm64, a log with a retention, the names of its stage, and the mode of the Lambda Web Adapter."""
    found = functions(template)
    assert found.keys() == FUNCTIONS
    for name, function in found.items():
        assert function["Architectures"] == ["arm64"], name
        assert {"Key": "stage", "Value": "prod"} in function["Tags"], name
        variables = function["Environment"]["Variables"]
        assert variables["REDIS_URL"] == "ssm:/tidewire/prod/redis-url", name
        assert variables["REALTIME_PREFIX"] == "rt-prod", name
    logs = of_type(template, "AWS::Logs::LogGroup").values()
    assert len(logs) == len(FUNCTIONS)
    assert all(log["RetentionInDays"] == 14 for log in logs)
    for name, mode in (("stream", "response_stream"), ("poll", "buffered")):
        function = found[name]
        assert function["Environment"]["Variables"]["AWS_LWA_INVOKE_MODE"] == mode
        assert "LambdaAdapterLayerArm64" in json.dumps(function["Layers"])
        assert function["Handler"] == "functions/run_stream.sh"
        assert (ROOT / function["Handler"]).stat().st_mode & 0o111


def test_all_functions_send_traces_or_none(template: dict[str, Any], previews: dict[str, dict[str, Any]]) -> None:
    for stage, made, endpoint in (("prod", template, ""), ("pr-7", previews["pr-7"], OTLP)):
        for name, function in functions(made).items():
            variables = function["Environment"]["Variables"]
            assert (variables["OTEL_EXPORTER_OTLP_ENDPOINT"], name) == (endpoint, name)
            assert variables["OTEL_SERVICE_NAME"] == f"tidewire-{stage}"
            settings = Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": variables["OTEL_EXPORTER_OTLP_ENDPOINT"]})
            assert bool(settings.trace_exporters) is bool(endpoint)


def test_each_function_may_read_only_its_own_secrets(template: dict[str, Any]) -> None:
    """The template contains their names, no values. No permission has a wildcard."""
    roles = of_type(template, "AWS::IAM::Role")
    for name, function in functions(template).items():
        role = json.dumps(roles[f"{name.title()}Role"])
        named = {
            value.removeprefix("ssm:").removesuffix("?")
            for value in function["Environment"]["Variables"].values()
            if isinstance(value, str) and value.startswith("ssm:")
        }
        allowed = {part.split('"')[0] for part in role.split(":parameter")[1:]}
        assert allowed - {"/tidewire/prod/webhooks/*"} == named, name
    everything = [
        statement
        for role in roles.values()
        for policy in role["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    for statement in everything:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions), actions
        assert statement["Resource"] != "*", actions
    assert "sqs:" not in json.dumps(roles["StreamRole"])
    assert "events:PutEvents" not in json.dumps(roles["ReceiveRole"])


def test_every_path_but_metrics_has_a_route(template: dict[str, Any]) -> None:
    """To the function whose description names it. Metrics of one environment of many are useless, and not public."""
    routes = of_type(template, "AWS::ApiGatewayV2::Route").values()
    integrations = of_type(template, "AWS::ApiGatewayV2::Integration")
    functions_by_route = {
        route["RouteKey"]: next(
            name for name in FUNCTIONS if f"{name.title()}LambdaFunction" in json.dumps(integrations[target(route)])
        )
        for route in routes
    }
    preflights = {key for key in functions_by_route if key.startswith("OPTIONS ")}
    contract = {
        f"{method.upper()} {path}"
        for path, methods in json.loads(OPENAPI.read_text())["paths"].items()
        for method in methods.keys() & {"get", "post"}
    }
    assert functions_by_route.keys() - preflights == contract - {"GET /api/metrics"}
    # Requests of other origins that need a preflight, and the handshake of CloudEvents webhooks.
    needed = {"/api/publish", "/api/config", "/api/tickets", "/api/events", "/api/webhooks/{source}"}
    assert preflights == {f"OPTIONS {path}" for path in needed}
    named = {name: function["Description"] for name, function in functions(template).items()}
    for key, name in functions_by_route.items():
        described = re.findall(r"(?:GET|POST) |/api/[\w/{}.-]*", named[name])
        method, path = key.split(" ")
        assert method == "OPTIONS" or f"{method} " in described, key
        assert any(path.startswith(start) for start in described), key
    assert "metrics" not in named["ops"]


def target(route: dict[str, Any]) -> str:
    """The logical id of the route's integration."""
    prefix, integration = route["Target"]["Fn::Join"][1]
    assert prefix == "integrations"
    return str(integration["Ref"])


def test_functions_behind_the_site_verify_signed_rewrites(template: dict[str, Any]) -> None:
    """If the parameter exists: the `?` lets a stack without it start."""
    verifying = {
        name: variables["REALTIME_NETLIFY_SECRET"]
        for name, function in functions(template).items()
        if "REALTIME_NETLIFY_SECRET" in (variables := function["Environment"]["Variables"])
    }
    assert verifying == dict.fromkeys(FUNCTIONS - {"stream", "poll", "receive"}, "ssm:/tidewire/prod/netlify-secret?")
    assert references(verifying) == verifying


def test_undelivered_events_are_kept_for_a_redrive(template: dict[str, Any]) -> None:
    (rule,) = of_type(template, "AWS::Events::Rule").values()
    (target,) = rule["Targets"]
    dead = {"Fn::GetAtt": ["DeadLetters", "Arn"]}
    assert target["DeadLetterConfig"]["Arn"] == dead
    assert target["RetryPolicy"]["MaximumEventAgeInSeconds"] == 86_400
    assert rule["EventPattern"] == {"source": ["tidewire"]}
    (invoked,) = of_type(template, "AWS::Lambda::EventInvokeConfig").values()
    assert invoked["DestinationConfig"]["OnFailure"]["Destination"] == dead
    (mapping,) = of_type(template, "AWS::Lambda::EventSourceMapping").values()
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    queues = of_type(template, "AWS::SQS::Queue")
    assert queues["Redrive"]["RedrivePolicy"]["deadLetterTargetArn"] == dead
    assert queues["Redrive"]["VisibilityTimeout"] >= 6 * functions(template)["receive"]["Timeout"]
    (policy,) = of_type(template, "AWS::SQS::QueuePolicy").values()
    assert policy["PolicyDocument"]["Statement"][0]["Principal"] == {"Service": "events.amazonaws.com"}


def test_alarms_for_errors_throttles_dead_letters_and_lag(template: dict[str, Any]) -> None:
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    metrics = {
        (alarm["MetricName"], alarm["Dimensions"][0]["Value"]) for alarm in alarms if alarm["Namespace"] != "AWS/SQS"
    }
    for name in FUNCTIONS:
        assert ("Errors", f"tidewire-prod-{name}") in metrics
        assert ("Throttles", f"tidewire-prod-{name}") in metrics
    assert ("TailLag", "tidewire-prod-stream") in metrics
    assert "ApproximateNumberOfMessagesVisible" in {alarm["MetricName"] for alarm in alarms}
    assert all(alarm["AlarmActions"] for alarm in alarms)
