"""docker-compose.yml and its images: what they say is valid and careful, and every command of theirs really runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from scripts.servers import Missing, PostgreSql, _as_user, _free_port, _give, wait_until
from tests.compose import EXAMPLE, FILE, ROOT, Native, Unset, compose, environment_of
from tests.conftest import present

PASSWORDS = {name: f"{name.lower().replace('_', '')}1" for name in environment_of(EXAMPLE) if "PASSWORD" in name}
FILLED = environment_of(EXAMPLE) | PASSWORDS
WHOLE = compose(FILLED)
SERVICES = WHOLE["services"]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROGRAMS = Path(sys.executable).parent


def test_the_file_is_valid_as_it_is_and_with_the_example_filled_in(tmp_path: Path) -> None:
    filled = tmp_path / "docker-compose.yml"
    filled.write_text(yaml.safe_dump(WHOLE))
    schema = ("--builtin-schema", "vendor.compose-spec")
    ended = subprocess.run([PROGRAMS / "check-jsonschema", *schema, FILE, filled], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_there_are_no_default_passwords() -> None:
    assert len(PASSWORDS) == 5 and not any(environment_of(EXAMPLE)[name] for name in PASSWORDS)
    for name in PASSWORDS:
        with pytest.raises(Unset, match=name):
            compose(FILLED | {name: ""})


def test_every_variable_is_in_the_example() -> None:
    assert set(re.findall(r"\$\{(\w+)", FILE.read_text())) | {"COMPOSE_PROFILES"} == set(FILLED)


def test_the_parts_are_all_there_and_those_for_hardware_are_asked_for() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {"redis": None, "postgres": None, "mlflow": None, "coordinator": None, "beat": None,
                        "worker": ["cpu"], "worker-cuda": ["cuda"], "flower": ["flower"]}  # fmt: skip
    assert [FILLED["COMPOSE_PROFILES"]] == profiles["worker"], "a fleet without a worker does nothing"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_and_use_no_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"] and "privileged" not in service
    measures = name.startswith("worker")
    assert service["mem_limit"] and service["pids_limit"] and ("cpus" in service) is not measures
    assert service["cpuset"] == FILLED["WORKER_CPUSET" if measures else "SERVICE_CPUSET"]
    assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped"
    assert re.fullmatch(r"[\w/]+:\d+\.\d+\.?\d*[\w.-]*", service["image"]), "pinned by version"
    if "build" in service:
        assert ROOT / service["build"]["dockerfile"] in DOCKERFILES, "whose user is checked below"
    else:
        assert service["user"].partition(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_only_pages_for_people_are_published_and_on_this_host_alone(name: str) -> None:
    published = SERVICES[name].get("ports", [])
    assert published == {"mlflow": ["127.0.0.1:5000:5000"], "flower": ["127.0.0.1:5555:5555"]}.get(name, [])
    assert SERVICES[name]["networks"] == (["inside", "outside"] if published else ["inside"])
    assert WHOLE["networks"]["inside"] == {"internal": True}


@pytest.mark.parametrize("name", SERVICES)
def test_passwords_are_in_no_command_line(name: str) -> None:
    assert not any(password in str(SERVICES[name]["command"]) for password in PASSWORDS.values())


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there_or_a_volume_that_is_declared(name: str) -> None:
    declared = WHOLE["volumes"]
    for volume in SERVICES[name].get("volumes", ()):
        source, _, *mode = volume.split(":")
        assert source in declared or ((ROOT / source).exists() and mode == ["ro"])


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_is_linted_pinned_and_not_roots(file: Path) -> None:
    linted = subprocess.run([PROGRAMS / "hadolint", file], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    text = file.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert bases and all(re.search(r":[\d$]", base) and "latest" not in base for base in bases)
    user = re.findall(r"^USER (\S+)", text, re.M)[-1]
    assert int(user) > 0 and f"--uid {user} " in text and text.index(f"USER {user}") > text.rindex("RUN ")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(re.findall(r"torch==[\d.]+", text)) <= {each for each in declared["project"]["dependencies"]}
    for extras in re.findall(r"/src\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(declared["project"]["optional-dependencies"])


def test_what_images_copy_is_let_into_the_build_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "evaluators", "workers", "search"}
    assert all((ROOT / name).exists() for name in allowed)


class Database(PostgreSql):
    """PostgreSQL as its image starts it: the entry point makes the data, and runs the scripts that are mounted once."""

    def __init__(self, native: Native, folder: Path) -> None:
        self._native = native
        super().__init__(folder)

    def start(self) -> None:
        told = self._native.environment("postgres")
        _give(self.folder, self.runs_as)
        password = self.folder / "password"
        password.write_text(told["POSTGRES_PASSWORD"])
        _give(password, self.runs_as)
        made = subprocess.run(
            [self._programs / "initdb", "-D", self._data, "--no-sync", "-U", told["POSTGRES_USER"],
             f"--pwfile={password}", *told["POSTGRES_INITDB_ARGS"].split()],
            capture_output=True, text=True, cwd=self.folder, **_as_user(self),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        super().start()
        (script,) = (volume.split(":")[1] for volume in SERVICES["postgres"]["volumes"] if "initdb.d" in volume)
        ran = self._native.run("postgres", "sh", script)
        assert ran.returncode == 0, ran.stderr

    def _command(self) -> list[str]:
        sockets = f"unix_socket_directories={self.folder}"
        program, *arguments = self._native.command(
            "postgres", "-c", sockets, "-c", f"port={self.port}", "-c", "fsync=off"
        )
        return [str(self._programs / program), "-D", str(self._data), *arguments]

    def _answers(self) -> bool:
        return self._native.healthy("postgres")


@pytest.fixture(scope="module")
def native() -> Iterator[Native]:
    """The whole of the file, brought up on this machine in the order in which services wait for each other."""
    # pytest's own folder cannot be entered by the user who runs PostgreSQL.
    with TemporaryDirectory(prefix="paretune-compose-", ignore_cleanup_errors=True) as made, ExitStack() as stack:
        folder = Path(made)
        folder.chmod(0o755)
        for volume in ("redis", "home", "mlflow", "postgres", "tmp"):
            (folder / volume).mkdir()
        ports = {address: _free_port() for address in ("redis:6379", "mlflow:5000", "flower:5555", "postgres:5432")}
        (folder / "postgres" / "port").write_text(str(ports["postgres:5432"]))
        told = FILLED | {"WORKLOADS": str(ROOT / "tests"), "REVALIDATE_EVERY": "5s"}
        parts = here(compose(told)["services"], folder, ports)
        stack.enter_context(present(lambda: Database(parts, folder / "postgres")))
        stack.enter_context(parts.up("redis", "--port", str(ports["redis:6379"]), "--bind", "127.0.0.1",
                                     "--dir", str(folder / "redis")))  # fmt: skip
        wait_until(lambda: parts.healthy("redis"))
        for name in ("mlflow", "worker", "coordinator", "beat", "flower"):
            stack.enter_context(parts.up(name))
        yield parts


def here(named: dict[str, dict[str, Any]], folder: Path, ports: dict[str, int]) -> Native:
    """Return what runs services; where their programs are missing, tests are skipped, and fail in CI."""
    try:
        return Native(named, folder, ports)
    except Missing as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


def _json(native: Native, *command: str) -> dict[str, Any]:
    """Run a command of paretune beside the coordinator."""
    ended = native.run("coordinator", "paretune", *command, "--json")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "worker-cuda"])
def test_a_service_becomes_healthy(native: Native, name: str) -> None:
    wait_until(lambda: native.healthy(name), 120)


def test_health_checks_notice_what_is_not_there(native: Native) -> None:
    assert not native.healthy("worker-cuda"), "nobody has touched its file"


def test_a_search_runs_and_its_best_is_promoted_and_everything_is_in_mlflow(native: Native) -> None:
    wait_until(lambda: native.healthy("mlflow") and native.healthy("worker"), 120)
    result = _json(native, "search", "/workloads/tiny.py:workload", "--backend", "eager", "--batch-size", "4",
                   "--threads", "1", "--latency-budget", "1s", "--max-accuracy-drop", "0.2", "--trials", "2",
                   "--name", "composed")  # fmt: skip
    assert result["status"] == "feasible" and result["trials"]["total"] == 2
    promoted = _json(native, "promote", "composed", "--as", "tiny@champion")
    assert promoted["status"] == "promoted" and promoted["served"]["rows"] == 5
    assert _json(native, "history", "tiny")["aliases"]["champion"] == 1
    (alias,) = _json(native, "reconcile")["aliases"]
    assert (alias["alias"], alias["status"]) == ("champion", "agrees"), "the copy on the server is what was certified"
    assert _json(native, "ui", "composed")["command"] == []
    (url,) = {native.here("coordinator", "http://mlflow:5000")}
    from mlflow import MlflowClient

    client = MlflowClient(url, url)
    (experiment,) = client.search_experiments(filter_string="name = 'tiny'")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["paretune.kind"] for run in runs) == ["search", "trial", "trial"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert client.get_model_version_by_alias("tiny", "champion").source.startswith("mlflow-artifacts:/")
    assert not Path(native.here("coordinator", "/var/lib/paretune/mlflow.db")).exists()


def test_what_is_deployed_is_measured_again_by_the_worker_when_it_is_due(native: Native) -> None:
    wait_until(lambda: _json(native, "history", "tiny")["steps"][-1]["event"] == "revalidated", 120)
    told = _json(native, "history", "tiny")
    assert told["steps"][-1]["detail"] == "its certificate holds" and told["aliases"]["champion"] == 1


def test_the_broker_knows_one_user_who_may_not_do_everything(native: Native) -> None:
    import redis

    port = int(native.here("redis", "redis:6379").rpartition(":")[2])
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=port).ping()
    client = redis.Redis(port=port, username="paretune", password=FILLED["REDIS_PASSWORD"])
    assert client.ping()
    for refused in (client.flushall, client.config_get, lambda: client.set("other", 1)):
        with pytest.raises(redis.exceptions.NoPermissionError):
            refused()


def test_mlflows_user_of_the_database_cannot_read_the_ledger(native: Native) -> None:
    import psycopg

    at = native.here("mlflow", "postgres:5432")
    with psycopg.connect(f"postgresql://mlflow:{FILLED['MLFLOW_DB_PASSWORD']}@{at}/mlflow") as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() is not None
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(f"postgresql://mlflow:{FILLED['MLFLOW_DB_PASSWORD']}@{at}/paretune")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(f"postgresql://mlflow:wrong@{at}/mlflow")


def test_mlflow_answers_to_its_names_only(native: Native) -> None:
    import http.client

    host, port = native.here("mlflow", "mlflow:5000").split(":")
    for name, status in {f"{host}:{port}": 200, "evil.example": 403}.items():
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("POST", "/api/2.0/mlflow/experiments/search", '{"max_results": 1}',
                           {"Host": name, "Content-Type": "application/json"})  # fmt: skip
        assert connection.getresponse().status == status
        connection.close()
