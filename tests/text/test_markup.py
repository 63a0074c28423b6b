"""`clean` with `markup`: Markdown, HTML and SSML → the words and pauses that they show."""

import textwrap
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import EmptyText
from app.text.chunking import split
from app.text.cleaning import clean

PARAGRAPH, LINE = "[0.4]", "[0.25]"


def shown(text: str) -> str:
    """The text chunks, with the pauses in seconds."""
    chunks = split(clean(text, markup=True), 500)
    return " ".join(f"{c.text} [{c.pause_s:g}]" if c.pause_s else c.text for c in chunks)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("This is **very** important.", "This is very important."),
        ("*one* _two_ __three__ ***four*** ~~five~~ ==six==", "one two three four five six"),
        ("**_nested_ and *more* of it**, ***all** mixed*", "nested and more of it, all mixed"),
        ("un**believ**able, **API**s, 这是**重要**的", "unbelievable, APIs, 这是重要的"),
        (
            '**Note:**this, (**that**), **"q"** and $E=mc^2$ for $5',
            'Note:this, (that), "q" and E=mc^2 for $5',
        ),
        ("**Note: the client cut this", "Note: the client cut this"),
        ("and this as well**.", "and this as well."),
        ("*A whisper", "A whisper"),
        ("## Summary\nAll is well.", f"Summary {PARAGRAPH} All is well."),
        ("# About C# ##\n#hashtag", f"About C# {PARAGRAPH} #hashtag"),
        ("##Two\n#one", f"Two {PARAGRAPH} #one"),
        ("*Note that 5 * 3 is 15*, not *3 * 3*", "Note that 5 * 3 is 15, not 3 * 3"),
        ("[a [b] c](https://a.example) [d](e)", "a [b] c d"),
        ("H~2~O, x~1~ and ~5", "H2O, x1 and ~5"),
        (
            r"$\frac{1}{2} \times \sqrt{x_{1}}$, \(5\le 2\pi r\), $\alpha\beta$, \text{so} x^{2}",
            "1/2 × √x 1, (5 ≤ 2 pi r), alpha beta, so x^2",
        ),
        (
            r"$$\frac{-b \pm \sqrt{b^2}}{2a}$$ at $90^\circ$ is \boxed{42}, $\sum_{i=1}^{n} i$",
            "-b ± √b^2/2a at 90° is 42, ∑ i=1^n i",
        ),
        ("Title\n=====\nSub\n---\nText.", f"Title {PARAGRAPH} Sub {PARAGRAPH} Text."),
        ("* one\n* two", f"one {LINE} two"),
        (
            "We need:\n- [ ] milk\n- [x] eggs\n  from hens\n",
            f"We need: {LINE} milk {LINE} eggs from hens",
        ),
        ("1. Boil it.\n2) Drink.\n   + Hot", f"1. Boil it. {LINE} 2) Drink. {LINE} Hot"),
        ("1986. A great year.", "1986. A great year."),
        ("• milk\n• eggs", f"milk {LINE} eggs"),
        ("a\n\n***\n\nb\n- - -\nc\n___", f"a {PARAGRAPH} b {PARAGRAPH} c"),
        ("> Be brave.\n>> Be wise.", f"Be brave. {LINE} Be wise."),
        ("> [!NOTE]\n> Mind this.", f"NOTE {LINE} Mind this."),
        ("[docs](https://example.com/a_b?c=d) here", "docs here"),
        ("![a cat](cat.png \"Cat\") and [two](<b c> 'd')", "a cat and two"),
        ("<https://a.example/_b_> or <c@d.example>", "https://a.example/_b_ or c@d.example"),
        ("[![build](b.svg)](https://ci.example/x)", "build"),
        (
            "See [the guide][1] or [Home].\n\n[1]: https://a.example\n[home]: /",
            "See the guide or Home.",
        ),
        ("a[0][1] and f[x](y) stay", "a[0][1] and f[x](y) stay"),
        (
            "True.[^1] So 【4:0†source】it is.\n\n[^1]: A note.",
            f"True. So it is. {PARAGRAPH} A note.",
        ),
        ("**https://example.com/_a_/b_c__d**", "https://example.com/_a_/b_c__d"),
        ("Use `**kwargs`, ``a ` b`` and `<div>`.", "Use **kwargs, a ` b and <div>."),
        ("\\*not emphasis\\*, C:\\dir", "*not emphasis*, C:\\dir"),
        (
            "Code:\n```python\nx = a*b\nprint('<b>')\n```\nDone.",
            f"Code: {PARAGRAPH} x = a*b {LINE} print('<b>') {PARAGRAPH} Done.",
        ),
        ("~~~\nnever closed", "never closed"),
        ("> ```\n> a > b\n> ```\n> *c*", f"a > b {PARAGRAPH} c"),
        ("````\n```\n>>> *x*\n````\n*y*", f">>> *x* {PARAGRAPH} y"),
        (
            "| Name | Age |\n|:--|--:|\n| *Ann* | 5 |\n| Bo | |\n\nEnd.",
            f"Name, Age {LINE} Ann, 5 {LINE} Bo {PARAGRAPH} End.",
        ),
        ("Name | Age\n--- | ---\nAnn | 5", f"Name, Age {LINE} Ann, 5"),
        ("one  \ntwo\\\nthree", f"one {LINE} two {LINE} three"),
    ],
)
def test_markdown_is_silent_and_its_words_are_kept(text: str, words: str) -> None:
    assert shown(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "5*3=15, snake_case, C#, #1",
        "5*3=15, 4*2=8 and 2**8 or 2 ** 8, a * b * c",
        "a < b, <3, x<y, 1 > 0, i <= j, -> and =>",
        "if x<a and b>c then",
        "a<b>c; vector<s> v",
        "[see below]: #1 choice",
        "[1]: https://a.example - Cats by Ann Lee (2020)",
        "dunder__name is _not, 2__3",
        "f**k, A* search, $5 and #tag, 50% ~ 60%",
        "my_var_name, file_name.py, a_b_c",
        "AT&T, R&D, ?a=1&copy=2, Q&A",
        "arr[1] [sic] (see 2) {x} | y",
        "well-known - dashes - and 3 - 2",
        "a == b, a != b, a += 1",
        "-5 degrees, +3 points, 10:30, 3.14",
        r"C:\new\pi, D:\a\times, \unknown{x}, \frac{1}, 2 * 3 *",
    ],
)
def test_text_that_resembles_markup_survives(text: str) -> None:
    assert shown(text) == clean(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Hello <title> <name>, write to <address> by <time>, press <Del>, let <s> be x",
            "Hello title name, write to address by time, press Del, let s be x",
        ),
        (
            "It&#39;s Tom &amp; Jerry&nbsp;&ndash; <b>great</b><br>fun",
            f"It's Tom & Jerry – great {LINE} fun",
        ),
        ('<speak>Hello <break time="1s"/> world</speak>', "Hello [1] world"),
        (
            "a<break time='500ms'/>b<break strength=\"x-strong\"/>c<BREAK/>d",
            "a [0.5] b [1.2] c [0.4] d",
        ),
        ('a <break time="90s"/><break time="2s"/> b <break time="0.75s" />', "a [5] b [0.75]"),
        (
            "<h1>Title</h1><p>One.</p><ul><li>a</li><li>b</li></ul>",
            f"Title {PARAGRAPH} One. {PARAGRAPH} a {LINE} b",
        ),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", f"a, b, {LINE} c,"),
        ('<p class="x" id=y>Hi <a href="https://a.example/?b=c">there</a></p>', "Hi there"),
        ("E=mc<sup>2</sup>, H<sub>2</sub>O", "E=mc², H2O"),
        ("&lt;b&gt; &amp;amp; &#x41;&#66; &hellip; &unknown; &quot;", '<b> &amp; AB … &unknown; "'),
        ("<s>One.</s><s>Two.</s><|im_end|>", "One. Two."),
        ("<!-- hidden --> seen --> too", "seen --> too"),
        ("<think>hm\n\nso</think> Dear <name>, use <your-key>", "Dear name, use your-key"),
        ("<thinking>a <b>c</b></thinking>Yes</think>, <think>d", "Yes , d"),
        (
            '<prosody rate="slow">x</prosody> <mstts:express-as style="sad">y</mstts:express-as>',
            "x y",
        ),
        ('<?xml version="1.0"?><!DOCTYPE html><html><body>z</body></html>', "z"),
    ],
)
def test_tags_and_entities_are_not_read_out(text: str, words: str) -> None:
    assert shown(text) == words


