"""The model runner's settings, each from the environment variable `DARKROOM_<FIELD>`."""

from dataclasses import dataclass

from darkroom import settings


@dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    """Everything that can be chosen about one runner."""

    scheduler_address: str = settings.field(doc="host:port of any scheduler replica", low=1)
    lora_store_address: str = settings.field(doc="host:port of lora_store", low=1)
    media_store_address: str = settings.field(doc="host:port of media_store", low=1)
    catalog_dir: str = settings.field(
        "", doc="directory of the catalogue; empty means the one that comes with Darkroom"
    )
    models: tuple[str, ...] = settings.field((), doc="models it may load, by commas; empty: all whose files are here")
    preload: tuple[str, ...] = settings.field((), doc="models loaded and tried before it is ready, by commas")
    node_name: str = settings.field("", doc="name of the machine; empty means the host's name")
    advertise_address: str = settings.field(
        "", doc="host:port at which schedulers dial it; empty: the one it listens on"
    )
    register_interval_s: float = settings.field(1.0, doc="between two registrations", low=0.05, high=60)
    heartbeat_interval_s: float = settings.field(0.5, doc="between two heartbeats", low=0.02, high=60)
    progress_interval_s: float = settings.field(0.1, doc="least time between two progresses of one attempt", low=0)

    # the accelerator
    device: str = settings.field("auto", doc="auto, cpu, cuda:<index> or nvml:<index>; the indices are NVML's", low=1)
    dtype: str = settings.field("", doc="float32, float16 or bfloat16; empty: bfloat16 on CUDA, float32 on the CPU")
    # More than one pays on idle cores alone: 28 steps of a tiny FLUX on 2 busy cores took 1.5 s with one, 69 s with two.
    threads: int = settings.field(
        1, doc="CPU threads of one tensor operation; 0 means torch's choice", low=0, high=1024
    )
    batch_rows_max: int = settings.field(16, doc="rows in one forward; how many pay off is measured", low=1, high=1024)
    rows_live_max: int = settings.field(
        32, doc="rows of one priority class that hold a state on the device at once", low=1, high=65_536
    )
    slice_steps_max: int = settings.field(
        8, doc="steps that the same rows take before it is asked who is next, if nobody came or went", low=1, high=1000
    )
    slice_s_max: float = settings.field(0.2, doc="the same as time; one step is always taken", low=0, high=3600)
    ageing_s: float = settings.field(
        10.0, doc="whoever has waited so long counts one priority class higher", low=0.001, high=86_400
    )
    # At 1.0 interactive requests waited 0.30 times as long as with request batching, at 1.6 0.42; others 0.94 and 0.86.
    urgent_slower_max: float = settings.field(
        1.0,
        doc="how many times longer the longest urgent ones may take because less urgent ones share their steps",
        low=1,
    )
    step_costs_path: str = settings.field(
        "", doc="file that keeps measured costs between processes; empty: they are measured anew"
    )
    embeddings_bytes_max: int = settings.field(256 << 20, doc="prompt embeddings kept on the device; 0: none", low=0)
    encode_threads: int = settings.field(
        2, doc="threads that read pictures and make files; one more reads weights", low=1, high=256
    )
    memory_bytes_max: int = settings.field(0, doc="for resident models; 0 means 0.8 of the device's memory", low=0)
    host_cache_bytes_max: int = settings.field(
        0, doc="pinned host memory for models that have left the accelerator; 0: none", low=0
    )
    adapters_resident_max: int = settings.field(32, doc="LoRAs kept on the device for each model", low=1, high=65_536)

    checkpoint_interval_s: float = settings.field(
        30.0, doc="between two checkpoints of an attempt that runs so long; 0 makes none", low=0, high=86_400
    )
    checkpoint_retention_s: float = settings.field(
        86_400.0, doc="how long media_store keeps a checkpoint that nobody deletes", low=60, high=31_536_000
    )

    # adapters on this machine
    cache_dir: str = settings.field("", doc="directory of fetched adapters; empty: one that goes with the process")
    cache_bytes_max: int = settings.field(4 << 30, doc="adapters kept there, beside those in use", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        host = self.listen_address.rpartition(":")[0]
        if host in {"0.0.0.0", "[::]"} and not self.advertise_address:
            raise settings.SettingsError(
                f"DARKROOM_ADVERTISE_ADDRESS must say at which host:port schedulers dial this runner, which listens on {host}"
            )
