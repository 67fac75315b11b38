"""The scheduler's settings, each from the environment variable `DARKROOM_<FIELD>`."""

from dataclasses import dataclass
from pathlib import Path

from darkroom import settings

_MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    """Everything that can be chosen about one scheduler replica."""

    database_url: str = settings.field(doc="postgresql:// URL of the scheduler's database", low=1, secret=True)
    billing_meter_address: str = settings.field(doc="host:port of billing_meter", low=1)
    lora_store_address: str = settings.field(doc="host:port of lora_store", low=1)
    media_store_address: str = settings.field(doc="host:port of media_store", low=1)
    catalog_dir: Path = settings.field(_MODELS, doc="directory of the models' YAML files")
    database_connections_max: int = settings.field(10, doc="connections of this replica to PostgreSQL", low=4, high=200)

    # admission
    queued_generations_max: int = settings.field(100_000, doc="generations waiting in all", low=1, high=10**7)
    queued_per_tenant_max: int = settings.field(100_000, doc="generations waiting for one tenant", low=1, high=10**7)
    create_batch_max: int = settings.field(256, doc="creates committed in one transaction", low=1, high=1000)
    price_safety_factor: float = settings.field(2.0, doc="reserved GPU time over the predicted", low=1, high=100)
    prices_cache_s: float = settings.field(30.0, doc="age at which prices are asked for again", low=0, high=3600)
    idempotency_retention_s: float = settings.field(86400.0, doc="how long idempotency keys are kept", low=1)

    # spending leases
    grant_nanos_min: int = settings.field(100_000_000, doc="least that is set aside for a tenant at once", low=1)
    grant_nanos_max: int = settings.field(20_000_000_000, doc="most that is set aside ahead of need", low=1)
    lease_idle_s: float = settings.field(300.0, doc="unused money goes back to the tenant after this", low=0.1)

    # what this replica does in the background
    bell_interval_s: float = settings.field(0.05, doc="least time between two NOTIFYs", low=0.001, high=1)
    poll_interval_s: float = settings.field(
        0.5, doc="how often the database is asked without a NOTIFY", low=0.01, high=60
    )
    outbox_batch_max: int = settings.field(500, doc="outcomes sent to billing_meter at once", low=1, high=500)
    outbox_backoff_s_max: float = settings.field(30.0, doc="longest wait between two tries to deliver", low=0.01)
    sweep_interval_s: float = settings.field(10.0, doc="how often leftovers are looked for", low=0.05, high=3600)

    # ownership of pools, on the database's clock
    lease_s: float = settings.field(4.0, doc="how long a pool stays owned without renewal", low=0.2, high=60)
    renew_interval_s: float = settings.field(
        1.0, doc="how often ownership is renewed and looked for", low=0.02, high=20
    )
    stream_grace_s: float = settings.field(3.0, doc="a runner without a stream for this long is lost", low=0.2, high=60)
    silence_s_max: float = settings.field(
        10.0, doc="a runner whose stream is open but silent for this long is lost", low=0.2, high=600
    )
    runner_grace_s: float = settings.field(
        10.0, doc="a runner drops its attempts after this without a stream; longer than a take-over", low=0.2, high=600
    )
    runner_lease_s: float = settings.field(
        5.0, doc="estimates leave out a runner that did not register for this", low=0.2
    )

    # placement
    tick_interval_s: float = settings.field(0.25, doc="longest wait for cancels and deadlines", low=0.01, high=5)
    heartbeat_stale_s: float = settings.field(1.5, doc="older heartbeats count as a full runner", low=0.1, high=60)
    queue_window: int = settings.field(
        64, doc="waiting generations seen per model, class and tenant", low=1, high=10_000
    )
    runner_attempts_max: int = settings.field(
        16, doc="attempts aboard one runner; the engine batches them", low=1, high=1024
    )
    attempts_max: int = settings.field(5, doc="attempts after which a generation fails", low=1, high=100)
    solo_deaths_max: int = settings.field(3, doc="runners it may kill alone before it is poison", low=1, high=100)
    ageing_s: float = settings.field(60.0, doc="waiting for this long raises the class by one", low=1)
    progress_interval_s: float = settings.field(0.5, doc="how often progress is written to the row", low=0.01, high=60)
    cancel_grace_s: float = settings.field(
        5.0, doc="a runner that ignores a cancel for this long is overruled", low=0.1
    )
    capability_s: float = settings.field(
        86400.0,
        doc="life of an attempt's credential: what it makes is stored with it, after its turn was waited for aboard",
        low=60,
        high=86400,
    )
    weight_time: float = settings.field(0.6, doc="weight of the predicted completion time", low=0, high=1000)
    weight_unshared: float = settings.field(
        0.15, doc="weight of the share of the device left by others", low=0, high=1000
    )
    weight_resident: float = settings.field(0.1, doc="weight of the model being loaded", low=0, high=1000)
    weight_room: float = settings.field(0.1, doc="weight of the free places aboard", low=0, high=1000)
    weight_untried: float = settings.field(0.05, doc="weight of not having failed there before", low=0, high=1000)
