"""Clouds that lie apart, in network namespaces of this machine: a home, and machines behind NAT.

All public addresses share one network, that of the documentation (RFC 5737). Behind each cloud's
address is a private network, the same in all of them as clouds have it, whose machine reaches one
port of the home and nothing else; nobody reaches the machine. Only root can make namespaces. What
passes stays among those that are made here, and all of them go with `Internet.close()`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import pytest

__all__ = ["HOME", "PORT", "Cloud", "Internet"]

#: Where the home is, and its port that machines reach.
HOME: Final = "198.51.100.10"
PORT: Final = 8443

_MACHINE: Final = "10.0.0.2"
_GATEWAY: Final = "10.0.0.1"

#: A gateway: its machine may reach the home, answers come back, all else is dropped.
_RULES: Final = f"""
table ip cloud {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "in" oifname "out" ip daddr {HOME} tcp dport {PORT} accept
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
    }}
    chain leave {{
        type nat hook postrouting priority srcnat;
        oifname "out" masquerade
    }}
}}
"""


class Cloud:
    """One cloud: a gateway with a public address, and a machine behind it."""

    def __init__(self, internet: "Internet", name: str, public: str) -> None:
        self.name = name
        self.public = public
        self.gateway = internet.namespace(f"{name}-gate")
        self.machine = internet.namespace(name)

    def cut(self) -> None:
        """Take its line away: what is said from now on is lost, and nobody is told."""
        _run("ip", "-n", self.gateway, "link", "set", "out", "down")

    def mend(self) -> None:
        """Bring its line back."""
        _run("ip", "-n", self.gateway, "link", "set", "out", "up")

    def lose(self) -> None:
        """Take the machine back without a word: all that runs on it is killed."""
        for pid in _run("ip", "netns", "pids", self.machine).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Internet:
    """What lies between a home and some clouds.

    Args:
        clouds: Their names.
        delay_ms: How long each cloud's way out takes, where the kernel can delay (netem).
    """

    def __init__(self, clouds: Sequence[str], *, delay_ms: int = 0) -> None:
        self._prefix = f"swell{os.getpid()}"
        self._made: list[str] = []
        self._started: list[subprocess.Popen[str]] = []
        self.delays = False
        try:
            self.between = self.namespace("between")
            _run("ip", "-n", self.between, "link", "add", "net", "type", "bridge")
            _run("ip", "-n", self.between, "link", "set", "net", "up")
            self.home = self.namespace("home")
            self._join(self.home, HOME)
            self.clouds = [
                self._cloud(name, f"198.51.100.{20 + number}", delay_ms)
                for number, name in enumerate(clouds)
            ]
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> str:
        """Make a namespace that has loopback and nothing else; returns its name on this machine."""
        whole = f"{self._prefix}-{name}"
        _run("ip", "netns", "add", whole)
        self._made.append(whole)
        _run("ip", "-n", whole, "link", "set", "lo", "up")
        return whole

    def within(self, namespace: str) -> list[str]:
        """Return what makes a command one of a namespace."""
        return ["ip", "netns", "exec", namespace]

    def start(
        self, namespace: str, *command: str, folder: Path, env: Mapping[str, str], log: IO[str]
    ) -> "subprocess.Popen[str]":
        """Start a command within a namespace; its standard output is a pipe."""
        process = subprocess.Popen(
            [*self.within(namespace), *command],
            cwd=folder,
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._started.append(process)
        return process

    def reaches(self, namespace: str, address: str, port: int) -> bool:
        """Whether somebody there answers: a refusal is an answer."""
        asks = f"exec 3<> /dev/tcp/{address}/{port}"
        done = subprocess.run(
            [*self.within(namespace), "timeout", "1", "bash", "-c", asks],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode == 0 or "refused" in done.stderr

    def close(self) -> None:
        """End all that runs in the namespaces, and take them away."""
        for name in reversed(self._made):
            for pid in _run("ip", "netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "delete", name)
        self._made = []
        for process in self._started:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _cloud(self, name: str, public: str, delay_ms: int) -> Cloud:
        cloud = Cloud(self, name, public)
        self._join(cloud.gateway, public)
        _run(
            *("ip", "-n", cloud.gateway, "link", "add", "in", "type", "veth"),
            *("peer", "name", "out", "netns", cloud.machine),
        )
        for namespace, link, address in (
            (cloud.gateway, "in", _GATEWAY),
            (cloud.machine, "out", _MACHINE),
        ):
            _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", link)
            _run("ip", "-n", namespace, "link", "set", link, "up")
        _run("ip", "-n", cloud.machine, "route", "add", "default", "via", _GATEWAY)
        _run("ip", "netns", "exec", cloud.gateway, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        _run("ip", "netns", "exec", cloud.gateway, "nft", "-f", "-", told=_RULES)
        if delay_ms:
            netem = ("qdisc", "add", "dev", "out", "root", "netem", "delay", f"{delay_ms}ms")
            done = subprocess.run(
                ["tc", "-n", cloud.gateway, *netem], capture_output=True, check=False
            )
            self.delays = done.returncode == 0
        return cloud

    def _join(self, namespace: str, address: str) -> None:
        """Give a namespace a line to all public addresses, called `out`."""
        far = f"to-{address.rpartition('.')[2]}"
        _run(
            *("ip", "-n", self.between, "link", "add", far, "type", "veth"),
            *("peer", "name", "out", "netns", namespace),
        )
        _run("ip", "-n", self.between, "link", "set", far, "master", "net", "up")
        _run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "out")
        _run("ip", "-n", namespace, "link", "set", "out", "up")


def _run(*command: str, told: str | None = None) -> str:
    missing = [each for each in ("ip", "nft", "sysctl") if shutil.which(each) is None]
    if os.geteuid() != 0 or missing:
        why = f"namespaces need root and {', '.join(missing) or 'what is there'}"
        pytest.skip(why)
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
