"""The report as one file of HTML: no script, nothing from elsewhere, in the style of the endpoint's status page."""

import base64
import hashlib

from jinja2 import Environment, PackageLoader, StrictUndefined

from reconcile.report.page import Page


def render(page: Page) -> str:
    """The whole page."""
    return _TEMPLATE.render(page=page, css=_CSS, policy=_POLICY)


_TEMPLATES = Environment(
    loader=PackageLoader("reconcile.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_SHARED = Environment(loader=PackageLoader("idsync"), autoescape=True, undefined=StrictUndefined)
_CSS = _SHARED.get_template("status.css").render() + _TEMPLATES.get_template("report.css").render()
_TEMPLATE = _TEMPLATES.get_template("report.html")
# A file can send no headers: the policy stands in the page. Only its own style sheet is let in.
_CSS_HASH = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; base-uri 'none'; form-action 'none'"
