#!/bin/sh
# Start Redis with the password from its secret file, which never appears in the list of processes.
set -eu
umask 077
{ cat /etc/redis/dynsvc.conf; printf '\nrequirepass "%s"\n' "$(cat /run/secrets/redis_password)"; } > /tmp/redis.conf
exec redis-server /tmp/redis.conf
