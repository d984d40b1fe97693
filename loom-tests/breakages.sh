#!/usr/bin/env bash
# Breaks the library on purpose, one way after another, and sees that a model notices.
#
#   loom-tests/breakages.sh            all of them, some minutes
#   loom-tests/breakages.sh NAME...    these
#
# Each `breakages/NAME.patch` says in its first line which model is to turn red (`Model: FILE TEST`),
# then what is wrong with the change, then the change. It is applied to a copy of the tree. One line
# tells how the model failed:
#
#   red: NAME (TEST) - the first panic
#
# It counts as red only if the patch applies, the tree compiles, and the model alone fails; and only
# if the same models are green in the unbroken tree, which is tried first. The script fails if one
# breakage is not red. All builds share one target directory, `target/breakages` unless
# CARGO_TARGET_DIR says otherwise.

set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
patches=$root/loom-tests/breakages
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target/breakages}
export RUST_BACKTRACE=0
# Each breakage changes a few lines, so what takes the time is to compile all others again.
export CARGO_INCREMENTAL=1 CARGO_PROFILE_LOOM_OPT_LEVEL=1
unset RUSTFLAGS
seconds=300 # for one model

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# Touched (-m): else cargo would take what an earlier run built from another copy for up to date.
tar -C "$root" --exclude=./target --exclude=./.git --exclude='./examples/*/target' -cf - . |
    tar -C "$copy" -xmf -
cp -r "$copy/src" "$copy/unbroken"
cd "$copy"

if [ $# -eq 0 ]; then
    set -- $(cd "$patches" && ls -- *.patch | sed 's/\.patch$//')
fi

# file NAME, test NAME: where the model is that is to turn red.
file() { sed -n '1s/^Model: \([^ ]*\) .*/\1/p' "$patches/$1.patch"; }
test() { sed -n '1s/^Model: [^ ]* //p' "$patches/$1.patch"; }

# model FILE TEST...: runs these models alone. Their output goes to `log`.
model() {
    local file=$1
    shift
    timeout "$seconds" cargo loom --quiet --test "$file" -- --exact --nocapture "$@" >log 2>&1
}

# panic: the first panic in `log`, on one line.
panic() {
    grep -m1 -A1 'panicked at' log | tail -n1 | cut -c1-160
    [ "${PIPESTATUS[0]}" -eq 0 ] || grep -m1 -o 'signal: [^)]*' log || true
}

for name in "$@"; do
    if [ ! -f "$patches/$name.patch" ]; then
        echo "no breakage $name" >&2
        exit 1
    elif [ -z "$(file "$name")" ] || [ -z "$(test "$name")" ]; then
        echo "breakages/$name.patch names no model: its first line is not \`Model: FILE TEST\`" >&2
        exit 1
    fi
done

for file in $(for name in "$@"; do file "$name"; done | sort -u); do
    tests=$(for name in "$@"; do [ "$(file "$name")" != "$file" ] || test "$name"; done | sort -u)
    # shellcheck disable=SC2086 # one word for each test
    if ! model "$file" $tests; then
        cat log
        echo "the models in tests/$file.rs are not green in the unbroken tree" >&2
        exit 1
    fi
done
echo "green: all models that are used below, in the unbroken tree"

failures=0
for name in "$@"; do
    rm -rf src && cp -r unbroken src
    model="$(test "$name")"
    verdict=
    if ! patch -p1 --forward --silent <"$patches/$name.patch" >log 2>&1; then
        verdict="does not apply: $(head -n1 log)"
    elif ! cargo loom --quiet --test "$(file "$name")" --no-run >log 2>&1; then
        verdict="does not compile: $(grep -m1 '^error' log)"
    elif model "$(file "$name")" "$model"; then
        if grep -q '^test result: ok. 1 passed' log; then
            verdict="stays green"
        else
            verdict="no such model"
        fi
    elif [ $? -eq 124 ]; then
        verdict="is not decided within $seconds s"
    fi
    if [ -z "$verdict" ]; then
        echo "red: $name ($model) - $(panic)"
    else
        echo "NOT RED: $name ($model) $verdict"
        failures=$((failures + 1))
    fi
done

[ "$failures" -eq 0 ]
