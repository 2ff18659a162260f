# One image for every role: haulier migrate | api | worker | scheduler | inbox | notifier | simulator.
# A single Celery worker runs with the entrypoint `celery -A workers.app worker`.

FROM python:3.12-slim AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# What Haulier needs changes seldom: layers of their own, checked against the hashes.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /venv \
 && /venv/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
RUN python -m venv /build \
 && /build/bin/python -m pip install --quiet --require-hashes --requirement requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY service service
COPY workers workers
COPY client client
RUN /build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /dist . \
 && /venv/bin/python -m pip install --quiet --no-deps --no-index /dist/*.whl \
 && /venv/bin/python -m pip check \
 && /venv/bin/python -m pip uninstall --quiet --yes pip \
 && /venv/bin/python -m compileall -q /venv/lib


FROM python:3.12-slim
RUN groupadd --gid 10001 haulier \
 && useradd --uid 10001 --gid haulier --no-create-home --home-dir /var/lib/haulier haulier \
 && install -d -o haulier -g haulier -m 0750 /var/lib/haulier
COPY --from=builder /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HAULIER_LOG_FORMAT=json \
    HAULIER_BLOB_URL=file:///var/lib/haulier/blobs \
    HAULIER_HEARTBEAT_FILE=/tmp/haulier-heartbeat
USER haulier
WORKDIR /var/lib/haulier
VOLUME /var/lib/haulier
EXPOSE 8080

# A worker, scheduler or inbox is well while it touches its heartbeat file, the API while it answers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD if [ -e "$HAULIER_HEARTBEAT_FILE" ]; \
      then find "$HAULIER_HEARTBEAT_FILE" -mmin -1 | grep -q .; \
      else python -I -c 'from urllib.request import urlopen; urlopen("http://127.0.0.1:8080/readyz", timeout=4)'; \
      fi

ENTRYPOINT ["haulier"]
CMD ["--help"]
