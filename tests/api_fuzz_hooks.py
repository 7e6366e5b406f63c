"""What schemathesis has to be told to test the daemon's API whole; see api-fuzz.sh."""

import json

import jsonschema_rs
import schemathesis


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Keeps what goes on until something happens in a VM, which is its purpose, from going on."""
    query = case.query
    if not isinstance(query, dict):
        return
    if case.operation.label == "GET /v1/vms/{vm}/wait":
        timeout = query.get("timeout_ms")
        # What is no number stays, and has to be refused.
        if timeout is None or str(timeout).isdecimal():
            query["timeout_ms"] = 20
    if case.operation.label == "GET /v1/vms/{vm}/logs" and str(query.get("follow")).lower() == "true":
        query["follow"] = "false"


@schemathesis.serializer("application/x-tar")
def tar(ctx, value):
    """No archive, mostly; what is none has to be refused."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/x-ndjson")
def last_line(ctx, response):
    """An operation's stream ends with its end. `every_line_is_an_event` sees to the lines before."""
    return json.loads(response.content.splitlines()[-1])


@schemathesis.deserializer("application/octet-stream")
def raw(ctx, response):
    return response.content.decode(errors="replace")


VALIDATORS = {}


@schemathesis.check
def every_line_is_an_event(ctx, response, case):
    """Of an NDJSON answer every line fits the schema, the first says what began and the last how it ended."""
    if response.headers.get("content-type", [""])[0] != "application/x-ndjson":
        return
    document = case.operation.schema.raw_schema
    if id(document) not in VALIDATORS:
        schema = {
            "$ref": "#/components/schemas/OperationEvent",
            "components": document["components"],
        }
        VALIDATORS[id(document)] = jsonschema_rs.validator_for(schema)
    events = [json.loads(line) for line in response.content.splitlines()]
    for event in events:
        VALIDATORS[id(document)].validate(event)
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started" and kinds[-1] == "ended", kinds
    assert not {"started", "ended"} & set(kinds[1:-1]), kinds
