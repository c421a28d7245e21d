"""Does any hostile input get what it is after, and does the service work after each?

    python benchmarks/security_attacks.py [--seconds 60] [--seed 1]

`swell up` is started with a worker and models that take files. Hundreds of attacks are made on it:
URLs that lead inside, files that are bombs or programs, keys and names that lead out of folders,
altered signatures, requests that two programs read differently, keys and leases used for what they
were not given for. Each says what would count as its success, and after each the service must be
well. Then every parser that reads what comes over the network is fed with broken inputs for so many
seconds. Last, the attacks on URLs are made again with their guard switched off: those that the
canary then counts show that a success would have been seen.

The last line is one JSON object whose value is the number of attacks that succeeded, with secrets
that were seen, services that were hurt and parsers that broke.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))
sys.path.insert(0, str(machine.ROOT / "tests" / "security"))

from attacks import Result, carry_out
from file_attacks import file_attacks
from fuzzing import PARSERS, Findings, fuzz, fuzz_service
from http_attacks import http_attacks
from key_attacks import key_attacks
from picture_attacks import lora_attacks, picture_attacks
from target import Target, a_target
from url_attacks import answer_attacks, canary_attacks, url_attacks
from weight_attacks import weight_attacks

LEAST = 200
#: Inputs of one parser before the next one's turn.
ROUND = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of broken inputs for parsers")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with machine.folder("attacks") as folder, a_target(folder) as target:
        result = attacked(target)
        findings = fuzzed(target, asked.seconds, asked.seed)
        target.look_at_logs()
        leaks = list(dict.fromkeys(target.leaks))
    with machine.folder("attacks") as folder:
        seen, tried = proven(folder)
    total = sum(result.counts.values())
    bad = [*result.succeeded, *result.hurt, *leaks, *findings.wrong]
    for each in (*bad, *result.broken):
        machine.say(f"WRONG {each[:1000]}")
    detail = {
        "attacks": total,
        "by_family": dict(sorted(result.counts.items())),
        "succeeded": result.succeeded[:20],
        "secrets_seen": leaks[:20],
        "service_hurt_by": result.hurt[:20],
        "not_carried_out": result.broken[:20],
        "fuzzed_inputs": dict(sorted(findings.inputs.items())),
        "parsers_broken": findings.wrong[:20],
        "without_the_guard": {"attacks": tried, "seen_to_succeed": seen},
        "seed": asked.seed,
    }
    is_ok = not result.broken and total >= LEAST and seen >= tried - 4
    machine.report(float(len(bad)), detail, ok=is_ok and not bad)
    return 0 if is_ok and not bad else 1


def attacked(target: Target) -> Result:
    """Makes every attack."""
    families = (url_attacks, answer_attacks, picture_attacks, lora_attacks, file_attacks)
    whole = Result(counts=Counter())
    for family in (*families, key_attacks, weight_attacks, http_attacks):
        began = time.monotonic()
        result = carry_out(target, family())
        n = sum(result.counts.values())
        machine.say(f"{family.__name__}: {n} attacks in {time.monotonic() - began:.1f} s")
        whole.counts += result.counts
        whole.succeeded += result.succeeded
        whole.broken += result.broken
        whole.hurt += result.hurt
        if result.hurt:
            break
    return whole


def fuzzed(target: Target, seconds: float, seed: int) -> Findings:
    """Feeds parsers in turns, and the service with broken requests, for so many seconds."""
    rng, findings = random.Random(seed), Findings()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not findings.wrong:
        for name, parser in PARSERS.items():
            fuzz(name, parser, rng, findings, ROUND)
        fuzz_service(target, rng, findings, ROUND)
    if not target.works():
        findings.wrong.append("service: no task goes through after broken requests")
    return findings


def proven(folder: Path) -> tuple[int, int]:
    """How many attacks on URLs are seen to succeed where their guard is off, and of how many.

    Hosts that are written in an odd way are refused all the same: four of them.
    """
    attacks = canary_attacks()
    with a_target(folder, {"SWELL_WORKER__ALLOW_PRIVATE_URLS": "any"}) as target:
        return len(carry_out(target, attacks).succeeded), len(attacks)


if __name__ == "__main__":
    sys.exit(main())
