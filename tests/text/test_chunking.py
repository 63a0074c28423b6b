"""`clean` and `split`: kept and dropped characters, and the ends of chunks."""

import time
from unicodedata import normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.errors import EmptyText
from app.text import chunking
from app.text.cleaning import SPEAKABLE, clean
from app.text.english import plain_english
from app.text.languages import ENGLISH, Language
from app.text.punctuation import plain_punctuation

# Of all of Unicode, little would ever meet a boundary; so much of what is drawn is trouble.
TROUBLE = [
    *" \n.,;:!?…—–-\"'“”‘’()、。！「」،؛؟।॥1$€+aEeéžЖΩק漢กเำက一한👩🏽",
    "\u0301",  # acute accent
    "\u094d",  # virama
    "\u102b",  # Burmese vowel that Unicode does not count as part of its letter
    "\u1112",  # half a Hangul syllable
    "\u200c",
    "\u200d",
    "\ufe0f",
]
HOSTILE = [
    *["x", "a. ", "a, ", "1. ", "b\n\n", "(", ")", "“a. ", " - ", "a@b.c ", "é. É. ", "…"],
    *["一", "一。", "、", "क्", "เ", "ی\u200c", "\u1112", "👍🏽", "👩\u200d", "\u200b"],
    *[
        "1½ is more",
        "€1.000,",
        "1′ or so",
        "x²^2",
        "★☆ stars",
        "→",
        "µm",
        "α ",
        "ﬁ",
        "\u2028",
        "[a] ",
    ],
    "e" + "\u0301" * 99,
    "e" + "\u0316\u0301" * 9999,
]
letters = st.sampled_from(TROUBLE) | st.characters(exclude_categories=["Cs"])
texts = st.text(letters, max_size=30) | st.text(letters, min_size=60, max_size=150)
dirty_texts = st.text(st.sampled_from([*TROUBLE, "\0", "\ud800", "\x1c"]) | st.characters())
sizes = st.sampled_from([20, 21, 40, 100, 500])


def split(text: str, size: int, language: Language = ENGLISH) -> list[str]:
    """Return the texts of the chunks, whose numbers are consecutive."""
    chunks = chunking.split(text, size, language)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    return [chunk.text for chunk in chunks]


# --- Clean ------------------------------------------------------------------------------------


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\r\n\u3000",
        "\0\x07\x1b",
        "👍🏽👩‍🚀❤️🇫🇷",
        "...?! - —",
        "\u200b\ufeff\u200d",
        "\ud800",
        "\u0301",
        "\u3164",  # a letter to Unicode, but blank
    ],
)
def test_a_text_with_nothing_to_speak_is_refused(text: str) -> None:
    with pytest.raises(EmptyText) as refusal:
        clean(text)
    assert refusal.value.param == "text"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\0b\x1bc", "abc"),
        ("a\ud83d\udeb2b", "ab"),  # surrogates, however paired
        ("\ufeffso\u00adft\u200b \u202ehidden\u2069", "soft hidden"),
        ("cafe\u0301", "caf\u00e9"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("ی\u200c\u200dخ", "ی\u200cخ"),
        ("pass\u200dword\u200c", "password"),
        ("❤\ufe0f ok", "❤ ok"),
        ("a\tb  c\x1cd\u00a0e", "a b c d e"),
        (" one\nline \r\n \n\n two\u2028 ", "one\u2028line\n\ntwo"),
        ("“Don’t,” he said – well…", "“Don’t,” he said – well…"),
        ("at 10:30; no stop", "at 10:30; no stop"),
    ],
)
def test_a_text_is_cleaned(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("“Don’t,” he said – well…", '"Don\'t," he said, well,'),
        ("Wait... what , now—or 5–6 - later", "Wait, what, now-or 5-6, later"),
        ("at 10:30; no stop", "at 10:30; no stop"),
        ("one…\n\ntwo", "one,\n\ntwo"),
    ],
)
def test_punctuation_is_made_plain(text: str, plain: str) -> None:
    assert plain_punctuation(clean(text)) == plain


@given(dirty_texts)
@example("a — b - - c")
@example("a.... . . .…b")
@example("\u06cc\u200c\u200c\u06cc\u200d e\u200d\u0301")
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    cleaned = clean("a" + text)
    assert clean(cleaned) == cleaned
    plain = plain_punctuation(cleaned)
    assert clean(plain) == plain_punctuation(plain) == plain


