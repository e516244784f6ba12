#!/usr/bin/env bash
# Updates scripts/lock/*.txt: exact versions and hashes for every supported platform and Python.
# The files name no package index: each machine uses its own pip configuration.
# shellcheck source=scripts/env.sh
source "$(dirname "$0")/env.sh"

TOOL="$ROOT/.venv-lock"
[ -x "$TOOL/bin/uv" ] || { "$(find_python)" -m venv "$TOOL" && "$TOOL/bin/pip" install -q uv; }

cd "$ROOT"
compile() {
    "$TOOL/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-annotate "$@"
}
compile scripts/lock/build.in -o scripts/lock/build.txt
compile pyproject.toml -o scripts/lock/runtime.txt
compile pyproject.toml --extra demo -o scripts/lock/demo.txt
compile pyproject.toml --extra demo --extra dev -o scripts/lock/dev.txt
