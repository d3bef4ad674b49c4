#!/bin/sh
# Start Redis with the password from its secret file, which never appears in the list of processes. With a
# certificate among the secrets it speaks TLS on port 6380 too.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets} conf=${CONF:-/etc/redis/dynsvc.conf}
{
  cat "$conf"
  printf '\nrequirepass "%s"\n' "$(cat "$secrets/redis_password")"
  if [ -r "$secrets/redis_cert" ]; then
    printf 'tls-port 6380\ntls-auth-clients no\n'
    printf 'tls-cert-file %s/redis_cert\ntls-key-file %s/redis_key\n' "$secrets" "$secrets"
  fi
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf
