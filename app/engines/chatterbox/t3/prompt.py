"""T3's prompt: a voice's conditioning, the text, and start tokens, as embeddings to prefill."""

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from chatterbox.models.t3 import T3
from chatterbox.models.t3.modules.cond_enc import T3Cond
from torch import Tensor

from app.engines.chatterbox.conditioning.conditionals import Conditionals
from app.engines.chatterbox.t3.request import T3Request
from app.engines.chatterbox.variants import T3Spec


class ConditioningCache:
    """T3's conditioning embeddings of each voice, for the exaggeration that was used last."""

    def __init__(self, t3: T3) -> None:
        self._t3 = t3
        self._uses_exaggeration = t3.hp.emotion_adv
        self._cache: WeakKeyDictionary[Conditionals, tuple[float, Tensor]] = WeakKeyDictionary()

    def key(self, request: T3Request) -> tuple[Conditionals, float]:
        """What the conditioning of a request depends on, the arguments of `embed`."""
        exaggeration = request.params.voice_exaggeration_factor
        return request.voice, exaggeration if self._uses_exaggeration else 0.0

    def embed(self, voice: Conditionals, exaggeration: float) -> Tensor:
        """float32 [1, n, dim]."""
        cached = self._cache.get(voice)
        if cached is None or cached[0] != exaggeration:
            device = self._t3.speech_emb.weight.device
            conditioning = T3Cond(
                speaker_emb=voice.speaker_embedding,
                cond_prompt_speech_tokens=voice.prompt_tokens,
                emotion_adv=torch.full((1, 1, 1), exaggeration, device=device),
            )
            cached = exaggeration, self._t3.prepare_conditioning(conditioning)
            self._cache[voice] = cached
        return cached[1]


def embed_prompt(t3: T3, spec: T3Spec, request: T3Request, cache: ConditioningCache) -> Tensor:
    """The prompt, float32 [rows_per_sequence, n, dim], as upstream's `T3.prepare_input_embeds`.

    In the unconditional row the text's embeddings are zero, its positions are not. The last of the
    `start_tokens` is missing: the first decoding step takes it as its input.
    """
    tokens = request.text_tokens
    if spec.text_delimiters:
        tokens = F.pad(tokens, (1, 0), value=t3.hp.start_text_token)
        tokens = F.pad(tokens, (0, 1), value=t3.hp.stop_text_token)
    tokens = tokens.to(t3.text_emb.weight.device)
    rows = spec.rows_per_sequence
    text = F.pad(t3.text_emb(tokens), (0, 0, 0, 0, 0, rows - 1))
    start = t3.speech_emb.weight[t3.hp.start_speech_token]
    if spec.learned_positions:
        text = text + t3.text_pos_emb(tokens)
        start = start + t3.speech_pos_emb.emb.weight[0]
    voice = cache.embed(*cache.key(request))
    starts = start.expand(rows, spec.start_tokens - 1, -1)
    return torch.cat([voice.expand(rows, -1, -1), text, starts], dim=1)
