import random
import string
import time

from app.voices.suggestions import describe_voices

CHANCE = random.Random(5)


def names(count: int, length: int) -> list[str]:
    return ["".join(CHANCE.choices(string.ascii_lowercase[:12], k=length)) for _ in range(count)]


def test_the_likeliest_of_thousands_begins_as_the_name_does() -> None:
    ids = sorted(f"{name}.wav" for name in [*names(5000, 12), "Marianne Dashwood", "elinor.en"])
    for name, meant in {
        "marianne dashwod": "Marianne Dashwood.wav",
        "Eliner.en.mp3": "elinor.en.wav",
        "MARIANNE dashwood.WAV": "Marianne Dashwood.wav",
        "ELINOR.en": "elinor.en.wav",
        "elinor": "elinor.en.wav",
    }.items():
        assert describe_voices(name, ids).startswith(f"Is {meant!r} meant? There are 5,002: ")
    assert describe_voices("xyz", ids).startswith("There are 5,002: ")


def test_endings_are_asked_for_among_thousands() -> None:
    ids = sorted([*(f"{name}.wav" for name in names(500, 12)), "jo.mp3", "jo.wav", "jo.b.wav"])
    assert describe_voices("jo", ids) == "Its ending is needed: there are jo.mp3 and jo.wav."


def test_suggestion_among_thousands_of_long_names_takes_milliseconds() -> None:
    ids = sorted(f"voice {name}.wav" for name in names(5000, 100))
    spent = []
    for name in names(3, 100):
        started = time.thread_time()
        describe_voices(f"voice {name}", ids)
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.05  # 0.9 s if all are compared
