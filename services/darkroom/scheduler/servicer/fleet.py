"""FleetService: runners register, operators look."""

from typing import Any

import grpc
from google.protobuf import json_format

from darkroom import errors, page_tokens, postgres, validation
from darkroom.api.model_runner.v1 import runner_service_pb2
from darkroom.api.scheduler.v1 import fleet_service_pb2 as pb
from darkroom.api.scheduler.v1 import fleet_service_pb2_grpc
from darkroom.scheduler import pool
from darkroom.scheduler.config import Config
from darkroom.scheduler.store import fleet as store

MODELS_MAX = 1000
PAGE_SIZE = 50
PAGE_SIZE_MAX = 200

_Context = grpc.aio.ServicerContext[Any, Any]


class FleetServicer(fleet_service_pb2_grpc.FleetServiceServicer):
    """Registers runners at any replica, and shows what the owners of their pools know of them."""

    def __init__(self, database: postgres.Database, config: Config) -> None:
        self._store = store.Fleet(database)
        self._config = config
        self._tokens = page_tokens.PageTokens(config.service_secret)

    async def RegisterRunner(self, request: pb.RegisterRunnerRequest, context: _Context) -> pb.RegisterRunnerResponse:
        """Note that a runner lives; one that was taken for dead must come back under a new id."""
        _check(request)
        name = pool.name(request.device.product, request.models)
        registration = store.Registration(
            runner_id=request.runner_id,
            pool=name,
            node=request.node,
            address=request.address,
            device=json_format.MessageToDict(request.device, preserving_proto_field_name=True),
            models=sorted(set(request.models)),
            draining=request.draining,
        )
        if not await self._store.register(registration):
            raise errors.FailedPrecondition("RUNNER_LOST", "the runner was taken for dead: register under a new id")
        response = pb.RegisterRunnerResponse(pool=name)
        response.lease.FromNanoseconds(round(self._config.runner_lease_s * 1e9))
        return response

    async def ListRunners(self, request: pb.ListRunnersRequest, context: _Context) -> pb.ListRunnersResponse:
        """List the fleet by id."""
        violations = validation.Violations()
        violations.integer("page_size", request.page_size, low=0, high=PAGE_SIZE_MAX)
        violations.raise_if_any()
        scope = f"runners:{request.include_lost}"
        after_id = self._tokens.read("page_token", request.page_token, scope) if request.page_token else ""
        limit = request.page_size or PAGE_SIZE
        rows = await self._store.page(after_id=after_id, include_lost=request.include_lost, limit=limit + 1)
        response = pb.ListRunnersResponse(runners=[_runner(row) for row in rows[:limit]])
        if len(rows) > limit:
            response.next_page_token = self._tokens.make(scope, position=rows[limit - 1].registration.runner_id)
        return response


def _check(request: pb.RegisterRunnerRequest) -> None:
    violations = validation.Violations()
    violations.identifier("runner_id", request.runner_id, "run", required=True)
    violations.text("node", request.node, bytes_max=253, required=True)
    violations.text("address", request.address, bytes_max=260, required=True)
    violations.text("device.product", request.device.product, bytes_max=200, required=True)
    violations.text("device.uuid", request.device.uuid, bytes_max=200)
    violations.text("device.driver_version", request.device.driver_version, bytes_max=200)
    violations.check(1 <= len(request.models) <= MODELS_MAX, "models", f"must hold 1 to {MODELS_MAX} names")
    for index, model in enumerate(request.models[:MODELS_MAX]):
        violations.name(f"models[{index}]", model)
    violations.raise_if_any()


def _runner(row: store.Row) -> pb.Runner:
    registration, status = row.registration, row.status
    heartbeat = json_format.ParseDict(
        status.get("heartbeat", {}), runner_service_pb2.Heartbeat(), ignore_unknown_fields=True
    )
    runner = pb.Runner(
        runner_id=registration.runner_id,
        pool=registration.pool,
        node=registration.node,
        address=registration.address,
        state=_state(row),
        models=registration.models,
        resident_models=heartbeat.resident_models,
        generations=status.get("attempts", 0),
        sample=heartbeat.sample,
        foreign_utilization=status.get("foreign_utilization", 0.0),
    )
    json_format.ParseDict(registration.device, runner.device, ignore_unknown_fields=True)
    runner.registered_at.FromDatetime(row.registered_at)
    runner.seen_at.FromDatetime(row.seen_at)
    return runner


def _state(row: store.Row) -> pb.RunnerState.ValueType:
    if row.lost:
        return pb.RUNNER_STATE_LOST
    if row.status.get("quarantine"):
        return pb.RUNNER_STATE_QUARANTINED
    if row.registration.draining or row.status.get("heartbeat", {}).get("draining"):
        return pb.RUNNER_STATE_DRAINING
    return pb.RUNNER_STATE_READY
