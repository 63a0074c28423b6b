"""Measure the engine's speed in turns with the package's own `generate`: `Plan` → `Report`.

Called by `chatterbox-tts bench engine`. Each side has a process of its own and loads the same
checkpoint. Their output for the same text, seed and number of tokens is compared before any time
is counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import msgspec
import numpy as np

from app.bench import arithmetic, engine_process, upstream
from app.bench.checkpoint import benchmark_checkpoint
from app.bench.child_process import Run, child_process
from app.bench.equivalence import (
    Tokens,
    check_spectrum,
    check_token_count,
    check_tokens,
    check_waveform,
    common_prefix,
)
from app.bench.report import Figures, Report, Summary, summarize
from app.core.audio import SAMPLES_PER_TOKEN
from app.core.engine_config import EngineConfig
from app.core.process_env import worker_thread_env
from app.engines.chatterbox.variants import VARIANTS

TEXT = "Sound."
LONG_CHUNKS, LONG_TOKENS = 31, 10
EARLY, LATE = 3, 30
"""Text chunks, counted from one. The time of each is the median of its own and its neighbours'."""

WARM_UP_SEED = 2**32 - 1
"""Not the seed of any round."""

FULL_PROMPT_S = 10
STAGES = (
    *("T3", "flow's encoder", "flow's solver", "vocoder", "rest of S3Gen"),
    *("watermark", "PCM"),
)
"""The stages of a job in pipeline order."""

COUNTED_STAGES = {"flow": "flow's solver", "vocoder": "vocoder"}
"""The stages whose operations are counted, by their names in `arithmetic`."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    An empty `config.model_path` means random weights of `config.variant`, `tiny` or of full size.
    With 0 `rounds` the package is left out, and the engine measured once. `jobs`: numbers of
    concurrent jobs, measured one after the other; `config.slots` must have room for the largest.
    """

    config: EngineConfig
    tiny: bool = False
    tokens: int = 70
    rounds: int = 3
    jobs: tuple[int, ...] = ()
    long_text: bool = False

    @property
    def takes(self) -> int:
        """How often each figure is measured."""
        return max(1, self.rounds)

    @property
    def compares_tokens(self) -> bool:
        """Whether T3's tokens must equal the package's; a GPU draws other random numbers."""
        return self.config.device == "cpu" and self.config.tuning.t3_dtype in ("auto", "float32")

    @property
    def rounded(self) -> bool:
        """Whether S3Gen computes in bfloat16."""
        dtype = self.config.tuning.s3gen_dtype
        return dtype == "bfloat16" or (dtype == "auto" and self.config.device != "cpu")

    @property
    def compares_streams(self) -> bool:
        """Whether the streamed audio must match the package's."""
        return self.compares_tokens and self.config.tuning.voice_prompt_seconds == FULL_PROMPT_S


