"""Which job runs next on which worker, which jobs give way, and which a worker may have died of."""

from collections.abc import Iterable, Sequence

from app.backend.local.job import Job, Worker
from app.ipc.messages import WorkerFailed


def next_assignment(
    queue: Iterable[Job], workers: Sequence[Worker], *, worker_expected: bool
) -> tuple[Job, Worker] | None:
    """The first job of `queue` that a worker can take now, and the least recently used such worker.

    A suspect waits for an empty worker, and jobs behind it may be assigned first. Unless a further
    worker is expected, those jobs do not get the worker with the fewest jobs, so that it empties.
    """
    free = [worker for worker in workers if worker.free]
    for job in queue:
        able = [worker for worker in free if not (job.alone and worker.jobs)]
        if able:
            return job, min(able, key=lambda worker: worker.last_used)
        if free and not worker_expected:
            least_busy = min(workers, key=lambda worker: len(worker.jobs))
            free = [worker for worker in free if worker is not least_busy]
        if not free:
            break
    return None


def jobs_to_preempt(
    running: Iterable[Job], waiting: int, needy: int, now: float, safe_lead_s: float
) -> list[Job]:
    """The jobs to give up their slots for `waiting` others, those furthest ahead first.

    They have used up their credit, or their clients have audio for `safe_lead_s` seconds. If there
    are too few for those `needy` of the others whose clients run dry, also jobs whose clients wait
    for the complete file.
    """
    active = [job for job in running if not job.stream.ended]
    requested = sum(job.preempt_requested for job in active)
    able = [job for job in active if job.chunks and not job.preempt_requested]
    ahead = [
        job
        for job in able
        if job.stream.committed and (job.paused_at is not None or job.lead_s(now) >= safe_lead_s)
    ]
    ahead.sort(key=lambda job: job.lead_s(now), reverse=True)
    ahead = ahead[: max(0, waiting - requested)]
    buffered = [job for job in able if not job.stream.committed]
    return ahead + buffered[: max(0, needy - requested - len(ahead))]


def suspects(worker: Worker, exit_report: WorkerFailed | None) -> list[Job]:
    """The started jobs that a worker may have died of.

    Those that it reported, by job or by voice; without a report, all.
    """
    started = [job for job in worker.jobs.values() if job.started]
    if exit_report is None:
        return started
    job_id, voice = exit_report.job, exit_report.voice
    return [
        job
        for job in started
        if job.id == job_id or (voice is not None and job.request.voice == voice)
    ]
