"""Pages for browsers: a template with the style and the scripts in it, and the policy under which a browser shows it.

A page needs nothing from elsewhere. Its policy (Content-Security-Policy) allows only its own scripts and its own style,
by their hashes. The parts of the pages are files in fullconv/page/assets.
"""

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template


def page_of(template: str, styles: Sequence[str], scripts: Sequence[str], title: str, sources: str) -> tuple[str, str]:
    """Return the page of a template, and its policy.

    `styles` and `scripts` are names without suffix. `sources` are further directives of the policy, such as the places
    from which the page may load images.
    """
    style = "".join(asset(f"{name}.css") for name in styles)
    library = f"/*\n{asset('openseadragon.LICENSE.txt')}*/\n{asset('openseadragon.min.js')}"
    script = "".join(asset(f"{name}.js") for name in scripts)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(library)} {_hash(script)}",
            f"style-src {_hash(style)}",
            sources,
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = Template(asset(f"{template}.html")).substitute(
        title=escape(title), policy=policy, style=style, view=asset("view.html"), library=library, script=script
    )
    return page, policy


@cache
def asset(name: str) -> str:
    """Return the text of a file in fullconv/page/assets."""
    return (files("fullconv") / "page" / "assets" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Return the expression by which a policy allows an element with this text."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
