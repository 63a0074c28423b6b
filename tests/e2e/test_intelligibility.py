"""A speech recogniser recognises the text in the responses."""

from itertools import groupby

import jiwer
import pytest

from app.audio.formats import ENCODERS
from app.core.audio import SAMPLE_RATE
from app.text.chunking import split
from app.text.cleaning import clean
from tests.support.recogniser import Audio, decode_audio, transcribe, transcribe_all, words
from tests.support.service import Service

MAX_WORD_ERROR_RATE = 0.12
MAX_GAP_WORDS = 3
CHUNK_CHARS = 150

SENTENCES = [
    "The old man walked slowly along the river and thought about his children.",
    "At what time does the next train leave for London, and how long does it take?",
    "There are twenty students in the classroom and only one teacher.",
    "“I will never forget this day,” said Mary, “as long as I live.”",
    "We need bread, butter, cheese, apples, two bottles of milk, and some salt.",
    "George Washington lived in Virginia with his wife and two children.",
    "Open the window, please.",
    "In nineteen forty-five the war was over, and the soldiers came home to their families.",
    "Why did the company close the factory, when so many people depend on it?",
    "She had been waiting for more than an hour before the doctor finally called her name, and "
    "by that time all the other patients had already gone home.",
]


@pytest.mark.covers("intelligibility")
@pytest.mark.slow
@pytest.mark.parametrize("format_name", ENCODERS)
def test_ten_sentences_are_recognised(preview: Service, format_name: str) -> None:
    written = [" ".join(words(sentence)) for sentence in SENTENCES]
    spoken = [speak(preview, text, format_name, seed) for seed, text in enumerate(SENTENCES)]
    heard = [" ".join(heard) for heard in transcribe_all(spoken)]
    print(f"{format_name}: word error rate {jiwer.wer(written, heard):.1%}")
    assert jiwer.wer(written, heard) <= MAX_WORD_ERROR_RATE, heard


@pytest.mark.covers("intelligibility")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_long_text_loses_and_repeats_nothing(preview: Service) -> None:
    written, spoken = words(PROSE), speak(preview, PROSE, "mp3", seed=1)
    # The recogniser itself may skip words; words that were not spoken are missing for any pauses.
    for longest_utterance_s in (10, 16):
        heard = transcribe(spoken, longest_utterance_s)
        gap = longest_gap(written, heard)
        rate = jiwer.wer(" ".join(written), " ".join(heard))
        print(f"{len(spoken) / SAMPLE_RATE:.0f} s: word error rate {rate:.1%}, gap {gap} words")
        if gap <= MAX_GAP_WORDS:
            break
    assert gap <= MAX_GAP_WORDS, " ".join(heard)


def test_chunks_of_long_text_keep_every_speakable_character() -> None:
    def spoken(text: str) -> str:
        return "".join(filter(str.isalnum, text))

    assert len(PROSE) >= 3000
    assert spoken("".join(split(clean(PROSE), CHUNK_CHARS))) == spoken(PROSE)


@pytest.mark.parametrize("start", range(0, 500, 100))
def test_lost_or_repeated_phrase_is_detected(start: int) -> None:
    written = words(PROSE)
    lost = written[:start] + written[start + 8 :]
    repeated = written[: start + 8] + written[start:]
    assert longest_gap(written, written) == 0
    assert longest_gap(written, lost) > MAX_GAP_WORDS
    assert longest_gap(written, repeated) > MAX_GAP_WORDS


def speak(service: Service, text: str, format_name: str, seed: int) -> Audio:
    request = {
        "text": text,
        "format": format_name,
        "seed": seed,
        "text_processing_chunk_size": CHUNK_CHARS,
    }
    with service.client() as client:
        answer = client.post("/tts/generate", json=request)
    assert answer.status_code == 200
    return decode_audio(answer.content, format_name)


def longest_gap(written: list[str], heard: list[str]) -> int:
    """Return the largest difference in words between two matching parts.

    A word that was merely misheard stands against another and so makes no gap.
    """
    [alignment] = jiwer.process_words(" ".join(written), " ".join(heard)).alignments
    stretches = groupby(alignment, key=lambda part: part.type == "equal")
    return max(abs(sum(map(missing_words, parts))) for _, parts in stretches)


def missing_words(part: jiwer.AlignmentChunk) -> int:
    """Return how many words of one alignment part are missing."""
    return (part.ref_end_idx - part.ref_start_idx) - (part.hyp_end_idx - part.hyp_start_idx)


PROSE = """\
The letter came on Monday morning, while the children were still at school. It was from a lawyer \
in New York, and it said that their uncle had died and had left them his house by the sea.

“I never knew that he had a house,” said Mrs. Miller, reading the letter for the second time. \
“He was always such a quiet man.”

“Nobody knew,” her husband answered. “Not even his sister.”

They talked about it all evening: the long journey, the cost of the repairs, the work that \
waited for them at home. By ten o’clock they had made up their minds. On Saturday they would \
take the early train, look at the place with their own eyes, and come home on Sunday night.

The train left at seven in the morning. It was cold and dark, and a heavy rain was falling on \
the roofs of the city… but when they reached the coast, three hours later, the sun was shining \
and the sky was blue. Mr. Brown, the lawyer, met them at the station. He was a tall man with \
white hair, and he shook hands with everyone, even with the dog.

“Welcome,” he said. “I hope you had a good journey. My car is outside – it is not far, but the \
road is very bad.”

The road was worse than bad; it was hardly a road at all. For almost half an hour they drove \
through fields and woods, past an empty church and a farm with black and white cows, until the \
car stopped in front of an iron gate. Behind the gate, at the end of a long garden, stood the \
house. It was larger than they had expected. It had two floors, eleven windows, and a red door \
that had not been opened for many years.

“Is it really ours?” asked Peter, who was nine years old and believed very little of what he was \
told.

“It is yours,” said Mr. Brown, “as soon as your mother signs this paper.”

Inside, everything was covered with dust. There were books on the tables, books on the chairs, \
and books on the stairs; there was a piano in the kitchen (nobody could explain why), and over \
the fireplace hung a large picture of a ship in a storm. Anna, the older of the two children, \
ran from one room to the next and opened all the windows. Then she called down from the second \
floor. “You can see the water from here! You can see the whole bay, and the island, and about a \
hundred boats!”

Dr. Green, a neighbor, came in at five p.m. with fresh bread, two kinds of cheese, and a bottle \
of wine.

It was Anna’s father who made the discovery. He had found a second letter, which was lying under \
a glass on the desk, and on it was written, in a clear and careful hand, the name of his wife. \
She sat down by the window before she opened it.

“My dear sister,” it began, “when you read this I will be gone, and you will want to know why I \
never told you about this house. The truth is simple. I bought it for you. I wanted to finish \
the work, paint every wall, plant the garden, and give you the key on your birthday; but the \
work was slow, the money was short, and the years went by. Please forgive an old man. Keep the \
books, sell the piano, and look after the garden. The apple trees are the best thing that I have \
ever done.”
"""
