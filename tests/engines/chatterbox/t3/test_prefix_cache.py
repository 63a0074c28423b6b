from dataclasses import replace
from functools import partial

import torch

from app.engines.chatterbox.t3.batch import PREFIX_CACHE_SIZE
from app.engines.chatterbox.t3.model import T3Model
from tests.engines.chatterbox.t3.reference import new_batch


def two_voices_with_two_exaggerations(request_for):
    first = request_for()
    other = replace(first.voice, speaker_embedding=-first.voice.speaker_embedding)
    second = request_for(voice_exaggeration_factor=1.0)
    return [first, replace(first, voice=other), second, replace(second, voice=other)]


@torch.inference_mode()
def test_cached_prefix_gives_the_same_bits(t3, request_for):
    requests = two_voices_with_two_exaggerations(request_for)
    fresh = []
    for request in requests:
        batch = new_batch(t3, slots=4)
        batch.admit(request)
        fresh.append(batch._model.logits(batch_size=2, kv_len=256)[0])
    assert len({tuple(logits.flatten().tolist()) for logits in fresh}) == len(requests)
    batch = new_batch(t3, slots=4)
    for request in requests:
        batch.release(batch.admit(request))
    for request in reversed(requests):  # each in another slot than before
        batch.admit(request)
    again = batch._model.logits(batch_size=4, kv_len=256)
    for logits, expected in zip(again, reversed(fresh), strict=True):
        assert torch.equal(logits, expected)


def test_least_recently_used_prefix_is_dropped(t3, request_for):
    batch, prefills = new_batch(t3, slots=1), []

    def prefill(model, length, num_cached):
        prefills.append(num_cached)
        return T3Model.prefill(model, length, num_cached)

    batch._prefill = partial(prefill, batch._model)
    requests = [request_for(voice_exaggeration_factor=number / 10) for number in range(1, 7)]
    for request in [*requests, *(requests[index] for index in (-1, -4, 0, -4, -3))]:
        batch.release(batch.admit(request))
    uncached = prefills.count(0)
    assert uncached == len(requests) + 2  # the first and the third last had been dropped
    assert len(prefills) == 11 + uncached
    assert len(batch._prefix_cache) == PREFIX_CACHE_SIZE
