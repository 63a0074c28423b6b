"""The engine's speed, beside the package's own `generate`: a `Plan` enters, a `Report` leaves.

Called by `chatterbox-tts bench engine`. Each of the two has a process of its own and loads the same
checkpoint; once warm they take turns, with the same text, seed and number of tokens. What they say
is compared before any time of theirs counts: figures of a wrong answer are worth nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.bench.speed import engine, package
from app.bench.speed.figures import AtOnce, LongText, Measured, Own, Package, Report
from app.bench.speed.process import Run, process
from app.bench.speed.sameness import alike, same_count, same_sound, same_tokens, same_waveform
from app.bench.speed.subject import checkpoint
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Samples
from app.core.engine_config import EngineConfig
from app.core.process_env import worker_thread_env

TEXT = "Sound."
LONG_CHUNKS, LONG_TOKENS = 31, 10
EARLY, LATE = 3, 30
"""Text chunks, counted from one; their time is the median of theirs and both neighbours'. The early
one is timed right after the late one, in the same text begun anew."""

WARM_SEED = 2**32 - 1
"""None of the rounds'."""

WHOLE_PROMPT_S = 10
FULL_SCALE = 32767
STAGES = ("T3", "flow's encoder", "flow's solver", "vocoder", "rest of S3Gen", "PCM, watermark")
"""In the order in which a job passes through them."""

Tokens = NDArray[np.int64]
OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """`config.model_path` is empty for random weights, which are `tiny` or of full size.

    With no `rounds` the package is left out, and the engine measured once. `jobs`: so many at once,
    one after the other; `config.slots` has room for the most of them.
    """

    config: EngineConfig
    tiny: bool = False
    tokens: int = 70
    rounds: int = 3
    jobs: tuple[int, ...] = ()
    long_text: bool = False

    @property
    def takes(self) -> int:
        """How often everything is measured."""
        return max(1, self.rounds)

    @property
    def same_tokens(self) -> bool:
        """Whether T3 is meant to say what the package says; a GPU's chance is drawn otherwise."""
        return self.config.device == "cpu" and self.config.tuning.t3_dtype in ("auto", "float32")

    @property
    def rounded(self) -> bool:
        """Whether S3Gen computes less exactly than the package."""
        usual = "float32" if self.config.device == "cpu" else "bfloat16"
        dtype = self.config.tuning.s3gen_dtype
        return (usual if dtype == "auto" else dtype) == "bfloat16"

    @property
    def same_sound(self) -> bool:
        """Whether all of the engine is."""
        return self.same_tokens and self.config.tuning.voice_prompt_seconds == WHOLE_PROMPT_S


@dataclass(frozen=True)
class Round:
    """What one seed gave; without the package, if that is left out."""

    generated: package.Generated | None
    heard: engine.Heard
    dissected: engine.Dissected
    correlation: float | None  # of the two streams' spectra


