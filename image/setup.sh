#!/bin/sh
# Installs the Debian or Ubuntu packages that building and testing need, and
# nothing when none is missing. On a terminal it asks once, with the whole
# list; in CI (CI is set) it never asks. Without root it installs nothing and
# prints the one line to run.
set -eu

wanted="gcc libc6-dev make pkg-config libseccomp-dev qemu-system-x86 nbdkit zstd e2fsprogs ca-certificates nodejs npm"

if ! command -v go >/dev/null 2>&1; then
	echo "setup: Go is missing; Mesolith needs Go 1.26 or newer: https://go.dev/dl/" >&2
	exit 1
fi
if ! command -v dpkg-query >/dev/null 2>&1 || ! command -v apt-get >/dev/null 2>&1; then
	echo "setup: building needs Debian or Ubuntu (apt-get and dpkg-query are not here)" >&2
	exit 1
fi

missing=""
for package in $wanted; do
	# Packages that come under other names too (pkgconf gives pkg-config, other packages
	# of Node.js give npm) count by what they give.
	case $package in
	pkg-config | npm) command -v "$package" >/dev/null 2>&1 && continue ;;
	nodejs) command -v node >/dev/null 2>&1 && continue ;;
	esac
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

line="apt-get install --no-install-recommends -y$missing"
if [ "$(id -u)" -ne 0 ]; then
	echo "setup: missing packages:$missing" >&2
	echo "setup: install them with this line, then run make again:" >&2
	echo "  sudo $line" >&2
	exit 1
fi
if [ -z "${CI:-}" ] && [ -t 0 ]; then
	printf 'setup: missing packages:%s\nsetup: install them now? [Y/n] ' "$missing"
	read -r answer || answer=no
	case $answer in
	'' | y | Y | yes) ;;
	*)
		echo "setup: not installed; the line is: $line" >&2
		exit 1
		;;
	esac
fi
export DEBIAN_FRONTEND=noninteractive
# An index that was never fetched, or is older than the archive, is the usual
# reason for a first failure.
# shellcheck disable=SC2086
$line || { apt-get update && $line; }
