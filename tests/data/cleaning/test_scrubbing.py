"""Planted addresses and secrets disappear; what only looks like them stays."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.cleaning.scrubbing import EMAIL, IP, SECRET, scrub_emails, scrub_ips, scrub_secrets

BEFORE = st.sampled_from([" ", "\n", "(", "<", ",", ": ", "; ", "[", "\t", "“", "ü "])
AFTER = st.sampled_from([".", " ", "\n", ")", ">", ",", "; ", "]", "”", ". ü"])
TOKENS = [
    "AKIA" + "Q7" * 8,
    "ghp_" + "a1" * 18,
    "github_pat_" + "a_" * 30,
    "glpat-" + "x-1_" * 5,
    "sk-proj-" + "a1" * 20,
    "hf_" + "bC" * 17,
    "AIza" + "b" * 35,
    "xoxb-1234567890-abc",
    "sk_live_" + "4e" * 12,
    "npm_" + "aB" * 18,
    "pypi-" + "AgE" * 20,
    "SG." + "a" * 22 + "." + "b" * 43,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAAA==\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOY\n-----END PGP PRIVATE KEY BLOCK-----",
]


@settings(max_examples=150, deadline=None)
@given(st.emails(), BEFORE, AFTER)
def test_planted_email_addresses_disappear(address: str, before: str, after: str) -> None:
    text, count = scrub_emails(f"Write to{before}{address}{after}")
    assert address not in text
    assert (count, text.count(EMAIL)) == (1, 1)


@settings(max_examples=150, deadline=None)
@given(st.ip_addresses(), BEFORE, AFTER)
def test_planted_public_ip_addresses_disappear(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, before: str, after: str
) -> None:
    text, count = scrub_ips(f"Host{before}{address}{after}")
    public = address.is_global and (address.version == 4 or address in ipaddress.ip_network("2000::/3"))
    assert (str(address) not in text) == public
    assert count == public


@pytest.mark.parametrize("token", TOKENS)
def test_planted_secrets_disappear(token: str) -> None:
    assert scrub_secrets(f"key = '{token}';") == (f"key = '{SECRET}';", 1)


def test_surroundings_of_an_address_stay() -> None:
    assert scrub_emails("'me@example.com', <you@example.org>.")[0] == f"'{EMAIL}', <{EMAIL}>."
    assert scrub_emails("mailto:jane.doe+news@mail.example.co.uk!")[0] == f"mailto:{EMAIL}!"
    assert scrub_ips("(8.8.8.8), 2606:4700::1111.")[0] == f"({IP}), {IP}."


@pytest.mark.parametrize("text", ["a @ b.com", "@name", "me@localhost", "user@", "3@4", "look@this. Now"])
def test_what_is_no_address_stays(text: str) -> None:
    assert scrub_emails(text) == (text, 0)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "192.168.1.1", "1.2.3", "1.2.3.4.5", "999.8.8.8", "12:30:45", "a::b", "::1"]
)
def test_private_addresses_times_and_versions_stay(text: str) -> None:
    assert scrub_ips(text) == (text, 0)


@pytest.mark.parametrize("text", ["ask-" + "a" * 30, "AKIA", "risk-free", "-----BEGIN CERTIFICATE-----", "eyJ.eyJ.x"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub_secrets(text) == (text, 0)
