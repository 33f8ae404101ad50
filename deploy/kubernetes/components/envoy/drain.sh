#!/bin/bash
# drain.sh SETTLE GRACE: as deploy/envoy/drain.py, for a container that has bash and nothing else. Returns when no call is open, GRACE seconds after
# the start at the latest; then Envoy may be ended. For SETTLE seconds at least it goes on taking calls, until nobody sends any here.
set -eu
settle=$1 grace=$2
admin=${ENVOY_ADMIN:-127.0.0.1/9901}

# ask METHOD PATH: the answer of the admin interface, with its head.
ask() {
  exec 3<>"/dev/tcp/$admin"
  printf '%s %s HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3<&-
}

ask POST /healthcheck/fail >/dev/null    # /healthz says 503, and connections are closed when their calls are done
sleep "$settle"
while [ "$SECONDS" -lt "$grace" ]; do
  [[ $(ask GET '/stats?filter=^http.edge.downstream_rq_active$') =~ downstream_rq_active:\ ([0-9]+) ]] || exit 1
  [ "${BASH_REMATCH[1]}" = 0 ] && exit 0
  sleep 0.5
done
exit 3    # some calls are still open
