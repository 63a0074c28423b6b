"""Languages: how text in each is segmented, and how much speech its characters become."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """A language, by its ISO 639-1 code.

    `tokens_per_char`: expected speech tokens (40 ms each) of a character, by usual rates of
    speech. `segmenter`: sentencex's code, where that is another. `packages`: top-level ones
    without which its text cannot be prepared for a model that needs its pronunciation. `files`:
    what those need beside them, in the model's folder.
    """

    code: str
    name: str
    native_name: str
    tokens_per_char: float
    segmenter: str = ""
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def chunk_chars(self, chunk_size: int) -> int:
        """The characters that become as many speech tokens as `chunk_size` English ones."""
        return max(
            MIN_CHUNK_CHARS, round(chunk_size * ENGLISH.tokens_per_char / self.tokens_per_char)
        )


MIN_CHUNK_CHARS = 12
"""A letter with all of its marks fits a chunk of this length, wherever it is cut."""

ENGLISH = Language("en", "English", "English", tokens_per_char=1.9)

LANGUAGES = {
    language.code: language
    for language in (
        Language("ar", "Arabic", "العربية", 2.4),
        Language("da", "Danish", "Dansk", 1.8),
        Language("de", "German", "Deutsch", 1.8),
        Language("el", "Greek", "Ελληνικά", 1.8),
        ENGLISH,
        Language("es", "Spanish", "Español", 1.7),
        Language("fi", "Finnish", "Suomi", 1.8),
        Language("fr", "French", "Français", 1.7),
        Language("he", "Hebrew", "עברית", 2.6),
        Language("hi", "Hindi", "हिन्दी", 2.0),
        Language("it", "Italian", "Italiano", 1.7),
        Language("ja", "Japanese", "日本語", 4.5, packages=("pykakasi",)),
        Language("ko", "Korean", "한국어", 4.2),
        Language("ms", "Malay", "Bahasa Melayu", 1.8),
        Language("nl", "Dutch", "Nederlands", 1.8),
        Language("no", "Norwegian", "Norsk", 1.8, segmenter="da"),
        Language("pl", "Polish", "Polski", 1.9),
        Language("pt", "Portuguese", "Português", 1.8),
        Language("ru", "Russian", "Русский", 1.9),
        Language("sv", "Swedish", "Svenska", 1.8),
        Language("sw", "Swahili", "Kiswahili", 1.9),
        Language("tr", "Turkish", "Türkçe", 1.9),
        Language(
            *("zh", "Chinese", "中文", 5.5),
            packages=("spacy_pkuseg",),
            files=(
                "Cangjie5_TC.json",
                "spacy_ontonotes/features.msgpack",
                "spacy_ontonotes/weights.npz",
            ),
        ),
    )
}
"""By code."""

_OTHER_CODES = {"nb": "no", "nn": "no", "iw": "he", "cmn": "zh"}


def parse_language(tag: str) -> str:
    """The code of a tag: of `EN`, `pt-BR` and `zh_Hans` it is `en`, `pt` and `zh`."""
    primary = tag.strip().lower().replace("_", "-").partition("-")[0]
    return _OTHER_CODES.get(primary, primary)


def name_of(code: str) -> str:
    """For messages, as `German (de)`."""
    return f"{LANGUAGES[code].name} ({code})" if code in LANGUAGES else repr(code)


def language_of(code: str) -> Language:
    """The language of that code; one that is not listed is taken to be read like English."""
    return LANGUAGES.get(code) or Language(code, code, code, ENGLISH.tokens_per_char)
