"""A speech recogniser recognises the text in the responses."""

from itertools import groupby

import jiwer
import numpy as np
import pytest

from app.core.audio import SAMPLE_RATE
from tests.audio.test_encoder import delay
from tests.support.recogniser import Audio, decode_audio, transcribe, transcribe_all, words
from tests.support.service import Service

MAX_WORD_ERROR_RATE = 0.12
MAX_GAP_WORDS = 3
MIN_CORRELATION = 0.98
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
def test_ten_sentences_are_recognised(preview: Service) -> None:
    written = [" ".join(words(sentence)) for sentence in SENTENCES]
    spoken = [speak(preview, text, "wav", seed) for seed, text in enumerate(SENTENCES)]
    recognised = [" ".join(sentence) for sentence in transcribe_all(spoken)]
    print(f"word error rate {jiwer.wer(written, recognised):.1%}")
    assert jiwer.wer(written, recognised) <= MAX_WORD_ERROR_RATE, recognised


@pytest.mark.covers("complete formats")
@pytest.mark.parametrize(
    ("format_name", "frame_s"),
    [("raw_pcm", 0), ("mp3", 3 * 576 / 24_000), ("fmp4", 3 * 1024 / 24_000), ("webm", 0.02)],
)
def test_each_format_is_the_lossless_speech(
    preview: Service, format_name: str, frame_s: float
) -> None:
    lossless = speak(preview, SENTENCES[-1], "wav", seed=3)
    decoded = speak(preview, SENTENCES[-1], format_name, seed=3)
    lag = delay(decoded, lossless)
    assert 0 <= lag <= frame_s * SAMPLE_RATE
    assert 0 <= len(decoded) - len(lossless) <= frame_s * SAMPLE_RATE + 1
    shifted = np.pad(decoded[lag:], (0, lag))[: len(lossless)]
    assert np.corrcoef(shifted, lossless)[0, 1] > MIN_CORRELATION


@pytest.mark.covers("intelligibility")
@pytest.mark.heavy
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


@pytest.mark.parametrize("start", range(0, 200, 40))
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

Dr. Green, a neighbor, came in at five p.m. with fresh bread, two kinds of cheese, and a bottle \
of wine.
"""
