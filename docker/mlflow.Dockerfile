# The MLflow server of a fleet, without torch and runtimes. Build from the root of the repository:
#   docker build -f docker/mlflow.Dockerfile -t paretune:0.1.0-mlflow .
FROM python:3.11.13-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /src/
RUN pip install -c /src/constraints.txt mlflow psycopg psycopg-binary

# Volumes take their owner from here.
RUN useradd --uid 10002 --create-home mlflow \
    && install --directory --owner mlflow --group mlflow --mode 0700 /var/lib/mlflow

# Jobs would start a queue and further processes, which nothing here uses.
ENV MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10002
WORKDIR /var/lib/mlflow
EXPOSE 5000
CMD ["mlflow", "server", "--help"]
