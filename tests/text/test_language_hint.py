"""Which texts are taken to be plainly in another language."""

import pytest

from app.text.language_hint import other_language

PLAIN = {
    ("Guten Morgen, das ist ein Satz, der nicht auf Englisch ist.", "en"): "de",
    ("Bonjour, je suis dans la maison et vous ne pouvez pas entrer pour le moment.", "en"): "fr",
    ("Hola, no se lo que es, pero está en la casa y es muy bonita.", "en"): "es",
    ("De man die het boek heeft dat ik wil is niet hier en ook niet daar.", "en"): "nl",
    ("This is an English text that was sent to the German model.", "de"): "en",
    ("Привет, как дела?", "en"): "ru",
    ("Γεια σου κόσμε", "en"): "el",
    ("שלום עולם", "en"): "he",
    ("こんにちは、世界の皆さん", "en"): "ja",
    ("你好，世界", "ru"): "zh",
    ("안녕하세요", "en"): "ko",
}
UNCLEAR = [
    ("The quick brown fox jumps over the lazy dog, and it is not that far.", "en"),
    ("The word привет means hello in Russian, and it is used often.", "en"),
    ("The die is cast, and the den of an old man is in the van.", "en"),
    ("Il est parti.", "en"),
    ("La la la la la, no no no no, se se se.", "en"),
    ("π = 3.14, α + β", "en"),
    ("Guten Morgen, das ist ein Satz, der nicht auf Englisch ist.", "de"),
    ("你好，世界", "zh"),
    ("日本語", "ja"),
    ("", "en"),
]


@pytest.mark.parametrize(("text", "language"), PLAIN)
def test_plain_text_of_another_language_is_recognised(text: str, language: str) -> None:
    found = other_language(text, language)
    assert found
    assert found.code == PLAIN[text, language]


@pytest.mark.parametrize(("text", "language"), UNCLEAR)
def test_doubtful_text_gets_no_hint(text: str, language: str) -> None:
    assert other_language(text, language) is None
