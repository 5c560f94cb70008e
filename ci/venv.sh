# Sourced by ci/quickstart and ci/test: one virtual environment, exactly as locked.
#
#   prepare_venv LOCKFILE     e.g. prepare_venv requirements/run.txt
#
# Runs in the repository's root.  The stamp is written last and says what the
# environment was made from; where it is missing or says something else, the steps
# are done again.  requirements/test.txt holds everything requirements/run.txt does.

VENV=.venv
STAMP="$VENV/locked"

prepare_venv() {
    local lock=$1
    # Two scripts at once would install over each other: the second waits.
    exec {venv_lock}<"$lock"
    flock --timeout 900 "$venv_lock" || venv_fail "another script has been making $VENV for 15 minutes"
    if ! venv_is_good "$lock"; then
        rm -f "$STAMP"
        venv_create
        venv_install "$lock"
        venv_stamp "$lock" >"$STAMP.new"
        mv "$STAMP.new" "$STAMP"
    fi
    exec {venv_lock}<&-
}

venv_say() { printf '==> %s\n' "$*" >&2; }

venv_fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# What an environment made from lock $1 says: the checkout, the interpreter, the
# project's metadata, the lock.  A moved checkout breaks the scripts' first lines.
venv_stamp() {
    printf '%s\n' "$PWD"
    "$VENV/bin/python" -VV
    sha256sum pyproject.toml "$1"
}

venv_is_good() {
    [ -x "$VENV/bin/llama-orch" ] && [ -f "$STAMP" ] || return 1
    local lock
    for lock in "$1" requirements/test.txt; do
        if [ -f "$lock" ] && [ "$(venv_stamp "$lock" 2>&1)" = "$(cat "$STAMP")" ]; then
            return 0
        fi
    done
    return 1
}

venv_create() {
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    local python=${PYTHON:-python3}
    command -v "$python" >/dev/null ||
        venv_fail "no $python here; install it: sudo apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        venv_fail "Python 3.11 or newer is needed, $("$python" -V 2>&1) was found; name another: PYTHON=python3.12 $0"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        venv_fail "Python's venv module is missing; install it: sudo apt-get install python3-venv"
    venv_say "making $VENV ($("$python" -V))"
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || {
        rm -rf "$VENV"
        venv_fail "$VENV could not be made; is python3-venv installed?"
    }
}

venv_install() {
    venv_say "installing the packages of $1 (the first time takes about a minute)"
    venv_pip install --require-hashes -r "$1" ||
        venv_fail "the packages could not be installed: see above, and run $0 again"
    venv_say "installing llama-orch"
    venv_pip install --no-deps --no-build-isolation -e . ||
        venv_fail "llama-orch could not be installed: see above, and run $0 again"
}

venv_pip() {
    "$VENV/bin/python" -m pip -qq --disable-pip-version-check --no-input "$@"
}
