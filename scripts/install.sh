#!/usr/bin/env bash
# Installs, upgrades or removes pi-orchestrator on Raspberry Pi OS and Debian 12/13.
#
# The running version is not changed until the new one is complete in its own folder and
# has accepted the configuration. Then one symlink is switched:
#
#   /opt/pi-orchestrator/releases/VERSION-TIME   a complete venv; the previous one is kept
#   /opt/pi-orchestrator/venv                    symlink to the one in use
#
# A release folder is never renamed, because the scripts of a venv contain their path.
set -euo pipefail
# The daemon's user must be able to read what root installs, whatever root's umask is.
umask 022
# A developer's Python settings must not affect the venv.
unset PYTHONPATH PYTHONHOME

readonly NAME=pi-orchestrator
readonly DEFAULT_AP=192.168.10.1
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly CHECKOUT

readonly OPT=/opt/$NAME
readonly ETC=/etc/$NAME
readonly STATE=/var/lib/$NAME
readonly UNIT=/etc/systemd/system/$NAME.service
readonly NO_CAPS=/etc/systemd/system/$NAME.service.d/no-capabilities.conf
readonly SYSUSERS=/etc/sysusers.d/$NAME.conf
readonly TMPFILES=/etc/tmpfiles.d/$NAME.conf
readonly BROKER=/etc/mosquitto/conf.d/$NAME.conf
readonly BROKER_ACL=/etc/mosquitto/$NAME.acl
readonly BROKER_USERS=/etc/mosquitto/$NAME.passwd
readonly MQTT_PASSWORD=$ETC/mqtt_password
readonly SYSCTL=/etc/sysctl.d/60-$NAME.conf
readonly POLKIT=/etc/polkit-1/rules.d/50-$NAME.rules
readonly COMMAND=/usr/local/bin/$NAME

usage() {
    cat <<HELP
Usage: scripts/install.sh [options]

Installs or upgrades $NAME on Raspberry Pi OS or Debian 12/13.
Configuration and state are kept. It can be run again at any time.

  --ap-address ADDR  address of the cameras' network, where mosquitto
                     listens (default $DEFAULT_AP)
  --no-capabilities  run the daemon unprivileged: cameras are found with
                     the kernel's neighbour table, not with ARP scans
  --python PATH      Python 3.11 or later (default: the system's)
  --no-start         install and enable, but do not start or restart
  --dry-run          print each step and change nothing; needs no root
  --root DIR         install below DIR; no packages, no user, no services
                     (for tests; needs no root)
  --uninstall        stop and remove; keeps $ETC and
                     $STATE
  --purge            with --uninstall: also remove these and the user
  --help             show this text

Exit codes: 0 success, 1 failure (the version in use is not changed until
the new one is ready), 2 wrong usage.
HELP
}

dry=''
root=''
start=yes
uninstall=''
purge=''
no_caps=''
python=''
ap=$DEFAULT_AP
unfinished=''
broker=''       # new: this script writes the settings; ours: they exist; other: other_broker is set
other_broker='' # a file that already has a listener on 1883
acl=''          # this script's broker settings include the ACL, so the daemon needs its MQTT user
mqtt=''         # what the configuration says about the broker: see mqtt_choice
add_user=''     # the MQTT user is to be added to the configuration

step() { printf '%s%s\n' "${dry:+would: }" "$1"; }
kept() { printf '%s\n' "$1"; }
note() { printf '  note: %s\n' "$1"; }
run() { [[ -n $dry ]] || "$@"; }

fail() { # FAULT REMEDY
    printf 'error: %s\n  do: %s\n' "$1" "$2" >&2
    exit 1
}

wrong_usage() {
    printf 'error: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

# True unless --root is used.
real() { [[ -z $root ]]; }

services() { real && run systemctl "$@"; }

cleanup() {
    if [[ -n $unfinished ]]; then
        rm -rf -- "$unfinished"
        echo "The unfinished version was removed; the one in use was not changed." >&2
    fi
}
trap cleanup EXIT

parse() {
    while (($#)); do
        case $1 in
            --ap-address | --python | --root)
                [[ -n ${2:-} ]] || wrong_usage "$1 needs a value"
                case $1 in
                    --ap-address) ap=$2 ;;
                    --python) python=$2 ;;
                    --root) root=$2 ;;
                esac
                shift
                ;;
            --no-capabilities) no_caps=yes ;;
            --no-start) start='' ;;
            --dry-run) dry=yes ;;
            --uninstall) uninstall=yes ;;
            --purge) purge=yes ;;
            -h | --help)
                usage
                exit 0
                ;;
            *) wrong_usage "unknown option: $1" ;;
        esac
        shift
    done
    [[ -z $purge || -n $uninstall ]] || wrong_usage "--purge needs --uninstall"
    is_ipv4 "$ap" || wrong_usage "--ap-address is not an IPv4 address: $ap"
    if [[ -n $root ]]; then
        # "/" would install files into the real system, but no user and no services.
        root=$(realpath -m -- "$root")
        [[ $root != / ]] || wrong_usage "--root / is not allowed: omit --root to install into the system"
    fi
}