@pytest.mark.fault(21)
@given(dirty_texts)
def test_cleaning_loses_no_letter_and_no_digit(text: str) -> None:
    def letters(text: str) -> list[str]:
        blank = "\u115f\u1160\u3164\uffa0"
        return [char for char in normalize("NFD", text) if char.isalnum() and char not in blank]

    assert letters(plain_punctuation(clean("a" + text))) == letters("a" + text)


# --- Speakable --------------------------------------------------------------------------------


def speakable(text: str) -> str:
    return "".join(SPEAKABLE.findall(text))


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hi, you!", "Hiyou"),
        ("5 % of $3 + €2 = @me & #1, 20 °C", "5%of$3+€2=@me&#120°C"),
        ("हिन्दी।", "हिन्दी"),
        ("(👍🏽) ❤\ufe0f ◾ | ~ \u0301", ""),
    ],
)
def test_speakable_expands_text_as_a_voice_reads_it(text: str, spoken: str) -> None:
    assert speakable(text) == spoken


# --- Split: invariants -----------------------------------------------------------------------


@pytest.mark.fault(21)
@given(texts, sizes)
@example("e" + "\u0301" * 500, 20)
@example("!" * 90 + "a" + "!" * 90 + "b" + "!" * 90, 20)
@example("- " + "x" * 19 + " !", 20)
@example("👍🏽" * 100 + "a", 20)
@example("က\u102b" * 30, 20)
@example("\u1112" * 30 + "\u1161" * 30, 20)
def test_chunks_fit_are_speakable_and_lose_nothing(text: str, size: int) -> None:
    chunks = split(text, size)
    assert all(len(chunk) <= size for chunk in chunks)
    assert all(speakable(chunk) for chunk in chunks)
    assert "".join(map(speakable, chunks)) == speakable(text)


@given(st.lists(st.sampled_from(["Good day.", "Is it?", "Quite so, my dear."]), min_size=1))
def test_prose_loses_only_spaces_between_chunks(sentences: list[str]) -> None:
    text = " ".join(sentences)
    assert " ".join(split(text, 40)) == text


@pytest.mark.timed
@pytest.mark.fault(22)
@pytest.mark.parametrize("size", [20, 150, 500])
@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_linear_time(unit: str, size: int) -> None:
    text = "a" + unit * (20_000 // len(unit))
    started = time.process_time()
    split(plain_english(clean(text)).text, size)
    assert time.process_time() - started < 0.5  # seconds; measured: 0.06 at most


# --- Split: where -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        # as many sentences as fit,
        (150, ["Short enough. Stays whole."]),
        (40, ["One sentence here. Another one there.", "The third does not fit any more."]),
        # else near the middle of the sentence: a clause,
        (60, ["The kettle had been singing on the hob for so long,", "and nobody had heard it."]),
        (40, ["We saw (it is such a fine house)", "the old mill too."]),
        # else near the middle of the clause: a word, and nothing short is left over.
        (60, ["The kettle had been singing", "on the hob for a good while, he said."]),
        (20, ["It was the", "best of times,", "it was the worst."]),
        # a short sentence joins a neighbour.
        (
            64,
            ["Yes. The kettle sang for such a very long time on the hob,", "and nobody heard it."],
        ),
        (64, ["The kettle had been singing on the hob,", "and for such a very long time. Yes."]),
    ],
)
def test_a_chunk_ends_at_the_most_natural_place(size: int, chunks: list[str]) -> None:
    assert split(" ".join(chunks), size) == chunks


@pytest.mark.parametrize(
    ("text", "size", "chunks"),
    [
        (
            "A Christmas Tale\n\nIt began in a kitchen",
            30,
            ["A Christmas Tale", "It began in a kitchen"],
        ),
        ("Great job " + "👍🏽" * 30 + " see you soon", 20, ["Great job", "see you soon"]),
    ],
)
def test_paragraphs_end_sentences_and_long_rows_of_emoji_are_dropped(
    text: str, size: int, chunks: list[str]
) -> None:
    assert split(text, size) == chunks


