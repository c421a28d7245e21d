"""Startup script of a cloud machine: run one worker in a container, then shut down.

A shell script. cloud-init runs it as user data, Google's guest agent as a startup script. It
installs nothing: the machine image has docker or podman and, for GPUs, the driver and NVIDIA's
container toolkit. `deploy/cloud-init` has an example.

The machine shuts down when the container exits for any reason. That ends the bill, except on Azure,
which bills a machine until it is deleted: the provider deletes stopped machines in `instances`, but
not machines that a person started by hand. A timer shuts the machine down if the worker does not
start in time, because a machine that cannot pull its image costs as much as a working one. A spot
machine gets a notice before it is reclaimed (on Google, the shutdown itself), and its worker hands
over its tasks in the remaining time.

The script contains the worker's token. Root on the machine, and everyone who may read the machine's
description in the cloud, can read it.

Source:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html,
    https://docs.cloud.google.com/compute/docs/metadata/querying-metadata,
    https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service:
    metadata services;
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    (two minutes), https://docs.cloud.google.com/compute/docs/instances/spot (up to 30 seconds),
    https://learn.microsoft.com/azure/virtual-machines/spot-vms (at least 30 seconds): notices.
"""

import math
import re
import shlex
from collections.abc import Mapping
from string import Template
from typing import Final, Literal

from swell.core.errors import InvalidInput
from swell.core.provider import ASKED_AT, INSTANCE_ID, KILLED_AFTER_S
from swell.providers.options import MachineOptions

Cloud = Literal["aws", "gcp", "azure"]

#: Commands that read the machine's id (and its launch time, if the script lacks it), and the
#: metadata service's URL.
_ASK: Final[Mapping[Cloud, tuple[str, str]]] = {
    "aws": (
        'ask -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 300" "$metadata/latest/api/token" > '
        '"$dir/session"\n'
        'session="X-aws-ec2-metadata-token: $(cat "$dir/session")"\n'
        'instance=$(ask -H "$session" "$metadata/latest/meta-data/instance-id")\n'
        'asked_at=$(ask -H "$session" "$metadata/latest/dynamic/instance-identity/document" |\n'
        '    sed -n \'s/.*"pendingTime" *: *"\\([^"]*\\)".*/\\1/p\')',
        "http://169.254.169.254",
    ),
    "gcp": (
        'instance=$(ask -H "Metadata-Flavor: Google" "$metadata/computeMetadata/v1/instance/name")',
        "http://169.254.169.254",
    ),
    "azure": (
        'instance=$(ask -H "Metadata: true" \\\n'
        '    "$metadata/metadata/instance/compute/name?api-version=2021-02-01&format=text")',
        "http://169.254.169.254",
    ),
}

#: Time between a spot machine's notice and its end, less a margin, in seconds.
_NOTICE_S: Final[Mapping[Cloud, int]] = {"aws": 110, "gcp": 25, "azure": 25}

#: Commands that check for a spot notice. Google has none: it shuts the machine down.
_NOTICED: Final[Mapping[Cloud, str]] = {
    "aws": (
        'session="X-aws-ec2-metadata-token: $(look -X PUT \\\n'
        '        -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/latest/api/token")"\n'
        '    look -H "$session" "$metadata/latest/meta-data/spot/instance-action" | grep -q action'
    ),
    "azure": (
        'look -H "Metadata: true" \\\n'
        '        "$metadata/metadata/scheduledevents?api-version=2020-07-01" | grep -q Preempt'
    ),
}

_WATCH: Final = Template(r"""
# The cloud says before it takes the machine back: the worker hands over in time, and all ends.
look() {
    curl --silent --fail --noproxy '*' --max-time 10 "$$@"
}
noticed() {
    $noticed
}
(
    trap - EXIT TERM INT
    until noticed; do
        sleep 5
    done
    echo "the cloud takes this machine back: the worker is told" >&2
    $engine stop --time $drain_s swell-worker
) &
""")

