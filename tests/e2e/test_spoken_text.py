"""Texts as people send them sound like the plain texts that they stand for."""

from itertools import groupby

import numpy as np
import pytest

from tests.support.service import Service


def speak(service: Service, text: str) -> bytes:
    with service.client() as client:
        request = {"text": text, "format": "raw_pcm", "seed": 5}
        answer = client.post("/tts/generate", json=request)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize(
    ("sent", "plain"),
    [
        ("The eﬃcient oﬃce ﬁrst ﬂew. Itʼs １２３！", "The efficient office first flew. It's 123!"),
        ("This is **very** important, see [x](y.html).", "This is very important, see x."),
        ("<b>Tom</b> &amp; Jerry 😀 → −5 °C", "Tom & Jerry to minus 5 degrees Celsius"),
    ],
)
def test_what_is_sent_sounds_like_the_plain_text(preview: Service, sent: str, plain: str) -> None:
    assert speak(preview, sent) == speak(preview, plain)


def test_pauses_are_heard(preview: Service) -> None:
    """Digital silence after the heading, the line and the break."""
    pcm = speak(preview, '# One\nThe night was dark:\ncold. <break time="1s"/> Then <br>day.')
    samples = np.frombuffer(pcm, "<i2")
    silences = [len(list(run)) / 24_000 for silent, run in groupby(samples == 0) if silent]
    assert [round(s, 2) for s in silences if s > 0.2] == pytest.approx(
        [0.4, 0.25, 1, 0.25], abs=0.02
    )
