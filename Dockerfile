# For machines with an NVIDIA GPU and its container toolkit. Not built by the tests, which have no GPU and no registry:
#   docker build -t fast-electra .
#   docker run --gpus all --rm --user "$(id -u):$(id -g)" -e HOME=/tmp -v "$PWD:/work" fast-electra quickstart
FROM pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime
COPY pyproject.toml README.md LICENSE requirements/constraints.txt /src/
COPY src /src/src
# The image brings its own torch, built for its CUDA: the constraint keeps pip from another one.
RUN grep -v '^torch==' /src/constraints.txt > /tmp/constraints.txt \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt '/src[data,datasets]'
WORKDIR /work
ENTRYPOINT ["fast-electra"]