_SCRIPT: Final = Template(r"""#!/bin/sh
# Runs one Swell worker, and shuts this machine down when it is over.
set -u
umask 077
dir=$${SWELL_MACHINE_DIR:-/run/swell}
metadata=$${SWELL_METADATA_URL:-$metadata}

if [ "$${1-}" != run ]; then
    mkdir -p "$$dir" && cp "$$0" "$$dir/worker.sh" || exit 1
    # A unit of its own: boot goes on, and at shutdown it is stopped before the engine is.
    if command -v systemd-run > /dev/null; then
        exec systemd-run --unit=swell-worker --property=After=$engine.service \
            --property=TimeoutStopSec=$stop_s /bin/sh "$$dir/worker.sh" run
    fi
    exec /bin/sh "$$dir/worker.sh" run
fi

ask() {
    curl --silent --show-error --fail --noproxy '*' --retry 10 --retry-connrefused \
        --max-time 10 "$$@"
}

go() {
    trap - EXIT
    rm -f "$$dir/env"
    sync
    shutdown -h now || poweroff -f
}
trap go EXIT
trap 'exit 143' TERM INT

# Whatever hangs before the worker runs ends here.
(
    trap - EXIT
    waited=0
    while [ "$$waited" -lt $start_limit_s ]; do
        sleep 1
        waited=$$((waited + 1))
        [ -e "$$dir/runs" ] && exit 0
    done
    echo "the worker does not run after $start_limit_s s: shutting down" >&2
    go
) &

cat > "$$dir/env" << 'SWELL_END_OF_ENVIRONMENT'
$environment
SWELL_END_OF_ENVIRONMENT

$ask
if [ -z "$$instance" ]; then
    echo "the cloud does not tell who this machine is: shutting down" >&2
    exit 1
fi
echo "$instance_id=$$instance" >> "$$dir/env"
[ -z "$${asked_at-}" ] || echo "$asked_at=$$asked_at" >> "$$dir/env"

began=$$(date +%s)
tries=0
until $engine pull --quiet $image; do
    tries=$$((tries + 1))
    [ "$$tries" -lt 30 ] || exit 1
    sleep 2
done
echo "SWELL_WORKER__PULL_S=$$(($$(date +%s) - began))" >> "$$dir/env"

# User 10001 is the worker's, in images of swell build.
mkdir -p $weights_dir && chown 10001 $weights_dir
$engine run --name swell-worker --detach --restart no --stop-timeout $drain_s \
    --env-file "$$dir/env" $gpus--volume $weights_dir:/var/lib/swell/weights $image || exit 1
rm -f "$$dir/env"
touch "$$dir/runs"
$watch
# A machine that is shut down lets the worker finish, or hand over what it holds.
trap '$engine stop --time $drain_s swell-worker; exit 0' TERM INT
$engine logs --follow swell-worker &
$engine wait swell-worker &
wait "$$!"
""")

_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")

_GPUS: Final = {"docker": "--gpus all ", "podman": "--device nvidia.com/gpu=all "}


def render(cloud: Cloud, options: MachineOptions, environment: Mapping[str, str]) -> str:
    """Return the startup script of a machine. Pure.

    Args:
        cloud: The cloud, which determines the metadata service.
        options: Options of the pool.
        environment: Environment of the worker (URL, token). Without a launch time, the script asks
            the cloud for it.

    Raises:
        InvalidInput: The image name is invalid, or a variable cannot be written to an environment
            file.
    """
    if not _IMAGE.fullmatch(options.image):
        raise InvalidInput(f"{options.image[:80]!r} is no name of an image: correct options.image")
    ask, metadata = _ASK[cloud]
    drain_s = math.ceil(options.drain_s)
    if options.spot:
        drain_s = min(drain_s, _NOTICE_S[cloud])
    is_watched = options.spot and cloud in _NOTICED
    environment = {KILLED_AFTER_S: str(drain_s), **environment}
    return _SCRIPT.substitute(
        ask=ask,
        metadata=metadata,
        engine=options.engine,
        image=shlex.quote(options.image),
        environment="\n".join(_line(name, environment[name]) for name in sorted(environment)),
        instance_id=INSTANCE_ID,
        asked_at=ASKED_AT,
        gpus=_GPUS[options.engine] if options.gpus else "",
        weights_dir=shlex.quote(str(options.weights_dir)),
        start_limit_s=math.ceil(options.start_limit_s),
        drain_s=drain_s,
        stop_s=drain_s + 30,
        watch=_WATCH.substitute(noticed=_NOTICED[cloud], engine=options.engine, drain_s=drain_s)
        if is_watched
        else "",
    )


def _line(name: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InvalidInput(f"{name[:80]!r} cannot be the name of a variable")
    if re.search(r"[\r\n\0]", value):
        raise InvalidInput(
            f"{name} has a line break, which no file of variables can hold: put it "
            "into the image, or into a file that the machine's image brings"
        )
    return f"{name}={value}"
