# paretune on NVIDIA GPUs: worker. The host needs NVIDIA's driver and container toolkit. Build from the root:
#   docker build -f docker/cuda.Dockerfile -t paretune:0.1.0-cuda .
ARG CUDA=13.0.1

# AOTInductor compiles against the toolkit's headers and links to its stubs; nothing else of it is taken.
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS toolkit

FROM python:3.11.13-slim-bookworm AS build

# The index that torch comes from, for the same CUDA release as above.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Only torch itself: what it needs comes with the rest, in the versions of constraints.txt.
RUN python -m venv /opt/paretune \
    && /opt/paretune/bin/pip install --no-deps --index-url "$TORCH_INDEX" torch==2.13.0
COPY . /src/
# onnxruntime-gpu is another distribution of the same module: it takes the place of onnxruntime.
RUN sed --in-place '/^onnxruntime==/d' /src/constraints.txt \
    && /opt/paretune/bin/pip install -c /src/constraints.txt "/src[inductor,onnxruntime,energy,fleet]" \
    && /opt/paretune/bin/pip uninstall --yes onnxruntime \
    && /opt/paretune/bin/pip install -c /src/constraints.txt "onnxruntime-gpu>=1.30"

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

COPY --from=toolkit /usr/local/cuda/include /usr/local/cuda/include
COPY --from=toolkit /usr/local/cuda/lib64/stubs /usr/local/cuda/lib64/stubs
COPY --from=build /opt/paretune /opt/paretune
ENV PATH=/opt/paretune/bin:$PATH \
    CUDA_HOME=/usr/local/cuda \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PARETUNE_HOME=/var/lib/paretune \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/paretune
ENTRYPOINT []
CMD ["paretune", "doctor"]
