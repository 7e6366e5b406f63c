#!/bin/sh
# Installs what banger needs from the host's own apt sources.
#
#   scripts/install-host-packages.sh run     what a user needs
#   scripts/install-host-packages.sh test    what the test suite needs besides
#
# Does nothing where everything is there. As an ordinary user it goes through sudo.
set -eu

run='qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs mmdebstrap:mmdebstrap
     apt-get:apt dpkg-deb:dpkg newuidmap:uidmap'
test="$run docker-registry:docker-registry skopeo:skopeo umoci:umoci busybox:busybox-static
     shellcheck:shellcheck setfattr:attr setfacl:acl cpio:cpio xz:xz-utils zstd:zstd
     fsck.erofs:erofs-utils setcap:libcap2-bin ssh-keygen:openssh-client git:git
     curl:curl python3:python3"

case ${1:-run} in
    run) wanted=$run ;;
    test) wanted=$test ;;
    *) echo "usage: $0 run|test" >&2; exit 2 ;;
esac

PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in $wanted; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
# The signing keys of Debian's archive; mmdebstrap cannot check anything without them.
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
if [ "${1:-run}" = test ] && ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
    missing="$missing python3-venv"
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "$0: apt-get is not here; install by hand:$missing" >&2
    exit 1
fi
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}
apt_install() {
    # --no-remove: never take a package of the user's away.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install \
        --quiet --yes --no-install-recommends --no-remove "$@" >"$log" 2>&1
}
log=$(mktemp)
sources=
trap 'rm -rf "$log" ${sources:+"$sources"}' EXIT

echo "installing:$missing" >&2
as_root apt-get update --quiet >"$log" 2>&1 || echo "$0: warning: apt-get update: $(tail -n 1 "$log")" >&2
# shellcheck disable=SC2086 # a list of words
if apt_install $missing; then
    exit 0
fi
# A host whose QEMU packages come from backports cannot take the stable ones beside them.
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
uri=$(sed -n -e 's/^URIs: *\([^ ]*\/debian\)\/* *$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
sources=$(mktemp -d)
chmod 755 "$sources"
cp -r /etc/apt/sources.list.d/. "$sources"/ 2>/dev/null || true
cat >"$sources/backports.sources" <<END
Types: deb
URIs: ${uri:-http://deb.debian.org/debian}
Suites: $codename-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
as_root apt-get update --quiet -o "Dir::Etc::sourceparts=$sources" >"$log" 2>&1 || true
# shellcheck disable=SC2086 # a list of words
if ! apt_install -o "Dir::Etc::sourceparts=$sources" -t "$codename-backports" $missing; then
    cat "$log" >&2
    echo "$0: apt-get could not install:$missing" >&2
    exit 1
fi
as_root apt-get update --quiet >"$log" 2>&1 || true
