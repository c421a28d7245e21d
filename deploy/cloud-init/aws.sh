#!/bin/sh
# Runs one Swell worker, and shuts this machine down when it is over.
set -u
umask 077
dir=${SWELL_MACHINE_DIR:-/run/swell}
metadata=${SWELL_METADATA_URL:-http://169.254.169.254}

if [ "${1-}" != run ]; then
    mkdir -p "$dir" && cp "$0" "$dir/worker.sh" || exit 1
    # A unit of its own: boot goes on, and at shutdown it is stopped before the engine is.
    if command -v systemd-run > /dev/null; then
        exec systemd-run --unit=swell-worker --property=After=docker.service \
            --property=TimeoutStopSec=120 /bin/sh "$dir/worker.sh" run
    fi
    exec /bin/sh "$dir/worker.sh" run
fi

ask() {
    curl --silent --show-error --fail --noproxy '*' --retry 10 --retry-connrefused \
        --max-time 10 "$@"
}

go() {
    trap - EXIT
    rm -f "$dir/env"
    sync
    shutdown -h now || poweroff -f
}
trap go EXIT
trap 'exit 143' TERM INT

# Whatever hangs before the worker runs ends here.
(
    trap - EXIT
    waited=0
    while [ "$waited" -lt 1800 ]; do
        sleep 1
        waited=$((waited + 1))
        [ -e "$dir/runs" ] && exit 0
    done
    echo "the worker does not run after 1800 s: shutting down" >&2
    go
) &

cat > "$dir/env" << 'SWELL_END_OF_ENVIRONMENT'
SWELL_WORKER__KILLED_AFTER_S=90
SWELL_WORKER__POOL=gpu
SWELL_WORKER__TOKEN=swell_the-key-of-a-worker
SWELL_WORKER__URL=https://swell.example
SWELL_END_OF_ENVIRONMENT

ask -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 300" "$metadata/latest/api/token" > "$dir/session"
session="X-aws-ec2-metadata-token: $(cat "$dir/session")"
instance=$(ask -H "$session" "$metadata/latest/meta-data/instance-id")
asked_at=$(ask -H "$session" "$metadata/latest/dynamic/instance-identity/document" |
    sed -n 's/.*"pendingTime" *: *"\([^"]*\)".*/\1/p')
if [ -z "$instance" ]; then
    echo "the cloud does not tell who this machine is: shutting down" >&2
    exit 1
fi
echo "SWELL_INSTANCE_ID=$instance" >> "$dir/env"
[ -z "${asked_at-}" ] || echo "SWELL_WORKER__ASKED_AT=$asked_at" >> "$dir/env"

began=$(date +%s)
tries=0
until docker pull --quiet registry.example/poster:1; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || exit 1
    sleep 2
done
echo "SWELL_WORKER__PULL_S=$(($(date +%s) - began))" >> "$dir/env"

# User 10001 is the worker's, in images of swell build.
mkdir -p /var/lib/swell-weights && chown 10001 /var/lib/swell-weights
docker run --name swell-worker --detach --restart no --stop-timeout 90 \
    --env-file "$dir/env" --gpus all --volume /var/lib/swell-weights:/var/lib/swell/weights registry.example/poster:1 || exit 1
rm -f "$dir/env"
touch "$dir/runs"

# The cloud says before it takes the machine back: the worker hands over in time, and all ends.
look() {
    curl --silent --fail --noproxy '*' --max-time 10 "$@"
}
noticed() {
    session="X-aws-ec2-metadata-token: $(look -X PUT \
        -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/latest/api/token")"
    look -H "$session" "$metadata/latest/meta-data/spot/instance-action" | grep -q action
}
(
    trap - EXIT TERM INT
    until noticed; do
        sleep 5
    done
    echo "the cloud takes this machine back: the worker is told" >&2
    docker stop --time 90 swell-worker
) &

# A machine that is shut down lets the worker finish, or hand over what it holds.
trap 'docker stop --time 90 swell-worker; exit 0' TERM INT
docker logs --follow swell-worker &
docker wait swell-worker &
wait "$!"
