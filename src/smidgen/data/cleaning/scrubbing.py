"""Addresses and secrets give way to placeholders.

Every pattern starts only where a run of its characters starts, and takes the run without giving back (possessive
quantifiers), so that the time is linear in the text whatever it holds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

EMAIL = "[EMAIL_ADDRESS]"
IP = "[IP_ADDRESS]"
SECRET = "[SECRET]"

# RFC 5322's atoms. Quotes and other marks before the first letter or digit are hardly the address's.
_LOCAL = r"\w.!#$%&'*+/=?^`{|}~-"
_EMAIL = re.compile(rf"(?<![{_LOCAL}])((?:[.!#$%&'*+/=?^`{{|}}~-]++(?=\w))?+)[{_LOCAL}]++@[\w-]++(?:\.[\w-]++)+")

_IPV4 = re.compile(r"(?<![\w.])\d{1,3}+(?:\.\d{1,3}+){3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-fA-F]{1,4}+:[0-9a-fA-F:]{1,40}+(?![\w:])")
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")

# Without its end a private key is cut at the next dash: it may be cut short itself.
_PRIVATE_KEY = (
    r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----[^-]*+"
    r"(?:-----END (?:[A-Z]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
)
# Forms that their issuers document; a password has no form, so none is looked for.
_SECRETS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # Amazon Web Services
    r"gh[opsur]_[0-9A-Za-z]{36,255}",  # GitHub
    r"github_pat_[0-9A-Za-z_]{50,255}",
    r"glpat-[0-9A-Za-z_-]{20,255}",  # GitLab
    r"sk-[0-9A-Za-z_-]{20,255}",  # OpenAI, Anthropic
    r"hf_[0-9A-Za-z]{34,255}",  # Hugging Face
    r"AIza[0-9A-Za-z_-]{35}",  # Google
    r"xox[abeoprs]-[0-9A-Za-z-]{10,255}",  # Slack
    r"[rs]k_(?:live|test)_[0-9A-Za-z]{16,255}",  # Stripe
    r"npm_[0-9A-Za-z]{36}",
    r"pypi-[0-9A-Za-z_-]{50,500}",
    r"SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}",  # SendGrid
    r"eyJ[0-9A-Za-z_-]{8,4096}\.eyJ[0-9A-Za-z_-]{8,4096}\.[0-9A-Za-z_-]{8,4096}",  # JSON Web Token
)
_SECRET = re.compile(rf"(?<![0-9A-Za-z_-])(?:{'|'.join(_SECRETS)})(?![0-9A-Za-z_-])|{_PRIVATE_KEY}")


def scrub_emails(text: str) -> tuple[str, int]:
    """The text with e-mail addresses replaced, and how many."""
    return _EMAIL.subn(rf"\1{EMAIL}", text) if "@" in text else (text, 0)


def scrub_ips(text: str) -> tuple[str, int]:
    """The text with public IPv4 and IPv6 addresses replaced, and how many.

    Addresses of private and documentation networks name nobody and stay.
    """
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        if not _is_public(match[0]):
            return match[0]
        count += 1
        return IP

    return _IPV6.sub(replace, _IPV4.sub(replace, text)), count


def scrub_secrets(text: str) -> tuple[str, int]:
    """The text with private keys and access tokens of known forms replaced, and how many."""
    return _SECRET.subn(SECRET, text)


SCRUBBERS: Mapping[str, Callable[[str], tuple[str, int]]] = {
    "secret": scrub_secrets,
    "email": scrub_emails,
    "ip": scrub_ips,
}
"""By their names in `cleaning.scrub`, in the order in which they act."""


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.is_global and (parsed.version == 4 or parsed in _PUBLIC_IPV6)
