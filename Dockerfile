# ldm_jax, its commands and its page, for a CPU or for NVIDIA's GPUs:
#
#   docker build -t ldm_jax .                                    CPU
#   docker build -t ldm_jax:gpu --build-arg EXTRA=gpu .          GPU: jax's wheels bring CUDA 13; the host has the driver
#                                                                and NVIDIA's container toolkit
#   docker run --rm -v "$PWD/samples:/work/samples" ldm_jax ldm-sample --prompt "a small red circle"
#   docker run --rm --gpus all -v "$PWD:/work" ldm_jax:gpu ldm-train --config folder_text --config.data.root=photos --workdir runs/a
#   docker run --rm -p 127.0.0.1:7860:7860 ldm_jax ldm-web --host 0.0.0.0 --port 7860
#
# Not built where it was written, which had no Docker daemon.
FROM python:3.12-slim
ARG EXTRA=""
WORKDIR /opt/ldm_jax
COPY setup.py setup.cfg pyproject.toml README.md LICENSE ./
COPY ldm_jax ldm_jax
COPY configs configs
RUN pip install --no-cache-dir ".[data,web${EXTRA:+,$EXTRA}]"
# What is kept between starts: compiled programs, indexes. Mount a volume there to keep it between containers.
ENV XDG_CACHE_HOME=/cache
RUN useradd --create-home user && mkdir -p /cache /work && chown user /cache /work
USER user
WORKDIR /work
CMD ["ldm-web", "--host", "0.0.0.0", "--port", "7860"]
