#!/bin/sh
# Make the secrets that are missing, one random password each; existing ones are left alone.
# Usage: secrets.sh [FOLDER]; deploy/secrets by default.
set -eu
folder=${1:-$(dirname "$0")/secrets}
# Containers read the files as users of their own, so the folder keeps others out, not the files.
mkdir -p "$folder"
chmod 700 "$folder"
for name in redis_password kue_password flower_password grafana_password; do
  [ -s "$folder/$name" ] && continue
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/.$name"
  chmod 644 "$folder/.$name"
  mv "$folder/.$name" "$folder/$name"
  echo "made $folder/$name"
done
