-- What must survive a restart of the scheduler. All times are the database's own clock.

CREATE TABLE generation (
    generation_id     text PRIMARY KEY,
    tenant_id         text NOT NULL,
    model             text NOT NULL,
    model_revision    text NOT NULL,
    state             text NOT NULL CHECK (state IN ('QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    priority          smallint NOT NULL,            -- proto Priority: 1 interactive, 2 standard, 3 batch
    input             bytea NOT NULL,               -- CreateGenerationRequest as accepted, defaults and seed filled in
    tags              jsonb NOT NULL DEFAULT '{}',
    price_version_id  text NOT NULL,
    currency          text NOT NULL,
    estimate_nanos    bigint NOT NULL CHECK (estimate_nanos >= 0),
    rates             jsonb NOT NULL,               -- pricing.Rates in force at acceptance
    work_us           bigint NOT NULL,              -- predicted accelerator time
    steps_total       integer NOT NULL,
    shape             text NOT NULL DEFAULT '',     -- what step costs are measured by: "64x64", "832x480x81"
    steps_done        integer NOT NULL DEFAULT 0,
    sequence          bigint NOT NULL DEFAULT 1,    -- raised by every change
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at        timestamptz,
    finished_at       timestamptz,
    deadline          timestamptz,
    expected_finish_at timestamptz,
    cancel_requested  boolean NOT NULL DEFAULT false,
    -- the present attempt and its fence
    attempt           integer NOT NULL DEFAULT 0,
    owner_epoch       bigint NOT NULL DEFAULT 0,
    pool              text,
    runner_id         text,
    solo_deaths       integer NOT NULL DEFAULT 0,   -- runners lost while it ran alone
    suspect           boolean NOT NULL DEFAULT false, -- was aboard a runner that died: is re-run alone once
    -- the end
    error             jsonb,
    usage             jsonb,
    stages            jsonb,
    artifacts         jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX generation_by_tenant ON generation (tenant_id, generation_id DESC);
CREATE INDEX generation_queue ON generation (model, priority, tenant_id, deadline, created_at) WHERE state = 'QUEUED';
CREATE INDEX generation_running ON generation (pool) WHERE state = 'RUNNING';
CREATE INDEX generation_open ON generation (state, model, created_at) WHERE state IN ('QUEUED', 'RUNNING');
CREATE INDEX generation_deadline ON generation (deadline) WHERE state = 'QUEUED' AND deadline IS NOT NULL;

-- Every state change, for watchers on any replica; progress is on the row alone.
CREATE TABLE generation_event (
    generation_id text NOT NULL REFERENCES generation,
    sequence      bigint NOT NULL,
    state         text NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (generation_id, sequence)
);

CREATE TABLE idempotency (
    tenant_id       text NOT NULL,
    idempotency_key text NOT NULL,
    params_sha256   bytea NOT NULL,
    generation_id   text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, idempotency_key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- Money granted by billing_meter ahead of need. granted = remaining + reserved + spent + released, always.
CREATE TABLE spending_lease (
    tenant_id       text PRIMARY KEY,
    currency        text NOT NULL,
    granted_nanos   bigint NOT NULL DEFAULT 0,
    remaining_nanos bigint NOT NULL DEFAULT 0 CHECK (remaining_nanos >= 0),
    reserved_nanos  bigint NOT NULL DEFAULT 0 CHECK (reserved_nanos >= 0),
    spent_nanos     bigint NOT NULL DEFAULT 0 CHECK (spent_nanos >= 0),
    released_nanos  bigint NOT NULL DEFAULT 0 CHECK (released_nanos >= 0),
    used_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (granted_nanos = remaining_nanos + reserved_nanos + spent_nanos + released_nanos)
);
-- Grants asked for: written before the call, so that a lost answer is asked for again under the same id.
CREATE TABLE spending_grant (
    grant_id   text PRIMARY KEY,
    tenant_id  text NOT NULL,
    wanted_nanos bigint NOT NULL,
    least_nanos bigint NOT NULL,
    currency   text NOT NULL,
    state      text NOT NULL CHECK (state IN ('ASKED', 'APPLIED', 'REFUSED')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX spending_grant_asked ON spending_grant (tenant_id, created_at) WHERE state = 'ASKED';

-- What billing_meter must be told, exactly once each; payload is the protobuf message.
CREATE TABLE outbox (
    outbox_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('OUTCOME', 'RELEASE')),
    subject_id   text NOT NULL,                     -- generation_id or release_id
    payload      bytea NOT NULL,
    refusal      text,                              -- why the meter refused it: kept for an operator, not retried
    attempts     integer NOT NULL DEFAULT 0,
    next_try_at  timestamptz NOT NULL DEFAULT clock_timestamp(),  -- a replica that delivers it moves this ahead: its claim
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    UNIQUE (kind, subject_id)
);
CREATE INDEX outbox_waiting ON outbox (outbox_id) WHERE delivered_at IS NULL AND refusal IS NULL;
CREATE INDEX outbox_delivered ON outbox (delivered_at) WHERE delivered_at IS NOT NULL;
