#!/bin/sh
# Runs schemathesis against a daemon with fake machines: every answer must be documented, fit its
# schema, and be no 5xx.
#
# usage: tests/api-fuzz.sh [EXAMPLES-PER-OPERATION]
#
# Needs python3 with venv (Debian: python3-venv). schemathesis comes from PyPI into target/, once;
# where that cannot be, the script says "skipped: schemathesis" and succeeds.
set -eu

cd "$(dirname "$0")/.."
examples=${1:-20}
target=${CARGO_TARGET_DIR:-target}
venv=$target/schemathesis
version=4.32.5

if [ ! -x "$venv/bin/schemathesis" ] ||
    ! "$venv/bin/schemathesis" --version | grep -q "$version"; then
    rm -rf "$venv"
    if ! { python3 -m venv "$venv" &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"; } >&2; then
        rm -rf "$venv"
        echo "skipped: schemathesis" >&2
        exit 0
    fi
fi

cargo build --quiet -p bangerd --example api_server
work=$(mktemp -d)
mkdir "$work/bin"
mkfifo "$work/stdin"
# Nothing here reaches a network: apt is not found, and no registry behind the proxy.
PATH=$work/bin HTTPS_PROXY=http://127.0.0.1:1 HTTP_PROXY=http://127.0.0.1:1 \
    "$target/debug/examples/api_server" <"$work/stdin" >"$work/port" 2>"$work/log" &
server=$!
# The server lives as long as this end of its standard input is open.
exec 3>"$work/stdin"

finish() {
    status=$?
    exec 3>&-
    wait "$server" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        cat "$work/out" >&2
        echo "the server's log:" >&2
        tail -n 50 "$work/log" >&2
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

for _ in $(seq 300); do
    [ -s "$work/port" ] && break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
[ -s "$work/port" ] || { echo "the server did not start" >&2; exit 1; }
port=$(cat "$work/port")

cat >"$work/schemathesis.toml" <<'TOML'
hooks = "api_fuzz_hooks"

[generation]
# A header cannot hold them, and HTTP libraries refuse to send them.
allow-x00 = false

[phases.stateful]
enabled = false

# It would end the server under test; tests/api does it.
[[operations]]
include-operation-id = "stopDaemon"
enabled = false
TOML

# -c names what must hold: no 5xx, and nothing that the document does not say.
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests "$venv/bin/schemathesis" \
    --config-file "$work/schemathesis.toml" run \
    --url "http://127.0.0.1:$port" \
    --header "banger-api-version: 1" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,every_line_is_an_event \
    --max-examples "$examples" \
    --request-timeout 20 \
    --workers 1 \
    --suppress-health-check all \
    --no-color \
    ${API_FUZZ_REPORT:+--report=ndjson --report-dir="$API_FUZZ_REPORT"} \
    crates/banger-protocol/schema/openapi.json >"$work/out" 2>&1
tail -n 20 "$work/out"