is_ipv4() {
    local octet='(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
    [[ $1 =~ ^$octet(\.$octet){3}$ ]]
}

need_root() {
    if real && [[ -z $dry ]]; then
        ((EUID == 0)) || fail "root is needed" "run: sudo $0 (to preview: $0 --dry-run)"
        [[ -d /run/systemd/system ]] ||
            fail "systemd is not running" "install into a folder with --root DIR"
    fi
}

# --- install ---------------------------------------------------------------------------

check_checkout() {
    local file
    for file in pyproject.toml scripts/lock/build.txt scripts/lock/runtime.txt config/config.toml \
        config/mosquitto-$NAME.conf config/mosquitto-$NAME.acl systemd/$NAME.service; do
        [[ -f $CHECKOUT/$file ]] ||
            fail "$file is missing from the checkout" "get a complete copy of $NAME"
    done
    version=$(sed -n 's/^__version__ *= *"\([0-9A-Za-z.+-]*\)".*/\1/p' "$CHECKOUT/pi_orchestrator/__init__.py")
    [[ -n $version ]] ||
        fail "no version found in pi_orchestrator/__init__.py" "get a complete copy of $NAME"
}

install_packages() {
    real || return 0
    local missing=()
    # python3-venv is only for the system's Python, not for one given with --python.
    [[ -n $python ]] || /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [[ -x /usr/sbin/mosquitto ]] || missing+=(mosquitto)
    if ((${#missing[@]} == 0)); then
        kept "packages python3-venv and mosquitto are installed"
        return 0
    fi
    step "install packages: ${missing[*]}"
    run apt-get update -qq ||
        fail "apt-get update failed" "check the network and the clock, then run this again"
    run env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        fail "apt-get failed" "run: sudo apt-get install ${missing[*]}"
}

choose_python() {
    python=${python:-/usr/bin/python3}
    if ! command -v -- "$python" >/dev/null; then
        [[ -z $dry ]] || return 0 # a dry run has not installed it
        fail "no Python at $python" "give another one with --python PATH"
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is older than 3.11" "use Debian 12 or later, or --python PATH"
    local where
    where=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    if real && [[ $where == /home/* || $where == /root/* ]]; then
        fail "$where is hidden from the service (ProtectHome)" "choose a Python outside /home and /root"
    fi
}

create_user() {
    step "user $NAME ($SYSUSERS)"
    step "owners of its folders ($TMPFILES)"
    run install -D -m 0644 "$CHECKOUT/systemd/$NAME.sysusers" "$root$SYSUSERS"
    run install -D -m 0644 "$CHECKOUT/systemd/$NAME.tmpfiles" "$root$TMPFILES"
    if real; then
        run systemd-sysusers "$SYSUSERS"
    fi
}

# Sets broker, other_broker, acl, mqtt and add_user, before anything about the broker is changed.
plan_broker() {
    local files
    mapfile -t files < <(broker_files)
    # Mosquitto does not start with two listeners on one port.
    other_broker=$(in_files '(listener|port)[[:space:]]+1883' "${files[@]}")
    mqtt=$(mqtt_choice "$root$ETC/config.toml")
    if [[ -e $root$BROKER ]]; then
        broker=ours
        acl=$(in_files "acl_file[[:space:]]+$BROKER_ACL" "$root$BROKER")
    elif [[ -n $other_broker ]]; then
        broker=other
    else
        broker=new
        # Mosquitto does not start either if a setting is given twice.
        if [[ $mqtt == none || $mqtt == user ]] &&
            [[ -z $(in_files '(acl_file|password_file|per_listener_settings)' "${files[@]}") ]]; then
            acl=yes
        fi
    fi
    if [[ -n $acl && $mqtt == none ]]; then
        add_user=yes
    fi
}

broker_files() { # prints the broker's configuration files, except the one of this script
    find "$root/etc/mosquitto/mosquitto.conf" "$root/etc/mosquitto/conf.d" -maxdepth 1 -name '*.conf' \
        ! -path "$root$BROKER" 2>/dev/null | sort || true
}

in_files() { # SETTING FILE...  prints the first file that has the setting (a regular expression)
    local setting=$1
    shift
    if (($#)); then
        grep -lsE "^[[:space:]]*$setting([[:space:]]|\$)" "$@" | head -n 1 || true
    fi
}

# mqtt_choice FILE  prints what a configuration says about the broker:
#   none    the local broker, no user; this script can add the user
#   edit    the local broker, no user; only a person can add it, because the table is not written as [mqtt]
#   user    the local broker, with the user of this script
#   remote  another broker
#   other   another user, or the file is not valid
mqtt_choice() {
    if [[ ! -e $1 ]]; then
        echo none # the file will be a copy of the defaults
    elif command -v -- "$python" >/dev/null; then
        mqtt_program choice "$1"
    else
        echo other # only in a dry run
    fi
}

with_mqtt_user() { mqtt_program text "$1"; } # FILE  prints a configuration with the MQTT user added

mqtt_program() { # choice|text FILE
    "$python" - "$1" "$2" "$NAME" "$MQTT_PASSWORD" "$ap" <<'PROGRAM'
import pathlib, re, sys, tomllib

action, file, name, password_file, ap = sys.argv[1:]
lines = f'username = "{name}"\npassword_file = "{password_file}"\n'
LOCAL = {"host": ("127.0.0.1", "localhost", ap), "port": (1883,), "tls": (False,), "embedded": (False,)}


def with_user(text, settings):
    """The text with the user; None if it cannot be added without changing anything else."""
    if "mqtt" in settings:
        text, count = re.subn(r"(?m)^([ \t]*\[mqtt\][ \t]*(#.*)?)(\n|\Z)", r"\1\n" + lines, text, count=1)
    else:
        text, count = text + ("" if text.endswith("\n") or not text else "\n") + "\n[mqtt]\n" + lines, 1
    wanted = settings | {"mqtt": settings.get("mqtt", {}) | {"username": name, "password_file": password_file}}
    try:
        return text if count and tomllib.loads(text) == wanted else None
    except tomllib.TOMLDecodeError:
        return None


def choice(text, settings):
    mqtt = settings.get("mqtt", {})
    if not isinstance(mqtt, dict):
        return "other"
    if any(mqtt.get(key, local[0]) not in local for key, local in LOCAL.items()):
        return "remote"
    if mqtt.get("username") == name:
        return "user"
    if {"username", "password", "password_file"} & mqtt.keys():
        return "other"
    return "edit" if with_user(text, settings) is None else "none"


try:
    text = pathlib.Path(file).read_text(encoding="utf-8")
    settings = tomllib.loads(text)
except (ValueError, OSError):  # check-config reports what is wrong
    text, settings = "", {"mqtt": None}
if action == "choice":
    print(choice(text, settings))
else:
    sys.stdout.write(with_user(text, settings) or text)
PROGRAM
}

# Creates the MQTT user and the ACL. The two files of the broker belong to the broker's user, the password file of the
# daemon to the daemon's user.
install_broker_user() {
    if [[ -e $root$MQTT_PASSWORD && -e $root$BROKER_USERS ]]; then
        kept "MQTT user $NAME is kept ($BROKER_USERS)"
    else
        step "MQTT user $NAME ($BROKER_USERS)"
        run install -d "$root${BROKER_USERS%/*}" "$root$ETC"
        run write_mqtt_user "$root$MQTT_PASSWORD" "$root$BROKER_USERS" ||
            fail "the MQTT user cannot be created" "see the message above, then run this again"
    fi
    if [[ -e $root$BROKER_ACL ]]; then
        kept "broker ACL $BROKER_ACL is kept"
    else
        step "broker ACL $BROKER_ACL"
        run install -D -m 0640 "$CHECKOUT/config/mosquitto-$NAME.acl" "$root$BROKER_ACL"
    fi
    if real && [[ -z $dry ]]; then
        chown mosquitto: "$BROKER_USERS" "$BROKER_ACL"
        chown "$NAME:" "$MQTT_PASSWORD"
    fi
}

# write_mqtt_user PASSWORD_FILE USERS_FILE  creates the password unless it exists, and the user's line in mosquitto's
# password file; both files have mode 0600. The password is in no argument, because other users can read those.
write_mqtt_user() {
    "$python" - "$NAME" "$1" "$2" <<'PROGRAM'
import base64, hashlib, os, pathlib, secrets, sys

name, password_file, users_file = sys.argv[1], *map(pathlib.Path, sys.argv[2:])
iterations, salt = 20000, secrets.token_bytes(12)
os.umask(0o077)


def write(file, text):
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.write_text(text)
    partial.replace(file)


if not password_file.exists():
    write(password_file, secrets.token_urlsafe(24) + "\n")
digest = hashlib.pbkdf2_hmac("sha512", password_file.read_text().strip().encode(), salt, iterations)
fields = [name, "$7", str(iterations), *(base64.b64encode(part).decode() for part in (salt, digest))]
others = users_file.read_text().splitlines(True) if users_file.exists() else []
others = [line for line in others if not line.startswith(name + ":")]
write(users_file, "".join(others) + fields[0] + ":" + "$".join(fields[1:]) + "\n")
PROGRAM
}

install_config() {
    local current=$root$ETC/config.toml
    if [[ ! -e $current ]]; then
        step "configuration $ETC/config.toml"
        run write_config "$current"
        run rm -f "$current.new"
    elif cmp -s "$CHECKOUT/config/config.toml" "$current" ||
        cmp -s <(with_mqtt_user "$CHECKOUT/config/config.toml") "$current"; then
        kept "configuration $ETC/config.toml is up to date"
        run rm -f "$current.new"
    else
        kept "configuration $ETC/config.toml is kept"
        note "this version's defaults: $ETC/config.toml.new"
        run install -m 0640 "$CHECKOUT/config/config.toml" "$current.new"
    fi
    [[ -d $root$STATE ]] || step "folder $STATE"
    # systemd-tmpfiles sets owners and modes of the installed files; with --root, only the state folder is needed.
    if real; then
        run systemd-tmpfiles --create "$TMPFILES"
    else
        run install -d -m 0700 "$root$STATE"
    fi
}

write_config() {
    install -D -m 0640 "$CHECKOUT/config/config.toml" "$1"
    if [[ -n $add_user ]]; then
        with_mqtt_user "$CHECKOUT/config/config.toml" >"$1"
    fi
}

build_release() {
    # The clock of a Pi may be wrong, so a counter makes the name unique.
    local base name n=1
    base=$version-$(date -u +%Y%m%dT%H%M%SZ)
    name=$base
    while [[ -e $root$OPT/releases/$name ]]; do
        n=$((n + 1))
        name=$base-$n
    done
    release=$OPT/releases/$name
    step "new version in $release"
    run create_venv
    step "install locked dependencies (takes minutes on a small Pi)"
    run pip_install --require-hashes -r "$CHECKOUT/scripts/lock/build.txt" -r "$CHECKOUT/scripts/lock/runtime.txt" ||
        fail "the dependencies cannot be installed" \
            "check network, clock, disk space and, offline, the packages; then run this again"
    step "install $NAME $version"
    # Built with the packages just installed, so nothing is downloaded without a hash.
    run pip_install --no-deps --no-build-isolation "$CHECKOUT" ||
        fail "$NAME cannot be installed" "see pip's message above, then run this again"
}

create_venv() {
    unfinished=$root$release
    install -d "$root$OPT/releases"
    "$python" -m venv "$root$release" ||
        fail "cannot create the venv" "run: sudo apt-get install python3-venv"
}

pip_install() { "$root$release/bin/python" -m pip --disable-pip-version-check --no-input install -q "$@"; }

check_config() { # [FILE]  (default: the configuration in use)
    step "check $ETC/config.toml with the new version"
    [[ -z $dry ]] || return 0
    local output variables=(PATH="$PATH")
    real || variables+=(PIORCH_MQTT__PASSWORD_FILE="$root$MQTT_PASSWORD")
    # No other variables, because the service does not get those of this shell.
    output=$(env -i "${variables[@]}" "$root$release/bin/$NAME" check-config --config "${1:-$root$ETC/config.toml}" 2>&1) || {
        printf '%s\n' "$output" >&2
        fail "the new version does not accept the configuration" "correct $ETC/config.toml, then run this again"
    }
}

install_broker() {
    if [[ -n $add_user && -e $root$ETC/config.toml && $(mqtt_choice "$root$ETC/config.toml") == none ]]; then
        step "add the MQTT user to $ETC/config.toml"
        add_mqtt_user
    elif [[ -n $acl && $mqtt == edit ]]; then
        note "the broker's ACL needs the daemon's user. Add"
        note_mqtt_user
        note "then: sudo systemctl restart $NAME"
    fi
    case $broker in
        ours)
            kept "broker settings $BROKER are kept"
            grep -qF "listener 1883 $ap" "$root$BROKER" ||
                note "they lack $ap; edit them if the AP's address changed"
            note_missing_acl "$BROKER"
            return 0
            ;;
        other)
            kept "broker settings are not changed"
            note "${other_broker#"$root"} already has a listener on 1883"
            note_missing_acl "${other_broker#"$root"}"
            return 0
            ;;
    esac
    step "broker settings $BROKER"
    note "mosquitto listens on 127.0.0.1 and $ap"
    if [[ -n $acl ]]; then
        note "only the daemon can send commands to cameras (ACL)"
    else
        note_missing_acl "$BROKER"
    fi
    step "kernel setting $SYSCTL"
    note "net.ipv4.ip_nonlocal_bind = 1: mosquitto may start before the AP"
    if real && [[ -n $start ]]; then
        step "restart mosquitto"
    fi
    [[ -z $dry ]] || return 0
    install -d "$root$(dirname "$BROKER")" "$root$(dirname "$SYSCTL")"
    write_broker >"$root$BROKER"
    printf '%s\n' "# Lets mosquitto bind before the access point is up; it exits if it cannot bind." \
        "net.ipv4.ip_nonlocal_bind = 1" >"$root$SYSCTL"
    if real; then
        sysctl -q -p "$SYSCTL" || note "takes effect at the next boot: $SYSCTL"
        if [[ -n $start ]]; then
            # The daemon waits for its broker, so continue.
            systemctl restart mosquitto || note "mosquitto did not start: journalctl -u mosquitto -n 20"
        else
            note "to apply: sudo systemctl restart mosquitto"
        fi
    fi
}

# Prints the broker settings; without the ACL if the daemon does not use its MQTT user, because the ACL would refuse it.
write_broker() {
    local drop=()
    [[ -n $acl ]] || drop=(-e '/^password_file /d' -e '/^acl_file /d')
    sed -e "s/${DEFAULT_AP//./\\.}/$ap/g" "${drop[@]}" "$CHECKOUT/config/mosquitto-$NAME.conf"
}

# Adds the MQTT user to the configuration, if the new version accepts the result.
add_mqtt_user() {
    local file=$root$ETC/config.toml
    [[ -n $dry ]] || (umask 077 && with_mqtt_user "$file" >"$file.partial")
    if (check_config "$file.partial"); then
        run cp -- "$file.partial" "$file" # keeps owner and mode
        run rm -f -- "$file.partial"
    else
        rm -f -- "$file.partial"
        exit 1
    fi
}

note_mqtt_user() { # prints the lines to add to the configuration
    note "below [mqtt] in $ETC/config.toml:"
    note "  username = \"$NAME\""
    note "  password_file = \"$MQTT_PASSWORD\""
}

note_missing_acl() { # FILE  prints what to add to these broker settings, unless they have access control
    local files
    mapfile -t files < <(broker_files)
    [[ -z $(in_files '(acl_file|plugin|auth_plugin)' "$root$BROKER" "${files[@]}") ]] || return 0
    note "any client can send commands to cameras. To change that, add to"
    note "$1:"
    note "  password_file $BROKER_USERS"
    note "  acl_file $BROKER_ACL"
    note "  max_packet_size 266240"
    # A daemon that uses another broker does not need the user of this one.
    if [[ $mqtt != remote && $mqtt != user ]]; then
        note "and add"
        note_mqtt_user
    fi
    note "then: sudo systemctl restart mosquitto $NAME"
}

# Without polkit NetworkManager is not installed either, so no rule is needed.
install_polkit() {
    [[ -d $root${POLKIT%/*} ]] || return 0
    step "polkit rule $POLKIT (WiFi scans)"
    run install -m 0644 "$CHECKOUT/systemd/$NAME.rules" "$root$POLKIT"
}

install_unit() {
    step "service $UNIT"
    run install -D -m 0644 "$CHECKOUT/systemd/$NAME.service" "$root$UNIT"
    # An upgrade without --no-capabilities keeps the earlier choice.
    if [[ -n $no_caps || -e $root$NO_CAPS ]]; then
        step "run it without capabilities; to undo, remove this file and run again:"
        note "$NO_CAPS"
        run install -D -m 0644 "$CHECKOUT/systemd/no-capabilities.conf" "$root$NO_CAPS"
    fi
}

switch_release() {
    local previous old
    previous=$(readlink "$root$OPT/venv" 2>/dev/null) || previous=''
    step "switch $OPT/venv to the new version"
    if [[ -z $dry ]]; then
        sync -f "$root$release" # a power failure must not leave a link to empty files
        rm -f "$root$OPT/venv.next"
        ln -s "releases/${release##*/}" "$root$OPT/venv.next"
        mv -T "$root$OPT/venv.next" "$root$OPT/venv"
        unfinished=''
    fi
    if [[ ! -L $root$COMMAND ]] && [[ -e $root$COMMAND ]]; then
        note "$COMMAND is not a link, so it is not replaced"
    else
        [[ -L $root$COMMAND ]] || step "command $COMMAND"
        run install -d "$root$(dirname "$COMMAND")"
        run ln -sfn "$OPT/venv/bin/$NAME" "$root$COMMAND"
    fi
    for old in "$root$OPT"/releases/*; do
        case ${old##*/} in
            '*' | "${release##*/}" | "${previous##*/}") ;;
            *)
                step "remove old version ${old##*/}"
                run rm -rf -- "$old"
                ;;
        esac
    done
    if [[ -n $previous && -e $root$OPT/$previous ]]; then
        note "the previous version is kept: ${previous##*/}"
    fi
}

start_service() {
    real || return 0
    step "enable $NAME"
    services daemon-reload
    services enable --quiet $NAME
    if [[ -z $start ]]; then
        note "not started: sudo systemctl restart $NAME"
        return 0
    fi
    step "start $NAME"
    services restart $NAME ||
        fail "$NAME was installed but did not start" "read: journalctl -u $NAME -n 50"
}

install_all() {
    check_checkout
    need_root
    install_packages
    choose_python
    create_user
    plan_broker
    install_broker_user
    install_config
    build_release
    check_config
    install_broker
    install_polkit
    install_unit
    switch_release
    start_service
    if [[ -z $dry ]]; then
        echo "Done. Next: sudo $NAME doctor"
    else
        echo "Nothing was changed."
    fi
}

# --- uninstall -------------------------------------------------------------------------

remove() { # PATH
    if [[ -e $root$1 || -L $root$1 ]]; then
        step "remove $1"
        run rm -rf -- "$root$1"
    fi
}

remove_broker_file() { # PATH  removes a file of the broker, unless other broker settings use it
    local files
    mapfile -t files < <(broker_files)
    if [[ -n $(in_files "(acl_file|password_file)[[:space:]]+$1" "${files[@]}") ]]; then
        note "kept: $1, used by other broker settings"
    else
        remove "$1"
    fi
}

uninstall_all() {
    local secret
    need_root
    if real && [[ -e $UNIT ]]; then
        step "stop and disable $NAME"
        services disable --quiet --now $NAME || note "could not stop it: systemctl status $NAME"
    fi
    remove "$UNIT"
    remove "$NO_CAPS"
    # Other drop-ins belong to the owner; only --purge removes them.
    if [[ -z $dry ]]; then
        rmdir --ignore-fail-on-non-empty "$root${NO_CAPS%/*}" 2>/dev/null || true
    fi
    services daemon-reload || true
    if [[ $(readlink "$root$COMMAND" 2>/dev/null) == "$OPT/"* ]]; then
        remove "$COMMAND"
    fi
    remove "$OPT"
    if [[ -e $root$BROKER ]]; then
        remove "$BROKER"
        remove "$SYSCTL"
        if real; then
            services try-restart mosquitto || note "mosquitto did not restart: journalctl -u mosquitto -n 20"
        fi
    fi
    remove_broker_file "$BROKER_ACL"
    remove_broker_file "$BROKER_USERS"
    remove "$POLKIT"
    remove "$TMPFILES"
    remove "$SYSUSERS"
    if [[ -n $purge ]]; then
        remove "${NO_CAPS%/*}"
        remove "$ETC"
        remove "$STATE"
        for secret in api_key mqtt_password target_password camera_mqtt_password; do
            remove "/etc/credstore/$NAME.$secret"
        done
        if real && getent passwd $NAME >/dev/null; then
            step "remove user $NAME"
            run userdel $NAME
        fi
    else
        note "kept: $ETC"
        note "kept: $STATE (--purge removes both)"
    fi
    if [[ -z $dry ]]; then
        echo "Done. The packages python3-venv and mosquitto are kept."
    else
        echo "Nothing was changed."
    fi
}

parse "$@"
if [[ -n $uninstall ]]; then
    uninstall_all
else
    install_all
fi
