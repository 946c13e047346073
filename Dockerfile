# Two images, without the converter, the libraries for heatmaps, build tools and PyTorch:
#
#     docker build -t fullconv .                              the server; mount the models at /models
#     docker build -t fullconv-batch --target batch .         jobs; mount the models at /data/models
FROM python:3.11-slim-bookworm AS packages
COPY requirements/image.txt .
RUN python -m pip install --no-cache-dir --no-compile --require-hashes --target /opt/site -r image.txt

FROM python:3.11-slim-bookworm AS batch-packages
COPY requirements/batch.txt .
RUN python -m pip install --no-cache-dir --no-compile --require-hashes --target /opt/site -r batch.txt

FROM python:3.11-slim-bookworm AS batch
RUN useradd --system --uid 10001 --no-create-home fullconv
COPY --from=batch-packages /opt/site /opt/site
COPY fullconv /opt/fullconv/fullconv
COPY service /opt/fullconv/service
ENV PYTHONPATH=/opt/fullconv:/opt/site PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 \
    PYTHONSAFEPATH=1 GRPC_VERBOSITY=NONE
USER 10001
WORKDIR /data
ENTRYPOINT ["python", "-m", "service.batch"]

FROM python:3.11-slim-bookworm AS server
RUN useradd --system --uid 10001 --no-create-home fullconv && install --directory --owner fullconv /spool
COPY --from=packages /opt/site /opt/site
COPY fullconv /opt/fullconv/fullconv
COPY service /opt/fullconv/service
ENV PYTHONPATH=/opt/fullconv:/opt/site PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 \
    GRPC_VERBOSITY=NONE
USER 10001
EXPOSE 8500 8501 8502
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "-m", "service.server.probe", "127.0.0.1:8501"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["--models", "/models", "--listen", "0.0.0.0:8500", "--insecure", "--metrics", "0.0.0.0:8501", "--spool", "/spool"]
