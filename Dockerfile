# The worker and the command line, without the embedded servers: `docker build -t knarr .`
# 3.11 is the Python that the tests run on.
FROM python:3.11-slim-bookworm AS packages

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements-runtime.txt /tmp/requirements.txt
# Every pin carries its hashes, so what is installed is what was tested.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --require-hashes --only-binary :all: -r /tmp/requirements.txt


FROM python:3.11-slim-bookworm

RUN groupadd --system --gid 10001 knarr \
    && useradd --system --uid 10001 --gid knarr --home-dir /app --shell /usr/sbin/nologin knarr

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KNARR_METRICS_PORT=9464

COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY worker.py ./
COPY knarr ./knarr
COPY activities ./activities
COPY workflows ./workflows
COPY starter ./starter
# Plans and their transforms are not part of the image: mount them here, and name this folder in PYTHONPATH.
RUN mkdir /plans

USER 10001:10001
EXPOSE 9464

# The metrics port is up when the worker is: a process that hangs or is still connecting is not healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['KNARR_METRICS_PORT'] + '/metrics', timeout=4)"]

# The command line is the same image: `docker run knarr -m starter --help`.
ENTRYPOINT ["python"]
CMD ["worker.py"]