def measure(plan: Plan, on_progress: Callable[[str], None]) -> Report:
    """Run the plan, naming each step that begins.

    Raises `StartupError` if loading fails, `EngineFailed` if outputs differ.
    """
    config = plan.config
    on_progress("loading")
    with (
        benchmark_checkpoint(config.model_path, plan.tiny, config.variant) as folder,
        child_process(**worker_thread_env(config.device, config.threads)) as own,
        child_process(TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error") as other,
    ):
        own_config = msgspec.structs.replace(config, model_path=str(folder))
        machine, loaded = own(engine_process.load, own_config, plan.tiny)
        if plan.rounds:
            model = (config.variant, folder, plan.tiny, config.device, config.threads)
            other(upstream.load, *model, plan.tokens)
        on_progress("warming up")
        warm = warm_up(plan, own)
        equality = compare(plan, warm.tokens, own, other) if plan.rounds else None
        rounds = []
        for number in range(plan.takes):
            on_progress(f"round {number + 1} of {plan.takes}")
            rounds.append(run_round(plan, own, other, seed=number))
        figures = summarize(rounds)
        figures["own"]["memory_gb"] = own(engine_process.memory_gb)
        if equality:
            figures["package"] |= equality | {"memory_gb": other(upstream.memory_gb)}
        at_once = []
        for jobs in plan.jobs:
            on_progress(f"{jobs} at once")
            at_once.append(run_concurrent(plan, own, jobs))
        long_text = None
        if plan.long_text:
            on_progress("a long text")
            long_text = _long_text(own)
    random = f"random, {'tiny' if plan.tiny else 'full size'}"
    settings = {
        "model": config.variant,
        "weights": config.model_path or random,
        "device": config.device,
        "tokens": plan.tokens,
        "rounds": plan.rounds,
        **msgspec.structs.asdict(config.tuning),
        **loaded,
    }
    return Report(machine, settings, **figures, at_once=at_once, long_text=long_text)


def warm_up(plan: Plan, own: Run) -> engine_process.StagedJob:
    """Run everything that will be timed once."""
    own(engine_process.run_streamed, TEXT, WARM_UP_SEED, plan.tokens)
    return own(engine_process.run_stages, [TEXT], WARM_UP_SEED, plan.tokens)


def compare(plan: Plan, warm: Tokens, own: Run, other: Run) -> Figures:
    """Compare T3's tokens, and S3Gen's waveforms for upstream's tokens; warms upstream up, too.

    `warm`: the engine's tokens for `WARM_UP_SEED`.
    """
    prompt_s = plan.config.tuning.voice_prompt_seconds
    expected = other(upstream.generate_unmarked, TEXT, WARM_UP_SEED, prompt_s)
    if plan.compares_tokens:
        check_tokens(warm, expected.tokens, "T3 beside the package's")
    audio = own(engine_process.decode_tokens, expected.tokens, WARM_UP_SEED)
    difference_db = check_waveform(
        audio, expected.audio, "S3Gen beside the package's", rounded=plan.rounded
    )
    same = common_prefix(warm, expected.tokens)
    return {"tokens_same": same, "difference_db": difference_db}


def run_round(plan: Plan, own: Run, other: Run, seed: int) -> dict[str, Figures | None]:
    """Run the same job on both sides, and compare everything that is comparable."""
    generated = other(upstream.generate, TEXT, seed) if plan.rounds else None
    streamed = own(engine_process.run_streamed, TEXT, seed, plan.tokens)
    staged = own(engine_process.run_stages, [TEXT], seed, plan.tokens)
    check_waveform(streamed.audio, staged.audio, "the stream beside its own stages")
    tail = VARIANTS[plan.config.variant].t3.silence_tail
    check_token_count(len(staged.tokens), plan.tokens + len(tail), "T3")
    figures = {
        "first_audio_s": streamed.first_audible_s,
        "total_s": streamed.total_s,
        "real_time_factor": streamed.total_s / streamed.audio_s,
        "t3_tokens_per_s": plan.tokens / staged.stages_s["T3"],
        "t3_ms_per_token": 1000 * staged.stages_s["T3"] / plan.tokens,
        "slices_s": staged.slices_s,
        "stages_s": {stage: staged.stages_s[stage] for stage in STAGES},
        "arithmetic": _arithmetic(plan, own, staged),
    }
    package = _beside(plan, streamed, staged, generated) if generated else None
    return {"own": figures, "package": package}


def _arithmetic(plan: Plan, own: Run, staged: engine_process.StagedJob) -> Figures | None:
    """Rates in GFLOP/s and the stages' shares of a matrix product's; of a CPU at full size only."""
    if plan.tiny or plan.config.device != "cpu":
        return None
    product = own(arithmetic.gemm_gflops)
    rates = {
        name: staged.flop[name] / staged.stages_s[stage] / 1e9
        for name, stage in COUNTED_STAGES.items()
    }
    shares = {f"{name}_share": rate / product for name, rate in rates.items()}
    return {"matrix_product": product, **rates, **shares}


def _beside(
    plan: Plan,
    streamed: engine_process.StreamedJob,
    staged: engine_process.StagedJob,
    generated: upstream.UpstreamResult,
) -> Figures:
    """The package's figures of a round, after a comparison of what both said."""
    correlation = None
    if plan.compares_streams:
        check_tokens(staged.tokens, generated.tokens, "T3 beside the package's")
        trimmed = VARIANTS[plan.config.variant].t3.end_trim_tokens * SAMPLES_PER_TOKEN
        expected = generated.audio[: len(generated.audio) - trimmed]
        correlation = check_spectrum(streamed.audio, expected, "the stream beside the package's")
    return {
        "total_s": generated.total_s,
        "t3_ms_per_token": 1000 * generated.t3_s / plan.tokens,
        "s3gen_s": generated.s3gen_s,
        "real_time_factor": generated.total_s / generated.audio_s,
        "first_audio_ratio": streamed.first_audible_s / generated.total_s,
        "total_ratio": streamed.total_s / generated.total_s,
        "correlation": correlation,
    }


def run_concurrent(plan: Plan, own: Run, jobs: int) -> Figures:
    """Run `jobs` jobs at once and compare each with itself alone.

    Different tokens are an error on a CPU. On a GPU, whose rounding may depend on the batch size,
    they are counted.
    """
    done = own(engine_process.run_concurrent, TEXT, jobs, plan.tokens, plan.takes)
    pairs = list(zip(done.together, done.alone, strict=True))
    if plan.config.device == "cpu":
        for number, (together, alone) in enumerate(pairs, 1):
            check_tokens(together, alone, f"job {number} of {jobs} at once beside itself alone")
    t3_s, total_s = median(done.together_s), max(job.total_s for job in done.streamed)
    return {
        "jobs": jobs,
        "same": sum(np.array_equal(together, alone) for together, alone in pairs),
        "t3_s": t3_s,
        "t3_ratio": t3_s / median(done.alone_s),  # of one job's time
        "first_audio_s": Summary.of(job.first_audible_s for job in done.streamed),
        "total_s": total_s,
        "times_real_time": sum(job.audio_s for job in done.streamed) / total_s,
    }


def _long_text(own: Run) -> Figures:
    done = own(engine_process.run_stages, [TEXT] * LONG_CHUNKS, 0, LONG_TOKENS)
    # The early chunk is timed again right after the late one: a shared machine changes its speed.
    again = own(engine_process.run_stages, [TEXT] * (EARLY + 1), 0, LONG_TOKENS)
    early_s = median(again.chunks_s[EARLY - 2 : EARLY + 1])
    late_s = median(done.chunks_s[LATE - 2 : LATE + 1])
    return {
        "early": EARLY,
        "late": LATE,
        "early_s": early_s,
        "late_s": late_s,
        "ratio": late_s / early_s,
        "early_memory_gb": done.memory_gb[EARLY - 1],
        "late_memory_gb": done.memory_gb[LATE - 1],
    }
