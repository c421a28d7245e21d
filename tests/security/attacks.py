"""What an attack is, and how all of them are run.

An attack says what would count as its success. It returns what it got, or nothing where it was
defended. After each the service must be well, and at the end no secret may have been seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from target import Target

__all__ = ["Attack", "Result", "carry_out"]

#: After so many attacks a task must still go all the way.
WORKS_EVERY = 25


@dataclass(frozen=True)
class Attack:
    """One hostile input.

    Args:
        family: What it is aimed at.
        name: Its own, within the family.
        success: What would count as one.
        run: Returns what it got; empty where it was defended.
    """

    family: str
    name: str
    success: str
    run: Callable[[Target], str]


@dataclass
class Result:
    """What became of attacks."""

    counts: Counter[str] = field(default_factory=Counter)
    succeeded: list[str] = field(default_factory=list)
    #: Attacks that could not be carried out: they prove nothing.
    broken: list[str] = field(default_factory=list)
    #: Attacks after which the service was not well.
    hurt: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.succeeded or self.broken or self.hurt or self.leaks)


def carry_out(target: Target, attacks: Iterable[Attack]) -> Result:
    """Run attacks one after another."""
    result = Result()
    seen, faults = len(target.leaks), len(target.faults)
    names: set[str] = set()
    for number, attack in enumerate(attacks, 1):
        told = f"{attack.family}: {attack.name}"
        assert told not in names, f"two attacks are called {told}"
        names.add(told)
        came = len(target.canary.came)
        try:
            got = attack.run(target)
        except Exception as error:
            result.broken.append(f"{told}: {type(error).__name__}: {error}")
            got = ""
        if len(target.canary.came) > came:
            got = got or "the private server was reached"
        result.counts[attack.family] += 1
        if got:
            result.succeeded.append(f"{told} ({attack.success}): {got}")
        if len(target.faults) > faults:
            result.hurt.append(f"{told}: {target.faults[faults:]}")
            faults = len(target.faults)
        if not target.is_well() or (number % WORKS_EVERY == 0 and not target.works()):
            result.hurt.append(told)
            break
    if not result.hurt and not target.works():
        result.hurt.append("at the end no task went through")
    target.look_at_logs()
    result.leaks += target.leaks[seen:]
    return result
