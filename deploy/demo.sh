#!/bin/sh
# Try the whole stack on this machine: build it, start it with stand-ins for the hospital's servers, place one
# order through Kue's API and wait for its zip. Variables of .env count. Afterwards:
#   docker compose --profile demo down -v    stops everything and removes its data
set -eu
cd "$(dirname "$0")/.."
if [ -z "${SECRETS:-}" ] && [ -f .env ]; then SECRETS=$(sed -n 's/^SECRETS=//p' .env); fi
export SECRETS="${SECRETS:-./deploy/secrets}"
sh deploy/secrets.sh "$SECRETS"
docker compose --profile demo build --quiet
# Not by compose: its labels would come into the image, and every run of the algorithm look like a service.
docker build --quiet --tag dynsvc/nuclei:1.0.0 algorithms/nuclei >/dev/null
docker compose --profile demo up --detach

kue="http://$(docker compose port kue 3000)"
flower="http://$(docker compose port flower 5555)"
# The password goes to curl by a file, so that no list of processes shows it.
login() { printf 'user = "dynsvc:%s"\n' "$(cat "$SECRETS/kue_password")"; }
ask() { login | curl --silent --fail --max-time 10 --config - "$@"; }

waited=0
until curl --silent --fail --max-time 5 --output /dev/null "$kue/healthz"; do
  waited=$((waited + 1))
  [ "$waited" -lt 60 ] || { echo "Kue does not answer at $kue; see: docker compose logs kue" >&2; exit 1; }
  sleep 1
done
id=$(ask --header 'Content-Type: application/json' --data @deploy/demo/order.json "$kue/job" \
  | sed -n 's/.*"id":\([0-9][0-9]*\).*/\1/p')
echo "order $id is placed"
waited=0
state=
while [ "$state" != complete ]; do
  state=$(ask "$kue/job/$id" | sed -n 's/.*"state":"\([a-z]*\)".*/\1/p')
  waited=$((waited + 1))
  if [ "$state" = failed ] || [ "$waited" -ge 120 ]; then
    echo "order $id is ${state:-not there}; see: docker compose logs bridge worker" >&2
    exit 1
  fi
  [ "$state" = complete ] || sleep 1
done
echo "order $id is complete; the demo's loader has: $(docker compose exec -T demo-loader ls results | tr '\n' ' ')"
echo "Kue:    $kue   user dynsvc, password in $SECRETS/kue_password"
echo "Flower: $flower   user dynsvc, password in $SECRETS/flower_password"