@pytest.mark.parametrize(
    "text", ["<br>", "<b></b>", "***", "&nbsp;", '<break time="1s"/>', "[](x)"]
)
def test_markup_alone_says_nothing(text: str) -> None:
    with pytest.raises(EmptyText):
        clean(text, markup=True)


def test_what_is_lost_is_reported() -> None:
    lost: list[str] = []
    clean("[a](https://b.example/_c_) <!-- d --> \n```sh\ne\n```", markup=True, dropped=lost)
    assert lost == ["sh", "d", "https://b.example/_c_"]


@pytest.mark.parametrize("mark", ["\U000f03e8", "&#xF03E8;", "\ufdd00\ufdd1", "&#xFDD0;0&#xFDD1;"])
def test_no_text_contains_marks_of_ours(mark: str) -> None:
    for cleaned in (clean(f"`code` a {mark} b", markup=True), clean(f"a {mark} b")):
        assert "\U000f03e8" not in cleaned
        assert cleaned.count("code") <= 1


@given(st.text(st.sampled_from("ab1 \n*_~`#|<>&;![]()\\-=+.:/\"'"), max_size=60))
def test_no_word_is_lost_among_any_marks(text: str) -> None:
    """Of words beside marks, but not of addresses, definitions, tags and languages of code."""
    text = f"x {text}".translate(dict.fromkeys(map(ord, "<>&`~]:")))
    assert "".join(filter(str.isalnum, clean(text, markup=True))) == "".join(
        filter(str.isalnum, text)
    )


