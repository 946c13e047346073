# Three images, without the converter, the libraries for heatmaps, build tools and PyTorch:
#
#     docker build -t fullconv .                              the server; mount the models at /models
#     docker build -t fullconv-openvino --target openvino .   the server with OpenVINO; it keeps measurements in /cache
#     docker build -t fullconv-batch --target batch .         jobs; mount the models at /data/models
#
# All begin with the files of the image of Python without pip, manuals and translations: a layer on top of that image
# could hide these files, but not make the image smaller. The packages are copied without their tests, and without ONNX
# Runtime's library for programs in C, which its module for Python contains too. The modules that are imported at every
# start are compiled once, because a program whose files are read-only would compile them at every start.
FROM python:3.11-slim-bookworm AS packages
COPY requirements/image.txt .
RUN python -m pip install --no-cache-dir --no-compile --require-hashes --target /opt/site -r image.txt \
    && find /opt/site -type d -name tests -prune -exec rm -r {} + \
    && rm /opt/site/onnxruntime/capi/libonnxruntime.so.*

FROM python:3.11-slim-bookworm AS batch-packages
COPY requirements/batch.txt .
RUN python -m pip install --no-cache-dir --no-compile --require-hashes --target /opt/site -r batch.txt \
    && find /opt/site -type d -name tests -prune -exec rm -r {} + \
    && rm /opt/site/onnxruntime/capi/libonnxruntime.so.*

FROM python:3.11-slim-bookworm AS openvino-packages
COPY requirements/openvino.txt .
RUN python -m pip install --no-cache-dir --no-compile --no-deps --require-hashes --target /opt/site -r openvino.txt

FROM python:3.11-slim-bookworm AS system
RUN useradd --system --uid 10001 --no-create-home fullconv \
    && python -m pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && rm -rf /usr/share/info /usr/share/locale /usr/share/man /usr/share/python-wheels \
    && find /usr/share/doc -type f ! -name copyright -delete

FROM scratch AS base
COPY --from=system / /
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin LANG=C.UTF-8 PYTHONPATH=/opt/fullconv:/opt/site \
    PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 GRPC_VERBOSITY=NONE

FROM base AS batch
COPY --from=batch-packages /opt/site /opt/site
COPY fullconv /opt/fullconv/fullconv
COPY service /opt/fullconv/service
RUN python -c "import service.batch.cli, service.batch.program, service.images.tiff, service.images.decode_file"
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
USER 10001
WORKDIR /data
ENTRYPOINT ["python", "-m", "service.batch"]

FROM base AS server
RUN install --directory --owner fullconv /spool
COPY --from=packages /opt/site /opt/site
COPY fullconv /opt/fullconv/fullconv
COPY service /opt/fullconv/service
RUN python -c "import service.cli, service.program, service.rest.application, service.server.viewer, \
    service.images.tiff, service.images.slides, service.images.decode_file, service.engine.check_process"
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8500 8501 8502
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "-m", "service.server.probe", "127.0.0.1:8501"]
ENTRYPOINT ["python", "-m", "service"]
CMD ["--models", "/models", "--listen", "0.0.0.0:8500", "--insecure", "--metrics", "0.0.0.0:8501", "--spool", "/spool"]

FROM server AS openvino
USER root
RUN install --directory --owner fullconv /cache
COPY --from=openvino-packages /opt/site /opt/site
ENV XDG_CACHE_HOME=/cache
USER 10001

FROM server
