# The HTTP server, run by a user without rights.
#
#   docker build -t speechnar .                                     for CPUs
#   docker build -t speechnar --build-arg TORCH=cu128 .             for CUDA; run it with --gpus all
#   docker run --rm -p 127.0.0.1:8000:8000 speechnar
#   docker run --rm -p 8000:8000 -e SPEECHNAR_API_KEYS=secret -v models:/models speechnar
#
# What else `speechnar serve` is told follows the image's name: docker run ... speechnar serve --host 0.0.0.0 --threads 4
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# Which torch: cpu, or the CUDA that it is built for, as PyTorch names its indices.
ARG TORCH=cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements/lock.txt requirements/
COPY speechnar speechnar
RUN python -m venv /opt/speechnar \
    && /opt/speechnar/bin/pip install --no-cache-dir --disable-pip-version-check \
        --constraint requirements/lock.txt --extra-index-url "https://download.pytorch.org/whl/${TORCH}" \
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
