# The HTTP server, run by a user without rights.
#
#   docker build -t speechnar .                                     with PyPI's torch, for CPUs and CUDA (run: --gpus all)
#   docker build -t speechnar --build-arg TORCH_INDEX=URL .         the torch of another index, as PyTorch's own for CPUs
#   docker run --rm -p 127.0.0.1:8000:8000 speechnar
#   docker run --rm -p 8000:8000 -e SPEECHNAR_API_KEYS=secret -v models:/models speechnar
#
# What else `speechnar serve` is told follows the image's name: docker run ... speechnar serve --host 0.0.0.0 --threads 4
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# An index of wheels for CPUs alone makes the image a fifth of the size.
ARG TORCH_INDEX=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements/lock.txt requirements/
COPY speechnar speechnar
RUN python -m venv /opt/speechnar \
    && /opt/speechnar/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint requirements/lock.txt ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
        '.[serve,media]'

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --no-log-init --create-home speechnar \
    && install --directory --owner=speechnar /models
COPY --from=build /opt/speechnar /opt/speechnar
ENV PATH=/opt/speechnar/bin:$PATH \
    HF_HOME=/models \
    PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["speechnar"]
CMD ["serve", "--host", "0.0.0.0"]
