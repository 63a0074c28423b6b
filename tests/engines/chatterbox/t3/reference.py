"""Helpers of the T3 tests: run a batch to the end, and compare with upstream's T3."""

import torch
import torch.nn.functional as F
from chatterbox.models.t3.modules.cond_enc import T3Cond

from app.core.params import SynthesisParams
from app.engines.chatterbox.t3.batch import T3Batch, _pick_bucket
from app.engines.chatterbox.variants import ENGLISH

START = 6561

TEXT = "The train to the city was late; we walked home..."

DEFAULTS = SynthesisParams(seed=1)


def new_batch(t3, slots, spec=ENGLISH.t3, **options):
    return T3Batch(t3, spec, slots, **options)


def run(batch, slot):
    """All outputs of the sequence in `slot`, while any others advance too."""
    outputs = batch.step()[slot]
    while not outputs[-1].finish_reason:
        outputs += batch.step()[slot]
    return outputs


def generate(batch, request):
    """The tokens of a request."""
    slot = batch.admit(request)
    outputs = run(batch, slot)
    batch.release(slot)
    return [output.token for output in outputs]


def varied(request_for, number):
    """Requests that differ in text, seed, length limit and sampling parameters."""
    return [
        request_for(
            TEXT[: 10 + 7 * (i % 6)],
            seed=i,
            max_tokens=(150, 40, 90)[i % 3],
            cfg_guidance_weight=(0.0, 0.5, 1.0)[i % 3],
            synthesis_temperature=(0.8, 0.3, 1.5, 1.0)[i % 4],
            repetition_penalty=(1.2, 1.0, 2.0)[i % 3],
            min_p=(0.05, 0.0)[i % 2],
            top_p=(1.0, 0.8, 0.9)[i % 3],
        )
        for i in range(number)
    ]


def turbo_inputs(request):
    voice = T3Cond(
        speaker_emb=request.voice.speaker_embedding,
        cond_prompt_speech_tokens=request.voice.prompt_tokens,
    )
    return {"t3_cond": voice, "text_tokens": request.text_tokens}


def upstream_turbo_tokens(upstream_t3, request):
    """As `upstream_tokens`, of Turbo. It does not return the stop token, here None at the end."""
    torch.manual_seed(request.seed)
    tokens = upstream_t3.inference_turbo(
        **turbo_inputs(request),
        temperature=request.params.synthesis_temperature,
        top_k=request.params.top_k,
        top_p=request.params.top_p,
        repetition_penalty=request.params.repetition_penalty,
        max_gen_len=request.max_tokens - 1,  # beside the first token
    )
    speech = [token if token < START else None for token in tokens[0].tolist()]
    return speech + [None] * (len(speech) < request.max_tokens)


@torch.inference_mode()
def upstream_turbo_logits(upstream_t3, request, tokens):
    """As `upstream_logits`, of the one row of Turbo."""
    speech = torch.cat([torch.full((1, 1), START), tokens[None]], dim=1)
    inputs, _ = upstream_t3.prepare_input_embeds(**turbo_inputs(request), speech_tokens=speech)
    hidden = upstream_t3.tfmr(inputs_embeds=inputs).last_hidden_state
    return upstream_t3.speech_head(hidden[:, -len(tokens) - 1 :]).transpose(0, 1)


def upstream_inputs(request):
    text = F.pad(F.pad(request.text_tokens, (1, 0), value=255), (0, 1), value=0)
    voice = T3Cond(
        speaker_emb=request.voice.speaker_embedding,
        cond_prompt_speech_tokens=request.voice.prompt_tokens,
        emotion_adv=request.params.voice_exaggeration_factor * torch.ones(1, 1, 1),
    )
    return {"t3_cond": voice, "text_tokens": torch.cat([text, text])}


def upstream_tokens(upstream_t3, request):
    """Given two rows, upstream works without guidance too. Tokens that are no speech are None."""
    torch.manual_seed(request.seed)
    tokens = upstream_t3.inference(
        **upstream_inputs(request),
        max_new_tokens=request.max_tokens,
        temperature=request.params.synthesis_temperature,
        cfg_weight=request.params.cfg_guidance_weight,
        repetition_penalty=request.params.repetition_penalty,
        min_p=request.params.min_p,
        top_p=request.params.top_p,
    )
    return [token if token < START else None for token in tokens[0].tolist()]


@torch.inference_mode()
def upstream_logits(upstream_t3, request, tokens):
    """Both rows' logits after the prompt and after each of `tokens`, in one forward pass."""
    start = torch.full((2, 1), START)
    prompt, _ = upstream_t3.prepare_input_embeds(
        **upstream_inputs(request), speech_tokens=start, cfg_weight=0.5
    )
    speech = torch.cat([start, tokens.expand(2, -1)], dim=1)
    embedded = upstream_t3.speech_emb(speech) + upstream_t3.speech_pos_emb(speech)
    inputs = torch.cat([prompt, embedded], dim=1)
    hidden = upstream_t3.tfmr(inputs_embeds=inputs).last_hidden_state
    return upstream_t3.speech_head(hidden[:, prompt.shape[1] :]).transpose(0, 1)


@torch.inference_mode()
def own_logits(t3, request, tokens, spec=ENGLISH.t3):
    """The same, step by step, with `tokens` in place of the sampled ones."""
    batch = new_batch(t3, slots=1, spec=spec)
    batch.admit(request)
    model = batch._model
    kv_len = _pick_bucket(int(model.prompt_len[0]) + len(tokens) + 1, batch._kv_buckets)
    logits = [model.logits(1, kv_len)]
    for token in tokens:
        model.next_token[0] = token
        model.num_generated[0] += 1
        logits.append(model.logits(1, kv_len))
    return torch.cat(logits)


def logit_error(t3, upstream_t3, request, spec=ENGLISH.t3, length=100):
    """The largest deviation from upstream's logits over `length` tokens, as part of their range."""
    tokens = torch.randint(START, (length,), generator=torch.Generator().manual_seed(3))
    theirs = upstream_turbo_logits if upstream_t3.is_gpt else upstream_logits
    expected = theirs(upstream_t3, request, tokens)
    actual = own_logits(t3, request, tokens, spec)
    return float((actual - expected).abs().max() / (expected.max() - expected.min()))


@torch.inference_mode()
def assert_logits_do_not_depend_on_batch(t3, request_for, spec=ENGLISH.t3):
    """Bit for bit, over 20 steps."""
    small, large = (rows // spec.rows_per_sequence for rows in (4, 8))
    request, *others = varied(request_for, large)
    single, full = (new_batch(t3, slots=large, spec=spec) for _ in range(2))
    single.admit(request)
    for other in [*others, request]:
        full.admit(other)
    for _ in range(20):
        expected = single._model.logits(batch_size=small, kv_len=256)[0]
        actual = full._model.logits(batch_size=large, kv_len=512)[large - 1]
        assert torch.equal(expected, actual)
        assert single.step()[0] == full.step()[large - 1]
