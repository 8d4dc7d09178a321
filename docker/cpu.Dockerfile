# paretune on processors: coordinator, worker and flower. Build from the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t paretune:0.1.0-cpu .
FROM python:3.11.13-slim-bookworm AS build

# The index that torch comes from; PyPI's own wheels for Linux bring CUDA's libraries along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Only torch itself: what it needs comes with the rest, in the versions of constraints.txt.
RUN python -m venv /opt/paretune \
    && /opt/paretune/bin/pip install --no-deps --index-url "$TORCH_INDEX" torch==2.13.0
COPY . /src/
RUN /opt/paretune/bin/pip install -c /src/constraints.txt "/src[inductor,onnxruntime,openvino,fleet,monitor]"

FROM python:3.11.13-slim-bookworm

# inductor compiles candidates, so a compiler belongs to what runs. Debian's point releases replace package versions:
# what is pinned is the image they come from.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# The home and the locks of devices belong to the user from the start: volumes take their owner from here.
RUN useradd --uid 10001 --create-home paretune \
    && install --directory --owner paretune --group paretune --mode 0700 /var/lib/paretune /tmp/paretune-10001

COPY --from=build /opt/paretune /opt/paretune
ENV PATH=/opt/paretune/bin:$PATH \
    PARETUNE_HOME=/var/lib/paretune \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/paretune
ENTRYPOINT []
CMD ["paretune", "doctor"]
