"""Which job runs next on which worker, and which jobs a worker may have died of."""

from collections.abc import Iterable, Sequence

from app.backend.local.job import Job, Worker
from app.ipc.messages import WorkerFailed


def next_assignment(
    queue: Iterable[Job], workers: Sequence[Worker], *, worker_expected: bool
) -> tuple[Job, Worker] | None:
    """The first job that a worker can take now, and the least recently used such worker.

    A suspect waits for an empty worker, and jobs behind it may be assigned first. Unless a further
    worker is expected, those jobs do not get the worker with the fewest jobs, so that it empties.
    """
    free = [worker for worker in workers if worker.free]
    for job in queue:
        able = [worker for worker in free if not (job.suspect and worker.jobs)]
        if able:
            return job, min(able, key=lambda worker: worker.last_used)
        if free and not worker_expected:
            least_busy = min(workers, key=lambda worker: len(worker.jobs))
            free = [worker for worker in free if worker is not least_busy]
        if not free:
            break
    return None


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