# --- Lines ------------------------------------------------------------------------------------

WRAPPED = """\
It was the best of times, it was the worst of times, it was the age of
wisdom, it was the age of foolishness, it was the epoch of belief, it
was the epoch of incredulity, it was the season of light."""


@pytest.mark.parametrize("prepare", [clean, partial(clean, markup=True)])
@pytest.mark.parametrize(
    ("text", "pauses"),
    [
        ("Chapter One\n\nThe night was dark.", [0.4, 0]),
        ("Chapter One\r\n\r\n\r\nThe night was dark.\u2029Then", [0.4, 0.4, 0]),
        ("Fruits we need:\nApple\nBanana\nOrange", [0.25, 0.25, 0.25, 0]),
        ("Dear Ann,\n" + WRAPPED + "\nYours,\nBo", [0.25, 0.25, 0.25, 0]),
        ("Roses are red,\rviolets are blue.\u2028Sugar", [0.25, 0.25, 0]),
        (WRAPPED, [0]),
        (WRAPPED + "\n\n" + WRAPPED, [0.4, 0]),
        ("no pause here. Or here.", [0]),
    ],
)
def test_lines_and_paragraphs_end_with_pauses_unless_wrapped(prepare, text, pauses) -> None:  # type: ignore[no-untyped-def]
    assert [chunk.pause_s for chunk in split(prepare(text), 500)] == pauses


@pytest.mark.parametrize("width", [60, 66, 70, 72, 78, 80, 100])
def test_a_paragraph_wrapped_at_any_usual_width_has_no_pause(width: int) -> None:
    words = " ".join(WRAPPED.split())
    assert clean(textwrap.fill(words, width)) == words
