import msgspec
import pytest

from app.engines.chatterbox.frontend.english import EnglishFrontend
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.variants import ENGLISH
from tests.engines.chatterbox.t3.reference import DEFAULTS, TEXT


@pytest.fixture(scope="package")
def t3(models):
    return models.t3


@pytest.fixture(scope="package")
def upstream_t3(upstream):
    """The same weights, loaded by the package itself."""
    return upstream.t3


@pytest.fixture(scope="package")
def request_for(models):
    """`request_for(text, seed=…, max_tokens=…, **params)` with the checkpoint's own voice."""
    frontend = EnglishFrontend(models.tokenizer, ENGLISH)

    def request_for(text=TEXT, seed=1, max_tokens=200, **params):
        return T3Request(
            frontend.tokenize(text),
            models.default_voice,
            msgspec.structs.replace(DEFAULTS, **params),
            seed,
            max_tokens,
        )

    return request_for
