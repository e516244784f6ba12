# shellcheck shell=bash disable=SC2034  # sourced; other scripts use its variables
# Shared by the scripts: sets up a virtual environment from the lock files, and installs missing Debian packages.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  %s\n' "$2" >&2
    exit 1
}

# Run a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -E "$@"
    else
        die "this needs root: $*" "run it as root, or install sudo"
    fi
}

# ensure_packages COMMAND:PACKAGE ...  installs the Debian package of every missing command.
ensure_packages() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

install_packages() {
    command -v apt-get >/dev/null || die "missing: $*" "install them with this system's package manager"
    say "installing $*"
    as_root apt-get update -qq
    # RUNLEVEL=1: a broker started by its package would block the port of the tests' broker.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

find_python() {
    local candidate
    for candidate in "${PIORCH_PYTHON:-}" python3 python3.11 python3.13 python3.12; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer not found" "sudo apt install python3"
}

# make_venv FOLDER PYTHON LOCK...  creates or updates a virtual environment; quick if nothing has changed.
make_venv() {
    local folder=$1 python=$2 stamp lock locks=()
    shift 2
    for lock in "$ROOT/scripts/lock/build.txt" "$@"; do locks+=(-r "$lock"); done
    stamp=$(cat "$@" "$ROOT/pyproject.toml" <("$python" --version) | sha256sum)
    [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ] && return
    # Debian packages ensurepip separately, in python3-venv.
    "$python" -c 'import ensurepip' 2>/dev/null || install_packages python3-venv
    say "setting up $(basename "$folder") (once; takes minutes on a slow machine)"
    rm -rf "$folder"
    "$python" -m venv "$folder"
    "$folder/bin/pip" install -q --require-hashes "${locks[@]}"
    "$folder/bin/pip" install -q --no-deps --no-build-isolation -e "$ROOT"
    echo "$stamp" >"$folder/.stamp"
}

# keep_wheels FOLDER  downloads the wheels that scripts/install.sh installs, so that the test of that script is fast:
# with the package index, pip takes half a minute to find the packages. If the download fails, the test uses the index.
keep_wheels() {
    local folder=$1 locks=("$ROOT/scripts/lock/build.txt" "$ROOT/scripts/lock/runtime.txt")
    [ -e "$folder/locked.txt" ] && cat "${locks[@]}" | cmp -s - "$folder/locked.txt" && return
    rm -rf "$folder"
    "$PYTHON" -m pip download -q --require-hashes -d "$folder" -r "${locks[0]}" -r "${locks[1]}" || return 0
    cat "${locks[@]}" >"$folder/locked.txt"
}

# ensure_venv LOCK  creates or updates .venv for the lock `demo` or `dev`. A .venv of `dev` is kept for `demo`, because
# `dev` includes `demo`.
ensure_venv() {
    local lock=$1
    [ "$lock" = demo ] && [ -e "$VENV/.dev" ] && lock=dev
    make_venv "$VENV" "$(find_python)" "$ROOT/scripts/lock/$lock.txt"
    [ "$lock" != dev ] || touch "$VENV/.dev"
}
