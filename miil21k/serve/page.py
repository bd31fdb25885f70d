"""The page for people: one file without anything from elsewhere, and what it may do."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

__all__ = ["PAGE", "PAGE_POLICY", "STATIC_POLICY"]

STATIC_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _digests(element: str) -> str:
    """Return what the policy calls the inline elements of this name: nothing else of their kind may run."""
    found = re.findall(rf"<{element}>(.*?)</{element}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE = resources.files("miil21k.serve").joinpath("page.html").read_text("utf-8")
PAGE_POLICY = (
    f"default-src 'none'; script-src {_digests('script')}; style-src {_digests('style')}; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
