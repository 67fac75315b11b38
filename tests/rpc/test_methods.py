"""The table holds every method of the protos, and every method says who may call it."""

from darkroom.rpc import methods

SCOPES = {
    *("generations.read", "generations.write", "models.read", "loras.read", "loras.write"),
    *("media.read", "media.write", "billing.read", "operator", "internal"),
}


def test_every_method_has_a_known_scope():
    assert {path: method.scope for path, method in methods.table().items() if method.scope not in SCOPES} == {}


def test_a_method_is_read_from_its_proto():
    read = methods.table()["/darkroom.api.media_store.v1.MediaService/ReadMedia"]
    assert read == (
        "/darkroom.api.media_store.v1.MediaService/ReadMedia",
        "media.read",
        True,
        False,
        True,
        "darkroom.api.media_store.v1.ReadMediaRequest",
    )
    work = methods.table()["/darkroom.api.model_runner.v1.RunnerService/Work"]
    assert (work.scope, work.idempotent, work.client_streaming, work.server_streaming) == (
        "internal",
        False,
        True,
        True,
    )


def test_every_service_is_there():
    services = {path.split("/")[1].rpartition(".")[2] for path in methods.table()}
    assert services >= {
        *("GenerationService", "ModelService", "FleetService", "RunnerService", "LoraService", "MediaService"),
        *("AccountService", "BillingService", "MeteringService"),
    }
