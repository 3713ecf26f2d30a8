# Shared by the runner and the peers' scripts: waiting, ports, and comparing. Sourced, never run.
# shellcheck shell=bash

# How long a phone may take for one step. The slowest peer (linphonec) needs about 4 s to start.
readonly STEP_SECONDS=15
# Between two looks at a condition.
readonly POLL_SECONDS=0.1
# The exit status of a script that could not test anything; its last line says why.
readonly SKIPPED=77

# wait_until WHAT COMMAND...: until the command succeeds; names WHAT and fails when it does not.
wait_until() {
    local what=$1 deadline=$((SECONDS + STEP_SECONDS))
    shift
    until "$@"; do
        if ((SECONDS >= deadline)); then
            echo "waited ${STEP_SECONDS} s in vain for: $what" >&2
            return 1
        fi
        sleep "$POLL_SECONDS"
    done
}

skip() {
    echo "$*"
    exit "$SKIPPED"
}

# need PROGRAM: skips the script by name where the program is missing.
need() {
    command -v "$1" >/dev/null || skip "$1 is not installed"
}

# free_port: a port that no UDP or TCP socket of this machine has, v4 or v6.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        # Below the ephemeral range, so that no client takes it between this look and the bind.
        if ! grep -qi ":$(printf '%04X' "$port") " /proc/net/{udp,tcp}{,6} 2>/dev/null; then
            echo "$port"
            return
        fi
    done
}

has_ipv6_loopback() {
    grep -q '^0\{31\}1 ' /proc/net/if_inet6 2>/dev/null
}

# bindings_of USER: one line `CONTACT-URI SECONDS-LEFT` for each of the user's bindings, as the
# server under test tells it.
bindings_of() {
    "$SERVER" show "$1@$SIP_DOMAIN"
}

is_registered() {
    [ -n "$(bindings_of "$1")" ]
}

is_unregistered() {
    [ -z "$(bindings_of "$1")" ]
}

# expect_registered USER / expect_unregistered USER: waits for it, and shows what is there.
expect_registered() {
    wait_until "a binding of $1" is_registered "$1"
    bindings_of "$1"
}

expect_unregistered() {
    wait_until "the end of $1's bindings" is_unregistered "$1" || {
        bindings_of "$1"
        return 1
    }
}

# stop_by_pid PID [SIGNAL]: ends one process that this script started, and reaps it.
stop_by_pid() {
    kill -s "${2:-TERM}" "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# start_server COMMAND...: runs the server under test in the background. In $SERVER_DIR: its log,
# its pid and, once it ended, its exit status.
start_server() {
    rm -f "$SERVER_DIR/exit"
    (
        "$@" >>"$SERVER_DIR/log" 2>&1 </dev/null &
        echo $! >"$SERVER_DIR/pid"
        status=0
        wait $! || status=$?
        echo "$status" >"$SERVER_DIR/exit"
    ) >/dev/null 2>&1 &
}

server_ended() {
    [ -s "$SERVER_DIR/exit" ]
}

# stop_server: SIGTERM has to end it in time and with status 0.
stop_server() {
    kill -s TERM "$(cat "$SERVER_DIR/pid")"
    wait_until "the server's end" server_ended
    [ "$(cat "$SERVER_DIR/exit")" = 0 ] || {
        echo "the server ended with status $(cat "$SERVER_DIR/exit")" >&2
        return 1
    }
}

kill_server() {
    server_ended || kill -s KILL "$(cat "$SERVER_DIR/pid")" 2>/dev/null || true
}
