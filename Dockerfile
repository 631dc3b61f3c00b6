# kgen with all its plugins and models. Not built in the tests: see docs/install.md.
#
#   docker build --tag kgen .                          # for CPUs
#   docker build --tag kgen:gpu --build-arg DEVICE=gpu .   # for NVIDIA GPUs, with the CUDA libraries
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheels
WORKDIR /source
RUN pip install --no-cache-dir "setuptools>=77"
COPY . .
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . ./plugins/* ./models/*

FROM python:${PYTHON}-slim
ARG DEVICE=cpu
# The framework has a layer of its own, which stays the same when only kgen changes.
RUN --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    case "$DEVICE" in \
      cpu) framework="tensorflow" ;; \
      gpu) framework="tensorflow[and-cuda]" ;; \
      *) echo "DEVICE is cpu or gpu, not $DEVICE" >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "$framework"
RUN --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    --mount=type=bind,from=wheels,source=/wheels,target=/tmp/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt /tmp/wheels/*.whl
# The user's number can be changed with `docker run --user`, so everyone may write into the home folder (caches).
RUN useradd --create-home --uid 1000 kgen && chmod 1777 /home/kgen && install --directory --owner kgen /work
ENV HOME=/home/kgen KERAS_BACKEND=tensorflow PYTHONUNBUFFERED=1
USER kgen
WORKDIR /work
ENTRYPOINT ["kgen"]
CMD ["--help"]
