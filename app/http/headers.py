"""One header of a request, read without making a mapping of all of them."""

from starlette.types import Scope


def header(scope: Scope, name: bytes) -> str:
    """The first one of this name (in lower case), or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""
