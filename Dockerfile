# syntax=docker/dockerfile:1

# The speech service with its model, for an NVIDIA GPU (driver 525 or newer).
#
#   docker build -t chatterbox-tts:latest .
#   docker build -t chatterbox-tts:latest --build-arg TORCH=newest .
#   docker build -t chatterbox-tts:latest --build-arg MODELS=turbo,multilingual .
#   docker build -t chatterbox-tts:latest --build-arg DOWNLOAD_WEIGHTS=0 .
#
# The second is for cards that chatterbox-tts's own torch does not know, such as the RTX 50 series
# (driver 580 or newer). The third has other models than the original; the first is the default one.
#
# The fourth leaves the weights (3 GB) out: mount a folder that has them on /app/models, filled by
# `docker run --rm -v FOLDER:/app/models chatterbox-tts:latest models download`.
#
# The service is uid 1000 in the container. To let it write to a host folder of another owner, run
# it as that owner (`--user "$(id -u):$(id -g)"`, any uid works) or hand the folder over
# (`sudo chown 1000:1000 voices`).
#
# It writes to its volumes, /tmp and /cache only, so the rest may be read-only:
#
#   docker run --read-only --tmpfs /tmp --tmpfs /cache:exec …
#
# `exec`, because compiled kernels are loaded from there. A volume on /cache (`-v tts-cache:/cache`)
# keeps them for the next start.

ARG TORCH=pinned

# "base" is the CUDA runtime without the math libraries: torch's wheels bring their own. 24.04 for
# its Python 3.12.
FROM nvidia/cuda:12.6.3-base-ubuntu24.04@sha256:c87e78933f4c16e3272123bf2f75537306596d0fbaa395a29696a22786e5ee0e AS base
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1


# NVIDIA_REQUIRE_CUDA: torch's CUDA 12.4 runs on less than the 12.6 that the base image demands.
FROM base AS torch-pinned
ENV NVIDIA_REQUIRE_CUDA="cuda>=12.0"
COPY .ci/requirements.txt /requirements.txt

# With CUDA 13.0.
FROM base AS torch-newest
ENV NVIDIA_REQUIRE_CUDA="cuda>=13.0"
COPY .ci/requirements-newest.txt /requirements.txt


FROM torch-$TORCH AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /venv
# With the extras "chatterbox" and "preview": piper-tts in the latter is under the GPL, version 3.
# Without dependencies, since the lock has them all, and not those that chatterbox-tts is pinned to.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --no-deps -r /requirements.txt


# `chatterbox-tts models download`, by the only files that it consists of: no other change of the
# code makes 3 GB be fetched, pushed and pulled again.
FROM packages AS weights
ARG DOWNLOAD_WEIGHTS=1
ARG MODELS=chatterbox
WORKDIR /app
COPY app/__init__.py app/
COPY app/core/__init__.py app/core/errors.py app/core/
COPY app/model_files app/model_files
RUN mkdir models \
    && if [ "$DOWNLOAD_WEIGHTS" != 0 ]; then \
        python -c "import sys; from pathlib import Path; from app.model_files.download import download; from app.model_files.manifest import MANIFESTS, folder_of; [download(folder_of(Path('models'), name), manifest=MANIFESTS[name]) for name in (each.strip().removeprefix('chatterbox-') for each in sys.argv[1].split(','))]" "$MODELS"; \
    fi


FROM torch-$TORCH
# What Triton needs to build its launchers at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY --link --from=packages /venv /venv
COPY --link --from=weights --chown=1000:1000 /app/models ./models
COPY pyproject.toml README.md LICENSE ./
COPY app ./app
COPY preloaded-voices ./preloaded-voices
# Like /tmp, for whatever uid the container runs as.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && mkdir -p voices /cache \
    && chmod 1777 voices preloaded-voices /cache

ARG MODELS=chatterbox
ENV MODEL=$MODELS \
    CONCURRENT_REQUESTS_PER_WORKER=auto \
    PORT=8000 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HOME=/cache \
    HF_HOME=/cache/huggingface \
    NUMBA_CACHE_DIR=/cache/numba \
    TMPDIR=/tmp \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton \
    XDG_CACHE_HOME=/cache

USER 1000:1000
VOLUME ["/app/voices", "/app/preloaded-voices"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# Not urllib, which would send this through a proxy; digits only, because a PORT that comes by
# --env-file still has its quotes and comments.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import http.client, os, re, sys; port = re.search('[0-9]+', os.environ['PORT'])[0]; api = http.client.HTTPConnection('127.0.0.1', int(port), timeout=4); api.request('GET', '/ready'); sys.exit(api.getresponse().status != 200)"]
ENTRYPOINT ["chatterbox-tts"]
CMD ["serve"]
