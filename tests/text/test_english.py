"""`plain_english`: signs become words, letters plain ones, and nothing else is left."""

import logging

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from app.text.cleaning import clean
from app.text.english import PlainText, plain_english
from app.text.pauses import LINE_END

KNOWN = regex.compile(rf"[\x20-\x7EÀ-ÖØ-öø-ÿ\n{LINE_END}]*")


def plain(text: str) -> str:
    return plain_english(clean(text)).text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # compatibility forms
        ("The eﬃcient oﬃce ﬁrst ﬂew.", "The efficient office first flew."),
        ("ＨＥＬＬＯ １２３！ （ｏｋ）", "HELLO 123! (ok)"),
        ("Itʼs, don＇t, rock ’n‘ roll", "It's, don't, rock 'n' roll"),
        ("Act Ⅳ, scene ⅲ", "Act IV, scene iii"),
        ("𝐁𝐨𝐥𝐝 𝓈𝒸𝓇𝒾𝓅𝓉 Ⓒircled ⅅ ℕ ﬅ", "Bold script Circled D N st"),
        ("① one ❷ two ⑶ three ⒋ 5️⃣", "1 one 2 two (3) three 4. 5"),
        ("5㎞ 3㎏ 20℃ ℡", "5km 3kg 20 degrees Celsius TEL"),
        # powers and fractions
        ("x² and ½", "x squared and a half"),
        (
            "2½ cups, 1 ¾, ⅔ and ⅛",
            "2 and a half cups, 1 and three quarters, two thirds and an eighth",
        ),
        ("a½-inch ½in", "a a half-inch a half in"),
        (
            "E=mc², 5 m³, ㎡, 10⁻³, 2ⁿ, y^10",
            "E=mc squared, 5 m cubed, m squared, 10 to the minus 3, 2 to the n, y to the 10",
        ),
        ("H₂O, CO₂, 1ˢᵗ, 2ⁿᵈ, true¹²", "H2O, CO2, 1st, 2nd, true 12"),
        ("Na⁺, Ca²⁺, Cl⁻", "Na plus, Ca 2 plus, Cl minus"),
        # units and money
        (
            "−5 °C, 5−3, a − b, 70°F, 45°",
            "minus 5 degrees Celsius, 5 minus 3, a minus b, 70 degrees Fahrenheit, 45 degrees",
        ),
        (
            "5′10″, 6′, 3″, 40°26′46″N, f′",
            "5 feet 10 inches, 6 feet, 3 inches, 40 degrees 26 minutes 46 seconds N, f prime",
        ),
        (
            "€5.99, £1, 5,99 €, ₹3 million, ¥500",
            "5.99 euros, 1 pound, 5,99 euros, 3 million rupees, 500 yen",
        ),
        ("5 µm, 3 μg, 10 kΩ, 5¢", "5 micrometers, 3 micrograms, 10 k ohms, 5 cents"),
        (
            "It (€5) is −5 °C. Or €1! Is it 5 m²?",
            "It (5 euros) is minus 5 degrees Celsius. Or 1 euro! Is it 5 m squared?",
        ),
        # signs
        ("≈ 3, № 5, ± 2, 3×4÷2", "about 3, number 5, plus or minus 2, 3 times 4 divided by 2"),
        (
            "x ≤ 3, y ≠ 4, ∞, √2, ∀x",
            "x less than or equal to 3, y not equal to 4, infinity, square root of 2, for all x",
        ),
        ("A → B, C -> D, E ⇒ F, → G", "A to B, C to D, E to F, G"),
        ("• milk • eggs", "milk, eggs"),
        ("§ 3, 5‰, ©2024, α-helix", "section 3, 5 per mille, copyright 2024, alpha-helix"),
        ("★★★★☆ or ⭐⭐", "4 out of 5 stars or 2 stars"),
        # emoji with a meaning
        ("✅ a ❌ b ⚠️ c 👍🏽 d 🆗 e", "check mark a cross mark b warning c thumbs up d OK e"),
        (
            "5’10”, 37º C, 20˚, 3 – 5, €2/kg, λ",
            "5 feet 10 inches, 37 degrees Celsius, 20 degrees, 3-5, 2 euros/kg, lambda",
        ),
        ("« Oui », e⁻ˣ", '"Oui", e minus x'),
        # punctuation
        ("don't。 好、ok؟ «a» „b“ 「c」 ‐ ‑", 'don\'t. Hao, ok? "a" "b" "c", -'),
        ("¿Qué? ¡Sí! wait… 1–2", "Qué? Sí! wait, 1-2"),
        # letters
        ("cœur, Łódź, Đặng, ß, naïve, ő, ẞ", "coeur, Lódz, Dang, ß, naïve, o, Ss"),
        ("Привет, 你好, Πού, カナ", "Privet, NiHao, Poy, kana"),
        # what is plain stays
        (
            "5*3=15, snake_case, C#, #1, a < b, <3, [x] {y} a@b.c",
            "5*3=15, snake_case, C#, #1, a < b, <3, [x] {y} a@b.c",
        ),
    ],
)
def test_signs_and_letters_have_plain_forms(text: str, words: str) -> None:
    assert plain_english(clean(text)) == (words, "")


@pytest.mark.parametrize(
    ("text", "words", "dropped"),
    [
        ("Hi 😀 there 🇫🇷", "Hi there", "😀🇫🇷"),
        ("│ cell │", "cell", "││"),
        ("a \ue000\U0010ffff b", "a b", "\ue000\U0010ffff"),
        ("👩‍🚀👩🏽", "", "👩🚀👩"),
    ],
)
def test_what_has_no_spoken_form_is_dropped_and_counted(
    text: str, words: str, dropped: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = plain_english(clean(f"{text} z"))
    assert plain == (f"{words} z".strip(), dropped)
    with caplog.at_level(logging.INFO):
        assert plain.logged() == plain.text
    assert caplog.messages == [f"{len(dropped)} characters that have no spoken form were dropped"]
    assert text not in caplog.text
    caplog.clear()
    assert PlainText("a", "").logged() == "a"
    assert not caplog.messages


def test_pauses_stay() -> None:
    assert plain("“One”\n\nTwo\nThrée…") == '"One"\n\nTwo\u2028Thrée,'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_nothing_but_known_characters_is_left(text: str) -> None:
    spoken = plain(f"a {text}")
    assert KNOWN.fullmatch(spoken)
    assert plain_english(spoken) == (spoken, "")


@given(st.text(st.sampled_from("ab1½²³°′″€−→µ★☆⁻⁰^'·Ωα \"-.,()"), max_size=30))
def test_rules_leave_no_sign_between_any_neighbours(text: str) -> None:
    assert KNOWN.fullmatch(plain(f"a {text}"))
