#!/usr/bin/env bash
# Install Apptainer on Debian 12, as root, which has no package of it: from Debian's unstable release, with the C
# library of that release beside it, for itself alone. Does nothing where it is installed.
set -euo pipefail
if command -v apptainer >/dev/null && apptainer --version >/dev/null; then exit; fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq patchelf squashfs-tools squashfuse uidmap >/dev/null
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/lists/partial" "$tmp/cache/archives/partial"
# The same archive under its other name; that one has no updates and no security of its own.
sed -E 's/^(Suites: *)bookworm .*/\1sid/; s/^(Suites: *)bookworm$/\1sid/' /etc/apt/sources.list.d/debian.sources |
  awk 'BEGIN { RS = ""; ORS = "\n\n" } !/bookworm/' > "$tmp/sid.sources"
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$tmp/sid.sources" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$tmp/lists"
  -o "Dir::Cache=$tmp/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$tmp" && "${apt[@]}" download apptainer libc6)
dpkg -x "$tmp"/apptainer_*.deb /
dpkg -x "$tmp"/libc6_*.deb "$tmp/libc"
libraries=/usr/lib/$(uname -m)-linux-gnu
own=$libraries/apptainer/libc
mkdir -p "$own" /var/lib/apptainer/mnt/session
loader=$(basename "$(readlink -f /lib64/ld-linux-*.so.2)")
for name in "$loader" libc.so.6 libm.so.6 libpthread.so.0 libdl.so.2 libresolv.so.2 librt.so.1; do
  cp -L "$tmp/libc$libraries/$name" "$own/"
done
for program in /usr/bin/apptainer "$libraries/apptainer/bin/starter"; do
  patchelf --set-interpreter "$own/$loader" --set-rpath "$own:$libraries" "$program"
done
apptainer --version