@pytest.mark.parametrize("size", [40, 50, 64])
@pytest.mark.parametrize(
    "whole",
    [
        "Dr.",
        "e.g.",
        "p.m.",
        "3.14",
        "1,000.50",
        "10:30",
        "Example.Com/Shop",
        "Example.com/watch?Video=1",
        "https://example.com/a,b;c?d=E:f",
        "jane.doe+news@mail.example.co.uk",
        "U.S.",
        "т.Е.",
    ],
)
def test_does_not_split_units_of_text(whole: str, size: int) -> None:
    for before in range(60):
        text = "ab " * before + whole + " cd" * 40
        assert any(whole in chunk for chunk in split(text, size))


@pytest.mark.parametrize(
    "chunks",
    [
        ["Dr. Smith met Mr. Jones at 5 p.m. today.", "They talked for an hour."],
        ["That is 3.14, e.g. 1,000.50 at 10:30.", "Is it not, my dear friend?"],
        [
            "1. Boil some of the cold water.",
            "2. Pour it on the tea.",
            "3. Wait for a minute or two.",
        ],
        ["Мы все жили в то лето на ул. Пестеля", "в самом центре большого города."],
    ],
)
def test_abbreviations_and_numbers_end_no_sentence(chunks: list[str]) -> None:
    assert split(" ".join(chunks), 41) == chunks


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        pytest.param(20, ["吾輩は猫である。名前はまだ無い。", "どこで生れたか知らぬ。"], id="ja"),
        pytest.param(20, ["吾輩は猫である、", "名前は今でもまだ全く無いのだ。"], id="ja-clause"),
        pytest.param(20, ["你好，我叫小明，今年十岁，", "我有一个姐姐，她很喜欢唱歌。"], id="zh"),
        pytest.param(20, ["我们现在用它来合成", "Chatterbox的语音了"], id="zh-word"),
        pytest.param(20, ["我们昨天在北京见到了", "（王小明和他的几个小妹妹"], id="zh-bracket"),
        pytest.param(20, ["这些东西一共花掉大约", "１，０００块钱还要再等"], id="zh-number"),
        pytest.param(40, ["السلام عليكم، كيف حالك اليوم؟ ", "أنا بخير، شكرا لك؛ وأنت؟"], id="ar"),
        pytest.param(30, ["أنا بخير، شكرا جزيلا لك؛ ", "وأنت يا صديقي العزيز"], id="ar-clause"),
        pytest.param(20, ["می\u200cخواهم بروم به ", "خانه\u200cی خودم در تهران"], id="fa"),
        pytest.param(44, ["आज मौसम अच्छा है। हम बाज़ार जाएँगे। ", "और फल ख़रीदेंगे, ठीक है?"], id="hi"),
        pytest.param(30, ["สวัสดีครับ ผมชื่อสมชาย ", "เป็นคนไทย แต่อยู่ที่ญี่ปุ่น"], id="th"),
        pytest.param(30, ["សួស្តីអ្នកទាំងអស់គ្នា។", "តើសុខសប្បាយជាទេ។"], id="km"),
        pytest.param(30, ["Πού πηγαίνεις τώρα; ", "Στο σπίτι μου πηγαίνω."], id="el"),
        pytest.param(28, ["Comment allez-vous ? ", "Très bien, merci à vous !"], id="fr"),
        pytest.param(30, ["Elle gagne donc 30 % ", "de plus qu'avant"], id="fr-percent"),
    ],
)
def test_every_script_has_its_boundaries(size: int, chunks: list[str]) -> None:
    assert split("".join(chunks), size) == [chunk.strip() for chunk in chunks]


@pytest.mark.fault(21)
@pytest.mark.parametrize("letter", ["e\u0301", "นี่", "เก", "กา", "क्षि", "က\u102b"])
@pytest.mark.parametrize("size", range(20, 26))
def test_a_letter_keeps_its_marks(letter: str, size: int) -> None:
    for chunk in split(letter * 60, size):
        assert chunk == letter * (len(chunk) // len(letter))


# --- Languages --------------------------------------------------------------------------------


def test_chunk_size_is_exact_in_english() -> None:
    assert all(ENGLISH.chunk_chars(size) == size for size in range(20, 501))


def test_chunks_are_shorter_in_a_language_with_more_speech_per_character() -> None:
    dense = Language("xx", "Dense", "Dense", tokens_per_char=2 * ENGLISH.tokens_per_char)
    text = "One two three four. " * 20
    assert split(text, 40, dense) == split(text, 20)
