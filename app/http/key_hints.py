"""What is wrong with the API key of a request, without a word of the key itself."""

import re
from urllib.parse import unquote

from starlette.datastructures import Headers, QueryParams
from starlette.types import Scope

PLACES = (
    "It goes into a header, X-API-Key: <key> or Authorization: Bearer <key>, or into the query, "
    "?api_key=<key>."
)
WHICH = (
    "It is the API_KEY that the service was started with; without one, it is in the link that the "
    "service printed at its start. "
)
_OTHER_HEADERS = (
    *("api-key", "apikey", "x-apikey", "x-api-token", "x-auth-token", "x-access-token"),
    *("token", "x-token", "key", "x-key", "xi-api-key", "api_key", "x-api_key"),
)
_OTHER_PARAMETERS = ("key", "apikey", "api-key", "api_key", "token", "access_token", "x-api-key")
_PLACEHOLDER = re.compile(
    r"<[^<>]*>|\{+[^{}]*\}+|\$\{?\w+\}?|%\w+%|.*(\.\.\.|…)|x{3,}"
    r"|(?:your|my)[-_ ]?(?:super[-_ ]?)?(?:secret[-_ ]?)?(?:api[-_ ]?)?(?:key|token)(?:[-_ ]?here)?"
    r"|(?:insert|put|paste)[-_ ]?.*key.*",
    re.IGNORECASE,
)
MAX_PLACEHOLDER_LENGTH = 64
MAX_QUERY_LENGTH = 4096
"""Of a query that is searched for other names of the parameter."""


def describe_key(scope: Scope, keys: list[str]) -> str:
    """Explain why a request with these `keys` was refused, and how to send the key."""
    sent = [key for key in keys if key.strip()]
    if not sent:
        return f"The API key is missing. {_misplaced(scope) or WHICH}{PLACES}"
    key = unquote(sent[0].strip())
    if len(key) <= MAX_PLACEHOLDER_LENGTH and _PLACEHOLDER.fullmatch(key):
        return (
            "The API key is wrong: a placeholder such as <YOUR_API_KEY> was sent. Put the API_KEY "
            f"of this service in its place. {PLACES}"
        )
    if key[:1] in "'\"" or key[-1:] in "'\"":
        return f"The API key is wrong: it came with quotes around it; leave them out. {PLACES}"
    return f"The API key is wrong: it is not that of this service. {WHICH}{PLACES}"


def _misplaced(scope: Scope) -> str:
    """A sentence about a key that was sent in another way; empty if there seems to be none."""
    headers = Headers(scope=scope)
    if authorization := headers.get("authorization"):
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return "After the word Bearer there is no key. "
        if not token:
            return "The Authorization header lacks the word Bearer before the key. "
        return "The Authorization header is of another kind than Bearer. "
    for name in _OTHER_HEADERS:
        if name in headers:
            return f"The header {name} is not read. "
    query = scope["query_string"]
    if len(query) <= MAX_QUERY_LENGTH:
        for name in QueryParams(query):
            if name != "api_key" and name.lower() in _OTHER_PARAMETERS:
                return f"The parameter {name} is not read. "
    return ""
