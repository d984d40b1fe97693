#!/usr/bin/env bash
#
# What `cargo test` cannot check: rules and scrape by promtool, a real Prometheus that scrapes the server
# under load, and the page in a real browser. On Debian it installs what is missing; nothing passes
# because it could not be run.
#
#     ./check.sh [FOLDER for screenshots]

set -euo pipefail
screenshots=${1:+$(realpath "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")"

# Installs a Debian package if a command is missing.
need() {
    local command=$1 package=$2
    command -v "$command" > /dev/null && return
    command -v apt-get > /dev/null || { echo "$command is missing: install $package" >&2; exit 1; }
    local as_root=
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    # Only the first installation needs the lists of packages.
    [ -n "${updated:-}" ] || $as_root apt-get update --quiet=2
    updated=yes
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet=2 --no-install-recommends "$package"
}

need promtool prometheus
need prometheus prometheus
need chromium chromium
need node nodejs
need npm npm

echo '--- promtool check rules, promtool test rules'
promtool check rules alerts.yml
promtool test rules alerts_test.yml

echo '--- the alerts on an hour of each planted leak'
cargo test --locked --test leaks
promtool test rules "$(cargo metadata --locked --no-deps --format-version 1 \
    | sed -E 's/.*"target_directory":"([^"]+)".*/\1/')/tmp/leaks_test.yml"

cargo build --locked
npm ci --prefix checks --silent

echo '--- a real Prometheus'
node checks/prometheus.mjs

echo '--- the page in a real browser'
node checks/page.mjs ${screenshots:+"$screenshots"}

echo 'the observatory passed'
