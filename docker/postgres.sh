#!/bin/sh
# Run once, by the image of PostgreSQL on an empty volume: a database and a user for the ledger, and for MLflow. Neither
# user can read or write what is the other's. Passwords come in by the environment, not by the command line.
set -eu
: "${LEDGER_PASSWORD:?is missing; see docker/example.env}" "${MLFLOW_DB_PASSWORD:?is missing; see docker/example.env}"

psql --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'END'
\getenv ledger_password LEDGER_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD
CREATE ROLE paretune LOGIN PASSWORD :'ledger_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE paretune OWNER paretune;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE paretune FROM PUBLIC;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
END
