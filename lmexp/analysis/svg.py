"""What every SVG of the report has in common: a role and a text alternative."""

from html import escape


def accessible(alt: str) -> str:
    """Return the attributes that let a picture be read aloud."""
    return f'role="img" aria-label="{escape(alt)}"'
