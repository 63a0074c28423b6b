"""How many speech tokens a text chunk may become."""

from app.engines.chatterbox.variants import ModelSpec
from app.text.languages import language_of


def max_tokens(spec: ModelSpec, text: str, language: str) -> int:
    """Speech tokens after which T3 has missed its stop token, see `FrontendSpec`."""
    expected = language_of(language).tokens_per_char * len(text)
    plausible = int(spec.frontend.runaway_factor * expected)
    return min(spec.t3.max_tokens, plausible + spec.frontend.spare_tokens)
