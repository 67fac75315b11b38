-- Where a generation can be gone on with, and bytes of checkpoints that nobody needs any more.

ALTER TABLE generation
    ADD COLUMN checkpoint    jsonb,                       -- the newest: domain.fleet.Checkpoint; null: none, or ended
    ADD COLUMN resumed_step  integer NOT NULL DEFAULT 0,  -- steps that were done when the present attempt began
    ADD COLUMN suspensions   integer NOT NULL DEFAULT 0;  -- attempts put aside after they had gone on: nobody's fault
ALTER TABLE attempt ADD COLUMN resumed_step integer NOT NULL DEFAULT 0;

-- Deleted from media_store by `loop.sweep`; what it misses goes by the retention that the runner gave it.
CREATE TABLE discarded_checkpoint (
    media_id      text PRIMARY KEY,
    tenant_id     text NOT NULL,
    generation_id text NOT NULL,
    next_try_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX discarded_checkpoint_due ON discarded_checkpoint (next_try_at);
