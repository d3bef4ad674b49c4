# One image for bridge, workers (CPU and GPU) and Flower: they are the same code with another command. So one
# image is built, checked and rolled out, and no two of them can disagree about messages. An algorithm brings
# its CUDA libraries in its own image; a GPU worker only starts it, and needs no CUDA image either.
#
#   docker build --build-arg COMMIT="$(git rev-parse HEAD)" -t dynsvc/service:dev .
#   docker build --target demo -t dynsvc/demo:dev .

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/build.txt requirements/service.txt requirements/
RUN pip install --quiet --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/dynsvc \
 && pip --python /opt/dynsvc/bin/python install --quiet --no-compile --require-hashes --only-binary :all: \
      -r requirements/service.txt
COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY dynsvc dynsvc
COPY bridge bridge
COPY workers workers
COPY algorithms algorithms
# The root file system is read-only where the image runs, so byte code is made here; it is the same at each build.
RUN pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist . \
 && pip --python /opt/dynsvc/bin/python install --quiet --no-compile --no-deps --no-index dist/dynsvc-*.whl \
 && /opt/dynsvc/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/dynsvc/lib


# The demo's slide: tissue pixels that come with scikit-image, which only this stage has.
FROM build AS slide
COPY requirements/slide.txt requirements/
RUN pip install --quiet --require-hashes --only-binary :all: --target /build/slide -r requirements/slide.txt \
 && mkdir /demo \
 && PYTHONPATH=/build/slide /opt/dynsvc/bin/python -c \
      "from pathlib import Path; from dynsvc.demo.slide import make_slide; make_slide(Path('/demo/colon.tif'))"


FROM python:3.11-slim-bookworm AS service
ARG UID=10001
# The uid is also that of the algorithms' containers. Volumes that are mounted here begin with this owner.
RUN groupadd --system --gid "$UID" dynsvc \
 && useradd --system --uid "$UID" --gid "$UID" --home-dir /var/lib/dynsvc --create-home --shell /usr/sbin/nologin dynsvc
COPY --from=build /opt/dynsvc /opt/dynsvc
COPY deploy/with-secrets /usr/local/bin/
COPY deploy/probe_bridge.py deploy/flowerconfig.py /etc/dynsvc/
ENV PATH=/opt/dynsvc/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DYNSVC_SCRATCH=/var/lib/dynsvc/scratch DYNSVC_LOG_FORMAT=json
WORKDIR /var/lib/dynsvc
RUN mkdir scratch flower && chown dynsvc: scratch flower
USER dynsvc
ENTRYPOINT ["with-secrets"]
CMD ["celery", "-A", "dynsvc", "worker", "--without-gossip", "--without-mingle", "-l", "INFO"]
# Of the default command. It goes to the broker and back through the worker's own loop.
HEALTHCHECK --interval=30s --timeout=20s --start-period=30s --retries=3 \
  CMD with-secrets celery -A dynsvc inspect ping --timeout 5 -d "celery@$(hostname)" >/dev/null || exit 1
ARG VERSION=dev COMMIT=unknown
LABEL org.opencontainers.image.title="dynsvc" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"


# Stand-ins for the hospital's servers and a slide, to try the stack with.
FROM service AS demo
USER root
RUN mkdir results && chown dynsvc: results
COPY --from=slide /demo /demo
COPY deploy/demo/records.json /demo/
USER dynsvc
HEALTHCHECK NONE


FROM service
