"""Does every malformed request get a clear 4xx, and never a 5xx?

    python benchmarks/service_hostile.py [--per-operation 25] [--seed 1]

`swell up` is started with a small model; schemathesis then breaks the requests of every operation
of the service's own OpenAPI in every way it knows, and known mistakes are made on top: an unknown
model, a wrong type, a body too large, a wrong key, an expired URL. Each must say what to do.
The last line is one JSON object whose value is the number of answers that were not right.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import requests

import machine
import swell_system

sys.path.insert(0, str(machine.ROOT / "tests" / "acceptance"))

from http_hostile import Findings, check_expired, check_mistakes, fuzz

MODEL = "demo/upper"
TARGET = 0.0
LEAST = 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-operation", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    # Signed URLs live so briefly that one can be seen to expire.
    os.environ["SWELL_SERVER__SIGNED_URL_S"] = "2"
    findings = Findings()
    started = time.monotonic()
    with (
        machine.folder("hostile") as data,
        swell_system.started("up", data, "--workers", "1", "--models", MODEL) as swell,
    ):
        url = f"http://127.0.0.1:{swell.port}"
        known = {"authorization": f"Bearer {swell.key}"}
        upload = requests.post(url + "/v1/uploads", b"x", headers=known, timeout=30).json()
        wait_for_model(url, known)
        check_mistakes(url, swell.key, MODEL, findings)
        fuzz(url, swell.key, per_operation=asked.per_operation, seed=asked.seed, findings=findings)
        check_expired(url, upload["url"], findings)
        alive = requests.get(url + "/health/ready", timeout=30).status_code == 200
    for wrong in findings.wrong[:50]:
        print(f"WRONG {wrong}", file=sys.stderr)
    is_ok = not findings.wrong and alive and findings.asked >= LEAST
    line = {
        "figure": "service-hostile",
        "value": float(len(findings.wrong)),
        "target": TARGET,
        "ok": is_ok,
        "detail": {
            "requests": findings.asked,
            "operations": len(findings.operations),
            "statuses": dict(sorted(findings.statuses.items())),
            "alive_after": alive,
            "wrong": findings.wrong[:20],
            "seed": asked.seed,
            "took_s": round(time.monotonic() - started, 1),
        },
        "machine": machine.describe(),
        "commit": machine.commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    print(json.dumps(line), flush=True)
    return 0 if is_ok else 1


def wait_for_model(url: str, known: dict[str, str]) -> None:
    """Wait until the worker has registered its model."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if requests.get(f"{url}/v1/models/{MODEL}", headers=known, timeout=30).ok:
            return
        time.sleep(0.2)
    raise RuntimeError(f"{MODEL} was not served within a minute")


if __name__ == "__main__":
    sys.exit(main())
