"""Whether the server can be reached as this site, and if not, what is wrong and what to do."""

from __future__ import annotations

import re
import socket
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx

from acm_core.bundle import versions
from acm_core.checks import Check
from acm_core.proxies import ProxyError, proxy_for, without_credentials
from acm_core.trust.address import split_address
from client.link.depot import Depot
from client.site.membership import Membership

_SECONDS = 10.0
_SAID = re.compile(r"[\w ,.+-]{1,100}")  # it goes to a terminal
_AHEAD_SECONDS, _BEHIND_SECONDS = 4.0, 300.0
"""What Flower's signatures of the time allow a site's clock, and a second less."""


def examine(membership: Membership, site: str) -> list[Check]:
    """Name, port, certificate, clock, key and versions; what a failed check leaves unknown is left out."""
    host, port = split_address(membership.address)
    try:
        proxy = proxy_for(host)
    except ProxyError as error:
        return [
            Check("proxy", str(error), "mend the variable where client.run is started, and start it again")
        ]
    if proxy is None:
        checks = _route(host, port)
    else:
        checks = [Check("proxy", f"{without_credentials(proxy)} (from the environment)")]
    if all(check.passed for check in checks):
        checks += _answer(membership, proxy)
    if all(check.passed for check in checks):
        checks += _greeted(membership, site)
    return checks


def _route(host: str, port: int) -> list[Check]:
    try:
        addresses = sorted({info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError as error:
        return [
            Check(
                "name",
                f"{host}: {error}",
                "ask the operator for the server's name, and this network's people for DNS",
            )
        ]
    name = Check("name", f"{host} is {', '.join(map(str, addresses))}")
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        fix = (
            f"is server.run started there, and may this machine open TCP connections to {host}:{port}? A firewall that "
            "drops them looks like this; if the server has moved, run client.enrol with --server"
        )
        return [name, Check("port", f"{port}: {error}", fix)]
    return [name, Check("port", f"{port} answers")]


def _answer(membership: Membership, proxy: str | None) -> list[Check]:
    """The certificate, and the clock by the date of the answer."""
    try:
        trusted = ssl.create_default_context(cafile=str(membership.authority))
    except OSError:
        return [
            Check(
                "certificate",
                f"expected an authority in {membership.authority}, got none that can be read",
                "run client.enrol with the operator's answer file again",
            )
        ]
    url = f"https://{membership.address}/health"
    try:
        with httpx.stream(
            "GET", url, verify=trusted, timeout=_SECONDS, proxy=proxy, trust_env=False
        ) as response:
            date = response.headers.get("date")  # what follows the headers is not read
    except (httpx.HTTPError, OSError) as error:
        return [_tls_fault(error, membership, proxy)]
    checks = [Check("certificate", f"of a server of {membership.federation}")]
    if date is not None:
        checks.append(_clock(parsedate_to_datetime(date).timestamp()))
    return checks


def _tls_fault(error: Exception, membership: Membership, proxy: str | None) -> Check:
    text = str(error)
    if "certificate has expired" in text:
        return Check(
            "certificate",
            "the server's has expired",
            "the operator renews it with `python -m server.init --renew`; nothing to do here",
        )
    if "Hostname mismatch" in text or "IP address mismatch" in text:
        return Check(
            "certificate",
            f"the server's is not for {membership.address}",
            "the operator adds this name to server.names and runs `python -m server.init --renew`",
        )
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return Check(
            "certificate",
            "not from the authority that this site joined",
            "something in between opens TLS connections, or the server has a new authority: ask this network's people "
            f"to let {membership.address} through unopened, or the operator for a new answer file",
        )
    through = "" if proxy is None else f" through the proxy {without_credentials(proxy)}"
    if "UNEXPECTED_EOF" in text or "Connection reset" in text:
        return Check(
            "certificate",
            f"no TLS connection{through}: something takes the connection and hangs up",
            "is server.run started there? A load balancer or firewall before a server that is down looks like this",
        )
    return Check(
        "certificate", f"no TLS connection{through}: {text}", "is this the address of a server of ACM-Fed?"
    )


def _greeted(membership: Membership, site: str) -> list[Check]:
    """Whether the server knows this site's key, and has the versions that are here."""
    depot = Depot(site, membership)
    try:
        theirs = depot.greet()
    except httpx.HTTPError as error:
        return [Check("key", f"not examined: {error}", "try again")]
    finally:
        depot.close()
    if theirs is None:
        fix = "it was not approved yet or was removed: ask the operator, with the fingerprint of client.enrol"
        return [Check("key", "the server does not know it", fix)]
    own = versions()
    known = theirs if _SAID.fullmatch(theirs) else "not said"
    fix = f"install the same at both ends, here is {own}: until then this site refuses every task"
    return [Check("key", "registered"), Check("server's versions", known, "" if known == own else fix)]


def _clock(server: float) -> Check:
    off = time.time() - server
    if -_BEHIND_SECONDS < off < _AHEAD_SECONDS + 1:  # the date has no fractions of a second
        return Check("clock", f"within {abs(off) + 1:.0f} s of the server's")
    which = "ahead of" if off > 0 else "behind"
    return Check(
        "clock",
        f"{abs(off):.0f} s {which} the server's",
        "set this machine's clock by NTP: the server refuses signatures of another time",
    )
