"""Endpoint: a served model under load — requests over HTTP at the times of an open loop, whoever answers them.

It speaks MLflow's ``/invocations`` and version 2 of the Open Inference Protocol (KServe, MLServer, Triton, OpenVINO
Model Server). Requests do not wait for answers; what a full set of connections delays counts as latency.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from evaluators.errors import InfrastructureError, UsageError
from evaluators.traffic.observed import Observed
from evaluators.traffic.values import Endpoint, WireProtocol

if TYPE_CHECKING:
    import aiohttp

V2_TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
"""Names of types in the Open Inference Protocol (version 2, "Tensor Data Types")."""

PROBE_SECONDS = 10.0
TIMER_SECONDS = 1.5e-3


class Wire(NamedTuple):
    """Where requests go, and in which protocol."""

    url: str
    protocol: WireProtocol


def body_of(row: dict[str, np.ndarray], protocol: WireProtocol) -> bytes:
    """Return the body of a request for one example; arrays are without the batch axis.

    Raises:
        UsageError: the protocol has no name for the type of an array.
    """
    if protocol == "mlflow":
        values = {name: array[None].tolist() for name, array in row.items()}
        return json.dumps({"inputs": next(iter(values.values())) if len(values) == 1 else values}).encode()
    unknown = sorted({array.dtype.name for array in row.values()} - V2_TYPES.keys())
    if unknown:
        raise UsageError(f"the Open Inference Protocol has no type for {', '.join(unknown)}; use --protocol mlflow")
    inputs = [
        {"name": name, "shape": [1, *array.shape], "datatype": V2_TYPES[array.dtype.name],
         "data": array.reshape(-1).tolist()}
        for name, array in row.items()
    ]  # fmt: skip
    return json.dumps({"inputs": inputs}).encode()


def wire_by_path(url: str, protocol: WireProtocol | None) -> Wire | None:
    """Return where requests go as far as the URL itself tells; None where a server has to be asked.

    Raises:
        UsageError: it is no address of HTTP, or of the other protocol than was asked for.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"{url!r} is no address such as http://127.0.0.1:5000/invocations")
    path = parts.path.rstrip("/")
    told: WireProtocol | None = "mlflow" if path.endswith("/invocations") else "v2" if "/v2/models/" in path else None
    if told is None:
        return Wire(f"{url.rstrip('/')}/invocations", "mlflow") if protocol == "mlflow" else None
    if protocol is not None and protocol != told:
        raise UsageError(f"{url} is of the protocol {told}, and {protocol} was asked for")
    address = url.rstrip("/")
    return Wire(address if told == "mlflow" or address.endswith("/infer") else f"{address}/infer", told)


class EndpointServer:
    """A URL that answers requests; ``probe`` comes first."""

    def __init__(self, endpoint: Endpoint, rows: dict[str, np.ndarray]) -> None:
        self._endpoint, self._rows = endpoint, rows
        self._wire: Wire | None = None
        self._bodies: list[bytes] = []

    def probe(self) -> WireProtocol:
        """Find out the protocol, send one request, and return the protocol.

        Raises:
            UsageError: the address or the protocol cannot be used, or the model refuses the request.
            InfrastructureError: nobody answers.
        """
        return asyncio.run(self._probe())

    def run(self, arrivals: list[float], timeout_s: float) -> Observed:
        """Send a request at each of these times.

        Raises:
            InfrastructureError: it was not probed.
        """
        if self._wire is None:
            raise InfrastructureError("the endpoint was not probed before it was put under load")
        return asyncio.run(self._run(self._wire, arrivals, timeout_s))

    async def _probe(self) -> WireProtocol:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=limit, trust_env=False) as session:
                wire = wire_by_path(self._endpoint.url, self._endpoint.protocol)
                wire = wire or await self._asked(session, self._endpoint.url.rstrip("/"))
                count = len(next(iter(self._rows.values())))
                each = ({name: array[i] for name, array in self._rows.items()} for i in range(count))
                self._bodies = [body_of(row, wire.protocol) for row in each]
                status, text = await _post(session, wire.url, self._bodies[0])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = str(error) or type(error).__name__
            raise InfrastructureError(f"{self._endpoint.url} does not answer: {said}") from error
        if status != 200:
            raise UsageError(
                f"{wire.url} refuses a request with status {status}: {text[:300].decode(errors='replace')}"
            )
        self._wire = wire
        return wire.protocol

    async def _asked(self, session: aiohttp.ClientSession, base: str) -> Wire:
        """Ask a server what it is; one that speaks both protocols is taken for one of the second."""
        async with session.get(f"{base}/v2/health/live") as answer:
            speaks_v2 = answer.status == 200
        if not speaks_v2:
            if self._endpoint.protocol == "v2":
                raise UsageError(f"{base} does not speak the Open Inference Protocol: it has no /v2/health/live")
            return Wire(f"{base}/invocations", "mlflow")
        async with session.post(f"{base}/v2/repository/index", json={}) as answer:
            listed = await answer.json(content_type=None) if answer.status == 200 else []
        names = sorted({str(model["name"]) for model in listed})
        if len(names) != 1:
            found = ", ".join(names) or "no model that it lists"
            raise UsageError(f"{base} serves {found}; name one: {base}/v2/models/NAME")
        return Wire(f"{base}/v2/models/{names[0]}/infer", "v2")

    async def _run(self, wire: Wire, arrivals: Sequence[float], timeout_s: float) -> Observed:
        import aiohttp

        latencies, failed = np.zeros(len(arrivals)), np.zeros(len(arrivals), dtype=bool)
        connector = aiohttp.TCPConnector(limit=self._endpoint.connections)
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=limit, trust_env=False) as session:
            begin = time.monotonic()

            async def request(index: int) -> None:
                try:
                    status, _ = await _post(session, wire.url, self._bodies[index % len(self._bodies)])
                    failed[index] = status != 200
                except (aiohttp.ClientError, TimeoutError, OSError):
                    failed[index] = True
                latencies[index] = time.monotonic() - begin - arrivals[index]

            async with asyncio.TaskGroup() as tasks:
                for index, at in enumerate(arrivals):
                    await _wait_until(begin + at)
                    tasks.create_task(request(index))
        late = latencies >= timeout_s
        latencies[failed | late] = np.maximum(latencies[failed | late], timeout_s)
        nothing = np.zeros(0)
        return Observed(latencies=latencies, dropped=late, failed=failed & ~late,
                        elapsed=float(max(np.asarray(arrivals) + latencies, default=0.0)),
                        batch_sizes=nothing, call_s=nothing)  # fmt: skip


async def _wait_until(moment: float) -> None:
    """Return at a moment: the loop's own timers are only good to a millisecond."""
    if (left := moment - time.monotonic() - TIMER_SECONDS) > 0:
        await asyncio.sleep(left)
    while time.monotonic() < moment:
        await asyncio.sleep(0)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> tuple[int, bytes]:
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
        return answer.status, await answer.read()