def measure(plan: Plan, on_progress: OnProgress) -> Report:
    """`on_progress` gets what is being done.

    Raises `StartupError` when something cannot be loaded, `EngineFailed` when the answers differ.
    """
    config = plan.config
    on_progress("loading")
    with (
        checkpoint(config.model_path, plan.tiny) as folder,
        process(**worker_thread_env(config.device, config.threads)) as own,
        process(TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error") as other,
    ):
        of_folder = msgspec.structs.replace(config, model_path=str(folder))
        loaded = own(engine.load, of_folder, plan.tiny)
        if plan.rounds:
            model = (folder, plan.tiny, config.device, config.threads)
            other(package.load, *model, plan.tokens)
        return _measure(plan, loaded, own, other, on_progress)


def _measure(
    plan: Plan, loaded: engine.Loaded, own: Run, other: Run, on_progress: OnProgress
) -> Report:
    on_progress("warming up")
    warm = warm_up(plan, own)
    same = compare(plan, warm.tokens, own, other) if plan.rounds else None
    rounds = []
    for number in range(plan.takes):
        on_progress(f"round {number + 1} of {plan.takes}")
        rounds.append(take_turns(plan, own, other, seed=number))
    memory_gb = own(engine.memory_gb)
    at_once = []
    for jobs in plan.jobs:
        on_progress(f"{jobs} at once")
        at_once.append(compete(plan, own, jobs))
    long_text = None
    if plan.long_text:
        on_progress("a long text")
        long_text = _long_text(own)
    return Report(
        machine=loaded.machine,
        settings=_settings(plan, loaded),
        own=_own(rounds, memory_gb),
        package=_package(rounds, other(package.memory_gb), *same) if same else None,
        at_once=at_once,
        long_text=long_text,
    )


def warm_up(plan: Plan, own: Run) -> engine.Dissected:
    """All that will be timed has run once."""
    own(engine.speak, TEXT, WARM_SEED, plan.tokens)
    return own(engine.dissect, [TEXT], WARM_SEED, plan.tokens)


def compare(plan: Plan, warm: Tokens, own: Run, other: Run) -> tuple[int, float]:
    """How many tokens are the same, and how far apart the waveforms for the package's are, in dB.

    `warm`: what the engine says for `WARM_SEED`. Afterwards the package is warm, too.
    """
    prompt_s = plan.config.tuning.voice_prompt_seconds
    right = other(package.generate_unmarked, TEXT, WARM_SEED, prompt_s)
    if plan.same_tokens:
        same_tokens(warm, right.tokens, "T3 beside the package's")
    audio = own(engine.render, right.tokens, WARM_SEED)
    difference_db = same_waveform(
        audio, right.audio, "S3Gen beside the package's", rounded=plan.rounded
    )
    return alike(warm, right.tokens), difference_db


def take_turns(plan: Plan, own: Run, other: Run, seed: int) -> Round:
    """A round, of which all is compared that can be."""
    generated = other(package.generate, TEXT, seed) if plan.rounds else None
    heard = own(engine.speak, TEXT, seed, plan.tokens)
    dissected = own(engine.dissect, [TEXT], seed, plan.tokens)
    audio = _samples(heard.pcm)
    same_waveform(audio, _samples(dissected.pcm), "the stream beside its own stages")
    same_count(len(dissected.tokens), plan.tokens, "T3")
    correlation = None
    if generated and plan.same_sound:
        same_tokens(dissected.tokens, generated.tokens, "T3 beside the package's")
        correlation = same_sound(audio, generated.audio, "the stream beside the package's")
    return Round(generated, heard, dissected, correlation)


def compete(plan: Plan, own: Run, jobs: int) -> AtOnce:
    """Several jobs at once, of which each must say what it says alone; on a GPU, whose rounding
    may depend on how many there are, they are counted.
    """
    done = own(engine.compete, TEXT, jobs, plan.tokens, plan.takes)
    pairs = list(zip(done.together, done.alone, strict=True))
    if plan.config.device == "cpu":
        for number, (together, alone) in enumerate(pairs, 1):
            same_tokens(together, alone, f"job {number} of {jobs} at once beside itself alone")
    t3_s, total_s = median(done.together_s), max(each.total_s for each in done.heard)
    return AtOnce(
        jobs=jobs,
        same=sum(np.array_equal(together, alone) for together, alone in pairs),
        t3_s=t3_s,
        t3_ratio=t3_s / median(done.alone_s),
        first_audio_s=Measured.of(each.first_audible_s for each in done.heard),
        total_s=total_s,
        times_real_time=sum(_seconds(each.pcm) for each in done.heard) / total_s,
    )


# --- From what was said to figures ------------------------------------------------------------


def _own(rounds: list[Round], memory_gb: float) -> Own:
    heard = [each.heard for each in rounds]
    dissected = [each.dissected for each in rounds]
    return Own(
        first_audio_s=Measured.of(each.first_audible_s for each in heard),
        total_s=Measured.of(each.total_s for each in heard),
        real_time_factor=Measured.of(each.total_s / _seconds(each.pcm) for each in heard),
        t3_tokens_per_s=Measured.of(len(each.tokens) / each.stages_s["T3"] for each in dissected),
        slices_s=[
            Measured.of(one) for one in zip(*(each.slices_s for each in dissected), strict=True)
        ],
        stages_s={
            stage: Measured.of(each.stages_s[stage] for each in dissected) for stage in STAGES
        },
        memory_gb=memory_gb,
    )


def _package(
    rounds: list[Round], memory_gb: float, tokens_same: int, difference_db: float
) -> Package:
    pairs = [(each.generated, each.heard) for each in rounds if each.generated]
    correlations = [each.correlation for each in rounds if each.correlation is not None]
    return Package(
        total_s=Measured.of(said.seconds for said, _ in pairs),
        real_time_factor=Measured.of(
            said.seconds * SAMPLE_RATE / len(said.audio) for said, _ in pairs
        ),
        memory_gb=memory_gb,
        first_audio_ratio=Measured.of(own.first_audible_s / said.seconds for said, own in pairs),
        total_ratio=Measured.of(own.total_s / said.seconds for said, own in pairs),
        tokens_same=tokens_same,
        difference_db=difference_db,
        correlation=Measured.of(correlations) if correlations else None,
    )


def _long_text(own: Run) -> LongText:
    done = own(engine.dissect, [TEXT] * LONG_CHUNKS, 0, LONG_TOKENS)
    # Begun anew, as a shared machine is not as fast as it was minutes ago.
    again = own(engine.dissect, [TEXT] * (EARLY + 1), 0, LONG_TOKENS)
    early_s = median(again.chunks_s[EARLY - 2 : EARLY + 1])
    late_s = median(done.chunks_s[LATE - 2 : LATE + 1])
    return LongText(
        early=EARLY,
        late=LATE,
        early_s=early_s,
        late_s=late_s,
        ratio=late_s / early_s,
        early_memory_gb=done.memory_gb[EARLY - 1],
        late_memory_gb=done.memory_gb[LATE - 1],
    )


def _settings(plan: Plan, loaded: engine.Loaded) -> dict[str, Any]:
    random = f"random, {'tiny' if plan.tiny else 'full size'}"
    return {
        "weights": plan.config.model_path or random,
        "device": plan.config.device,
        "tokens": plan.tokens,
        "rounds": plan.rounds,
        **msgspec.structs.asdict(plan.config.tuning),
        "compiled": loaded.compiled,
        "slots": plan.config.slots,
        "load_s": loaded.load_s,
        "warm_up_s": loaded.warm_up_s,
        "notice": loaded.notice,
    }


def _samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / FULL_SCALE


def _seconds(pcm: bytes) -> float:
    return len(pcm) / BYTES_PER_SAMPLE / SAMPLE_RATE
